"""The records one call becomes: what was used, the call under way, and the row that stays."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import attrs

from farebox._money import to_usd
from farebox._usage import NO_UNITS as NO_UNITS  # noqa: PLC0414
from farebox._usage import UNITS as UNITS  # noqa: PLC0414
from farebox._usage import Usage as Usage  # noqa: PLC0414


class Part(NamedTuple):
    """The most that a part of a call can use, of whatever model: a picture that a tool draws, the rows of a batch.

    Attributes:
        model: "" for the call's own.
        input_tokens, output_tokens: Of all its requests together; pictures and sound count by their tokens.
        requests: How many they are.
        longest_input: Input tokens of the longest of them, which chooses the step of its prices; 0: all of them.
        reads: How often all input of the call is read once more, by this model.
        uncapped: Choices without a cap, each as long as the model makes them.
        filled: How often all that the model can read may be read.
    """

    model: str
    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 1
    longest_input: int = 0
    reads: int = 0
    uncapped: int = 0
    filled: int = 0


EMPTY_TAGS: Final[Mapping[str, str]] = MappingProxyType({})

#: How a call ended.  "refused" and "vetoed" calls were never sent; of a "failed" one nothing was billed.  "corrected" is no
#: call: a person put another amount on the books, up or down.
Outcome = Literal["open", "completed", "closed", "dropped", "failed", "unknown", "refused", "vetoed", "corrected"]

#: Where a cost comes from: the price list, the provider's own figure, a person, or a bound for want of anything better.
CostSource = Literal["list", "provider", "manual", "estimated"]

#: The `operation_name` of a request that may be billed and that no provider here can read: sent as it is, its cost unknown.
UNMETERED: Final = "unmetered"
#: The operation of a call that is many requests: as many as its `messages`.
BATCH: Final = "batch"

#: What every call can be grouped by; no tag can have one of these names.
DIMENSIONS: Final = ("provider", "model", "operation", "outcome", "hour", "day", "week", "month")

_LONGEST_TAG: Final = 256


def read_tags(tags: Mapping[str, object]) -> Mapping[str, str]:
    """Labels as they are kept: text of at most 256 characters; None sets no label.

    Raises:
        ValueError: a name that a built-in dimension has.
        TypeError: no mapping.
    """
    if not isinstance(tags, Mapping):
        raise TypeError(f"tags={tags!r} is a {type(tags).__name__}; write tags={{'team': 'search'}}")
    for name in tags:
        if name in DIMENSIONS:
            raise ValueError(
                f"{name}={tags[name]!r} can't be a tag: reports group by {name} anyway; choose another name"
            )
    return MappingProxyType({name: str(value)[:_LONGEST_TAG] for name, value in tags.items() if value is not None})


_numbers = itertools.count(1)
#: A number that no call and no hold of this process has.
next_number = _numbers.__next__
_process_prefix = os.urandom(6).hex()


def _renew_prefix() -> None:
    global _process_prefix
    _process_prefix = os.urandom(6).hex()


os.register_at_fork(after_in_child=_renew_prefix)


class _Progress:
    """What enforcement decides, the SDK's plumbing sees and the answer says.

    What `Call` has no slot for is said of few calls, and those that don't say it pay nothing.
    """

    # What is decided.
    tags: Mapping[str, str] = EMPTY_TAGS
    scope: str = ""
    #: Keys of the accounts of standing budgets that it is charged to.
    accounts: tuple[str, ...] = ()
    #: Of corrections only, which are no calls.
    adjustment_id: str = ""
    sent_model: str = ""
    #: Output cap that farebox sends; None where the request goes out as it came.
    sent_cap: int | None = None
    #: A mode wants the cap lowered to what the money buys.
    fits_cap: bool = False
    #: Input tokens that it is held for, for modes to read.
    most_input_tokens: int = 0
    #: The scope that its client brings along, outermost.
    client_frame: Any = None
    #: Who answers in another vendor's format; None for that vendor itself.
    server: Any = None
    bound_usd_nanos: int = 0
    bound_tokens: int = 0
    decision: str = ""
    #: What enforcement keeps about the call while it is open.
    plan: Any = None

    # How it is going.
    is_async: bool = False
    #: The request's own timeout and its client's, as the SDK has them.
    timeouts: tuple[Any, ...] = ()
    attempts: int = 0
    #: Attempts that were sent and died without an answer: each may have been billed.
    dead_attempts: int = 0
    #: Attempts before the last time that the SDK made up its mind to try again: what became of them is known.
    retried_attempts: int = 0
    is_sent: bool = False
    activity: Any = None
    #: A usage chunk was asked for on the caller's behalf, and is hidden.
    adds_usage_chunk: bool = False

    # What came of it.
    outcome: Outcome = "open"
    #: The answer says that it will be there later: nothing has ended yet.
    is_pending: bool = False
    #: Chunks of a stream after which it is broken off.
    most_chunks: int | None = None
    #: What to raise once it is over: a budget let it cross its limit, or cut it.
    raises: Exception | None = None
    #: Ended by a `close()`, which a finalizer may have called.
    was_closed: bool = False
    error_class: str = ""
    usage: Usage | None = None
    #: What other models used for the call, which `usage` holds as a fee only: at their own prices.
    others: tuple[tuple[str, Usage], ...] = ()
    #: Output tokens received, estimated upwards, when a stream was closed before its usage came; 0: nothing is known.
    received_tokens: int = 0
    #: Why a usage report was not believed, or had to be made up; "" where it is the provider's own.
    doubt: str = ""
    cost_usd_nanos: int | None = None
    #: What it is known to have cost, whatever its tokens say.
    known_usd_nanos: int | None = None
    #: What the provider says that it cost; believed where the price list is of about the same mind.
    told_usd_nanos: int | None = None
    #: The answer names a model that nobody here believes was billed: a gateway's word.
    doubts_model: bool = False
    #: Whose server a reseller asked, by its own name.
    upstream_provider: str = ""
    #: Tokens charged: those of `usage`, or what was presumed where there is none.
    charged_input_tokens: int = 0
    charged_output_tokens: int = 0
    cost_source: CostSource = "list"
    price_version: str = ""
    response_id: str = ""
    request_id: str = ""
    response_model: str = ""
    served_tier: str = ""
    is_cut: bool = False
    first_chunk_at_seconds: float | None = None
    ended_at_seconds: float | None = None


class _Said(_Progress):
    """What a provider reads off a request, beyond what every request says."""

    #: Text, and parameters that say nothing out of the ordinary: what has a default here is not said, but for the features
    #: and the size of the system prompt.
    is_plain: bool = False
    is_stream: bool = False
    #: Output tokens per choice that the caller allowed; None where the request does not say.
    declared_cap: int | None = None
    #: False where the request holds a cap that nobody can read: it goes out as it is.
    accepts_cap: bool = True
    choices: int = 1
    #: The service tier asked for, "" where the request does not say.
    tier: str = ""
    #: Input in bytes of UTF-8: all text that the model reads, how much of it is neither prose nor code, and how much English.
    text_bytes: int = 0
    dense_bytes: int = 0
    english_bytes: int = 0
    #: Input tokens that no text accounts for: templates, images, files, hosted tools.
    extra_input_tokens: int = 0
    #: The longest-lived prompt cache that the request may write to.
    cache_write: Literal["none", "5m", "30m", "1h", "12h", "known"] = "known"
    #: The smallest output cap that this request can be sent with, as where a thinking budget must fit below it.
    least_cap: int = 1
    #: What the model must be able to do: names of `prices.ladders.FEATURES`.
    features: frozenset[str] = frozenset()
    #: Most input tokens by proof: no vocabulary has a token of less than a byte.  All text, templates and media.
    proven_input_tokens: int = 0
    #: Parts of the request whose input nobody can bound, by name, such as "image_url"; each counts with its own maximum.
    unbounded: tuple[str, ...] = ()
    #: The pictures of the request, whose tokens depend on the model; None where there are none.
    pictures: Any = None
    #: The answer that this request goes on from, whose tokens are input again.
    previous_response_id: str = ""
    #: What the request calls that id.
    previous_name: str = "previous_response_id"
    #: How often tools that run at the provider may have everything read again.
    turns: int = 0
    #: Whether it goes on from what only the provider knows, and may fill all that the model can read.
    fills_context: bool = False
    #: Whether a later request can go on from this answer, by its id.
    is_continuable: bool = False
    #: It is asked for in the background: the provider goes on with it, whoever listens.
    is_background: bool = False
    #: It is seen and not sent by farebox: it can be refused, and not changed.
    is_fixed: bool = False
    #: Refused, and billed all the same, as its provider had begun it unasked: no budget has a say in it any more.
    is_begun: bool = False
    #: What it costs at most where its caller knows that, and no model is asked: nanodollars and tokens.
    fixed_usd_nanos: int | None = None
    fixed_tokens: int = 0
    #: The request asks for reasoning, which is billed and may be unseen.
    reasons: bool = False
    #: All output that is billed is in the chunks of its stream, also what is reasoned.
    shows_all: bool = False
    has_audio: bool = False
    #: Pictures or video, in or out.
    has_images: bool = False
    #: Searches that the request allows, each with a fee of its own.
    most_web_searches: int = 0
    #: The most that it can use of each of `UNITS`, by name.
    most_units: Mapping[str, int] = NO_UNITS
    #: What it may use besides; looked at only along with `has_images`, `has_audio` or `most_units`.
    parts: tuple[Part, ...] = ()
    messages: int = 0
    system_bytes: int = 0
    tools_bytes: int = 0
    last_message_bytes: int = 0


class Call(_Said):
    """One request through an SDK, from before it is sent until it is paid.

    Receivers of `signals.pre_call` and `signals.post_call` are handed this object; they read it and leave it alone.
    A provider makes it of a request and sets what `_Said` names; `_Progress` is filled in as the call goes along.
    It holds no prompt, no completion and no key.

    Written by hand, since it is made on every call: what an ordinary call says or is asked has a slot, and so has what
    enforcement writes; anything else is an attribute of the classes above.  They say how each starts, slot or not, so that a
    call fills only the slots that are read before anybody has written them: a look at an empty one takes thirty times as long.
    """

    __slots__ = (
        "activity", "attempts", "bound_tokens", "bound_usd_nanos", "cache_write", "charged_input_tokens",
        "charged_output_tokens", "choices", "client_frame", "cost_source", "cost_usd_nanos", "dead_attempts",
        "declared_cap", "dense_bytes", "doubt", "ended_at_seconds", "endpoint", "english_bytes", "extra_input_tokens",
        "is_async", "is_cut", "is_pending", "is_plain", "is_sent", "is_stream", "last_message_bytes", "messages", "number",
        "operation_name", "outcome", "plan", "price_version", "proven_input_tokens", "provider_name", "raises",
        "request_id", "request_model", "response_id", "response_model", "scope", "sent_cap", "sent_model",
        "served_tier", "server_address", "started_at_seconds", "tags", "text_bytes", "tier", "timeouts", "usage",
        "was_closed",
    )  # fmt: skip

    provider_name: str
    operation_name: str
    endpoint: str
    request_model: str
    server_address: str
    #: Unique in this process.
    number: int
    started_at_seconds: float

    def __init__(
        self, provider_name: str, operation_name: str, endpoint: str, request_model: str, server_address: str = ""
    ) -> None:
        self.provider_name = provider_name
        self.operation_name = operation_name
        self.endpoint = endpoint
        self.request_model = request_model
        self.server_address = server_address
        self.number = next_number()
        self.started_at_seconds = time.time()
        self.sent_model = ""
        self.sent_cap = None
        self.client_frame = None
        self.plan = None
        self.is_async = False
        self.attempts = 0
        self.dead_attempts = 0
        self.is_sent = False
        self.activity = None
        self.outcome = "open"
        self.is_pending = False
        self.raises = None
        self.was_closed = False
        self.usage = None
        self.doubt = ""
        self.served_tier = ""
        self.is_plain = False
        self.is_stream = False
        self.choices = 1
        self.tier = ""
        self.english_bytes = 0

    if not TYPE_CHECKING:  # to whom a name that nobody knows stays an error

        def __getattr__(self, name: str) -> Any:
            """How an empty slot starts."""
            try:
                return _STARTS[name]
            except KeyError:
                raise AttributeError(f"a call has no {name!r}", name=name, obj=self) from None

    def __repr__(self) -> str:
        return f"<call {self.number}: {self.provider_name} {self.model}, {self.outcome}>"

    @property
    def call_id(self) -> str:
        """Unique across processes."""
        return f"call_{_process_prefix}{self.number:08x}"

    @property
    def model(self) -> str:
        """The model that bills: the one sent, or the one asked for."""
        return self.sent_model or self.request_model

    @property
    def is_unmetered(self) -> bool:
        """Whether nobody here can read what it asks for, or what it was charged."""
        return self.operation_name == UNMETERED

    @property
    def can_lower_cap(self) -> bool:
        """Whether a lower output cap than the one its caller declared is still to be tried."""
        return self.declared_cap is not None and self.choices > 0 and not self.fits_cap

    @property
    def cost_usd(self) -> Decimal | None:
        """What the call cost; None while it is open, and where its model has no price."""
        return None if self.cost_usd_nanos is None else to_usd(self.cost_usd_nanos)

    @property
    def timeout_seconds(self) -> float | None:
        """The time that the caller gives the request: no wait in line outlasts it.  None: as long as it takes."""
        for given in self.timeouts:
            if isinstance(given, (int, float)):
                return float(given)
            if hasattr(given, "read"):
                return None if given.read is None else float(given.read)
        return None

    def idle_seconds(self, now: float) -> float:
        """For how long nobody has been sending or reading this call; 0.0 while somebody is.

        `now` is `time.monotonic()`.  Only an open stream can stand still.
        """
        return 0.0 if self.activity is None else float(self.activity.idle_seconds(now))


_STARTS: Final = {name: getattr(_Said, name) for name in Call.__slots__ if hasattr(_Said, name)}


@attrs.frozen(kw_only=True)
class CallRecord:
    """One call as the ledger keeps it.  Instants are aware UTC datetimes, tokens are disjoint buckets in `usage`.

    Where `outcome` is "corrected" it is a correction by hand: `usd` and the tokens charged are signed, `doubt` says why.
    """

    call_id: str
    started_at: datetime
    ended_at: datetime | None
    first_chunk_at: datetime | None
    provider_name: str
    operation_name: str
    endpoint: str
    server_address: str
    request_model: str
    #: The model it was sent to instead; "" where it went out as asked.
    sent_model: str
    response_model: str
    response_id: str
    request_id: str
    tier: str
    served_tier: str
    is_stream: bool
    choices: int
    usage: Usage | None
    #: Those of `usage`, or what was presumed where there is none, and for attempts that died without an answer.
    charged_input_tokens: int
    charged_output_tokens: int
    usd: Decimal | None
    cost_source: CostSource
    price_version: str
    declared_cap: int | None
    sent_cap: int | None
    bound_usd: Decimal
    bound_tokens: int
    attempts: int
    outcome: Outcome
    error_class: str
    doubt: str
    decision: str
    tags: Mapping[str, str]
    scope: str
    messages: int
    text_bytes: int
    system_bytes: int
    tools_bytes: int
    last_message_bytes: int
    #: Keys of the accounts of standing budgets that it was charged to, and corrections of it are.
    accounts: tuple[str, ...] = ()
    #: Of a correction: the id that it was made under, so that it is made once.
    adjustment_id: str = ""
    #: Whose server a reseller asked, by its own name.
    upstream_provider: str = ""

    @classmethod
    def of(cls, call: Call) -> CallRecord:
        """The record of `call` as it stands."""
        copied = {name: getattr(call, name) for name in _COPIED}
        copied["tags"] = dict(call.tags)  # a plain one: records travel to other processes
        return cls(
            started_at=_instant(call.started_at_seconds),
            ended_at=None if call.ended_at_seconds is None else _instant(call.ended_at_seconds),
            first_chunk_at=None if call.first_chunk_at_seconds is None else _instant(call.first_chunk_at_seconds),
            usd=call.cost_usd,
            bound_usd=to_usd(call.bound_usd_nanos),
            **copied,
        )

    @property
    def model(self) -> str:
        """The model that bills: the one sent, or the one asked for."""
        return self.sent_model or self.request_model

    @property
    def started_at_seconds(self) -> float:
        """Epoch seconds, exact to the microsecond."""
        return self.started_at.timestamp()

    @property
    def cost_usd_nanos(self) -> int | None:
        """`usd` in nanodollars."""
        return None if self.usd is None else int(self.usd.scaleb(9, context=_EXACT))

    @property
    def bound_usd_nanos(self) -> int:
        """`bound_usd` in nanodollars."""
        return int(self.bound_usd.scaleb(9, context=_EXACT))


#: Our own context: the ambient one belongs to the program and may round to three digits.
_EXACT: Final = Context(prec=60)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

_DERIVED = {"started_at", "ended_at", "first_chunk_at", "usd", "bound_usd"}
_COPIED = tuple(field.name for field in attrs.fields(CallRecord) if field.name not in _DERIVED)


def to_micros(seconds: float) -> int:
    """Whole microseconds, rounded down: the second something began in stays the same."""
    return int(seconds * 1_000_000)


def from_micros(micros: int) -> datetime:
    """An instant from epoch microseconds."""
    return _EPOCH + timedelta(microseconds=micros)


def _instant(seconds: float) -> datetime:
    return from_micros(to_micros(seconds))
