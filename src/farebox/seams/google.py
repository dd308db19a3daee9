"""The seam of Google's SDK: `_request` and `_async_request` of its API client, wrapped once each at class level.

Every surface comes by there once, streams too, with the body as it will be sent, the address, and the timeout; what is raised
there is not retried.  HTTP attempts are seen one floor below, at `_request_once` and `_async_request_once`, and belong to a
call by a mark on the `HttpRequest`, which is made anew for each request.  The answer is an `HttpResponse`: it holds the text
of a whole answer, and cuts a stream into the JSON texts that its caller parses.  (google-genai 3.6.1, `_api_client.py` lines
398, 528, 2072, 2132, 2152, 2331; the same six names in 3.0.0; read 2026-11-29.)

A stream of Google's has no close: its reader stops reading, and the generators that were below it end with it.  So one that
is left early is charged as one that was closed.
"""

from __future__ import annotations

import copy
import importlib
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import suppress
from contextvars import ContextVar
from importlib.util import find_spec
from typing import Any, ClassVar, Final, Protocol, cast
from urllib.parse import unquote, urlsplit, urlunsplit

from farebox import _imports, _pending, signals
from farebox._bodies import parsed
from farebox._call import Call
from farebox._streams import Guard, Watch, end_call, leave_pending, read_answer
from farebox.providers import Provider, Reader
from farebox.providers._unmetered import READER, unmetered_call
from farebox.seams._google_files import METHODS, FileProvider, Files
from farebox.seams._google_interactions import MODULE as STACK
from farebox.seams._google_interactions import Interactions, stacks
from farebox.seams._google_live import Sessions, sessions
from farebox.seams._patches import CLIENT_MARK, CountingLink, Patches, failed, incompatible, is_named, never_sent

_API: Final = "google.genai._api_client"
#: On an `HttpRequest`: the link of its call.
_LINK: Final = "_farebox"
_POST: Final = "post"
#: What may be billed: to send, and to let what was sent before live longer.
_BILLED: Final = (_POST, "patch")
#: Methods of the API client and what each takes first.
_METHODS: Final = {
    "_request": ("http_request", "http_options", "stream"),
    "_async_request": ("http_request", "http_options", "stream"),
    "_request_once": ("http_request", "stream"),
    "_async_request_once": ("http_request", "stream"),
}


class PathProvider(Provider, Protocol):
    """A provider whose requests name their model in the path, and may say something in their headers."""

    def asks_after(self, path: str, method: str, body: Mapping[str, Any]) -> tuple[str, str]:
        """As `answers`, of a provider whose requests may name the answer in their body: its own name, and the id."""

    def read_headers(self, call: Call, headers: Mapping[str, str]) -> None:
        """Take note of what the headers of a request say."""

    def rewrite_path(self, call: Call, path: str) -> str:
        """The path to send `call` to."""


class GoogleLink(CountingLink):
    """Of a request through Google's SDK."""

    __slots__ = ("has_session",)

    status_error: ClassVar[str] = "APIError"

    def __init__(self, call: Call, provider: Reader) -> None:
        super().__init__(call, provider)
        #: This attempt has asked for a session of aiohttp's: the next time it does, it tries again.
        self.has_session = False

    def start(self) -> None:
        self.has_session = False
        super().start()

    def died(self, error: BaseException) -> None:
        self.has_failed = not (is_named(error, self.status_error) or never_sent(error))


class GoogleSeam(Patches):
    """The patched classes of google-genai."""

    def install(self) -> None:
        module = importlib.import_module(self.module)
        api = importlib.import_module(_API)
        if not self._patched:
            _check(module, api)
        base = api.BaseApiClient
        self._patch(base, "_request", self._sync_request)
        self._patch(base, "_async_request", self._async_request)
        self._patch(base, "_request_once", _count_attempt)
        self._patch(base, "_async_request_once", _count_async_attempt)
        if "_get_aiohttp_session" in vars(base):
            self._patch(base, "_get_aiohttp_session", _count_hidden_attempt)
        for name, wrap in Files(self, cast(FileProvider, self.provider), _answer_in).wraps():
            self._patch(base, name, wrap)
        for cls, name in sessions():
            self._patch(cls, "connect", Sessions(self, name).wrap)
        _imports.when_imported(STACK, self.install_stack)

    def install_stack(self) -> None:
        """Wrap what `client.interactions` and its like are sent by, once the SDK has imported it."""
        for cls, method, client_name, twin_name in stacks(sys.modules[STACK], sys.modules[self.module]):
            stack = Interactions(self, client_name, twin_name)
            self._patch(cls, method, stack.wrap_async if method.endswith("_async") else stack.wrap)

    def uninstall(self) -> None:
        if not self.open:
            _imports.no_longer(STACK, self.install_stack)
        super().uninstall()

    def is_client(self, client: Any) -> bool:
        return isinstance(self.target(client), sys.modules[_API].BaseApiClient)

    def target(self, client: Any) -> Any:
        """The API client, which a `Client`, its `aio` and all their parts share."""
        return client.__dict__.get("_api_client", client) if hasattr(client, "__dict__") else client

    def _sync_request(self, original: Any) -> Any:
        def _request(client: Any, http_request: Any, http_options: Any = None, stream: bool = False) -> Any:
            link = self.begin(client, http_request, stream)
            if link is None:
                earlier = _pending.find(*self.asked_after(http_request))
                result = original(client, http_request, http_options, stream)
                if earlier is not None:
                    self.answer_pending(earlier, result)
                return result
            call = link.call
            try:
                self.open[link] = None
                signals.pre_call.publish(call)
                self.rewrite(http_request, link)
                result = original(client, http_request, http_options, stream)
                self.take(link, result, stream)
            except BaseException as error:
                failed(link, error)
                raise
            finally:
                self.open.pop(link, None)
                if not self.is_global:
                    self.retire()
            return result

        return _request

    def _async_request(self, original: Any) -> Any:
        async def _async_request(client: Any, http_request: Any, http_options: Any = None, stream: bool = False) -> Any:
            link = self.begin(client, http_request, stream)
            if link is None:
                earlier = await _pending.afind(*self.asked_after(http_request))
                result = await original(client, http_request, http_options, stream)
                if earlier is not None:
                    self.answer_pending(earlier, result)
                return result
            call = link.call
            call.is_async = True
            try:
                self.open[link] = None
                waiting = signals.pre_call.publish_async(call)
                if waiting is not None:
                    await waiting
                self.rewrite(http_request, link)
                result = await original(client, http_request, http_options, stream)
                self.take(link, result, stream)
            except BaseException as error:
                failed(link, error)
                raise
            finally:
                self.open.pop(link, None)
                if not self.is_global:
                    self.retire()
            return result

        return _async_request

    def begin(self, client: Any, http_request: Any, stream: bool) -> GoogleLink | None:
        """The link of the call that a request makes; None where it is not metered."""
        if not self.is_global and CLIENT_MARK not in client.__dict__:
            return None
        method = http_request.method.lower()
        if _LINK in http_request.__dict__ or method not in _BILLED:
            return None  # it counts already, should ours be there twice; or it is free
        body = http_request.data if type(http_request.data) is dict else None
        call, unread, reader = None, None, cast(Reader, self.provider)
        try:
            url = urlsplit(http_request.url)
            path, server_address = unquote(url.path), url.hostname or ""
        except ValueError as error:
            self.leave_unread(error)
            return None  # to an address that the SDK can't make out either
        try:
            if body is not None:
                call = self.provider.read_request(path, body, server_address)
        except Exception as error:
            unread = error
        if call is None:
            if (method != _POST and unread is None) or not self.may_bill(path, unread):
                return None
            call, reader = unmetered_call(self.provider.name, path, body, server_address, unread), READER
        cast(PathProvider, self.provider).read_headers(call, http_request.headers)
        if stream:
            call.is_stream = True
        call.timeouts = (http_request.timeout,)
        call.client_frame = client.__dict__.get(CLIENT_MARK)
        return GoogleLink(call, reader)

    def rewrite(self, http_request: Any, link: GoogleLink) -> None:
        """Put on the request what was decided, and the link.  Its body is changed in a copy: parts of it may be the user's."""
        http_request.__dict__[_LINK] = link
        call = link.call
        changes = link.provider.rewrite(call, http_request.data)
        if changes:
            http_request.data = {**http_request.data, **changes}
        if call.sent_model:
            url = urlsplit(http_request.url)
            path = cast(PathProvider, self.provider).rewrite_path(call, unquote(url.path))
            http_request.url = urlunsplit(url._replace(path=path))

    def take(self, link: GoogleLink, result: Any, stream: bool) -> None:
        """Read the answer that came, or watch over one that is still to be read."""
        call = link.call
        if stream:
            _watch_segments(result, call, link.provider)
            return
        link.answer = _answer_in(result)
        read_answer(call, link.provider, link.answer)
        if call.is_pending:
            leave_pending(call)
            return
        end_call(call, "completed")
        if call.raises is not None:
            call.raises.__dict__["response"] = _as_model(call, link.answer)
            raise call.raises

    def asked_after(self, http_request: Any) -> tuple[str, str]:
        """The provider and the id of an earlier answer that a request which is free asks after; the id is "" for none."""
        provider = cast(PathProvider, self.provider)
        body = http_request.data if type(http_request.data) is dict else {}
        try:
            return provider.asks_after(unquote(urlsplit(http_request.url).path), http_request.method, body)
        except Exception as error:
            self.leave_unread(error)
            return provider.name, ""

    def answer_pending(self, call: Call, result: Any) -> None:
        """Settle an earlier call that was asked after, if its answer is there by now."""
        call.is_pending = False
        read_answer(call, cast(PathProvider, self.provider), _answer_in(result))
        if not call.is_pending and _pending.forget(call):
            end_call(call, "completed")


def _answer_in(result: Any) -> Any:
    """The JSON of a whole answer; None where there is none."""
    bodies = getattr(result, "response_stream", None)
    return parsed(bodies[0]) if isinstance(bodies, list) and bodies and bodies[0] else None


#: What an answer becomes where its call has crossed a limit, by the last word of its endpoint.
_MODELS: Final = {"generateContent": "GenerateContentResponse", "batchEmbedContents": "EmbedContentResponse"}


def _as_model(call: Call, answer: Any) -> Any:
    """The SDK's own object of an answer, which it has not made yet; the JSON itself where it can't."""
    types = sys.modules.get("google.genai.types")
    model = getattr(types, _MODELS.get(call.endpoint, ""), None)
    if model is not None:
        with suppress(Exception):
            return model.model_validate(answer)
    return answer


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


class SegmentsWatch(Watch):
    """Watches over a stream of JSON texts, which is left by not reading on."""

    __slots__ = ()

    def iterate(
        self, guard: Guard | None, source: Iterator[Any], when_drained: Callable[[], None] | None = None
    ) -> Iterator[Any]:
        try:
            yield from super().iterate(guard, source, when_drained)
        except GeneratorExit:
            try:
                self.catch_up()
            finally:
                self.left()
            raise

    async def aiterate(
        self, guard: Guard | None, source: AsyncIterator[Any], when_drained: Callable[[], None] | None = None
    ) -> AsyncIterator[Any]:
        chunks = super().aiterate(guard, source, when_drained)
        try:
            async for chunk in chunks:
                yield chunk
        except GeneratorExit:
            try:
                await self.acatch_up()
            finally:
                self.left()
            raise

    def left(self) -> None:
        """Its reader has stopped: by itself, or because it was told of an error.  May run in a finalizer."""
        if self.is_over:
            return
        self.call.was_closed = True
        if self.call.doubt:
            self.end("unknown")
            return
        self.give_up()
        self.end("completed" if self.call.usage is not None else "closed")

    def keep_texts_of(self, twin: Any) -> None:
        """Keep what a response that is none of httpx's is cut into."""
        if self.call.is_async:
            twin.__dict__["_aiter_response_stream"] = _Once(self.akeep(twin._aiter_response_stream()))
        else:
            twin.__dict__["_iter_response_stream"] = _Once(self.keep(twin._iter_response_stream()))

    def _chunks(self) -> list[Any]:
        if self._extensions:
            return super()._chunks()
        return [chunk for chunk in map(parsed, self._kept) if chunk is not None]


def _watch_segments(response: Any, call: Call, provider: Reader) -> None:
    """Watch an `HttpResponse` whose stream has not been read: same object, other segments."""
    watch = SegmentsWatch(call, provider)
    # On a twin, as a generator that referred to the response itself would keep it alive.
    twin = copy.copy(response)
    if hasattr(response.response_stream, "extensions"):
        watch.keep_bytes_of(response.response_stream)
    else:
        watch.keep_texts_of(twin)
    if call.is_async:
        segments = watch.read_through(watch.aiterate(Guard(watch), twin.async_segments()))
        response.__dict__["async_segments"] = _Once(segments)
    else:
        segments = watch.read_through(watch.iterate(Guard(watch), twin.segments()))
        response.__dict__["segments"] = _Once(segments)


class _Once:
    """Gives what it holds to the first who asks, and keeps nothing."""

    __slots__ = ("_held",)

    def __init__(self, held: Any) -> None:
        self._held = held

    def __call__(self) -> Any:
        held, self._held = self._held, None
        return held


# ── attempts ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _count_attempt(original: Any) -> Any:
    def _request_once(client: Any, http_request: Any, *args: Any, **kwargs: Any) -> Any:
        link: GoogleLink | None = http_request.__dict__.get(_LINK)
        if link is None:
            return original(client, http_request, *args, **kwargs)
        if link.follows_a_dead_one():
            signals.pre_retry.publish(link.call)
        link.start()
        try:
            return original(client, http_request, *args, **kwargs)
        except BaseException as error:
            link.died(error)
            raise

    return _request_once


def _count_async_attempt(original: Any) -> Any:
    async def _async_request_once(client: Any, http_request: Any, *args: Any, **kwargs: Any) -> Any:
        link: GoogleLink | None = http_request.__dict__.get(_LINK)
        if link is None:
            return await original(client, http_request, *args, **kwargs)
        if link.follows_a_dead_one():
            waiting = signals.pre_retry.publish_async(link.call)
            if waiting is not None:
                await waiting
        link.start()
        token = _sending.set(link)
        try:
            return await original(client, http_request, *args, **kwargs)
        except BaseException as error:
            link.died(error)
            raise
        finally:
            _sending.reset(token)

    return _async_request_once


#: The request that is being sent: over aiohttp the SDK tries once more within an attempt, unless it was told how to retry.
_sending: ContextVar[GoogleLink | None] = ContextVar("farebox_google_sending", default=None)


def _count_hidden_attempt(original: Any) -> Any:
    async def _get_aiohttp_session(client: Any, *args: Any, **kwargs: Any) -> Any:
        link = _sending.get()
        if link is not None:
            if link.has_session:
                link.has_failed = not never_sent(sys.exc_info()[1])
                if link.follows_a_dead_one():
                    waiting = signals.pre_retry.publish_async(link.call)
                    if waiting is not None:
                        await waiting
                link.call.attempts += 1
            link.has_session = True
        return await original(client, *args, **kwargs)

    return _get_aiohttp_session


# ── checking the seams ───────────────────────────────────────────────────────────────────────────────────────────


def _check(module: Any, api: Any) -> None:
    base = getattr(api, "BaseApiClient", None)
    for name, taken in _METHODS.items():
        function = vars(base).get(name) if base is not None else None
        if function is None or list(inspect.signature(function).parameters)[1 : 1 + len(taken)] != list(taken):
            raise incompatible(module, f"its API client has no `{name}({', '.join(taken)})`")
    for name in METHODS:
        if name not in vars(base):
            raise incompatible(module, f"its API client has no `{name}`")
    if (
        find_spec(STACK.rpartition(".")[0]) is None
    ):  # before 3.0 interactions went by a client of their own, and would not be seen
        raise incompatible(module, f"it has no {STACK}")
    request, response = getattr(api, "HttpRequest", None), getattr(api, "HttpResponse", None)
    for name in ("url", "method", "data", "timeout"):
        if name not in getattr(request, "__dataclass_fields__", ()):
            raise incompatible(module, f"HttpRequest has no `{name}`")
    for name in ("segments", "async_segments", "_iter_response_stream", "_aiter_response_stream"):
        if not hasattr(response, name):
            raise incompatible(module, f"HttpResponse has no `{name}`")
