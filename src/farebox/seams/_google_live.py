"""Google's live sessions over a websocket: of a conversation each answer is a call, a session that makes music is one.

Every message of a conversation goes through the socket of its session, in whose place one stands that is read along
(`_sessions`).  Of music no message says what was used: its session is a call that nobody can read, counted, warned about, and
refused under a limit.  (google-genai 3.6.1, `live.py` lines 96, 608, 976, `live_music.py` line 170: async context managers;
read 2026-11-30.)
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator, Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from farebox import signals
from farebox._streams import end_call
from farebox.providers._dialogues import Opened
from farebox.providers._reading import fields, text_of
from farebox.providers._unmetered import READER, unmetered_call
from farebox.seams import _sessions
from farebox.seams._patches import CLIENT_MARK, Link, Patches, failed
from farebox.seams._sessions import MARK, Session

#: The modules and the classes whose `connect` opens a session, and what a session is called.
_SESSIONS: Final = (
    ("google.genai.live", "AsyncLive", "live.connect"),
    ("google.genai.live_music", "AsyncLiveMusic", "live.music.connect"),
)
#: Where a session has its websocket.
_SOCKET: Final = "_ws"
_VERTEX_AI: Final = "gcp.vertex_ai"


def sessions() -> list[tuple[type, str]]:
    """The classes that open sessions, of those that the SDK has, and what a session of each is called."""
    found = ((getattr(sys.modules.get(module), cls, None), name) for module, cls, name in _SESSIONS)
    return [(cls, name) for cls, name in found if isinstance(cls, type) and "connect" in vars(cls)]


class Sessions:
    """What is put over a `connect`."""

    def __init__(self, seam: Patches, name: str) -> None:
        self._seam = seam
        self._name = name

    def wrap(self, original: Any) -> Any:
        """`connect`, noticed."""

        @contextlib.asynccontextmanager
        async def connect(live: Any, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
            target = live._api_client
            if not self._seam.is_global and CLIENT_MARK not in target.__dict__:
                async with original(live, *args, **kwargs) as session:
                    yield session
                return
            ours = self._metered(target, kwargs)
            if ours is not None:
                try:
                    async with original(live, *args, **kwargs) as session:
                        if not hasattr(session, _SOCKET):
                            raise AttributeError(f"{type(session).__name__} has no {_SOCKET}")
                        setattr(session, _SOCKET, Socket(getattr(session, _SOCKET), ours))
                        yield session
                finally:
                    ours.over("closed")
                return
            call = unmetered_call(self._seam.provider.name, self._name, {"model": kwargs.get("model")}, "")
            call.is_async = True
            call.client_frame = target.__dict__.get(CLIENT_MARK)
            link = Link(call, READER)
            try:
                self._seam.open[link] = None
                waiting = signals.pre_call.publish_async(call)
                if waiting is not None:
                    await waiting
                call.attempts, call.is_sent = 1, True
                async with original(live, *args, **kwargs) as session:
                    yield session
                end_call(call, "completed")
            except BaseException as error:
                failed(link, error)
                raise
            finally:
                self._seam.open.pop(link, None)
                if not self._seam.is_global:
                    self._seam.retire()

        return connect

    def _metered(self, target: Any, words: Mapping[str, Any]) -> Session | None:
        """The session that is about to be opened; None where nobody can read it."""
        provider: Any = self._seam.provider
        model = text_of(words.get("model")).rpartition("models/")[2]
        if self._name not in provider.dialogues or not model:
            return None
        name = _VERTEX_AI if target.vertexai else provider.name
        try:
            host = urlsplit(target._websocket_base_url()).hostname or ""
            given = words.get("config")
            config = (
                dict(given)
                if isinstance(given, Mapping)
                else {key: one for key, one in fields(given).items() if one is not None}
            )
            dialogue = provider.live(Opened(name, host, model), config)
        except Exception as error:
            self._seam.leave_unread(error)
            return None
        return Session(self._seam, target, dialogue)


class Socket:
    """Stands in the place of a session's websocket: the same, and read along."""

    def __init__(self, socket: Any, session: Session) -> None:
        self.__dict__.update({_SOCKET: socket, MARK: session})

    async def _send(self, message: Any) -> None:
        await getattr(self, _SOCKET).send(message)

    async def _receive(self, **words: Any) -> Any:
        return await getattr(self, _SOCKET).recv(**words)

    async def _close(self, *args: Any, **words: Any) -> None:
        await getattr(self, _SOCKET).close(*args, **words)

    send = _sessions.send_async(_send)
    recv = _sessions.receive_async(_receive)
    close = _sessions.close_async(_close)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__[_SOCKET], name)
