"""Runs a function once a module has been imported: at once if it is, else right after its import."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_waiting: dict[str, list[Callable[[], None]]] = {}


def when_imported(name: str, run: Callable[[], None]) -> None:
    """Run `run` as soon as the module `name` is there; what it raises leaves the import statement."""
    module = sys.modules.get(name)
    if module is not None:
        if getattr(module.__spec__, "_initializing", False):
            importlib.import_module(name)  # another thread is at it: waits until it has done
        run()
        return
    waiting = _waiting.setdefault(name, [])
    if run not in waiting:
        waiting.append(run)
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)


def no_longer(name: str, run: Callable[[], None]) -> None:
    """Take back a `when_imported` that has not run yet."""
    if run in _waiting.get(name, ()):
        _waiting[name].remove(run)
    _leave_if_idle()


def _leave_if_idle() -> None:
    for name in [name for name, waiting in _waiting.items() if not waiting]:
        del _waiting[name]
    if not _waiting and _finder in sys.meta_path:
        sys.meta_path.remove(_finder)


class _Finder:
    """Finds nothing itself: has the others find, and wraps the loader of a module somebody waits for.

    Neither it nor the loader is a subclass of what `importlib.abc` has: that is slow to import, and adds nothing here.
    """

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname not in _waiting:
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                spec.loader = cast(Any, _Loader(spec.loader))
                return spec
        return None


class _Loader:
    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        if module.__spec__ is not None:
            module.__spec__.loader = module.__loader__ = self._loader
        # One that raises fails the import, and is asked again by the next: rather no SDK than one that nobody meters.
        waiting = _waiting.get(module.__name__, [])
        errors = []
        for run in list(waiting):
            try:
                run()
                waiting.remove(run)
            except BaseException as error:
                errors.append(error)
        _leave_if_idle()
        if errors:
            raise errors[0]


_finder = _Finder()
