"""Websockets of an SDK: what is said over one is not metered, so that it is noticed when one is opened.

Its connection managers are wrapped as soon as their modules are imported; to open one is a call that nobody here can read, and
is refused under a limit like any other (openai 3.57.0, `resources/realtime/realtime.py`, read 2026-11-29).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

from farebox import _imports, signals
from farebox._call import Call
from farebox._patches import CLIENT_MARK, Patches
from farebox._streams import end_call
from farebox.providers._unmetered import unmetered_call

_MANAGER: Final = "ConnectionManager"


class Sockets:
    """The connection managers of one SDK, wrapped by the seam that sends its requests."""

    def __init__(self, seam: Patches) -> None:
        self._seam = seam
        found: dict[str, str] = getattr(seam.provider, "sockets", {})
        self._waiting = {module: partial(self._wrap, module, path) for module, path in found.items()}

    def install(self) -> None:
        """Wrap the managers of every module, now or once it is imported."""
        for module, run in self._waiting.items():
            _imports.when_imported(module, run)

    def uninstall(self) -> None:
        """Wait for no module any more."""
        for module, run in self._waiting.items():
            _imports.no_longer(module, run)

    def _wrap(self, module: str, path: str) -> None:
        for cls in list(vars(sys.modules[module]).values()):
            if isinstance(cls, type) and cls.__name__.endswith(_MANAGER) and cls.__module__ == module:
                for name in ("__enter__", "__aenter__", "enter"):
                    if name in vars(cls):
                        is_async = name == "__aenter__" or "__aenter__" in vars(cls)
                        self._seam._patch(cls, name, partial(self._async if is_async else self._sync, path))

    def _sync(self, path: str, original: Any) -> Callable[[Any], Any]:
        def enter(manager: Any) -> Any:
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

    def _begin(self, manager: Any, path: str) -> Call | None:
        fields = vars(manager)
        client = next((value for name, value in fields.items() if name.endswith("__client")), None)
        marks = getattr(client, "__dict__", {})
        if not self._seam.is_global and CLIENT_MARK not in marks:
            return None
        model = next((value for name, value in fields.items() if name.endswith("__model")), None)
        call = unmetered_call(self._seam.provider.name, f"websocket {path}", {"model": model}, "")
        call.attempts = 1
        call.client_frame = marks.get(CLIENT_MARK)
        return call


def _failed(call: Call, error: BaseException) -> None:
    """No connection came of it, so nothing was said over one."""
    if call.outcome == "open":
        end_call(call, "failed", error)
