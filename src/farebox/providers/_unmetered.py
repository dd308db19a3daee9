"""Requests that may be billed and that no provider reads: what can be said of one, and a reader that reads nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import UNMETERED, Call
from farebox.providers._reading import fields, text_of

#: What looks like an id in a path: endpoints are told apart, not the things they are about.
_ID: Final = re.compile(r"(?<=/)(?=[^/:]*[0-9])(?:[^/:]{16,}|[a-z]+[-_][^/:]+)(?=[/:]|$)")
_LONGEST_ENDPOINT: Final = 120


def unmetered_call(
    provider_name: str,
    path: str,
    body: Mapping[str, Any] | None,
    server_address: str,
    unread: Exception | None = None,
) -> Call:
    """The call that such a request makes: nothing of it can be bounded, and nothing that is sent is changed.

    `unread` is what its provider raised on reading it, of which only the kind is kept.
    """
    call = Call(
        provider_name=provider_name,
        operation_name=UNMETERED,
        endpoint=_ID.sub("{id}", path)[:_LONGEST_ENDPOINT],
        server_address=server_address,
        request_model=text_of((body or {}).get("model"))[:200],
    )
    call.choices, call.accepts_cap, call.is_plain = 0, False, False
    call.doubt = "no provider reads this endpoint"
    if unread is not None:
        call.doubt = f"its provider could not read this request ({type(unread).__name__})"
    return call


def unseen_call(provider_name: str, path: str, server_address: str, why: str) -> Call:
    """The call of a request that is about what nobody here has seen: a file, a cache."""
    call = unmetered_call(provider_name, path, None, server_address)
    call.doubt = why
    return call


class Unmetered:
    """What a seam asks of a provider once a call is made, for calls that nobody reads."""

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        """Nothing is changed."""
        return {}

    def read_answer(self, call: Call, answer: Any) -> None:
        """Only its id, by which it can be found on the bill."""
        call.response_id = text_of(fields(answer).get("id"))[:200]

    def stream_reader(self, call: Call) -> Unmetered:
        """Of a stream nothing is read either."""
        return self

    def see(self, chunk: Any) -> bool:
        """Every chunk is the caller's."""
        return False

    def finish(self) -> None:
        """There is nothing to write."""

    def abandon(self, chunks: list[Any]) -> None:
        """There is nothing to write."""


READER: Final = Unmetered()
