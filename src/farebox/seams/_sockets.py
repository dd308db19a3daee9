"""Websockets of an SDK: the sessions that somebody can read are metered, the others are noticed when they are opened.

Its connection managers are wrapped as soon as their modules are imported.  To open a session that can be read is free, and
each answer in it is a call (`_sessions`).  To open any other is a call that nobody here can read, and is refused under a
limit like one (openai 3.57.0, `resources/realtime/realtime.py`, read 2026-11-29).
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from farebox import _imports, signals
from farebox._call import Call
from farebox._streams import end_call
from farebox.providers._compatible import server_at
from farebox.providers._dialogues import Dialogue, Opened
from farebox.providers._unmetered import unmetered_call
from farebox.seams import _sessions
from farebox.seams._patches import CLIENT_MARK, Patches
from farebox.seams._sessions import MARK, Session

_MANAGER: Final = "ConnectionManager"


class Sockets:
    """The connection managers of one SDK, wrapped by the seam that sends its requests."""

    def __init__(self, seam: Patches) -> None:
        self._seam = seam
        found: dict[str, str] = getattr(seam.provider, "sockets", {})
        #: Who reads the sessions of a path, and the modules that are as they know it.
        self._dialogues: dict[str, Callable[[Opened], Dialogue]] = getattr(seam.provider, "dialogues", {})
        self._readable: set[str] = set()
        own = f"{seam.module}."  # a provider that derives from another has an SDK of its own
        self._waiting = {
            module: partial(self._wrap, module, path) for module, path in found.items() if module.startswith(own)
        }

    def install(self) -> None:
        """Wrap the managers of every module, now or once it is imported."""
        for module, run in self._waiting.items():
            _imports.when_imported(module, run)

    def uninstall(self) -> None:
        """Wait for no module any more."""
        for module, run in self._waiting.items():
            _imports.no_longer(module, run)

    def _wrap(self, module: str, path: str) -> None:
        classes = [
            cls for cls in vars(sys.modules[module]).values() if isinstance(cls, type) and cls.__module__ == module
        ]
        if path in self._dialogues and all(map(self._wrap_connection, filter(_is_connection, classes))):
            self._readable.add(module)
        for cls in classes:
            if cls.__name__.endswith(_MANAGER):
                if module in self._readable and "send" in vars(cls):
                    self._seam._patch(cls, "send", self._queue(path))
                for name in ("__enter__", "__aenter__", "enter"):
                    if name in vars(cls):
                        is_async = name == "__aenter__" or "__aenter__" in vars(cls)
                        self._seam._patch(cls, name, partial(self._async if is_async else self._sync, path))

    def _wrap_connection(self, cls: type) -> bool:
        """Wrap what every message of a connection goes through; whether that is where it was."""
        base = next((base for base in cls.__mro__ if {"send_raw", "close"} <= vars(base).keys()), None)
        if base is None or "recv_bytes" not in vars(cls):
            return False
        is_async = inspect.iscoroutinefunction(vars(cls)["recv_bytes"])
        self._seam._patch(base, "send_raw", _sessions.send_async if is_async else _sessions.send)
        self._seam._patch(base, "close", _sessions.close_async if is_async else _sessions.close)
        self._seam._patch(cls, "recv_bytes", _sessions.receive_async if is_async else _sessions.receive)
        return True

    def _queue(self, path: str) -> Callable[[Any], Callable[[Any, Any], Any]]:
        """What is sent before there is a connection is held when it is put in line."""

        def wrap(original: Any) -> Callable[[Any, Any], Any]:
            sent = _sessions.send(original)

            def send(manager: Any, event: Any) -> Any:
                self._session(manager, path)
                return sent(manager, event)

            return send

        return wrap

    def _sync(self, path: str, original: Any) -> Callable[[Any], Any]:
        def enter(manager: Any) -> Any:
            session = self._session(manager, path)
            if session is not None:
                try:
                    return _joined(original(manager), session)
                except BaseException as error:
                    session.over("failed", error)
                    raise
            call = self._begin(manager, path)
            if call is None:
                return original(manager)
            try:
                signals.pre_call.publish(call)
                connection = original(manager)
            except BaseException as error:
                _failed(call, error)
                raise
            end_call(call, "completed")
            return connection

        return enter

    def _async(self, path: str, original: Any) -> Callable[[Any], Any]:
        async def enter(manager: Any) -> Any:
            session = self._session(manager, path)
            if session is not None:
                try:
                    return _joined(await original(manager), session)
                except BaseException as error:
                    session.over("failed", error)
                    raise
            call = self._begin(manager, path)
            if call is None:
                return await original(manager)
            call.is_async = True
            try:
                waiting = signals.pre_call.publish_async(call)
                if waiting is not None:
                    await waiting
                connection = await original(manager)
            except BaseException as error:
                _failed(call, error)
                raise
            end_call(call, "completed")
            return connection

        return enter

    def _session(self, manager: Any, path: str) -> Session | None:
        """The session that a manager opens; None where nobody meters it, or nobody can read it."""
        found: Session | None = vars(manager).get(MARK)
        if found is not None or type(manager).__module__ not in self._readable:
            return found
        client = _word(manager, "client")
        if client is None or not (self._seam.is_global or CLIENT_MARK in vars(client)):
            return None
        query = _word(manager, "extra_query")
        url = client.websocket_base_url or client.base_url
        url = type(client.base_url)(url)
        provider = self._seam.provider
        is_own = getattr(provider, "is_own", None)
        is_known = is_own is None or is_own(url.host) or server_at(provider, url.host, url.port).name == provider.name
        if not is_known or (query and query.get("intent")):
            return None
        model = _word(manager, "model") or (query or {}).get("model")
        opened = Opened(
            provider.name,
            url.host,
            model if isinstance(model, str) else "",
            is_joined=isinstance(_word(manager, "call_id"), str),
        )
        session = vars(manager)[MARK] = Session(self._seam, client, self._dialogues[path](opened))
        return session

    def _begin(self, manager: Any, path: str) -> Call | None:
        client = _word(manager, "client")
        marks = getattr(client, "__dict__", {})
        if not self._seam.is_global and CLIENT_MARK not in marks:
            return None
        model = _word(manager, "model")
        call = unmetered_call(self._seam.provider.name, f"websocket {path}", {"model": model}, "")
        call.attempts = 1
        call.client_frame = marks.get(CLIENT_MARK)
        return call


def _is_connection(cls: type) -> bool:
    return cls.__name__.endswith("Connection")


def _word(manager: Any, name: str) -> Any:
    """What a manager was made with, which it keeps under a private name."""
    return next((value for key, value in vars(manager).items() if key.endswith(f"__{name}")), None)


def _joined(connection: Any, session: Session) -> Any:
    vars(connection)[MARK] = session
    return connection


def _failed(call: Call, error: BaseException) -> None:
    """No connection came of it, so nothing was said over one."""
    if call.outcome == "open":
        end_call(call, "failed", error)
