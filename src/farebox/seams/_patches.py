"""What the seams of all SDKs share: classes that are wrapped once and put back, and how a request that raised has ended.

Each build of SDK has a seam of its own, such as `stainless` for those of OpenAI and Anthropic.
"""

from __future__ import annotations

import functools
import json
import logging
import weakref
from collections.abc import Callable
from typing import Any, ClassVar, Final

from farebox import signals
from farebox._call import Call
from farebox._streams import end_call, read_answer
from farebox.errors import IncompatibleSDK
from farebox.providers import Provider, Reader
from farebox.providers._compatible import Compatible

_logger = logging.getLogger("farebox")

#: Attribute of a client that is metered by itself.
CLIENT_MARK: Final = "_farebox"
#: Errors of httpx, httpx2, requests and aiohttp, and of the cassettes of tests, after which nothing can have reached the provider.
_NEVER_SENT: Final = frozenset(
    ("ConnectError ConnectTimeout PoolTimeout UnsupportedProtocol InvalidURL "
     "NewConnectionError ConnectTimeoutError ClientConnectorError ConnectionTimeoutError ClientHttpProxyError "
     "UnmatchedCall").split()
)  # fmt: skip
#: What httpx's error is of a proxy that opened no tunnel.  One of these names alone may be urllib3's, whose version 1 calls
#: any connection so that it loses by a proxy.
_NO_TUNNEL: Final = frozenset(("ProxyError", "TransportError"))
#: All of aiohttp's.  Under an SDK of httpx a connection that was lost after sending becomes a ConnectError as well
#: (httpx_aiohttp, `AIOHTTP_EXC_MAP`; openai 3.57.0 and anthropic 2.14.0 have it in `_vendor`; read 2026-11-30).
_BELOW: Final = "ClientError"
#: What httpx, httpx2 and aiohttp say, in a RuntimeError, of a client that was closed before.
_CLOSED_BEFORE: Final = ("Cannot send a request, as the client has been closed.", "Session is closed")
_MOST_PARENTS: Final = 10
_NO_MARK: Final = object()


class Link:
    """Ties the attempts and the answer of a request to its call."""

    __slots__ = ("answer", "call", "provider")

    #: Class of the SDK's errors that an answer with an error status becomes.
    status_error: ClassVar[str] = "APIStatusError"

    def __init__(self, call: Call, provider: Reader) -> None:
        self.call = call
        self.provider = provider
        self.answer: Any = None


class CountingLink(Link):
    """Of a request whose attempts are seen one by one, and not counted by the SDK."""

    __slots__ = ("has_failed",)

    def __init__(self, call: Call, provider: Reader) -> None:
        super().__init__(call, provider)
        #: The last attempt died without an answer, and whether it may have been billed is not known.
        self.has_failed = False

    def start(self) -> None:
        """An attempt is about to be sent."""
        self.has_failed = False
        self.call.attempts += 1
        self.call.is_sent = True

    def died(self, error: BaseException) -> None:
        """It has raised."""
        self.has_failed = not never_sent(error)

    def follows_a_dead_one(self) -> bool:
        """Whether the next attempt is a retry of one that died without an answer, which is counted here."""
        call = self.call
        if not call.attempts:
            return False
        call.dead_attempts += self.has_failed
        # Not before the dead are counted: who is interrupted here is charged too much, not too little.
        call.retried_attempts = call.attempts
        return self.has_failed


class Patches:
    """The patched classes of one SDK, and whether calls through them are metered now."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.module = provider.sdk
        #: How many `instrument()` meter all clients, and the clients that were instrumented by themselves.
        self.is_global = 0
        self.clients: weakref.WeakSet[Any] = weakref.WeakSet()
        self.carries_threads = False
        #: Requests under way: their attempts must be seen to the end.
        self.open: dict[Link, None] = {}
        self._unread: set[type] = set()
        self._patched: list[tuple[type, str, Any, Any]] = []

    @property
    def awaited(self) -> tuple[str, ...]:
        """The modules after whose import `install` is to run."""
        return (self.module,)

    def install(self) -> None:
        """Wrap the SDK's classes, once.

        Raises:
            IncompatibleSDK: a seam is missing or looks different; nothing was changed.
        """
        raise NotImplementedError

    def is_client(self, client: Any) -> bool:
        """Whether this is a client of the SDK, which has been imported."""
        raise NotImplementedError

    def target(self, client: Any) -> Any:
        """The object that sends a client's requests, and that a mark is put on."""
        return client

    def mark(self, target: Any, frame: Any) -> None:
        """Meter what `target` sends by itself, in the scope `frame` that it brings along."""
        target.__dict__[CLIENT_MARK] = frame

    def unmark(self, target: Any) -> bool:
        """Take back `mark`; whether there was one."""
        return target.__dict__.pop(CLIENT_MARK, _NO_MARK) is not _NO_MARK

    def uninstall(self) -> None:
        """Unwrap what nobody has wrapped over; the rest stays below as a pass-through.  Waits for requests under way."""
        if self.open:
            return
        kept = []
        for cls, name, original, ours in self._patched:
            if vars(cls).get(name) is ours:
                setattr(cls, name, original)
            else:
                kept.append((cls, name, original, ours))
        self._patched = kept

    def retire(self) -> None:
        """A request has come back: the last one out takes down what was undone meanwhile."""
        if not self.is_used and not self.open:
            self.uninstall()

    @property
    def is_used(self) -> bool:
        """Whether anybody asks for calls to be metered here."""
        return self.is_global > 0 or len(self.clients) > 0

    def leave_unread(self, error: Exception) -> None:
        """Say once that there are requests nobody can read."""
        if type(error) not in self._unread:
            self._unread.add(type(error))
            _logger.error("a %s request could not be read (%s) and is not metered", self.module, type(error).__name__)

    def may_bill(self, path: str, unread: Exception | None = None) -> bool:
        """Whether a POST that no call was made of may be billed; `unread` is what its provider raised, which is said once."""
        try:
            metering = self.provider.metering(path)
        except Exception as error:
            unread, metering = unread or error, "unmetered"
        if unread is not None:
            self.leave_unread(unread)
        return metering == "unmetered" or (unread is not None and metering == "metered")

    def _patch(self, cls: type, name: str, wrap: Callable[[Any], Any]) -> None:
        original = vars(cls)[name]
        for entry in self._patched:
            if entry[:2] == (cls, name):
                if _is_below(original, entry[3]):
                    return
                self._patched.remove(entry)  # another tool has put back what was there before us
                break
        ours = functools.wraps(original)(wrap(original))
        setattr(cls, name, ours)
        self._patched.append((cls, name, original, ours))


def _is_below(function: Any, ours: Any) -> bool:
    """Whether a call of `function` comes by ours, as far as wrappers tell."""
    for _ in range(_MOST_PARENTS):
        if function is ours:
            return True
        function = getattr(function, "__wrapped__", None)
    return False


def without_usage_chunk(link: Link, options: Any, body: dict[str, Any], error: BaseException) -> bool:
    """Whether a server has refused a stream for the usage that we asked it for; then it is not asked any more."""
    call, server = link.call, link.provider
    if (
        type(server) is not Compatible
        or not call.adds_usage_chunk
        or getattr(error, "status_code", 0) not in (400, 422)
    ):
        return False
    if "stream_options" not in f"{error} {getattr(error, 'body', '')}":
        return False
    server.refuses_usage_chunk = True
    call.adds_usage_chunk = False
    for name in ("json_data", "extra_json"):
        sent = options.__dict__.get(name)
        if isinstance(sent, dict) and "stream_options" in sent:
            kept = {key: value for key, value in sent.items() if key != "stream_options"}
            own = {key: body[key] for key in ("stream_options",) if key in body}
            options.__dict__[name] = {**kept, **own}
    if getattr(options, "content", None) is not None:
        kept = {key: value for key, value in json.loads(options.content).items() if key != "stream_options"}
        options.__dict__["content"] = json.dumps(kept).encode()
    return True


def failed(link: Link, error: BaseException) -> None:
    """The request raised: refused, never sent, answered with an error, or nobody knows."""
    call = link.call
    if call.outcome != "open":
        if call.plan is not None:
            signals.settle_late(call)  # interrupted while it was being paid
        return
    if link.answer is not None and not call.activity:
        # The answer came and was billed; a parser of the caller's or the SDK's did not like it.
        read_answer(call, link.provider, link.answer)
        end_call(call, "completed", error)
    elif not call.is_sent and not isinstance(error, GeneratorExit):
        end_call(call, "vetoed", error)
    elif isinstance(error, GeneratorExit):
        # Collected while it waited, maybe in the middle of a ledger's operation: take no lock.
        call.outcome = "unknown" if call.is_sent else "vetoed"
        signals.settle_late(call)
    elif _is_unbilled(link, error):
        end_call(call, "failed", error)
    else:
        end_call(call, "unknown", error)


def _is_unbilled(link: Link, error: BaseException) -> bool:
    """Whether the last attempt can't have been billed: answered with an error status, never sent, or not tried again."""
    if is_named(error, link.status_error):
        return True
    return link.call.attempts == link.call.retried_attempts or never_sent(error)


def is_named(error: BaseException, name: str) -> bool:
    """Whether an error is of a class of that name, or of one below it."""
    return any(cls.__name__ == name for cls in type(error).__mro__)


def never_sent(error: BaseException | None) -> bool:
    """Whether it is certain that a request which raised `error` has not reached the provider.

    Of an error that became another one on its way the first is believed.
    """
    found = False
    for _ in range(_MOST_PARENTS):
        if error is None:
            return found
        names = {cls.__name__ for cls in type(error).__mro__}
        if not names.isdisjoint(_NEVER_SENT) or names >= _NO_TUNNEL:
            found = True
        elif _BELOW in names:
            return False
        if type(error) is RuntimeError and str(error) in _CLOSED_BEFORE:
            return True
        error = error.__cause__
    return found


def incompatible(module: Any, what: str, extra: str = "") -> IncompatibleSDK:
    """The error for an SDK whose seams are not where they were; `extra` is farebox's own, if not called like the package."""
    extra = extra or module.__name__.partition(".")[0]
    return IncompatibleSDK(
        f"{module.__name__} {getattr(module, '__version__', '?')} is not as farebox knows it: {what}; nothing was "
        f"instrumented\n  install a supported version: pip install 'farebox[{extra}]'"
    )
