"""What the chat endpoints of most vendors have alike: a base for providers, and what reads a body.

A provider of somebody else's derives from `ChatProvider`, says what its vendor calls things, and overrides what is otherwise.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers import Metering, StreamReader
from farebox.providers._reading import Sizes, UnreadableUsage, count, fields, listed, text_of, texts, whole_number

__all__ = ["ChatProvider", "Sizes", "UnreadableUsage", "count", "fields", "listed", "text_of", "texts", "whole_number"]

# Hidden text around messages and tools, as of OpenAI's and Anthropic's, and the longest template known of any server.
_TOKENS_PER_MESSAGE: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_PER_TOOL: Final = 32
_TOKENS_OF_TEMPLATE: Final = 512
_MOST_CHOICES: Final = 1_000_000
_LONGEST: Final = 200
#: More than a call can use of anything, and than it can cost in nanodollars besides: beyond are faults, not measures.
_MOST_OF_ANY: Final = 10**9
_MOST_FEES: Final = 10**15


class ChatProvider(ABC):
    """A vendor with one endpoint that answers a list of messages, whole or as a stream; fulfils `farebox.providers.Provider`.

    A request is bounded by all that its body holds, whatever it is called, so that there is no parameter to forget.  Its
    answer is charged by the usage in it; an answer without one, or with one that can't be believed, is charged at its bound.
    """

    #: As OpenTelemetry GenAI calls the vendor, and `instrument(only=)` and prices know it.
    name: str
    #: The package whose clients are metered, and its sync and async client.
    sdk: str
    clients: tuple[str, str]
    #: The end of the path that its requests go to; a POST to any other may be billed, and is unmetered.
    chat_path: str
    #: Ends of paths of POSTs that cost nothing.
    free_paths: tuple[str, ...] = ()
    #: What a body calls its messages, its choices, and the output cap of each; a cap of ours is sent by the first name.
    messages_name: str = "messages"
    choices_name: str = "n"
    cap_names: tuple[str, ...] = ("max_tokens",)
    #: The most tokens of a part of a message by its "type"; one that is not here may fill all that its model can read.
    part_tokens: Mapping[str, int] = {}
    #: The words for an answer that ended at its cap.
    cut_words: tuple[str, ...] = ("length", "max_tokens")
    #: Whether all output that is billed is in the chunks of a stream, also what is reasoned: then one that is left early is
    #: charged for what had come, and else for all that it could have been, unless its model is known not to reason.
    shows_all: bool = False

    @abstractmethod
    def read_usage(self, answer: Mapping[str, Any]) -> Usage | None:
        """What a whole answer, or a chunk of a stream, says was used; None where it says nothing of it.

        Of the chunks of a stream the last that says something counts.

        Raises:
            UnreadableUsage: it says something that can't be believed, as `count` finds.
        """

    @abstractmethod
    def ended_by(self, answer: Mapping[str, Any]) -> str:
        """The vendor's word for why a whole answer ended, or a stream at this chunk; "" while it goes on."""

    def said(self, chunk: Mapping[str, Any]) -> Iterable[str]:
        """The output that a chunk of a stream brought.  By default every text in it, which errs upwards."""
        return texts(chunk)

    def metering(self, path: str) -> Metering:
        if path.endswith(self.chat_path):
            return "metered"
        return "free" if path.endswith(self.free_paths) else "unmetered"

    def read_request(self, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        if not path.endswith(self.chat_path):
            return None
        call = Call(self.name, "chat", self.chat_path, text_of(body.get("model")), server_address)
        sizes = Sizes(self.part_tokens)
        messages = listed(body.get(self.messages_name)) or [body.get(self.messages_name)]
        for message in messages:
            call.last_message_bytes = sizes.add(message)
        call.messages = len(messages)
        for name in body.keys() - {self.messages_name, "model"}:
            sizes.add_json(body[name])
        tools = listed(body.get("tools")) or ()
        sizes.extra_tokens += _TOKENS_PER_REQUEST + _TOKENS_PER_MESSAGE * len(messages) + _TOKENS_PER_TOOL * len(tools)
        if sizes.kinds - {"text", *self.part_tokens}:
            sizes.name_unbounded("a part of an unknown type")
            call.fills_context = True
        call.text_bytes, call.dense_bytes, call.english_bytes = sizes.text_bytes, sizes.dense_bytes, sizes.english_bytes
        call.extra_input_tokens = sizes.extra_tokens
        call.proven_input_tokens = sizes.proven_tokens() + _TOKENS_OF_TEMPLATE
        call.unbounded, call.has_images, call.has_audio = sizes.unbounded, sizes.has_images, sizes.has_audio
        call.features = frozenset(("tools",)) if tools else frozenset()
        call.is_stream, call.shows_all = bool(body.get("stream")), self.shows_all
        call.choices = min(whole_number(body.get(self.choices_name)) or 1, _MOST_CHOICES)
        caps = [whole_number(body[name]) for name in self.cap_names if body.get(name) is not None]
        call.accepts_cap = None not in caps
        call.declared_cap = max((cap for cap in caps if cap is not None), default=None) if call.accepts_cap else None
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {"model": call.sent_model} if call.sent_model else {}
        if call.sent_cap is not None:
            declared = [name for name in self.cap_names if body.get(name) is not None]
            changes |= dict.fromkeys(declared or self.cap_names[:1], call.sent_cap)
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        self._read_head(call, found)
        call.is_cut = self.ended_by(found) in self.cut_words
        try:
            _believe(call, self.read_usage(found))
        except UnreadableUsage as reason:
            call.doubt = str(reason)

    def stream_reader(self, call: Call) -> StreamReader:
        return _ChatStream(self, call)

    def answers(self, path: str, method: str) -> str:
        return ""

    @staticmethod
    def _read_head(call: Call, found: Mapping[str, Any]) -> None:
        call.response_id = text_of(found.get("id"))[:_LONGEST] or call.response_id
        call.response_model = text_of(found.get("model"))[:_LONGEST] or call.response_model


def _believe(call: Call, usage: Usage | None) -> None:
    """Take a usage whose counts are counts, and which has read something."""
    if usage is None:
        return
    most = Usage(*[_MOST_OF_ANY] * len(usage))._replace(fees_nanos=_MOST_FEES)
    if (
        any(type(amount) is not int or not 0 <= amount <= limit for amount, limit in zip(usage, most, strict=True))
        or usage.input_tokens == 0
    ):
        call.doubt = "a count of the usage can't be believed"
    else:
        call.usage = usage


class _ChatStream:
    """Reads a stream by its last usage, once something has said why it ended."""

    __slots__ = ("_call", "_doubt", "_ended_by", "_provider", "_usage")

    def __init__(self, provider: ChatProvider, call: Call) -> None:
        self._provider, self._call = provider, call
        self._usage: Usage | None = None
        self._ended_by = self._doubt = ""

    def see(self, chunk: Any) -> bool:
        try:
            found = fields(chunk)
            self._provider._read_head(self._call, found)
            self._ended_by = self._provider.ended_by(found) or self._ended_by
            self._usage = self._provider.read_usage(found) or self._usage
        except UnreadableUsage as reason:
            self._doubt = str(reason)
        except Exception as error:  # of a provider that is not ours: a stream goes on
            self._doubt = type(error).__name__
        return False

    def finish(self) -> None:
        call = self._call
        call.is_cut = self._ended_by in self._provider.cut_words
        if self._doubt or not self._ended_by:
            call.doubt = self._doubt or "the stream ended before its answer"
        else:
            _believe(call, self._usage)

    def abandon(self, chunks: list[Any]) -> None:
        pieces: list[str] = []
        for chunk in chunks:
            self.see(chunk)
            pieces += self._provider.said(fields(chunk))
        sizes = Sizes({})
        sizes.add_joined(pieces)
        self._call.received_tokens = sizes.received_tokens()
        if self._ended_by and self._call.choices == 1:
            self.finish()  # it had ended, and only its end was not read
