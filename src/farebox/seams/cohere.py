"""The seam of Cohere's SDK: `request` and `stream` of its two HTTP clients, by which every method of it sends.

What they send, and each attempt of it, is seen at httpx's client below them, for which each request gets a stand-in: retries
are calls of `request` by itself.  What is raised there is not retried.  A stream is a response in a context, which the SDK's
generator enters when it is first read and leaves with its reader.  (cohere 7.3.1, `core/http_client.py` lines 401, 569, 663,
784; the same in 5.15.0; read 2026-11-30.)
"""

from __future__ import annotations

import copy
import inspect
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from farebox import signals
from farebox._call import Call
from farebox.seams._patches import Patches, incompatible
from farebox.seams._speakeasy import Stack, StackLink

_MODULE: Final = "cohere.core.http_client"
_CLASSES: Final = ("HttpClient", "AsyncHttpClient")
#: Clients of clouds have hooks that send a request elsewhere: the modules of these, and whose servers they are.
_CLOUDS: Final = {"cohere.aws_client": "aws.bedrock", "cohere.oci_client": "oci"}
#: What an answer becomes, by its endpoint.
_MODELS: Final = {"/v2/chat": "V2ChatResponse", "/v1/chat": "NonStreamedChatResponse", "/v1/generate": "Generation"}


class CohereSeam(Patches):
    """The patched classes of cohere."""

    @property
    def awaited(self) -> tuple[str, ...]:
        return (_MODULE,)

    def install(self) -> None:
        module = sys.modules[_MODULE]
        for name in _CLASSES:
            cls = getattr(module, name, None)
            for method in ("request", "stream"):
                function = vars(cls).get(method) if cls is not None else None
                if function is None or not {"path", "method", "json"} <= inspect.signature(function).parameters.keys():
                    raise incompatible(module, f"{name} has no `{method}` as it had")
        requests = Requests(self)
        plain, other = (getattr(module, name) for name in _CLASSES)
        self._patch(plain, "request", requests.wrap)
        self._patch(plain, "stream", requests.wrap_stream)
        self._patch(other, "request", requests.wrap_async)
        self._patch(other, "stream", requests.wrap_stream_async)

    def is_client(self, client: Any) -> bool:
        module = sys.modules[_MODULE]
        return isinstance(self.target(client), tuple(getattr(module, name) for name in _CLASSES))

    def target(self, client: Any) -> Any:
        """The HTTP client, which a client and all its parts share."""
        return getattr(getattr(client, "_client_wrapper", None), "httpx_client", client)


class Requests(Stack):
    """What is put over the methods."""

    def __init__(self, seam: Patches) -> None:
        super().__init__(seam, "httpx_client")

    def mark_of(self, sdk: Any) -> Any:
        return sdk if sdk in self.seam.clients else None

    def sees(self, http: Any, asked: dict[str, Any]) -> bool:
        """Whether a request may be billed, and is not seen already as a retry of one."""
        if isinstance(http.httpx_client, _Sender) or str(asked.get("method")).lower() != "post":
            return False
        return self.seam.is_global > 0 or http in self.seam.clients

    def wrap(self, original: Any) -> Any:
        """`request`, metered."""

        def request(http: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.sees(http, kwargs):
                return original(http, *args, **kwargs)
            sender = _PlainSender(self, http)
            try:
                response = original(sender.stand_in(), *args, **kwargs)
                sender.take(response)
            except BaseException as error:
                sender.fail(error)
                raise
            finally:
                sender.leave()
            return response

        return request

    def wrap_async(self, original: Any) -> Any:
        """`request`, metered."""

        async def request(http: Any, *args: Any, **kwargs: Any) -> Any:
            if not self.sees(http, kwargs):
                return await original(http, *args, **kwargs)
            sender = _AsyncSender(self, http)
            try:
                response = await original(sender.stand_in(), *args, **kwargs)
                sender.take(response)
            except BaseException as error:
                sender.fail(error)
                raise
            finally:
                sender.leave()
            return response

        return request

    def wrap_stream(self, original: Any) -> Any:
        """`stream`, metered."""

        @contextmanager
        def stream(http: Any, *args: Any, **kwargs: Any) -> Iterator[Any]:
            sender = _PlainSender(self, http) if self.sees(http, kwargs) else None
            try:
                with original(http if sender is None else sender.stand_in(), *args, **kwargs) as response:
                    yield response
            except BaseException as error:
                if sender is not None:
                    sender.fail(error)
                raise
            finally:
                if sender is not None:
                    sender.leave()

        return stream

    def wrap_stream_async(self, original: Any) -> Any:
        """`stream`, metered."""

        @asynccontextmanager
        async def stream(http: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            sender = _AsyncSender(self, http) if self.sees(http, kwargs) else None
            try:
                async with original(http if sender is None else sender.stand_in(), *args, **kwargs) as response:
                    yield response
            except BaseException as error:
                if sender is not None:
                    sender.fail(error)
                raise
            finally:
                if sender is not None:
                    sender.leave()

        return stream

    def as_model(self, call: Call, answer: Any) -> Any:
        model = getattr(sys.modules.get("cohere"), _MODELS.get(call.endpoint, ""), None)
        try:
            return answer if model is None else model.model_validate(answer)
        except Exception:
            return answer


class _Sender:
    """Stands for httpx's client of one request: reads what is sent, and counts its attempts."""

    def __init__(self, requests: Requests, http: Any) -> None:
        self._requests = requests
        self._http = http
        self._client = http.httpx_client
        self._is_begun = False
        self.link: StackLink | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)

    def stand_in(self) -> Any:
        """The SDK's own client, over this one."""
        twin = copy.copy(self._http)
        twin.httpx_client = self
        return twin

    def begin(self, asked: dict[str, Any], *, is_stream: bool) -> bool:
        """Make a call of the first attempt; whether it is one that nobody has heard of yet."""
        if self._is_begun:
            return False
        self._is_begun = True
        try:
            url, body = urlsplit(str(asked.get("url"))), asked.get("json")
        except ValueError as error:
            self._requests.seam.leave_unread(error)
            return False  # to an address that httpx can't make out either
        mark = self._requests.mark_of(self._http)
        link = self._requests.link_of(unquote(url.path), url.hostname or "", body if type(body) is dict else None, mark)
        if link is None:
            return False
        call = link.call
        call.is_stream = is_stream
        call.timeouts = (asked.get("timeout"), getattr(self._client, "timeout", None))
        hooks = getattr(self._client, "event_hooks", {}).get("request", ())
        for hook in hooks:
            call.provider_name = _CLOUDS.get(getattr(hook, "__module__", ""), call.provider_name)
        self.link = link
        self._requests.seam.open[link] = None
        return True

    def rewritten(self, asked: dict[str, Any], link: StackLink) -> dict[str, Any]:
        """What is asked of httpx with what was decided in its body."""
        changes = link.provider.rewrite(link.call, link.body)
        return {**asked, "json": {**link.body, **changes}} if changes else asked

    def take(self, response: Any) -> None:
        """As of `Stack`, where there is a call."""
        if self.link is not None:
            self._requests.take(self.link, response)

    def fail(self, error: BaseException) -> None:
        """As of `Stack`, where there is a call."""
        if self.link is not None:
            self._requests.fail(self.link, error)

    def leave(self) -> None:
        """The request has come back."""
        if self.link is not None:
            self._requests.close(self.link)


class _PlainSender(_Sender):
    """Of a sync client."""

    def request(self, **asked: Any) -> Any:
        if self.begin(asked, is_stream=False) and self.link is not None:
            signals.pre_call.publish(self.link.call)
        link = self.link
        if link is None:
            return self._client.request(**asked)
        if link.follows_a_dead_one():
            signals.pre_retry.publish(link.call)
        link.start()
        try:
            response = self._client.request(**self.rewritten(asked, link))
        except BaseException as error:
            link.died(error)
            raise
        link.came(response)
        return response

    @contextmanager
    def stream(self, **asked: Any) -> Iterator[Any]:
        if self.begin(asked, is_stream=True) and self.link is not None:
            signals.pre_call.publish(self.link.call)
            self.link.start()
            asked = self.rewritten(asked, self.link)
        with self._client.stream(**asked) as response:
            if self.link is not None:
                self.link.came(response)
            self.take(response)
            yield response


class _AsyncSender(_Sender):
    """Of an async client."""

    async def request(self, **asked: Any) -> Any:
        if self.begin(asked, is_stream=False) and self.link is not None:
            self.link.call.is_async = True
            waiting = signals.pre_call.publish_async(self.link.call)
            if waiting is not None:
                await waiting
        link = self.link
        if link is None:
            return await self._client.request(**asked)
        if link.follows_a_dead_one():
            waiting = signals.pre_retry.publish_async(link.call)
            if waiting is not None:
                await waiting
        link.start()
        try:
            response = await self._client.request(**self.rewritten(asked, link))
        except BaseException as error:
            link.died(error)
            raise
        link.came(response)
        return response

    @asynccontextmanager
    async def stream(self, **asked: Any) -> AsyncIterator[Any]:
        if self.begin(asked, is_stream=True) and self.link is not None:
            self.link.call.is_async = True
            waiting = signals.pre_call.publish_async(self.link.call)
            if waiting is not None:
                await waiting
            self.link.start()
            asked = self.rewritten(asked, self.link)
        async with self._client.stream(**asked) as response:
            if self.link is not None:
                self.link.came(response)
            self.take(response)
            yield response
