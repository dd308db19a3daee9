"""The seam of SDKs as Stainless makes them, OpenAI's and Anthropic's: where its requests are read, published, rewritten, sent and their answers taken.

It is `request` of an SDK's two base clients, wrapped once each at class level: it sees every surface exactly once, can
rewrite the body, and what is raised there is not retried.  HTTP attempts are seen at `_build_request` and `_sleep_for_retry`
of the same classes, and belong to a call by its `options.post_parser`, which every copy of the options keeps.  (openai
3.54.0 `_base_client.py` lines 599, 1135, 1262; anthropic 2.12.0 lines 1216, 1478; read 2026-11-21.)
"""

from __future__ import annotations

import importlib
import inspect
import json
import posixpath
import sys
from collections.abc import Callable
from typing import Any, Final

from farebox import _pending, signals
from farebox._bodies import copied, is_plain, parsed, read_body, with_note
from farebox._call import Call
from farebox._streams import end_call, leave_pending, read_answer, watch_response, watch_stream
from farebox.providers import Provider, Reader, short_way, with_files, without_iterators
from farebox.providers._compatible import Compatible, server_at
from farebox.providers._unmetered import READER, unmetered_call
from farebox.seams._addresses import addresses, can_remember, keep, remember_urls
from farebox.seams._patches import CLIENT_MARK, Link, Patches, failed, incompatible, never_sent, without_usage_chunk
from farebox.seams._sockets import Sockets

#: As SDKs read a file of lines.
_LINES_BYTES: Final = 64


class ParserLink(Link):
    """Ties the attempts and the answer of a request to its call as the `post_parser` of its options."""

    __slots__ = ("previous",)

    def __init__(self, call: Call, provider: Reader, previous: Any) -> None:
        self.call = call
        self.provider = provider
        self.previous = previous if callable(previous) else None
        self.answer: Any = None

    def __deepcopy__(self, memo: dict[int, Any]) -> Link:
        """Itself: some clients send a deep copy of the options, and a call is one."""
        return self

    def __call__(self, answer: Any) -> Any:
        is_stream = _is_stream.get(type(answer))
        if is_stream is None:
            is_stream = _look_for_stream(type(answer))
        if is_stream:
            if self.call.outcome == "open":
                watch_stream(answer, self.call, self.provider)
        else:
            self.answer = answer
        return answer if self.previous is None else self.previous(answer)


#: Classes of answers, and whether they are streams: to ask a class for what it lacks takes three microseconds.
_is_stream: dict[type, bool] = {}
_MOST_ANSWERS: Final = 256


def _look_for_stream(kind: type) -> bool:
    found = hasattr(kind, "__stream__")
    if len(_is_stream) < _MOST_ANSWERS:
        _is_stream[kind] = found
    return found


class StainlessSeam(Patches):
    """Their patched classes."""

    #: Types of the sentinels that stand for a parameter which was not given.
    omitted: frozenset[type] = frozenset()

    def __init__(self, provider: Provider) -> None:
        super().__init__(provider)
        self.read_plain: Callable[..., Call | None] | None = short_way(provider, "read_plain", "read_request")
        self.read_plain_answer: Callable[..., bool] | None = short_way(provider, "read_plain_answer", "read_answer")
        self.glance: Callable[[str, Any], None] | None = getattr(provider, "glance", None)
        self._sockets = Sockets(self)

    def install(self) -> None:
        """Wrap the SDK's base clients, once.

        Raises:
            IncompatibleSDK: a seam is missing or looks different; nothing was changed.
        """
        module = importlib.import_module(self.module)
        bases = self.bases(module)
        for base in bases if not self._patched else ():
            _check(module, base)
        sentinels = (getattr(module, name, None) for name in ("Omit", "NotGiven"))
        self.omitted = frozenset(kind for kind in sentinels if isinstance(kind, type))
        for base in bases:
            wrap = self._async_request if inspect.iscoroutinefunction(base.request) else self._sync_request
            self._patch(base, "request", wrap)
            self._patch(_owner(base, "_build_request"), "_build_request", _count_attempts)
            self._patch(base, "_sleep_for_retry", _ask_before_retry)
            if can_remember(owner := _owner(base, "_prepare_url")):
                self._patch(owner, "_prepare_url", remember_urls)
        self._sockets.install()

    def uninstall(self) -> None:
        super().uninstall()
        if not self.is_used:
            self._sockets.uninstall()

    def bases(self, module: Any) -> list[Any]:
        """The classes of the SDK that send, sync and async."""
        return [_base_client(module, name) for name in self.provider.clients]

    def is_client(self, client: Any) -> bool:
        return isinstance(client, tuple(self.bases(sys.modules[self.module])))

    def mark(self, target: Any, frame: Any, original: Any = None) -> None:
        """Meter a client and, by functions on the instance, what is copied from it.

        A copy keeps its original alive, and is metered as long as that one is.
        """

        def copy(*args: Any, **kwargs: Any) -> Any:
            copied = type(target).copy(target, *args, **kwargs)
            self.mark(copied, frame, original or target)
            return copied

        target.__dict__.update({CLIENT_MARK: frame, "copy": copy, "with_options": copy})

    def unmark(self, target: Any) -> bool:
        for name in ("copy", "with_options"):
            target.__dict__.pop(name, None)
        return super().unmark(target)

    def _sync_request(self, original: Any) -> Any:
        def request(client: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            begun = self.begin(client, options, kwargs)
            if begun is None:
                reader, path, asked = self.asked_after(client, options)
                call = _pending.find(reader.name, asked)
                result = original(client, cast_to, options, *args, **kwargs)
                self.hear(call, reader, path, result)
                return result
            options, body, link, call = begun
            if call is None:
                return original(client, cast_to, options, *args, **kwargs)
            try:
                self.open[link] = None
                signals.pre_call.publish(call)
                options.__dict__["post_parser"] = link
                if call.sent_cap is not None or not call.is_plain or call.is_stream or call.sent_model:
                    self.rewrite(options, body, link)
                result = original(client, cast_to, options, *args, **kwargs)
                self.take(link, result)
            except BaseException as error:
                if without_usage_chunk(link, options, body, error):
                    return self.resend(link, original, client, cast_to, options, *args, **kwargs)
                failed(link, error)
                raise
            finally:
                self.open.pop(link, None)
                if not self.is_global:
                    self.retire()
            return result

        return request

    def _async_request(self, original: Any) -> Any:
        async def request(client: Any, cast_to: Any, options: Any, *args: Any, **kwargs: Any) -> Any:
            begun = self.begin(client, options, kwargs)
            if begun is None:
                reader, path, asked = self.asked_after(client, options)
                call = await _pending.afind(reader.name, asked)
                result = await original(client, cast_to, options, *args, **kwargs)
                self.hear(call, reader, path, result)
                return result
            options, body, link, call = begun
            if call is None:
                return await original(client, cast_to, options, *args, **kwargs)
            call.is_async = True
            try:
                self.open[link] = None
                waiting = signals.pre_call.publish_async(call)
                if waiting is not None:
                    await waiting
                options.__dict__["post_parser"] = link
                if call.sent_cap is not None or not call.is_plain or call.is_stream or call.sent_model:
                    self.rewrite(options, body, link)
                result = await original(client, cast_to, options, *args, **kwargs)
                self.take(link, result)
            except BaseException as error:
                if without_usage_chunk(link, options, body, error):
                    return await self.aresend(link, original, client, cast_to, options, *args, **kwargs)
                failed(link, error)
                raise
            finally:
                self.open.pop(link, None)
                if not self.is_global:
                    self.retire()
            return result

        return request

    def resend(self, link: Link, original: Any, *args: Any, **kwargs: Any) -> Any:
        """The request was refused for what we had added to it: send it once more, without."""
        try:
            result = original(*args, **kwargs)
            self.take(link, result)
        except BaseException as error:
            failed(link, error)
            raise
        return result

    async def aresend(self, link: Link, original: Any, *args: Any, **kwargs: Any) -> Any:
        """As `resend`."""
        try:
            result = await original(*args, **kwargs)
            self.take(link, result)
        except BaseException as error:
            failed(link, error)
            raise
        return result

    def begin(
        self, client: Any, options: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any], Any, Call | None] | None:
        """The options to send, the body in them, and the call that they make; None where it is not metered.

        No call comes with options whose answer is only to be remembered.

        The options are a copy of the caller's, which may be shared by others.
        """
        if not self.is_global and CLIENT_MARK not in client.__dict__:
            return None
        given = options.__dict__
        previous = given["post_parser"]
        if type(previous) is ParserLink or (given["method"] != "post" and given["method"].lower() != "post"):
            return None  # it counts already, should ours have been wrapped over and put on top again; or it is free
        body, call, read_plain = given["json_data"], None, self.read_plain
        is_whole = type(body) is dict and not given["extra_json"]
        if not is_whole:
            body = read_body(options)
            if body is None:
                return self.begin_unread(client, options, None, kwargs)
        try:
            found = addresses(client).read.get(given["url"])
            path, server_address, reader = found or self.address(client, given["url"])
            if is_whole and read_plain is not None:
                call = read_plain(path, body, server_address)
        except Exception as error:
            return self.begin_unread(client, options, body, kwargs, error)
        options = copied(options)
        if call is None:
            if not is_plain(reversed(body.values())):  # what was not given is last
                body = self.readable(options, body)
            unread = None
            try:
                files = options.files
                call = self.provider.read_request(path, with_files(body, files) if files else body, server_address)
            except Exception as error:
                unread = error
            if call is None:
                # Should it go out as it came, then with what was in its iterators: they have been read.
                given["json_data"], given["extra_json"] = options.json_data, options.extra_json
                return self.begin_unread(client, options, body, kwargs, unread)
        if type(reader) is Compatible:
            reader.meet(call, path)
        if kwargs.get("stream"):
            call.is_stream = True
        call.timeouts = (given["timeout"], client.timeout)
        call.client_frame = client.__dict__.get(CLIENT_MARK)
        return options, body, ParserLink(call, reader, previous), call

    def begin_unread(
        self,
        client: Any,
        options: Any,
        body: dict[str, Any] | None,
        kwargs: dict[str, Any],
        unread: Exception | None = None,
    ) -> tuple[Any, dict[str, Any], Any, Call | None] | None:
        """As `begin`, for what the provider does not read, or raised `unread` on: None where it is free or malformed."""
        try:
            path, server_address, reader = self.address(client, options.url)
        except Exception as error:
            self.leave_unread(error)
            return None  # to an address that the SDK can't make out either
        if not self.may_bill(path, unread):
            return self.begin_note(options, path, body, server_address) if options.files else None
        call = unmetered_call(reader.name, path, body, server_address, unread)
        call.is_stream = bool(kwargs.get("stream"))
        call.timeouts = (options.timeout, client.timeout)
        call.client_frame = client.__dict__.get(CLIENT_MARK)
        return copied(options), {}, ParserLink(call, READER, options.post_parser), call

    def address(self, client: Any, url: str) -> tuple[str, str, Provider | Compatible]:
        """The path that a request goes to, however it is spelt, the host, and who reads what it answers; kept with the client."""
        known = addresses(client)
        found = known.read.get(url)
        if found is None:
            prepared = client._prepare_url(url)
            path, host = posixpath.normpath(prepared.path), prepared.host
            is_own = getattr(self.provider, "is_own", None)
            reader = self.provider if is_own is None or is_own(host) else server_at(self.provider, host, prepared.port)
            found = path, host, reader
            if addresses(client) is known:
                keep(known.read, url, found)
        return found

    def begin_note(
        self, options: Any, path: str, body: dict[str, Any] | None, server_address: str
    ) -> tuple[Any, dict[str, Any], Any, None] | None:
        """As `begin`, for a file that costs nothing, where its provider wants to know what became of it."""
        noted = getattr(self.provider, "noted", None)
        try:
            note = None if noted is None else noted(path, with_files(body or {}, options.files), server_address)
        except Exception as error:
            self.leave_unread(error)
            return None
        return None if note is None else (with_note(options, note), {}, None, None)

    def readable(self, options: Any, body: dict[str, Any]) -> dict[str, Any]:
        """`body` without what is not sent, and without iterators: they are read once, here, and sent as lists."""
        omitted = self.omitted
        given = {name: value for name, value in body.items() if type(value) not in omitted}
        if is_plain(given.values()):
            return given
        kept: dict[str, Any] = without_iterators(given)
        if kept is not given:
            options.__dict__.update(json_data=kept, extra_json=None)
        return kept

    def rewrite(self, options: Any, body: dict[str, Any], link: Link) -> None:
        """Put on the options what was decided; never into a dict of the user's."""
        fields = options.__dict__
        changes = link.provider.rewrite(link.call, body)
        if changes:
            if options.json_data is None:
                rewritten = {**body, **changes}
                if getattr(options, "content", None) is None:
                    fields["extra_json"] = rewritten
                else:
                    fields["content"] = json.dumps(rewritten).encode()
                return
            base = options.json_data if type(options.json_data) is dict else body
            fields["json_data"] = {**base, **changes}
            if options.extra_json and not changes.keys().isdisjoint(options.extra_json):
                # `extra_body` is merged over the body later, and would undo the change.
                fields["extra_json"] = {k: v for k, v in options.extra_json.items() if k not in changes}

    def take(self, link: Link, result: Any) -> None:
        """Read the answer that came, or watch over one that is still to be read."""
        call = link.call
        if call.activity is not None or call.outcome != "open":
            return  # a stream: its watch settles it
        answer, is_read = link.answer, False
        if answer is not None:
            # What the caller gets is the answer, or what is made of it.
            call.request_id = getattr(result, "__dict__", {}).get("_request_id") or ""
            read = self.read_plain_answer
            is_read = read is not None and link.provider is self.provider and call.is_plain and read(call, answer)
        else:
            response = getattr(result, "http_response", result)
            if hasattr(response, "iter_bytes") and hasattr(response, "headers"):
                if not hasattr(response, "_content"):
                    watch_response(response, call, link.provider)
                    return
                answer = parsed(response.content)
                call.request_id = _request_id(response.headers)
            else:
                answer = result
        if not is_read:
            read_answer(call, link.provider, answer)
            if call.is_pending:
                leave_pending(call)
                return
        end_call(call, "completed")
        if call.raises is not None:
            call.raises.__dict__["response"] = result
            raise call.raises

    def asked_after(self, client: Any, options: Any) -> tuple[Provider | Compatible, str, str]:
        """Of a request that is free: who reads its answer, its path, and the id of the earlier one that it asks after or ""."""
        try:
            path, _, reader = self.address(client, options.url)
            return reader, path, self.provider.answers(path, options.method)
        except Exception as error:
            self.leave_unread(error)
            return self.provider, "", ""

    def hear(self, call: Call | None, reader: Provider | Compatible, path: str, result: Any) -> None:
        """A request that is free was answered; it asked after `call`, or may tell where the results of others are."""
        if call is not None:
            self.answer_pending(call, reader, result)
        elif self.glance is not None:
            self.glance(path, result)

    def answer_pending(self, call: Call, reader: Provider | Compatible, result: Any) -> None:
        """Settle an earlier call that was asked after, if its answer is there by now."""
        if _look_for_stream(type(result)):
            if _pending.forget(call):
                call.is_pending = False
                watch_stream(result, call, reader)
            return
        response = getattr(result, "http_response", None)
        if response is not None and not hasattr(response, "_content"):
            if _pending.forget(call):
                watch_response(response, call, reader)  # pending until it was read
                if hasattr(result, "_raw_iterator"):  # a decoder of lines, made before there was a watch
                    read = response.aiter_bytes if hasattr(result, "__anext__") else response.iter_bytes
                    result._raw_iterator = read(chunk_size=_LINES_BYTES)
            return
        call.is_pending = False
        read_answer(call, reader, result if response is None else parsed(response.content))
        if not call.is_pending and _pending.forget(call):
            end_call(call, "completed")


def _count_attempts(original: Any) -> Any:
    def _build_request(client: Any, options: Any, **kwargs: Any) -> Any:
        request = original(client, options, **kwargs)
        link = options.post_parser
        if type(link) is ParserLink:
            link.call.attempts += 1
            link.call.is_sent = True
        return request

    return _build_request


def _ask_before_retry(original: Any) -> Any:
    # Returns what the original returns, which an async client awaits.
    def _sleep_for_retry(client: Any, *args: Any, **kwargs: Any) -> Any:
        link = kwargs["options"].post_parser
        if type(link) is ParserLink:
            call = link.call
            is_dead = kwargs.get("response") is None and not never_sent(sys.exc_info()[1])
            call.dead_attempts += is_dead
            # Not before the dead are counted: who is interrupted here is charged too much, not too little.
            call.retried_attempts = call.attempts
            if is_dead and call.is_async:
                return _ask_first(original, client, args, kwargs, call)
            if is_dead:
                signals.pre_retry.publish(call)
        return original(client, *args, **kwargs)

    async def _ask_first(original: Any, client: Any, args: Any, kwargs: Any, call: Call) -> Any:
        waiting = signals.pre_retry.publish_async(call)
        if waiting is not None:
            await waiting
        return await original(client, *args, **kwargs)

    return _sleep_for_retry


def _request_id(headers: Any) -> str:
    return str(headers.get("x-request-id") or headers.get("request-id") or "")[:200]


# ── finding and checking the seams ───────────────────────────────────────────────────────────────────────────────


def _base_client(module: Any, name: str) -> Any:
    client = getattr(module, name, None)
    for cls in getattr(client, "__mro__", ()):
        if "request" in vars(cls):
            return cls
    raise incompatible(module, f"{name} has no `request`")


def _owner(cls: type, name: str) -> type:
    return next(base for base in cls.__mro__ if name in vars(base))


def _check(module: Any, base: Any) -> None:
    taken = list(inspect.signature(base.request).parameters)
    if taken[:3] != ["self", "cast_to", "options"]:
        raise incompatible(module, f"`request` of {base.__name__} takes {taken[:3]}")
    for name in ("_build_request", "_sleep_for_retry"):
        function = getattr(base, name, None)
        if function is None or "options" not in inspect.signature(function).parameters:
            raise incompatible(module, f"{base.__name__} has no `{name}` that takes options")
    if not hasattr(base, "_prepare_url"):
        raise incompatible(module, f"{base.__name__} has no `_prepare_url`")
    options: Any = getattr(sys.modules[base.__module__], "FinalRequestOptions", None)
    known = getattr(options, "model_fields", {})
    for name in ("method", "url", "json_data", "extra_json", "post_parser", "timeout"):
        if name not in known:
            raise incompatible(module, f"FinalRequestOptions has no `{name}`")
    for name in ("Stream", "AsyncStream"):
        if not hasattr(getattr(module, name, None), "__stream__"):
            raise incompatible(module, f"{name} has no `__stream__`")
