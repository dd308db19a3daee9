"""What never gets into a cassette: keys and the ids of who pays, wherever they stand."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

REDACTED: Final = "(redacted)"

#: Headers of a request whose values are looked for everywhere else.
_HEADERS: Final = (
    "authorization",
    "proxy-authorization",
    "x-api-key",
    "api-key",
    "x-goog-api-key",
    "x-amz-security-token",
    "openai-organization",
    "openai-project",
    "x-goog-user-project",
    "cookie",
)
#: Shorter values are those of tests ("fake"), and words of a text.
_LEAST_SECRET: Final = 16

#: Names of fields and of parameters in a URL whose text is a secret, as `authorization` of an MCP server in a request.
_FIELD: Final = re.compile(
    r"(?i)(?:.*[_-])?(?:authorization|authorization[_-]?token|api[_-]?key|access[_-]?key|private[_-]?key|secret|"
    r"(?:access|refresh|bearer|auth|session|id|security)[_-]?token|client[_-]?secret|password|credentials?|cookie)"
)
#: Names of fields that hold secrets by names of their own, as the `headers` of an MCP server and the `domain_secrets` of a
#: container (openai 3.54.0, `types/responses/container_network_policy_domain_secret_param.py`, read 2026-11-29).
_HOLDER: Final = re.compile(r"(?i)(?:.*[_-])?(?:headers|cookies|secrets?|api[_-]?keys|passwords|credentials)")
_PARAMETER: Final = re.compile(r"(?i).*(?:key|token|secret|sig|signature|credential|password|auth|session|code)")

#: What keys and ids look like.  An error of a provider's may quote them.
_LOOKS: Final = re.compile(
    r"""
      (?P<said> (?: (?:^|[?&]) (?i: key|apikey|sig|(?:[\w.-]*[_.-])?(?:api_key|token|secret|password|signature|assertion) ) =
        | Bearer\s+ | Basic\s+ ) )
        (?P<value> [^\s&"'<>]{8,} )
    | \b (?: sk|pk|rk ) - [A-Za-z0-9_*-]{12,}                # OpenAI, Anthropic and those who took it over, masked too
    | \b org- [A-Za-z0-9]{8,} | \b proj_ [A-Za-z0-9]{8,} | \b wrkspc_ [A-Za-z0-9]{8,}
    | \b AIza [A-Za-z0-9_-]{30,} | \b ya29\. [A-Za-z0-9_-]{20,}
    | \b (?: AKIA|ASIA ) [A-Z0-9]{16} \b
    | \b gh[opsur]_ [A-Za-z0-9]{30,} | \b github_pat_ [A-Za-z0-9_]{30,} | \b hf_ [A-Za-z0-9]{30,}
    | \b ek_ [A-Za-z0-9]{20,} | \b xox[abprs]- [A-Za-z0-9-]{10,} | \b gsk_ [A-Za-z0-9]{20,} | \b xai- [A-Za-z0-9]{20,} | \b r8_ [A-Za-z0-9]{20,}
    | (?<=://) [^\s/:@]+ : [^\s/@]+ (?=@)                     # who asks, in front of a host
    | -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY----- .*? (?: -----END\ [A-Z\ ]*PRIVATE\ KEY----- | \Z )
    | \b eyJ [A-Za-z0-9_-]{10,} \. eyJ [A-Za-z0-9_-]{10,} \. [A-Za-z0-9_-]{10,}
    """,
    re.VERBOSE | re.DOTALL,
)

#: How an error of Google's names who pays.  In a text of a model's these words may be anything.
_IN_ERRORS: Final = re.compile(r"(?i)\b((?:projects?|organizations?|accounts?)(?:/|\s+(?:number\s+)?))([\w-]*\d[\w-]*)")

#: Parts of a path that are followed by the id of who pays.
_OWNERS: Final = re.compile(r"(?i)/(projects|organizations|accounts|subscriptions|resourcegroups|workspaces)/[^/:]+")


def of_request(headers: Mapping[str, str]) -> tuple[str, ...]:
    """The secrets that the headers of a request say, the longest first."""
    values = [headers.get(name, "") for name in _HEADERS]
    values += [value.partition(" ")[2] for value in values]
    return tuple(sorted({value for value in values if len(value) >= _LEAST_SECRET}, key=len, reverse=True))


def clean_text(text: str, secrets: Iterable[str] = ()) -> str:
    """`text` without what is one of the secrets, or looks like one."""
    for secret in secrets:
        text = text.replace(secret, REDACTED)
    return _LOOKS.sub(lambda found: (found["said"] or "") + REDACTED, text)


def clean(value: Any, secrets: Iterable[str] = ()) -> Any:
    """A JSON value likewise; what stands in a field whose name says that it is secret goes whole."""
    if isinstance(value, str):
        return clean_text(value, secrets)
    if isinstance(value, list):
        return [clean(item, secrets) for item in value]
    if isinstance(value, dict):
        named = value.get("name")
        is_secret = isinstance(named, str) and _FIELD.fullmatch(named) is not None  # a header, or a field of a form
        return {
            name: _emptied(item)
            if (_FIELD.fullmatch(name) and isinstance(item, str))
            or _HOLDER.fullmatch(name)
            or (is_secret and name in ("value", "text"))
            else clean(item, secrets)
            for name, item in value.items()
        }
    return value


def _emptied(value: Any) -> Any:
    """A JSON value without any of its texts."""
    if isinstance(value, str):
        return REDACTED if value else value
    if isinstance(value, list):
        return [_emptied(item) for item in value]
    if isinstance(value, dict):
        return {name: _emptied(item) for name, item in value.items()}
    return value


def clean_error(value: Any) -> Any:
    """The body of an error, moreover without the numbers of accounts and projects."""
    if isinstance(value, str):
        return _IN_ERRORS.sub(lambda found: found[1] + REDACTED, value)
    if isinstance(value, list):
        return [clean_error(item) for item in value]
    if isinstance(value, dict):
        return {name: clean_error(item) for name, item in value.items()}
    return value


def clean_path(path: str, secrets: Iterable[str] = ()) -> str:
    return clean_text(_OWNERS.sub(r"/\1/-", path), secrets)


def clean_query(query: str, secrets: Iterable[str] = ()) -> str:
    """The parameters in alphabetical order, without those that are keys or signatures."""
    given = parse_qsl(query, keep_blank_values=True)
    kept = sorted((name, clean_text(value, secrets)) for name, value in given if not _PARAMETER.fullmatch(name))
    return urlencode(kept)
