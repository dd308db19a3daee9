"""Google's live sessions: they go over a websocket, which nobody meters here, and are noticed where they are opened.

A session is one call that may be billed and that nobody can read: counted, warned about, and refused under a limit.
(google-genai 3.6.1, `live.py` line 976, `live_music.py` line 170: async context managers; read 2026-11-29.)
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import AsyncIterator
from typing import Any, Final

from farebox import signals
from farebox._patches import CLIENT_MARK, Link, Patches, failed
from farebox._streams import end_call
from farebox.providers._unmetered import READER, unmetered_call

#: The modules and the classes whose `connect` opens a session, and what a session is called.
_SESSIONS: Final = (
    ("google.genai.live", "AsyncLive", "live.connect"),
    ("google.genai.live_music", "AsyncLiveMusic", "live.music.connect"),
)


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
