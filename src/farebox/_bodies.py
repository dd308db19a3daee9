"""The options of an SDK's request and the body in them: copied, looked through and read, whatever form they have."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from copy import copy
from typing import Any, Final


def parsed(body: bytes) -> Any:
    """A JSON body, or None where it is none."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def parsed_lines(body: bytes) -> list[Any]:
    """The values of a body of JSON lines; None for a line that is none."""
    return [parsed(line) for line in body.splitlines() if line.strip()]


def copied(options: Any) -> Any:
    """A copy of an SDK's options, which others may share; as `copy.copy` does it, at a third of its price."""
    kind = type(options)
    if kind not in _plain_models:
        if not _is_plain_model(kind):
            return copy(options)
        _plain_models.add(kind)
    copied = object.__new__(kind)
    _put(copied, "__dict__", options.__dict__.copy())
    _put(copied, "__pydantic_fields_set__", options.__pydantic_fields_set__)
    _put(copied, "__pydantic_extra__", options.__pydantic_extra__)
    _put(copied, "__pydantic_private__", options.__pydantic_private__)
    return copied


def with_note(options: Any, note: Callable[[Any], None]) -> Any:
    """A copy of an SDK's options whose answer is handed to `note` once it is parsed, and then on as it would have been."""
    options = copied(options)
    previous = options.post_parser if callable(options.post_parser) else None

    def take_note(answer: Any) -> Any:
        note(answer)
        return answer if previous is None else previous(answer)

    options.__dict__["post_parser"] = take_note
    return options


#: Where a model of pydantic 2 keeps its state besides `__dict__`.
_MODEL_SLOTS: Final = frozenset(("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__"))
_plain_models: set[type] = set()


def _is_plain_model(kind: type) -> bool:
    slots = {slot for cls in kind.__mro__ for slot in getattr(cls, "__slots__", ())} - {"__dict__"}
    return slots == _MODEL_SLOTS


#: Values that are sent as they are and hold no iterator.
_PLAIN: Final = frozenset((str, int, float, bool, type(None)))
_DEEPEST: Final = 32
_put: Final = object.__setattr__


def is_plain(values: Iterable[Any], depth: int = 0) -> bool:
    """Whether all of this is JSON as it stands, in dicts and lists.

    A loop, and nothing of `itertools`: between two calls of an SDK its bytecode stays in the caches and their code does not.
    """
    for value in values:
        kind = type(value)
        if kind is dict or kind is list:
            if depth == _DEEPEST or not is_plain(value if kind is list else value.values(), depth + 1):
                return False
        elif kind not in _PLAIN:
            return False
    return True


def read_body(options: Any) -> dict[str, Any] | None:
    """The JSON object that a request sends otherwise than as one dict: in two, as a model, another mapping, or as bytes."""
    body, extra = options.json_data, options.extra_json
    if body is None:
        content = getattr(options, "content", None)
        if content is None:
            return {**extra} if extra else None
        content = content.encode() if isinstance(content, str) else content
        body = parsed(bytes(content)) if isinstance(content, (bytes, bytearray)) else None
    elif hasattr(type(body), "model_dump"):
        body = body.model_dump(mode="json", by_alias=True, exclude_unset=True)
    elif isinstance(body, Mapping):
        body = dict(body)
    return {**body, **(extra or {})} if type(body) is dict else None
