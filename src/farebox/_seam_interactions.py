"""The second stack of Google's SDK: `client.interactions` and what else is made of `_gaos`, which has plumbing of its own.

Its requests come by `do_request` and `do_request_async` of two base classes, as an HTTP request whose body is written already:
what is decided goes into a new one.  Attempts are seen at the HTTP client, for which each request gets a stand-in: what is
under way is the SDK's own.  (google-genai 3.6.1, `_gaos/basesdk.py` lines 253, 522, `_gaos/interactions.py` line 623; read
2026-11-29.)
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import unquote

from farebox import _pending, signals
from farebox._bodies import parsed
from farebox._call import Call
from farebox._patches import CLIENT_MARK, Link, Patches, failed, incompatible, never_sent
from farebox._streams import end_call, leave_pending, read_answer, watch_response
from farebox.providers import Reader
from farebox.providers._unmetered import READER, unmetered_call

MODULE: Final = "google.genai._gaos.basesdk"
#: The base classes, the method of each that sends, and the HTTP client that it sends through.
_STACKS: Final = (
    ("BaseSDK", "do_request", "client", "_httpx_client"),
    ("AsyncBaseSDK", "do_request_async", "async_client", "_async_httpx_client"),
)
_TAKEN: Final = ["self", "hook_ctx", "request", "is_error_status_code", "stream", "retry_config"]


class StackLink(Link):
    """Of a request through the second stack."""

    __slots__ = ("has_failed", "is_refused")

    def __init__(self, call: Call, provider: Reader) -> None:
        super().__init__(call, provider)
        #: The last attempt died without an answer; or was answered with an error status.
        self.has_failed = self.is_refused = False


def stacks(module: Any, sdk: Any) -> list[tuple[type, str, str, str]]:
    """The classes to wrap, with the names of `_STACKS`.

    Raises:
        IncompatibleSDK: they look different.
    """
    found = []
    for cls, method, *clients in _STACKS:
        base = getattr(module, cls, None)
        function = vars(base).get(method) if base is not None else None
        if base is None or function is None or list(inspect.signature(function).parameters) != _TAKEN:
            raise incompatible(sdk, f"{cls} has no `{method}({', '.join(_TAKEN[1:])})`")
        found.append((base, method, *clients))
    return found


class Stack:
    """What is put over one of the two methods."""

    def __init__(self, seam: Patches, client_name: str, twin_name: str) -> None:
        self._seam = seam
        self._client_name = client_name
        #: What the same HTTP client is called by the SDK's other stack, whose clients are marked.
        self._twin_name = twin_name

    def wrap(self, original: Any) -> Any:
        """`do_request`, metered."""

        def do_request(
            sdk: Any,
            hook_ctx: Any,
            request: Any,
            is_error_status_code: Any,
            stream: bool = False,
            retry_config: Any = None,
        ) -> Any:
            link = self.begin(sdk, request, stream)
            if link is None:
                response = original(sdk, hook_ctx, request, is_error_status_code, stream, retry_config)
                if _pending.any_are():
                    self.answer_pending(request, response)
                return response
            try:
                self._seam.open[link] = None
                signals.pre_call.publish(link.call)
                sender = _Sender(link, getattr(sdk.sdk_configuration, self._client_name))
                request = rewritten(request, link)
                response = original(
                    self.stand_in(sdk, sender), hook_ctx, request, is_error_status_code, stream, retry_config
                )
                self.take(link, response)
            except BaseException as error:
                self.fail(link, error)
                raise
            finally:
                self._close(link)
            return response

        return do_request

    def wrap_async(self, original: Any) -> Any:
        """`do_request_async`, metered."""

        async def do_request_async(
            sdk: Any,
            hook_ctx: Any,
            request: Any,
            is_error_status_code: Any,
            stream: bool = False,
            retry_config: Any = None,
        ) -> Any:
            link = self.begin(sdk, request, stream)
            if link is None:
                response = await original(sdk, hook_ctx, request, is_error_status_code, stream, retry_config)
                if _pending.any_are():
                    self.answer_pending(request, response)
                return response
            link.call.is_async = True
            try:
                self._seam.open[link] = None
                waiting = signals.pre_call.publish_async(link.call)
                if waiting is not None:
                    await waiting
                sender = _AsyncSender(link, getattr(sdk.sdk_configuration, self._client_name))
                request = rewritten(request, link)
                response = await original(
                    self.stand_in(sdk, sender), hook_ctx, request, is_error_status_code, stream, retry_config
                )
                self.take(link, response)
            except BaseException as error:
                self.fail(link, error)
                raise
            finally:
                self._close(link)
            return response

        return do_request_async

    def begin(self, sdk: Any, request: Any, stream: bool) -> StackLink | None:
        """The link of the call that a request makes; None where it is not metered."""
        seam = self._seam
        mark = self._mark_of(sdk)
        if (not seam.is_global and mark is None) or request.method.lower() != "post":
            return None
        path, host, reader, call, unread = unquote(request.url.path), request.url.host, seam.provider, None, None
        try:
            content = parsed(request.content)
        except Exception:
            content = None  # it is streamed, and the SDK's to send
        body = content if type(content) is dict else None
        try:
            if body is not None:
                call = reader.read_request(path, body, host)
        except Exception as error:
            unread = error
        if call is None:
            if not seam.may_bill(path, unread):
                return None
            return self._linked(unmetered_call(reader.name, path, body, host, unread), READER, request, stream, mark)
        return self._linked(call, reader, request, stream, mark)

    def _linked(self, call: Call, reader: Reader, request: Any, stream: bool, mark: Any) -> StackLink:
        if stream:
            call.is_stream = True
        call.timeouts = ((request.extensions.get("timeout") or {}).get("read"),)
        call.client_frame = mark.__dict__.get(CLIENT_MARK) if mark is not None else None
        return StackLink(call, reader)

    def _mark_of(self, sdk: Any) -> Any:
        """The marked API client that the same HTTP client belongs to."""
        if not self._seam.clients:
            return None
        sender = getattr(sdk.sdk_configuration, self._client_name, None)
        return next((one for one in list(self._seam.clients) if getattr(one, self._twin_name, None) is sender), None)

    def stand_in(self, sdk: Any, sender: Any) -> Any:
        """The SDK's object with another HTTP client, for one request."""
        twin = copy.copy(sdk)
        twin.sdk_configuration = copy.copy(sdk.sdk_configuration)
        setattr(twin.sdk_configuration, self._client_name, sender)
        return twin

    def take(self, link: StackLink, response: Any) -> None:
        """Read the answer that came, or watch over one that is still to be read."""
        call = link.call
        if response.status_code >= 400:  # what it means is told by a parser that comes later
            end_call(call, "failed")
            return
        if not hasattr(response, "_content"):
            watch_response(response, call, link.provider)
            return
        link.answer = parsed(response.content)
        read_answer(call, link.provider, link.answer)
        if call.is_pending:
            leave_pending(call)
            return
        end_call(call, "completed")
        if call.raises is not None:
            call.raises.__dict__["response"] = link.answer
            raise call.raises

    def fail(self, link: StackLink, error: BaseException) -> None:
        """As `failed`; an error of the SDK's does not say by its class whether there was an answer."""
        if link.is_refused and link.call.outcome == "open" and isinstance(error, Exception):
            end_call(link.call, "failed", error)
        else:
            failed(link, error)

    def _close(self, link: StackLink) -> None:
        self._seam.open.pop(link, None)
        if not self._seam.is_global:
            self._seam.retire()

    def answer_pending(self, request: Any, response: Any) -> None:
        """Settle an earlier call if this request asked after its answer, and it is there by now."""
        provider = self._seam.provider
        call = _pending.find(provider.name, provider.answers(unquote(request.url.path), request.method))
        if call is None or response.status_code >= 400:
            return
        if not hasattr(response, "_content"):
            if _pending.forget(call):
                call.is_pending, call.is_stream = False, "stream" in str(request.url.query)
                watch_response(response, call, provider)
            return
        call.is_pending = False
        read_answer(call, provider, parsed(response.content))
        if not call.is_pending and _pending.forget(call):
            end_call(call, "completed")


def rewritten(request: Any, link: StackLink) -> Any:
    """The HTTP request with what was decided in its body: the very same where nothing was."""
    body = parsed(request.content)
    changes = link.provider.rewrite(link.call, body) if type(body) is dict else {}
    if not changes:
        return request
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"content-length"]
    content = json.dumps({**body, **changes}).encode()
    return type(request)(
        request.method, request.url, headers=headers, content=content, extensions=dict(request.extensions)
    )


class _Sender:
    """Stands for the HTTP client of one request: counts its attempts."""

    def __init__(self, link: StackLink, client: Any) -> None:
        self._link = link
        self._client = client

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def send(self, request: Any, **kwargs: Any) -> Any:
        if self._is_retry_of_a_dead_one():
            signals.pre_retry.publish(self._link.call)
        return self._seen(lambda: self._client.send(request, **kwargs))

    def _seen(self, send: Callable[[], Any]) -> Any:
        self._start()
        try:
            response = send()
        except BaseException as error:
            self._link.has_failed = not never_sent(error)
            raise
        self._link.is_refused = response.status_code >= 400
        return response

    def _start(self) -> None:
        link = self._link
        link.has_failed = link.is_refused = False
        link.call.attempts += 1
        link.call.is_sent = True

    def _is_retry_of_a_dead_one(self) -> bool:
        call = self._link.call
        if not call.attempts:
            return False
        call.dead_attempts += self._link.has_failed
        call.retried_attempts = call.attempts
        return self._link.has_failed


class _AsyncSender(_Sender):
    """As `_Sender`."""

    async def send(self, request: Any, **kwargs: Any) -> Any:
        if self._is_retry_of_a_dead_one():
            waiting = signals.pre_retry.publish_async(self._link.call)
            if waiting is not None:
                await waiting
        self._start()
        try:
            response = await self._client.send(request, **kwargs)
        except BaseException as error:
            self._link.has_failed = not never_sent(error)
            raise
        self._link.is_refused = response.status_code >= 400
        return response
