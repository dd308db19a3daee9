"""What Python runs first in a program under `farebox run`: it waits until an SDK is imported, and has farebox meter it.

It is imported by name from this folder, so it imports nothing of farebox before that is needed: a program that never calls
a model pays for one `json` and no more.  The user's own `sitecustomize` runs first, as it would have without this one.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import PathFinder

TYPE_CHECKING = False  # typing takes longer to import than the rest of this file
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_HERE = os.path.dirname(os.path.abspath(__file__))
#: Importing one of these may lead to a call.
_SDKS = ("openai", "anthropic", "google.genai", "mistralai", "cohere")


def _run_own_sitecustomize() -> None:
    """Leave the path as the program expects it, and run what this module stands before."""
    sys.path[:] = [folder for folder in sys.path if os.path.abspath(folder) != _HERE]
    spec = PathFinder.find_spec("sitecustomize")
    if spec is not None and spec.loader is not None:
        module = importlib.util.module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)


class _Finder:
    """Finds nothing itself: sees an SDK or farebox coming, and has farebox armed before the first call."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name == "farebox":
            spec = self._ask_others(name, path, target)
            if spec is not None and spec.loader is not None:
                self._arm_after(spec.loader)
            return spec
        if name not in _SDKS or "farebox" in sys.modules:
            return None
        try:
            importlib.import_module("farebox")  # arms itself, as above
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in ("farebox", "attrs", "attr", "blinker"):
                raise
            sys.meta_path.remove(self)
            self._note("absent")
            sys.stderr.write(
                f"farebox: {error.name} is not installed for {sys.executable}, so its calls are neither measured nor "
                "limited; install farebox there\n"
            )
        # All anew: farebox waits for this very import by now, and whoever asked us has passed it by.
        return self._ask_others(name, path, target)

    def _ask_others(self, name: str, path: Sequence[str] | None, target: ModuleType | None) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None

    def _arm_after(self, loader: Any) -> None:
        initialise = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            initialise(module)
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            from farebox.cli import _armed

            try:
                _armed.arm(self._note)
            except BaseException:
                sys.meta_path.insert(0, self)  # no SDK is imported unmetered
                raise

        loader.exec_module = exec_module


def _begin() -> None:
    import json

    said = json.loads(os.environ["FAREBOX_RUN"])

    def note(text: str) -> None:
        """Tell `farebox run` what became of this process."""
        for run in said:
            try:
                with open(os.path.join(run["notes"], str(os.getpid())), "a", encoding="utf-8") as file:
                    file.write(text + "\n")
            except OSError:
                pass  # it has ended, or is of another user

    note("python")
    sys.meta_path.insert(0, _Finder(note))


if __name__ == "sitecustomize":
    try:
        _run_own_sitecustomize()
    finally:
        if os.environ.get("FAREBOX_RUN"):
            _begin()
