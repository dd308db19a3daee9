"""Tables in Markdown, and the pages they are put into."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path


def table(head: list[str], rows: Iterable[list[str]]) -> Iterator[str]:
    """Lines of a table; numbers to the right."""
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'|'.join('---:' for _ in head[1:])}|"
    for cells in rows:
        yield f"| {' | '.join(cells)} |"


def surroundings(*versions: str) -> str:
    """When, where and with what, in one line; `versions` are what to name besides Python and farebox."""
    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), cpu)
    parts = [
        f"Measured {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"farebox {importlib.metadata.version('farebox')}",
        f"{platform.python_implementation()} {platform.python_version()}",
        *versions,
        f"{cpu}, {os.cpu_count()} cores",
    ]
    if hasattr(os, "getloadavg"):
        parts.append(f"load before {os.getloadavg()[0]:.1f}")
    return ", ".join(parts) + "."


def write(page: Path, name: str, lines: Iterable[str]) -> None:
    """Put lines between `<!-- name: begin -->` and `<!-- name: end -->`.

    Raises:
        SystemExit: the page has no such place.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    text = page.read_text(encoding="utf-8")
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"{page} has no place marked by {begin} and {end}")
    page.write_text("\n".join((before + begin, "", *lines, "", end + after)), encoding="utf-8")
