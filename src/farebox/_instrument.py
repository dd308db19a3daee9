"""instrument(): has the calls of all clients, or of one, published, rewritten and sent."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Never, TypeVar, overload

from farebox import _imports, _threads, signals
from farebox._frames import Frame
from farebox._scope import budget, track
from farebox.providers import find_provider, provider_names
from farebox.seams import CLIENT_MARK, Patches, seam_of

C = TypeVar("C")

_seams: dict[str, Patches] = {}
_lock = threading.RLock()
_handles: list[Instrumentation] = []


class Instrumentation:
    """What `instrument()` returns: `undo()` takes back only its own; also a context manager."""

    def __init__(self, seams: list[Patches], carries_threads: bool) -> None:
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

    def __repr__(self) -> str:
        names = ", ".join(seam.provider.name for seam in self._seams)
        return f"<instrument {names}: {'on' if self._is_on else 'undone'}>"

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


@overload
def instrument(*, only: Iterable[str] | None = None, threads: bool = True) -> Instrumentation: ...
@overload
def instrument(client: C, *, tags: Mapping[str, object] | None = None, budgets: Iterable[budget] = ()) -> C: ...
def instrument(
    client: Any = None,
    *,
    tags: Mapping[str, object] | None = None,
    budgets: Iterable[budget] = (),
    only: Iterable[str] | None = None,
    threads: bool = True,
    **unknown: Never,
) -> Any:
    """Meter the calls of all clients of this process, or of one.

    Clients made before or after, SDKs imported before or after.  Twice is as good as once, and a call counts once, also
    when its client was instrumented too.

    Args:
        client: Meter just this one, and what its `copy()` and `with_options()` return.
        tags: Labels of every call of that client; those of a scope win over them.
        budgets: Budgets of that client, the outermost first: one limit for all its calls together, in whatever scope.
        only: Providers to meter, such as `["openai"]`; by default all that farebox knows.
        threads: Carry the scope into `threading.Thread` and `ThreadPoolExecutor`.

    Returns:
        A handle whose `undo()` takes it back; for a client the client itself, see `uninstrument`.

    Raises:
        IncompatibleSDK: an SDK's seams are not where they were; nothing was changed.
        ValueError: an unknown provider or option, one that does not go with a client or without one, or a malformed
            `FAREBOX_PRICES`.
        TypeError: no client that farebox knows, or something else than a budget among `budgets`.
    """
    if unknown:
        word, value = next(iter(dict[str, Any](unknown).items()))
        raise ValueError(
            f"{word}={value!r} is no option of instrument(); choose from client, tags, budgets, only, threads"
        )
    if isinstance(budgets, budget) or not isinstance(budgets, Iterable):
        raise TypeError(f"budgets={budgets!r} is a {type(budgets).__name__}; write budgets=[budget(usd=1)]")
    if tags is not None and not isinstance(tags, Mapping):
        raise TypeError(f"tags={tags!r} is a {type(tags).__name__}; write tags={{'team': 'search'}}")
    for name in tags or ():
        if not isinstance(name, str):
            raise TypeError(f"tags={{{name!r}: ...}} is a {type(name).__name__}; the name of a label is a string")
    budgets = list(budgets)
    for scope in budgets:
        if not isinstance(scope, budget):
            raise TypeError(f"budgets=[{scope!r}] holds a {type(scope).__name__}; write budgets=[budget(usd=1)]")
    with _lock:
        if client is not None:
            if only is not None or not threads:
                raise ValueError(
                    "only= and threads= are for all clients; write instrument(client, tags=..., budgets=...)"
                )
            return _instrument_client(client, tags, budgets)
        if tags or budgets:
            raise ValueError(
                "tags= and budgets= are for one client; write instrument(client, tags=..., budgets=...), "
                "or configure(tags=...) for all calls"
            )
        known = provider_names()
        names = known if only is None else [only] if isinstance(only, str) else list(only)
        for name in names:
            if name not in known:
                raise ValueError(f"only={name!r} is no provider; choose from {', '.join(map(repr, known))}")
        seams = [_seam(name) for name in names]
        for seam in seams:
            signals.instrumented.send(seam.provider.name)
        try:
            for seam in seams:
                for module in seam.awaited:
                    _imports.when_imported(module, seam.install)
        except BaseException:
            for seam in seams:
                _release(seam)  # all or none
            raise
        return Instrumentation(seams, threads)


def uninstrument(client: Any = None) -> None:
    """Take back `instrument(client)`, or without a client every `instrument()` of this process."""
    with _lock:
        if client is None:
            for handle in reversed(_handles.copy()):
                handle.undo()
            for seam in _seams.values():
                _release(seam)
            return
        seam = _seam_of(client)
        target = seam.target(client)
        if seam.unmark(target) and target in seam.clients:
            seam.clients.discard(target)
            _release(seam)


def metered_sdks() -> frozenset[str]:
    """The packages all of whose clients are metered now."""
    return frozenset(seam.module for seam in _seams.values() if seam.is_global)


def _seam(name: str) -> Patches:
    if name not in _seams:
        _seams[name] = seam_of(find_provider(name))
    return _seams[name]


def _release(seam: Patches) -> None:
    """Take down what nobody asks for any more, also where the last client was collected without a word."""
    if seam.carries_threads and not seam.clients:
        seam.carries_threads = False
        _threads.stop_carrying()
    if not seam.is_used:
        for module in seam.awaited:
            _imports.no_longer(module, seam.install)
        seam.uninstall()


def _seam_of(client: Any) -> Patches:
    seams = [_seam(name) for name in provider_names()]
    for seam in seams:
        if any(module in sys.modules for module in seam.awaited) and seam.is_client(client):
            return seam
    known = ", ".join(f"{seam.module}.{name}" for seam in seams for name in seam.provider.clients)
    raise TypeError(f"{type(client).__name__} is no client that farebox knows; pass one of {known}")


def _client_frame(tags: Mapping[str, object] | None, budgets: list[budget], kept: Frame | None) -> Frame | None:
    """The scope that a client brings along; what is not given stays as it was `kept` there."""
    frame = None if budgets else kept
    if budgets and kept is not None:
        tags = {**kept.tags, **(tags or {})}
    for scope in budgets:
        frame = scope._frame(frame)
        frame.is_left = True  # there is no block of code to leave quietly
    return track(**tags)._frame(frame) if tags else frame


def _instrument_client(client: Any, tags: Mapping[str, object] | None, budgets: list[budget]) -> Any:
    seam = _seam_of(client)
    target = seam.target(client)
    signals.instrumented.send(seam.provider.name)
    frame = _client_frame(tags, budgets, target.__dict__.get(CLIENT_MARK))
    seam.install()
    if target not in seam.clients:
        if not seam.carries_threads:
            seam.carries_threads = True
            _threads.carry_into_threads()
        seam.clients.add(target)
    seam.mark(target, frame)
    return client
