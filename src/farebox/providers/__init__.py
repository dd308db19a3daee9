"""The provider contract and its lookup: one file a provider, and nobody else knows a vendor's JSON.

A provider works on the wire format.  A body or an answer is a mapping, or an SDK's model whose `__dict__` has the same
fields; `fields()` makes one of both, so the same file serves the SDKs and plain HTTP.

To add one: write a module with a class that fulfils `Provider`, as what derives from `base.ChatProvider` does, and name it in
`_BUILT_IN` or, from outside, as an entry point of the group `farebox.providers`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Literal, Protocol

from farebox._call import Call
from farebox.providers._reading import without_iterators as without_iterators
from farebox.providers._uploads import Upload as Upload
from farebox.providers._uploads import with_files as with_files

#: What becomes of a request: its use is read, it costs nothing, or it may be billed and nobody here can read it.
Metering = Literal["metered", "free", "unmetered"]


class StreamReader(Protocol):
    """Reads one stream's usage as it passes.  One object a stream; never raises.

    One that hides nothing may have `telling`, a tuple of bytes: then of server-sent events `see` is only handed the first
    chunk, and at the end the JSON of those events that hold one of them, some of them twice.
    """

    def see(self, chunk: Any) -> bool:
        """Take note of a chunk; True when the caller must not see it because only farebox asked for it."""

    def finish(self) -> None:
        """The stream has ended by itself: write usage, ids and the model served to the call, where they were seen."""

    def abandon(self, chunks: list[Any]) -> None:
        """The stream was left early: `chunks` is all that had arrived.  Write `received_tokens`, and usage if it is final."""


class Reader(Protocol):
    """What is asked about a call once it is made: how it is sent, and what came of it."""

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        """The top-level keys of `body` to change before it is sent, with their new values; {} when nothing changes."""

    def read_answer(self, call: Call, answer: Any) -> None:
        """Write usage, ids, served model and finish of a whole answer to `call`; what is unreadable stays None."""

    def stream_reader(self, call: Call) -> StreamReader:
        """A reader for one stream of `call`."""


class Provider(Reader, Protocol):
    """How one vendor's requests and answers are read and rewritten.

    A provider whose SDK is not built like OpenAI's and Anthropic's names the kind of its plumbing as `seam`, one of those
    that `_instrument` knows.
    """

    #: OpenTelemetry GenAI name, such as "openai": the `sender` on the bus.
    name: str
    #: The package whose base clients are instrumented, and its sync and async client.
    sdk: str
    clients: tuple[str, str]
    #: The path of its chat endpoint, as `read_request` knows it.
    chat_path: str

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        """The call that a request makes, or None for a request that is free, unknown or malformed.

        `path` has no query.  A None request goes out untouched and the SDK answers as it always does; `metering` says whether
        it may be billed all the same.
        """

    def metering(self, path: str) -> Metering:
        """What becomes of a POST to `path`, whatever its body.

        "metered" is what `read_request` knows, "free" what the vendor's prices say costs nothing.  Anything else is
        "unmetered", also what the vendor will only bring out: it is counted, warned about, and refused under a limit.
        """

    def answers(self, path: str, method: str) -> str:
        """The id of the earlier answer that a request asks after, of a call that set `is_pending`; "" for any other request."""


_BUILT_IN = {
    "openai": "farebox.providers.openai",
    "anthropic": "farebox.providers.anthropic",
    "cohere": "farebox.providers.cohere",
    "google": "farebox.providers.google",
    "mistral": "farebox.providers.mistral",
}


def provider_names() -> list[str]:
    """Names that `find_provider` knows, sorted."""
    from importlib.metadata import entry_points  # here and not above: it is slow to import

    return sorted({*_BUILT_IN, *(point.name for point in entry_points(group="farebox.providers"))})


def find_provider(name: str) -> Provider:
    """The provider called `name`.

    Raises:
        ValueError: nothing has that name; the message lists what has.
    """
    if name in _BUILT_IN:
        found: Provider = import_module(_BUILT_IN[name]).PROVIDER
        return found
    from importlib.metadata import entry_points

    for point in entry_points(group="farebox.providers", name=name):
        loaded = point.load()
        found = loaded() if isinstance(loaded, type) else loaded
        return found
    raise ValueError(f"provider {name!r} is unknown; choose from {', '.join(provider_names())}")


def short_way(provider: Provider, short: str, long: str) -> Any:
    """How a provider reads plain text; None where it does not, or where a class made of it reads on a long way of its own."""
    for cls in type(provider).__mro__:
        if short in vars(cls):
            return getattr(provider, short)
        if long in vars(cls):
            break
    return None
