"""A request as a cassette keeps and compares it: what it asks for, and neither who asks nor where.

Two requests are the same where method, path, query and body are.  Of the path it is what comes after the SDK's base URL and
the version, so a recording through another gateway is the same; of a file, what it holds is compared by its hash.
"""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from farebox.testing import _cassette_secrets as secrets_

_VERSION: Final = re.compile(r"^.*/v\d+[a-z0-9]*(?=/)")
#: A text that long which is nothing but base64 is a file, and kept as its hash.
_LONG: Final = 1_024
_BASE64: Final = re.compile(r"(?:data:[\w.+-]+/[\w.+-]+;base64,)?[A-Za-z0-9+/_-]+={0,2}")
_DATA_URL: Final = "data:"
#: Fields whose values an error may show: they are choices, and no text of anybody's.
_SHOWN: Final = frozenset(
    "model role type format encoding_format effort reasoning_effort service_tier verbosity mode".split()
)
_CAPS: Final = frozenset(
    "max_tokens max_completion_tokens max_output_tokens maxOutputTokens max_tokens_to_sample".split()
)
_THOUGHT: Final = frozenset({"budget_tokens", "thinkingBudget"})
_MOST_DIFFERENCES: Final = 6


@attrs.frozen(kw_only=True)
class Request:
    """One request.  `body` is a dict with one of `json`, `text`, `parts` or `sha256`, empty where there is none."""

    method: str
    path: str
    query: str = ""
    body: dict[str, Any] = attrs.field(factory=dict)
    #: Who is asked, as farebox calls it; "" for what it does not meter.  Not compared.
    provider_name: str = ""

    @property
    def key(self) -> str:
        """The same text for the same request."""
        return json.dumps([self.method, self.path, self.query, self.body], sort_keys=True)


def read_body(content: bytes, content_type: str) -> dict[str, Any]:
    """A body in the form it is compared in."""
    if not content:
        return {}
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        parts = _parts(content, content_type)
        if parts is not None:
            return {"parts": parts}
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return _hashed(content)
    if kind.endswith("json") or not kind:
        try:
            return {"json": _files_hashed(json.loads(text))}
        except ValueError:
            pass
    return {"text": text}


def _hashed(content: bytes) -> dict[str, Any]:
    return {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}


def _files_hashed(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _files_hashed(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_files_hashed(item) for item in value]
    if isinstance(value, str) and len(value) > _LONG and _BASE64.fullmatch(value):
        head = value[: value.index(",") + 1] if value.startswith(_DATA_URL) else ""
        return f"{head}(sha256 {hashlib.sha256(value.encode()).hexdigest()}, {len(value)} characters)"
    return value


def _parts(content: bytes, content_type: str) -> list[dict[str, Any]] | None:
    """The parts of a form, without the line between them, which is another one each time."""
    boundary = re.search(r'boundary="?([^";]+)', content_type)
    if boundary is None:
        return None
    found = []
    for part in content.split(b"--" + boundary[1].encode())[1:-1]:
        head, ends, value = part.removeprefix(b"\r\n").partition(b"\r\n\r\n")
        if not ends:
            return None
        value = value.removesuffix(b"\r\n")
        said = head.decode("utf-8", "replace")
        names = {
            name: said_as[1] for name in ("name", "filename") if (said_as := re.search(rf'\b{name}="([^"]*)"', said))
        }
        if "filename" in names or b"\0" in value:
            found.append({**names, **_hashed(value)})
        else:
            found.append({**names, "text": value.decode("utf-8", "replace")})
    return found


def read_path(path: str, base_path: str) -> str:
    """What comes after the base URL and the version."""
    path = posixpath.normpath(path or "/")
    base = posixpath.normpath(base_path or "/")
    if base != "/" and path.startswith(f"{base}/"):
        path = path[len(base) :]
    return _VERSION.sub("", path)


def as_asked(body: Any, *, declared_cap: int | None, sent_cap: int | None) -> Any:
    """The JSON body that the program sent, without what farebox has put in: a cap, and the wish for a stream's usage."""
    if not isinstance(body, dict):
        return body
    options = body.get("stream_options")
    if isinstance(options, dict) and options.get("include_usage") is True:
        rest = {name: value for name, value in options.items() if name != "include_usage"}
        body = {**body, "stream_options": rest} if rest else _without(body, "stream_options")
    return body if sent_cap is None else _uncapped(body, declared_cap, sent_cap)


def _uncapped(body: dict[str, Any], declared_cap: int | None, sent_cap: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in body.items():
        if name in _CAPS and value == sent_cap:
            if declared_cap is not None:
                found[name] = declared_cap
        elif isinstance(value, dict) and name in {"generationConfig", "config", "thinking", "thinkingConfig"}:
            found[name] = _uncapped(value, declared_cap, sent_cap)
        elif name not in _THOUGHT:  # lowered with the cap
            found[name] = value
    return found


def _without(body: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in body.items() if key != name}


def without(body: Any, path: Sequence[str]) -> Any:
    """A JSON value without the field at `path`, whose steps are names, places in a list, or `*` for any."""
    step, rest = path[0], path[1:]
    if isinstance(body, dict):
        return {
            name: without(value, rest) if rest and step in ("*", name) else value
            for name, value in body.items()
            if rest or step not in ("*", name)
        }
    if isinstance(body, list):
        return [
            without(value, rest) if rest and step in ("*", str(n)) else value
            for n, value in enumerate(body)
            if rest or step not in ("*", str(n))
        ]
    return body


def cleaned(request: Request, secrets: Iterable[str], ignore: Iterable[str]) -> Request:
    """The request without secrets, and without what is not to be compared."""
    body = request.body
    for path in ignore if "json" in body else ():
        body = {"json": without(body["json"], path.split("."))}
    return attrs.evolve(
        request,
        path=secrets_.clean_path(request.path, secrets),
        query=secrets_.clean_query(request.query, secrets),
        body=secrets_.clean(body, secrets),
    )


# ── what differs ─────────────────────────────────────────────────────────────────────────────────────────────────


def differences(recorded: Request, sent: Request) -> list[str]:
    """In what two requests differ, by the names of the fields; of a text its length and where it differs, not what it says."""
    was, now = dict(_leaves(recorded)), dict(_leaves(sent))
    return [
        _difference(name, was.get(name, _ABSENT), now.get(name, _ABSENT))
        for name in [*was, *(name for name in now if name not in was)]
        if was.get(name, _ABSENT) != now.get(name, _ABSENT)
    ]


_ABSENT: Final = object()


def _leaves(request: Request) -> Iterator[tuple[str, Any]]:
    yield "method", request.method
    yield "path", request.path
    yield "query", request.query
    for kind, value in request.body.items():
        yield from _walk("body" if kind == "json" else f"body ({kind})", value)


def _walk(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _walk(f"{name}.{key}", item)
    elif isinstance(value, list) and value:
        for n, item in enumerate(value):
            yield from _walk(f"{name}[{n}]", item)
    else:
        yield name, value


def _difference(name: str, was: Any, now: Any) -> str:
    if was is _ABSENT:
        return f"{name}: was not there, is {_shown(name, now)}"
    if now is _ABSENT:
        return f"{name}: was {_shown(name, was)}, is not there"
    said = f"{name}: was {_shown(name, was)}, is {_shown(name, now)}"
    if isinstance(was, str) and isinstance(now, str) and not _may_show(name):
        same = next((n for n, (a, b) in enumerate(zip(was, now, strict=False)) if a != b), min(len(was), len(now)))
        said += f"; they differ from character {same + 1} on"
    return said


def _may_show(name: str) -> bool:
    return name in ("method", "path") or name.rpartition(".")[2] in _SHOWN


def _shown(name: str, value: Any) -> str:
    if isinstance(value, str):
        if _may_show(name) and len(value) <= 80:
            return repr(value)
        return f"a text of {len(value)} characters ({hashlib.sha256(value.encode()).hexdigest()[:8]})"
    return json.dumps(value)  # a number, true, false, null, [] or {}


def how_near(recorded: Request, sent: Request) -> tuple[int, int]:
    """A lower one is nearer: another path is further than any body."""
    was, now = dict(_leaves(recorded)), dict(_leaves(sent))
    apart = sum(was.get(name, _ABSENT) != now.get(name, _ABSENT) for name in {**was, **now})
    return (recorded.method, recorded.path) != (sent.method, sent.path), apart


def told(lines: Sequence[str]) -> str:
    more = [f"... and {len(lines) - _MOST_DIFFERENCES} more"] if len(lines) > _MOST_DIFFERENCES else []
    return "".join(f"\n  {line}" for line in [*lines[:_MOST_DIFFERENCES], *more])
