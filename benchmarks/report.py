"""How long a report takes over a SQLite ledger of many rows.

    python benchmarks/report.py [--rows N ...] [--times N] [--folder FOLDER] [--write]

Rows are those of chat calls over 30 days: 20 features and 6 models, and once more with a tag of 1,000 users on top.  They are
put in as a ledger does, with the sums it keeps along with them, but many at a time and without waiting for the disk; what is
measured reads them as ever, through `farebox.report`.

No figure here passes or fails.  `--write` puts the table into docs/explanation/ledger-figures.md.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

import attrs
from _pages import surroundings, table, write

import farebox
from farebox._call import Call, Usage
from farebox._rows import FORM
from farebox._tally import place
from farebox.ledgers import open_ledger
from farebox.ledgers._sqlite_rows import NewRows, Places, Row

PAGE: Final = Path(__file__).resolve().parents[1] / "docs" / "explanation" / "ledger-figures.md"
_FEATURES, _USERS, _DAYS = 20, 1_000, 30
_MODELS: Final = ("gpt-5", "gpt-5-mini", "gpt-5-nano", "claude-opus-4-5", "claude-sonnet-4-5", "gemini-2.5-pro")
_DAY_SECONDS: Final = 86_400
_AT_ONCE: Final = 100_000
_ZONE: Final = "Asia/Tokyo"

#: What is asked, as it is written.
QUESTIONS: Final[dict[str, Callable[[], Any]]] = {
    "report()": lambda: farebox.report().total,
    'report(by=["feature", "model"])': lambda: farebox.report(by=["feature", "model"]).rows,
    f'report(by="day", tz="{_ZONE}")': lambda: farebox.report(by="day", tz=_ZONE).rows,
    'report(by=["feature", "day"], since="7d")': lambda: farebox.report(by=["feature", "day"], since="7d").rows,
    'report(by="user_id")': lambda: farebox.report(by="user_id").rows,
}


# ── rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _calls(rows: int, users: int, ends_at: float) -> Iterator[Call]:
    """In the order they begin; busier by day than by night."""
    draw = random.Random(5)
    began = ends_at - _DAYS * _DAY_SECONDS
    for n in range(rows):
        model = draw.choice(_MODELS)
        provider = {"g": "openai", "c": "anthropic"}[model[0]]
        call = Call(provider_name=provider, operation_name="chat", endpoint="/chat/completions", request_model=model)
        at = began + (n + draw.random()) / rows * _DAYS * _DAY_SECONDS
        call.started_at_seconds = at - at % _DAY_SECONDS + draw.triangular(0, _DAY_SECONDS, 43_200)
        call.tags = {"app": "shop", "feature": f"feature-{draw.randrange(_FEATURES)}"}
        if users:
            call.tags["user_id"] = f"user-{draw.randrange(users)}"
        call.outcome, call.cost_usd_nanos = "completed", draw.randrange(10_000, 5_000_000)
        call.charged_input_tokens, call.charged_output_tokens = draw.randrange(100, 9_000), draw.randrange(10, 900)
        call.usage = Usage(
            uncached_input_tokens=call.charged_input_tokens, visible_output_tokens=call.charged_output_tokens
        )
        yield call


def fill(path: Path, rows: int, users: int) -> None:
    """A ledger with so many rows."""
    open_ledger(f"sqlite:///{path}", form=FORM).close()  # makes the tables
    texts: dict[Any, str] = {}
    calls = _calls(rows, users, time.time())
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("BEGIN")
        places = Places()
        while some := list(islice(calls, _AT_ONCE)):
            batch = NewRows(connection, places)
            for call in some:
                where, began = place(call), call.started_at_seconds
                text = texts.get(where) or texts.setdefault(where, FORM.dump_place(where))
                batch.add(Row(began, text, FORM.sum_of(call).sums, FORM.dump(call)), began + 2)
            batch.write()
        connection.execute("COMMIT")


# ── questions ────────────────────────────────────────────────────────────────────────────────────────────────────


@attrs.frozen
class Size:
    """A ledger that is asked: its rows, the sums it keeps, and for each question the median of its ms."""

    rows: int
    users: int
    sums: int
    megabytes: float
    millis: dict[str, float]

    def cells(self) -> list[str]:
        what = f"{self.rows:,}, {f'{self.users:,} users' if self.users else 'no users'}"
        return [what, f"{self.sums:,}", f"{self.megabytes:,.0f}", *(f"{self.millis[one]:,.0f}" for one in QUESTIONS)]


def ask(path: Path, rows: int, users: int, times: int) -> Size:
    """Each question, `times` times."""
    millis = {}
    with farebox.configure(ledger=f"sqlite:///{path}"):
        total = farebox.report().total
        assert total.calls == rows, total
        for name, question in QUESTIONS.items():
            taken = []
            for _ in range(times):
                began = time.perf_counter()
                question()
                taken.append((time.perf_counter() - began) * 1_000)
            millis[name] = statistics.median(taken)
    with closing(sqlite3.connect(path)) as connection:
        (sums,) = connection.execute("SELECT count(*) FROM rollups").fetchone()
    return Size(rows, users, sums, path.stat().st_size / 1e6, millis)


def measured(sizes: Sequence[int], times: int, folder: Path) -> Iterator[str]:
    """Lines of Markdown, as they are found."""
    yield surroundings(f"SQLite {sqlite3.sqlite_version}")
    yield ""

    def cells() -> Iterator[list[str]]:
        for users in (0, _USERS):
            for rows in sizes:
                path = folder / f"{rows}-{users}.db"
                fill(path, rows, users)
                yield ask(path, rows, users, times).cells()
                path.unlink()

    yield from table(["rows", "sums", "MB", *(f"`{name}`, ms" for name in QUESTIONS)], cells())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000], metavar="N")
    parser.add_argument("--times", type=int, default=5, help="how often each is asked; the median counts (default 5)")
    parser.add_argument("--folder", type=Path, help="where the files are made: it chooses the disk")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    chosen = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        for line in measured(chosen.rows, chosen.times, Path(folder)):
            print(line, flush=True)
            lines.append(line)
    if chosen.write:
        write(PAGE, "reports", lines)


if __name__ == "__main__":
    main()
