"""Cassettes as files: JSON that people read, that diffs well, and that is there whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import attrs

from farebox.testing._cassette_answer import Answer, to_json
from farebox.testing._cassette_request import Request

_MARK: Final = "farebox_cassette"
_FORMAT: Final = 1
_WIDTH: Final = 110
_BODIES: Final = ("json", "events", "text", "base64", "parts", "sha256", "bytes")


class CassetteError(Exception):
    """A cassette can't be read, or can't be used as it is meant to be."""


@attrs.frozen(kw_only=True)
class Interaction:
    """One request and its answer."""

    request: Request
    answer: Answer


def load(path: Path) -> list[Interaction]:
    """The interactions of a cassette, in the order in which they are played.

    Raises:
        FileNotFoundError: there is none.
        CassetteError: it is no cassette, damaged, or of a newer farebox.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CassetteError(f"the cassette {path} can't be read: {error}; {_ANEW}") from None
    if not isinstance(content, dict) or type(content.get(_MARK)) is not int:
        raise CassetteError(f"{path} is no cassette of farebox: it has no number {_MARK!r}; {_ANEW}")
    if content[_MARK] > _FORMAT:
        raise CassetteError(
            f"the cassette {path} has the format {content[_MARK]}, and this farebox reads {_FORMAT}: a newer farebox "
            "wrote it; update farebox"
        )
    try:
        return [_interaction(entry) for entry in _typed(content["interactions"], list)]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CassetteError(f"the cassette {path} is damaged: {type(error).__name__}: {error}; {_ANEW}") from None


_ANEW: Final = "record it anew with --farebox-cassettes=record"


def _interaction(entry: Any) -> Interaction:
    request, response = _typed(entry["request"], dict), _typed(entry["response"], dict)
    asked = Request(
        method=_typed(request["method"], str),
        path=_typed(request["path"], str),
        query=_typed(request.get("query", ""), str),
        provider_name=_typed(request.get("provider", ""), str),
        body={name: request[name] for name in _BODIES if name in request},
    )
    status = response.get("status")
    headers = {_typed(k, str): _typed(v, str) for k, v in _typed(response.get("headers", {}), dict).items()}
    answer = Answer(
        status=None if status is None else _typed(status, int),
        headers=headers,
        body={name: response[name] for name in _BODIES if name in response},
        ended=_typed(response.get("ended", ""), str),
    )
    if status is None and not answer.ended:
        raise KeyError("status")
    for _ in answer.chunks():  # what can't be played is found now, not in the middle of a test
        pass
    return Interaction(request=asked, answer=answer)


def _typed(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise TypeError(f"{value!r:.40} where a {kind.__name__} was expected")
    return value


def save(path: Path, interactions: Iterable[Interaction]) -> None:
    """Write a cassette, whole or not at all; who reads it meanwhile sees the old one."""
    content = {_MARK: _FORMAT, "interactions": [_plain(one) for one in interactions]}
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, unfinished = tempfile.mkstemp(prefix=".cassette-", dir=path.parent)
    try:
        if hasattr(os, "fchmod"):
            os.fchmod(
                descriptor, 0o644
            )  # a temporary file is its owner's alone, and this one is for all who work on it
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write("".join(_written(content, "")) + "\n")
        os.replace(unfinished, path)
    except BaseException:
        Path(unfinished).unlink(missing_ok=True)
        raise


def _plain(one: Interaction) -> dict[str, Any]:
    request, answer = one.request, one.answer
    asked = {"provider": request.provider_name, "method": request.method, "path": request.path, "query": request.query}
    said = {"status": answer.status, "headers": answer.headers, "ended": answer.ended}
    return {
        "request": {name: value for name, value in asked.items() if value} | _sorted(request.body),
        "response": {name: value for name, value in said.items() if value} | answer.body,
    }


def _sorted(value: Any) -> Any:
    """Names in alphabetical order: a program that orders them anew changes no file."""
    if isinstance(value, dict):
        return {name: _sorted(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_sorted(item) for item in value]
    return value


def _written(value: Any, indent: str) -> Iterator[str]:
    """JSON that stays on one line where it is short, and where it is a list of numbers."""
    line = to_json(value)
    is_open = isinstance(value, (dict, list)) and value
    numbers = isinstance(value, list) and all(type(item) in (int, float) for item in value)
    nested = isinstance(value, dict) and any(isinstance(item, (dict, list)) and item for item in value.values())
    if not is_open or numbers or (len(line) + len(indent) <= _WIDTH and not (nested and len(line) > _WIDTH // 2)):
        yield line
        return
    inner = indent + " "
    ends = "{}" if isinstance(value, dict) else "[]"
    entries = (
        [(f"{to_json(name)}: ", item) for name, item in value.items()]
        if isinstance(value, dict)
        else [("", item) for item in value]
    )
    yield ends[0]
    for n, (name, item) in enumerate(entries):
        yield f"{',' if n else ''}\n{inner}{name}"
        yield from _written(item, inner)
    yield f"\n{indent}{ends[1]}"
