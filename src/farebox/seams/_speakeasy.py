"""The seam of SDKs as Speakeasy makes them: Mistral's, and the second stack of Google's.

All their requests come by `do_request` and `do_request_async` of a base class, as an HTTP request whose body is written
already: what is decided goes into a new one, and what is raised there is not retried.  Attempts are seen at the HTTP client,
for which each request gets a stand-in: what is under way is the SDK's own.  (google-genai 3.6.1, `_gaos/basesdk.py` lines 253,
522; mistralai 3.7.0, `client/basesdk.py` lines 196, 287; read 2026-11-30.)
"""

from __future__ import annotations

import copy
import inspect
import json
from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import unquote

from farebox import _pending, signals
from farebox._bodies import parsed
from farebox._call import Call
from farebox._streams import end_call, leave_pending, read_answer, read_events, watch_response
from farebox.providers import Reader, with_files
from farebox.providers._unmetered import READER, unmetered_call
from farebox.seams._patches import CLIENT_MARK, CountingLink, Patches, failed

#: What both methods are called with, by name.
_TAKEN: Final = {"hook_ctx", "request", "stream", "retry_config"}


class StackLink(CountingLink):
    """Of a request through such a base class."""

    __slots__ = ("body", "is_refused")

    def __init__(self, call: Call, provider: Reader, body: dict[str, Any]) -> None:
        super().__init__(call, provider)
        self.body = body
        #: The last attempt was answered with an error status.
        self.is_refused = False

    def start(self) -> None:
        self.is_refused = False
        super().start()

    def came(self, response: Any) -> None:
        """The attempt was answered."""
        self.is_refused = response.status_code >= 400


def sends(cls: Any, method: str) -> bool:
    """Whether a class has such a method of its own, as it is known here."""
    function = vars(cls).get(method) if cls is not None else None
    return function is not None and inspect.signature(function).parameters.keys() >= _TAKEN


class Stack:
    """What is put over one of the two methods."""

    def __init__(self, seam: Patches, client_name: str) -> None:
        self.seam = seam
        self.client_name = client_name

    def mark_of(self, sdk: Any) -> Any:
        """What is marked of the client that `sdk` sends for; None where nothing is."""
        raise NotImplementedError

    def wrap(self, original: Any) -> Any:
        """`do_request`, metered."""

        def do_request(sdk: Any, hook_ctx: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            link = self.begin(sdk, request, kwargs.get("stream", False))
            if link is None:
                call = _pending.find(*self.asked_after(request))
                response = original(sdk, hook_ctx, request, *args, **kwargs)
                if call is not None:
                    self.answer_pending(call, request, response)
                return response
            try:
                self.seam.open[link] = None
                signals.pre_call.publish(link.call)
                twin = self.stand_in(sdk, _Sender(link, getattr(sdk.sdk_configuration, self.client_name)))
                response = original(twin, hook_ctx, rewritten(request, link), *args, **kwargs)
                self.take(link, response)
            except BaseException as error:
                self.fail(link, error)
                raise
            finally:
                self.close(link)
            return response

        return do_request

    def wrap_async(self, original: Any) -> Any:
        """`do_request_async`, metered."""

        async def do_request_async(sdk: Any, hook_ctx: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            link = self.begin(sdk, request, kwargs.get("stream", False))
            if link is None:
                call = await _pending.afind(*self.asked_after(request))
                response = await original(sdk, hook_ctx, request, *args, **kwargs)
                if call is not None:
                    self.answer_pending(call, request, response)
                return response
            link.call.is_async = True
            try:
                self.seam.open[link] = None
                waiting = signals.pre_call.publish_async(link.call)
                if waiting is not None:
                    await waiting
                twin = self.stand_in(sdk, _AsyncSender(link, getattr(sdk.sdk_configuration, self.client_name)))
                response = await original(twin, hook_ctx, rewritten(request, link), *args, **kwargs)
                self.take(link, response)
            except BaseException as error:
                self.fail(link, error)
                raise
            finally:
                self.close(link)
            return response

        return do_request_async

    def begin(self, sdk: Any, request: Any, stream: bool) -> StackLink | None:
        """The link of the call that a request makes; None where it is not metered."""
        mark = self.mark_of(sdk) if self.seam.clients else None
        if (not self.seam.is_global and mark is None) or request.method.lower() != "post":
            return None
        link = self.link_of(unquote(request.url.path), request.url.host, _body_of(request), mark)
        if link is not None:
            link.call.is_stream = link.call.is_stream or stream
            link.call.timeouts = ((request.extensions.get("timeout") or {}).get("read"),)
        return link

    def link_of(self, path: str, host: str, body: dict[str, Any] | None, mark: Any) -> StackLink | None:
        """The link of the call that a POST makes, of a client with this mark; None where it is free or malformed."""
        reader, call, unread = self.seam.provider, None, None
        try:
            if body is not None:
                call = reader.read_request(path, body, host)
        except Exception as error:
            unread = error
        used: Reader = reader
        if call is None:
            if not self.seam.may_bill(path, unread):
                return None
            call, used = unmetered_call(reader.name, path, body, host, unread), READER
        call.client_frame = mark.__dict__.get(CLIENT_MARK) if mark is not None else None
        return StackLink(call, used, body or {})

    def stand_in(self, sdk: Any, sender: Any) -> Any:
        """The SDK's object with another HTTP client, for one request."""
        twin = copy.copy(sdk)
        twin.sdk_configuration = copy.copy(sdk.sdk_configuration)
        setattr(twin.sdk_configuration, self.client_name, sender)
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
        if call.is_stream:  # which the SDK was not told of, and has read to its end
            read_events(call, link.provider, response.content)
        else:
            link.answer = parsed(response.content)
            read_answer(call, link.provider, link.answer)
        if call.is_pending:
            leave_pending(call)
            return
        end_call(call, "completed")
        if call.raises is not None:
            call.raises.__dict__["response"] = self.as_model(call, link.answer)
            raise call.raises

    def as_model(self, call: Call, answer: Any) -> Any:
        """The SDK's own object of an answer, which it has not made yet; the JSON itself where it can't be made."""
        return answer

    def fail(self, link: StackLink, error: BaseException) -> None:
        """As `failed`; an error of the SDK's does not say by its class whether there was an answer."""
        if link.is_refused and link.call.outcome == "open" and isinstance(error, Exception):
            end_call(link.call, "failed", error)
        else:
            failed(link, error)

    def close(self, link: StackLink) -> None:
        """The request has come back."""
        self.seam.open.pop(link, None)
        if not self.seam.is_global:
            self.seam.retire()

    def asked_after(self, request: Any) -> tuple[str, str]:
        """The provider and the id of an earlier answer that a request which is free asks after; the id is "" for none."""
        provider = self.seam.provider
        try:
            path, method = unquote(request.url.path), request.method
            asks_after = getattr(provider, "asks_after", None)  # of one that has several names
            return asks_after(path, method, {}) if asks_after else (provider.name, provider.answers(path, method))
        except Exception as error:
            self.seam.leave_unread(error)
            return provider.name, ""

    def answer_pending(self, call: Call, request: Any, response: Any) -> None:
        """Settle an earlier call that was asked after, if its answer is there by now."""
        provider = self.seam.provider
        if response.status_code >= 400:
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


def _body_of(request: Any) -> dict[str, Any] | None:
    """The JSON object of an HTTP request, or the fields and files of a form; None for anything else."""
    try:
        form = getattr(request.stream, "fields", None)
        body = parsed(request.content) if form is None else _read_form(form)
    except Exception:
        return None  # it is streamed, and the SDK's to send
    return body if type(body) is dict else None


def _read_form(form: Iterable[Any]) -> dict[str, Any]:
    """Fields and files by name, a list of those whose name comes again; nothing of a file is read."""
    body: dict[str, Any] = {}
    files = []
    for field in form:
        if hasattr(field, "file"):
            files.append((field.name, field.file))
        else:
            before = body.get(field.name)
            more = before if isinstance(before, list) else [before]
            body[field.name] = field.value if before is None else [*more, field.value]
    return with_files(body, files)


def rewritten(request: Any, link: StackLink) -> Any:
    """The HTTP request with what was decided in its body: the very same where nothing was."""
    changes = link.provider.rewrite(link.call, link.body)
    if not changes:
        return request
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"content-length"]
    content = json.dumps({**link.body, **changes}).encode()
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
        link = self._link
        if link.follows_a_dead_one():
            signals.pre_retry.publish(link.call)
        link.start()
        try:
            response = self._client.send(request, **kwargs)
        except BaseException as error:
            link.died(error)
            raise
        link.came(response)
        return response


class _AsyncSender(_Sender):
    """As `_Sender`."""

    async def send(self, request: Any, **kwargs: Any) -> Any:
        link = self._link
        if link.follows_a_dead_one():
            waiting = signals.pre_retry.publish_async(link.call)
            if waiting is not None:
                await waiting
        link.start()
        try:
            response = await self._client.send(request, **kwargs)
        except BaseException as error:
            link.died(error)
            raise
        link.came(response)
        return response
