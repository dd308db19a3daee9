"""instrument(): rides the SDKs' own requests, publishes them on the bus, rewrites and sends them.

The seam is `request` of an SDK's two base clients, wrapped once each at class level: it sees every surface exactly once, can
rewrite the body, and what is raised there is not retried.  HTTP attempts are seen at `_build_request` and `_sleep_for_retry`
of the same classes, and belong to a call by its `options.post_parser`, which every copy of the options keeps.  (openai
3.54.0 `_base_client.py` lines 599, 1135, 1262; anthropic 2.12.0 lines 1216, 1478; read 2026-11-21.)
"""

from __future__ import annotations

import functools
import importlib
import inspect
import logging
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Final, Never, TypeVar, overload

from farebox import _imports, _threads, signals
from farebox._call import Call
from farebox._streams import Watch, end_call, parsed, read_answer, watch_response, watch_stream
from farebox.errors import BudgetExceeded, IncompatibleSDK
from farebox.providers import Provider, find_provider, provider_names

C = TypeVar("C")

_logger = logging.getLogger("farebox")

_CLIENT_MARK: Final = "_farebox"
_BUILT_IN: Final = ("openai", "anthropic")
#: Errors of httpx and httpx2 after which nothing can have reached the provider.
_NEVER_SENT: Final = frozenset({"ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "InvalidURL"})
_MOST_PARENTS: Final = 10


class Link:
    """Ties the attempts and the answer of a request to its call; the `post_parser` of its options."""

    __slots__ = ("answer", "call", "previous", "provider", "watch")

    def __init__(self, call: Call, provider: Provider, previous: Any) -> None:
        self.call = call
        self.provider = provider
        self.previous = previous if callable(previous) else None
        self.answer: Any = None
        self.watch: Watch | None = None

    def __call__(self, answer: Any) -> Any:
        if hasattr(answer, "__stream__"):
            if self.call.outcome == "open":
                watch_stream(answer, self.call, self.provider)
        else:
            self.answer = answer
        return answer if self.previous is None else self.previous(answer)


class Seam:
    """The patched classes of one SDK, and whether calls through them are metered now."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self.module = provider.sdk
        self.users = 0
        self.is_global = 0
        self.omitted: tuple[type, ...] = ()
        self._patched: list[tuple[type, str, Any, Any]] = []

    def install(self) -> None:
        """Wrap the SDK's base clients, once.

        Raises:
            IncompatibleSDK: a seam is missing or looks different; nothing was changed.
        """
        if self._patched:
            return
        module = importlib.import_module(self.module)
        bases = [_base_client(module, name) for name in _client_names(self.module)]
        for base in bases:
            _check(module, base)
        self.omitted = tuple(
            kind for kind in (getattr(module, name, None) for name in ("Omit", "NotGiven")) if isinstance(kind, type)
        )
        for base in bases:
            wrap = self._async_request if inspect.iscoroutinefunction(base.request) else self._sync_request
            self._patch(base, "request", wrap)
            self._patch(_owner(base, "_build_request"), "_build_request", _count_attempts)
            self._patch(base, "_sleep_for_retry", _ask_before_retry)

    def uninstall(self) -> None:
        """Unwrap what nobody has wrapped over; the rest stays below as a pass-through."""
        kept = []
        for cls, name, original, ours in self._patched:
            if vars(cls).get(name) is ours:
                setattr(cls, name, original)
            else:
                kept.append((cls, name, original, ours))
        self._patched = kept

    def _patch(self, cls: type, name: str, wrap: Callable[[Any], Any]) -> None:
        if any(entry[0] is cls and entry[1] == name for entry in self._patched):
            return
        original = vars(cls)[name]
        ours = functools.wraps(original)(wrap(original))
        setattr(cls, name, ours)
        self._patched.append((cls, name, original, ours))

    def _sync_request(self, original: Any) -> Any:
        def request(client: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.is_global and _CLIENT_MARK not in client.__dict__:
                return original(client, cast_to, options, *args, **kwargs)
            body, call = self.read(client, options, kwargs)
            if call is None:
                return original(client, cast_to, options, *args, **kwargs)
            link = Link(call, self.provider, options.post_parser)
            asked = _asked(options)
            try:
                signals.pre_call.send(call.provider_name, call=call)
                self.rewrite(options, body, link)
                result = original(client, cast_to, options, *args, **kwargs)
                _take(link, result)
            except BaseException as error:
                _failed(link, error)
                raise
            finally:
                options.__dict__.update(asked)
            return result

        return request

    def _async_request(self, original: Any) -> Any:
        async def request(client: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.is_global and _CLIENT_MARK not in client.__dict__:
                return await original(client, cast_to, options, *args, **kwargs)
            body, call = self.read(client, options, kwargs)
            if call is None:
                return await original(client, cast_to, options, *args, **kwargs)
            call.is_async = True
            link = Link(call, self.provider, options.post_parser)
            asked = _asked(options)
            try:
                await signals.pre_call.send_async(call.provider_name, call=call)
                self.rewrite(options, body, link)
                result = await original(client, cast_to, options, *args, **kwargs)
                _take(link, result)
            except BaseException as error:
                _failed(link, error)
                raise
            finally:
                options.__dict__.update(asked)
            return result

        return request

    def read(self, client: Any, options: Any, kwargs: dict[str, Any]) -> tuple[dict[str, Any], Call | None]:
        """The body that will be sent, and the call it makes; None for what is free, unknown or malformed."""
        body = options.json_data
        if options.method.lower() != "post" or not isinstance(body, Mapping):
            return {}, None
        if self.omitted:
            body = {name: value for name, value in body.items() if not isinstance(value, self.omitted)}
        if options.extra_json:
            body = {**body, **options.extra_json}
        messages = body.get("messages")
        if messages is not None and type(messages) is not list and hasattr(messages, "__iter__"):
            if isinstance(messages, (str, bytes, Mapping)):
                return {}, None
            # A generator can be read once: keep what came out of it, in a body of our own.
            body = {**body, "messages": list(messages)}
            options.json_data = {**options.json_data, "messages": body["messages"]}
        try:
            path = options.url.partition("?")[0]
            call = self.provider.read_request(path, body, client._base_url.host)
        except Exception as error:
            _logger.error("a %s request could not be read (%s) and is not metered", self.module, type(error).__name__)
            return {}, None
        if call is not None:
            call.is_stream = bool(kwargs.get("stream")) or call.is_stream
            call.timeout_seconds = _seconds(options.timeout, client)
        return body, call

    def rewrite(self, options: Any, body: dict[str, Any], link: Link) -> None:
        """Put on the options what was decided, and the link; never into a dict of the user's."""
        fields = options.__dict__
        fields["post_parser"] = link
        changes = self.provider.rewrite(link.call, body)
        if changes:
            fields["json_data"] = {**options.json_data, **changes}
            if options.extra_json and not changes.keys().isdisjoint(options.extra_json):
                # `extra_body` is merged over the body later, and would undo the change.
                fields["extra_json"] = {k: v for k, v in options.extra_json.items() if k not in changes}


def _asked(options: Any) -> dict[str, Any]:
    return {name: options.__dict__[name] for name in ("post_parser", "json_data", "extra_json")}


def _take(link: Link, result: Any) -> None:
    """Read the answer that came, or watch over one that is still to be read."""
    call = link.call
    if call.activity is not None or call.outcome != "open":
        return  # a stream: its watch settles it
    answer = link.answer
    if answer is None:
        response = getattr(result, "http_response", result)
        if hasattr(response, "iter_bytes") and hasattr(response, "headers"):
            if not hasattr(response, "_content"):
                watch_response(response, call, link.provider)
                return
            answer = parsed(response.content)
            call.request_id = _request_id(response.headers)
        else:
            answer = result
    else:
        call.request_id = getattr(answer, "_request_id", None) or ""
    read_answer(call, link.provider, answer)
    end_call(call, "completed")


def _failed(link: Link, error: BaseException) -> None:
    """The request raised: refused, never sent, answered with an error, or nobody knows."""
    call = link.call
    if call.outcome != "open":
        return
    if link.answer is not None and not call.activity:
        # The answer came and was billed; a parser of the caller's or the SDK's did not like it.
        read_answer(call, link.provider, link.answer)
        end_call(call, "completed", error)
    elif not call.is_sent:
        end_call(call, "vetoed", error)
    elif isinstance(error, BudgetExceeded) or _status(error) >= 400 or _never_sent(error):
        end_call(call, "failed", error)
    else:
        end_call(call, "unknown", error)


def _count_attempts(original: Any) -> Any:
    def _build_request(client: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
        request = original(client, options, *args, **kwargs)
        link = options.__dict__.get("post_parser")
        if type(link) is Link:
            link.call.attempts += 1
            link.call.is_sent = True
        return request

    return _build_request


def _ask_before_retry(original: Any) -> Any:
    # Returns what the original returns, which an async client awaits.
    def _sleep_for_retry(client: Any, *args: Any, **kwargs: Any) -> Any:
        link = kwargs["options"].__dict__.get("post_parser")
        if type(link) is Link and kwargs.get("response") is None and not _never_sent(sys.exc_info()[1]):
            link.call.dead_attempts += 1
            signals.pre_retry.send(link.call.provider_name, call=link.call)
        return original(client, *args, **kwargs)

    return _sleep_for_retry


def _status(error: BaseException) -> int:
    status = getattr(error, "status_code", None)
    return status if isinstance(status, int) else 0


def _never_sent(error: BaseException | None) -> bool:
    for _ in range(_MOST_PARENTS):
        if error is None:
            return False
        if any(cls.__name__ in _NEVER_SENT for cls in type(error).__mro__):
            return True
        error = error.__cause__
    return False


def _request_id(headers: Any) -> str:
    return str(headers.get("x-request-id") or headers.get("request-id") or "")[:200]


def _seconds(timeout: Any, client: Any) -> float | None:
    """The time that a caller gives its request, in seconds: no wait in line outlasts it."""
    for given in (timeout, client.timeout):
        if isinstance(given, (int, float)):
            return float(given)
        if hasattr(given, "read"):
            return float(given.read) if given.read is not None else None
    return None


# ── finding and checking the seams ───────────────────────────────────────────────────────────────────────────────


def _client_names(sdk: str) -> tuple[str, str]:
    name = {"openai": "OpenAI", "anthropic": "Anthropic"}[sdk]
    return name, f"Async{name}"


def _base_client(module: Any, name: str) -> Any:
    client = getattr(module, name, None)
    for cls in getattr(client, "__mro__", ()):
        if "request" in vars(cls):
            return cls
    raise _incompatible(module, f"{name} has no `request`")


def _owner(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in vars(base))


def _check(module: Any, base: Any) -> None:
    taken = list(inspect.signature(base.request).parameters)
    if taken[:3] != ["self", "cast_to", "options"]:
        raise _incompatible(module, f"`request` of {base.__name__} takes {taken[:3]}")
    for name in ("_build_request", "_sleep_for_retry"):
        function = getattr(base, name, None)
        if function is None or "options" not in inspect.signature(function).parameters:
            raise _incompatible(module, f"{base.__name__} has no `{name}` that takes options")
    options = getattr(sys.modules[base.__module__], "FinalRequestOptions", None)
    known = getattr(options, "model_fields", {})
    for name in ("method", "url", "json_data", "extra_json", "post_parser", "timeout"):
        if name not in known:
            raise _incompatible(module, f"FinalRequestOptions has no `{name}`")
    for name in ("Stream", "AsyncStream"):
        if not hasattr(getattr(module, name, None), "__stream__"):
            raise _incompatible(module, f"{name} has no `__stream__`")


def _incompatible(module: Any, what: str) -> IncompatibleSDK:
    return IncompatibleSDK(
        f"{module.__name__} {getattr(module, '__version__', '?')} is not as farebox knows it: {what}; nothing was "
        f"instrumented\n  install a supported version: pip install 'farebox[{module.__name__}]'"
    )


# ── instrument() ─────────────────────────────────────────────────────────────────────────────────────────────────

_seams: dict[str, Seam] = {}
_lock = threading.RLock()
_handles: list[Instrumentation] = []


class Instrumentation:
    """What `instrument()` returns: `undo()` takes back only its own; also a context manager."""

    def __init__(self, seams: list[Seam], carries_threads: bool) -> None:
        self._seams = seams
        self._carries_threads = carries_threads
        self._is_on = True
        for seam in seams:
            seam.is_global += 1
        if carries_threads:
            _threads.carry_into_threads()
        _handles.append(self)

    def undo(self) -> None:
        """Stop metering, unless another `instrument()` asks for it; a second time does nothing."""
        with _lock:
            if not self._is_on:
                return
            self._is_on = False
            _handles.remove(self)
            for seam in self._seams:
                seam.is_global -= 1
                _release(seam)
            if self._carries_threads:
                _threads.stop_carrying()

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


@overload
def instrument(*, only: Iterable[str] | None = None, threads: bool = True) -> Instrumentation: ...
@overload
def instrument(client: C) -> C: ...
def instrument(client: Any = None, *, only: Iterable[str] | None = None, threads: bool = True, **unknown: Never) -> Any:
    """Meter the calls of all clients of this process, or of one.

    Clients made before or after, SDKs imported before or after.  Twice is as good as once, and a call counts once, also
    when its client was instrumented too.

    Args:
        client: Meter just this one, and what its `copy()` and `with_options()` return.
        only: Providers to meter, such as `["openai"]`; by default all that farebox knows.
        threads: Carry the scope into `threading.Thread` and `ThreadPoolExecutor`.

    Returns:
        A handle whose `undo()` takes it back; for a client the client itself, see `uninstrument`.

    Raises:
        IncompatibleSDK: an SDK's seams are not where they were; nothing was changed.
        ValueError: an unknown provider or option, or a malformed `FAREBOX_PRICES`.
    """
    if unknown:
        word, value = next(iter(dict[str, Any](unknown).items()))
        raise ValueError(f"{word}={value!r} is no option of instrument(); choose from client, only, threads")
    with _lock:
        if client is not None:
            return _instrument_client(client)
        names = _BUILT_IN if only is None else [only] if isinstance(only, str) else list(only)
        seams = [_seam(name) for name in names]
        for seam in seams:
            signals.instrumented.send(seam.provider.name)
        for seam in seams:
            _imports.when_imported(seam.module, seam.install)
        return Instrumentation(seams, threads)


def uninstrument(client: Any = None) -> None:
    """Take back `instrument(client)`, or without a client every `instrument()` of this process."""
    with _lock:
        if client is None:
            for handle in _handles:
                handle.undo()
            return
        seam = _seam_of(client)
        if client.__dict__.pop(_CLIENT_MARK, None) is not None:
            for name in ("copy", "with_options"):
                client.__dict__.pop(name, None)
            seam.users -= 1
            _release(seam)


def _seam(name: str) -> Seam:
    if name not in _seams:
        if name not in provider_names():
            raise ValueError(f"only={name!r} is no provider; choose from {', '.join(map(repr, provider_names()))}")
        _seams[name] = Seam(find_provider(name))
    return _seams[name]


def _release(seam: Seam) -> None:
    if not seam.is_global and not seam.users:
        seam.uninstall()


def _seam_of(client: Any) -> Seam:
    for name in _BUILT_IN:
        seam = _seam(name)
        module = sys.modules.get(seam.module)
        if module is not None and isinstance(
            client, tuple(_base_client(module, n) for n in _client_names(seam.module))
        ):
            return seam
    raise TypeError(f"{type(client).__name__} is no client that farebox knows; pass an OpenAI or Anthropic client")


def _instrument_client(client: Any) -> Any:
    seam = _seam_of(client)
    signals.instrumented.send(seam.provider.name)
    seam.install()
    if _CLIENT_MARK not in client.__dict__:
        seam.users += 1
        _mark(client, seam)
    return client


def _mark(client: Any, seam: Seam) -> None:
    """Meter a client and, by functions on the instance, what is copied from it."""

    def copy(*args: Any, **kwargs: Any) -> Any:
        copied = type(client).copy(client, *args, **kwargs)
        _mark(copied, seam)
        return copied

    client.__dict__.update({_CLIENT_MARK: seam, "copy": copy, "with_options": copy})
