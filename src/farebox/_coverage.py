"""farebox.coverage(): what of the SDKs that are installed is metered."""

from __future__ import annotations

import importlib
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Final, Literal

import attrs

from farebox.providers import Metering, Provider, find_provider, provider_names

#: How the surfaces of an SDK are found, by the kind of seam that its provider names.
_KINDS: Final = {"stainless": "stainless", "google": "google", "mistral": "mistral", "cohere": "cohere"}
_COLUMNS: Final = ("provider", "sdk", "version", "surface", "path", "modes", "metering")


@attrs.frozen
class Surface:
    """A method of an SDK that sends a POST.

    Attributes:
        provider: As `instrument(only=)` knows it.
        sdk: Its package.
        version: That is installed.
        surface: The method, as it is called from a client: `chat.completions.create`.
        path: Where it posts to, with names in braces for what is filled in; "websocket ..." where it opens one.
        modes: "sync", "async", "stream".
        metering: What becomes of its requests: "metered", "free", "unmetered", which is refused under a limit, or "partly",
            where only some requests to this path can be read.
    """

    provider: str
    sdk: str
    version: str
    surface: str
    path: str
    modes: tuple[str, ...]
    metering: Metering | Literal["partly"]


@attrs.frozen(repr=False)
class Coverage:
    """What `farebox.coverage()` returns: prints as a table, and gives its rows when it is iterated over.

    Attributes:
        surfaces: One row for each method and path.
    """

    surfaces: tuple[Surface, ...]

    def __iter__(self) -> Iterator[Surface]:
        return iter(self.surfaces)

    def __len__(self) -> int:
        return len(self.surfaces)

    def summary(self) -> dict[str, str]:
        """For each provider how many of its SDK's surfaces are metered, free and so on, in words."""
        counted: dict[str, Counter[str]] = {}
        for row in self:
            counted.setdefault(row.provider, Counter())[row.metering] += 1
        words = ("metered", "partly", "free", "unmetered")
        return {
            name: ", ".join(f"{count[word]} {word}" for word in words if count[word] or word != "partly")
            for name, count in counted.items()
        }

    def __str__(self) -> str:
        rows = [_COLUMNS, *(tuple(_shown(getattr(row, name)) for name in _COLUMNS) for row in self)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        return "\n".join([*lines, "", *(f"{name}: {said}" for name, said in self.summary().items())])

    __repr__ = __str__


def coverage() -> Coverage:
    """What is metered of the SDKs that are installed, by their own source and in their versions.

    Reads the source of each SDK, which takes some seconds the first time, and sends nothing.  A GET is never billed, and not listed.
    A surface that is not listed, as of a helper that only calls others, is noticed all the same when it is used.

    Returns:
        The surfaces; print it for a table.
    """
    found: list[Surface] = []
    for name in provider_names():
        provider = find_provider(name)
        try:
            sdk = import_module(provider.sdk)
        except ImportError:
            continue  # it is not installed
        found += _surfaces(name, provider, _version_of(sdk))
    return Coverage(tuple(found))


def _version_of(sdk: Any) -> str:
    from importlib.metadata import version  # here and not above: it is slow

    said = getattr(sdk, "__version__", None)
    return str(said) if said else version(sdk.__name__.partition(".")[0])


def _surfaces(name: str, provider: Provider, version: str) -> Iterator[Surface]:
    surfaces = importlib.import_module("farebox._surfaces")  # which needs what takes time to import
    walk: Callable[[Provider], Any] = getattr(surfaces, _KINDS[getattr(provider, "seam", "stainless")])
    modes: dict[tuple[str, str], list[str]] = {}
    try:
        for found in walk(provider):
            modes.setdefault((found.surface, found.path), []).extend(found.modes)
    finally:
        surfaces.forget()
    for (surface, path), said in modes.items():
        kept = tuple(mode for mode in ("sync", "async", "stream") if mode in said)
        yield Surface(name, provider.sdk, version, surface, path, kept, _metering(provider, surface, path))


def _metering(provider: Provider, surface: str, path: str) -> Metering | Literal["partly"]:
    if not path.startswith("/"):  # a websocket, or nobody knows where it goes
        is_read = path.removeprefix("websocket ") in getattr(provider, "dialogues", {})
        is_read = is_read and not surface.startswith("beta.")  # whose connections have nothing in common to be wrapped
        return (
            "metered" if is_read and importlib.util.find_spec(getattr(provider, "socket_module", "")) else "unmetered"
        )
    metering = provider.metering(path)
    reads_some: Callable[[str], bool] = getattr(provider, "reads_some", lambda path: False)
    return "partly" if metering == "unmetered" and reads_some(path) else metering


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)
