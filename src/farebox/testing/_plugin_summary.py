"""What is said at the end of a run, by the one process that says it: the table, the files, the exit code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import pytest

from farebox.testing import _plugin_baseline as baselines
from farebox.testing._plugin_use import Use, Uses, from_plain, joined, show_nanos, total

#: The exit code of a run in which nothing failed but tests that were over budget.
OVER_BUDGET: Final = 10
#: The exit code of a run in which nothing failed, and tests use more than the baseline says.
GREW: Final = 11

_TOP: Final = 10
_HEAD: Final = ("calls", "refused", "tokens in", "tokens out", "usd")
_REPLAYED: Final = "replayed"


class Summary:
    """Collects what the reports of all tests say, those of other processes too."""

    def __init__(self, config: pytest.Config) -> None:
        options = config.option
        #: Relative paths are meant from where pytest was called.
        folder = config.invocation_params.dir
        self._json: Path | None = options.farebox_json and folder / options.farebox_json
        self._markdown: Path | None = options.farebox_markdown and folder / options.farebox_markdown
        self._baseline_path: Path | None = options.farebox_baseline and folder / options.farebox_baseline
        self._updates: bool = options.farebox_update_baseline
        self._tolerance = baselines.read_tolerance(options.farebox_tolerance)
        self._top: int = _TOP if options.farebox_top is None else options.farebox_top
        self._is_asked_for = options.farebox_top is not None or bool(
            options.farebox_budget or options.farebox_budget_per_test or self._baseline_path
        )
        for word, is_given in (("update-baseline", self._updates), ("tolerance", options.farebox_tolerance)):
            if is_given and self._baseline_path is None:
                raise pytest.UsageError(f"--farebox-{word} needs the file: --farebox-baseline=PATH")
        if self._top < 0:
            raise pytest.UsageError(f"--farebox-top={self._top} is no number of tests; give 0 or more")
        self._baseline: dict[str, Any] | None = None
        if self._baseline_path is not None and (not self._updates or self._baseline_path.exists()):
            self._baseline = baselines.read_baseline(self._baseline_path)
        self._tests: dict[str, Uses] = {}
        self._runs: dict[str, int] = {}
        self._shared: dict[str, Uses] = {}
        self._price_lists: set[str] = set()
        #: Why each test that was over budget was stopped; and how many failed reports that are.
        self._over_budget: dict[str, str] = {}
        self._failed_reports = 0
        self._growth: list[baselines.Growth] = []
        #: Of cassettes that were written, and those with calls that no test asked for.
        self._recorded: list[str] = []
        self._unplayed: list[str] = []

    def collect(self, test: str, outcome: str, said: dict[str, Any]) -> None:
        """Take note of what the report of a test says; a later one of the same test says all that it came to."""
        if "uses" in said:
            self._tests[test], self._runs[test] = from_plain(said["uses"]), said["runs"]
        for name, plain in said.get("shared", {}).items():
            self._shared[name] = from_plain(plain)
        self._price_lists.update(said.get("prices", ()))
        for word, told in (("recorded", self._recorded), ("unplayed", self._unplayed)):
            if word in said:
                told.append(said[word])
        if "over_budget" in said and outcome == "failed":
            self._over_budget[test] = said["over_budget"]
            self._failed_reports += 1

    # ── when all tests are over ──────────────────────────────────────────────────────────────────────────────────

    def finish(self, session: pytest.Session, exitstatus: int, run_is_spent: str) -> int:
        """Write the files, and say what the run ends with."""
        run = baselines.to_json(self._tests, self._shared, self._price_lists)
        if self._baseline is not None and not self._updates:
            self._growth = baselines.find_growth(run, self._baseline, self._tolerance)
        if self._json is not None:
            baselines.write_json(self._json, run)
        if self._updates and self._baseline_path is not None:
            baselines.write_json(self._baseline_path, baselines.updated(self._baseline, run))
        if self._markdown is not None:
            self._markdown.parent.mkdir(parents=True, exist_ok=True)
            self._markdown.write_text("\n".join(self._as_markdown()) + "\n", encoding="utf-8")
        is_ours = exitstatus == pytest.ExitCode.TESTS_FAILED or (
            exitstatus == pytest.ExitCode.INTERRUPTED and session.shouldstop == run_is_spent
        )
        if is_ours and self._failed_reports and session.testsfailed == self._failed_reports:
            return OVER_BUDGET
        if exitstatus == pytest.ExitCode.OK and self._growth:
            return GREW
        return exitstatus

    def print(self, terminal: pytest.TerminalReporter) -> None:
        """The tables of the run; nothing where nothing was measured and nobody asked."""
        if self._over_budget:
            terminal.section("over budget", sep="=", red=True)
            for test, reason in self._over_budget.items():
                terminal.line(f"{test}: {reason.removeprefix('over budget: ')}")
        if self._tests or self._shared or self._is_asked_for:
            terminal.section("what LLM calls cost", sep="=")
            for line in self._as_text():
                terminal.line(line)
        if self._recorded or self._unplayed:
            terminal.section("cassettes", sep="=")
            for line in (*sorted(self._recorded), *sorted(self._unplayed)):
                terminal.line(line)
        if self._growth:
            terminal.section(f"more than {self._baseline_name}", sep="=", red=True)
            for line in columns([("test", "figure", "was", "now", "more"), *(one.shown for one in self._growth)], 2):
                terminal.line(line)

    @property
    def _baseline_name(self) -> str:
        return "" if self._baseline_path is None else self._baseline_path.name

    # ── the tables ───────────────────────────────────────────────────────────────────────────────────────────────

    def _as_text(self) -> Iterator[str]:
        if not self._tests and not self._shared:
            yield "no call was measured"
            return
        yield from columns(list(self._by_test()), 1)
        yield ""
        yield from columns(list(self._by_model()), 1)
        yield from self._notes()

    def _by_test(self) -> Iterator[tuple[str, ...]]:
        yield ("test", *self._head())
        dearest_first = sorted(
            self._tests.items(), key=lambda test: (-_usd_nanos(test[1]), -total(test[1].values()).tokens, test[0])
        )
        for test, uses in dearest_first[: self._top]:
            runs = self._runs[test]
            yield (f"{test} ({runs} runs)" if runs > 1 else test, *self._cells(total(uses.values())))
        rest = dearest_first[self._top :]
        if rest:
            yield (f"({len(rest)} more tests)", *self._cells(total(use for _, uses in rest for use in uses.values())))
        for name, uses in sorted(self._shared.items()):
            yield (name, *self._cells(total(uses.values())))
        yield ("total", *self._cells(total(self._every().values())))

    def _by_model(self) -> Iterator[tuple[str, ...]]:
        yield ("model", *self._head())
        for model, use in sorted(self._every().items(), key=lambda one: -_nanos(one[1])):
            yield (model, *self._cells(use))

    def _head(self) -> tuple[str, ...]:
        """With a column for what was played, where anything was."""
        return (*_HEAD[:2], _REPLAYED, *_HEAD[2:]) if self._has_replays() else _HEAD

    def _cells(self, use: Use) -> tuple[str, ...]:
        played = (str(use.replayed_calls),) if self._has_replays() else ()
        figures = (str(use.input_tokens), str(use.output_tokens), show_nanos(_nanos(use)))
        return (str(use.calls), str(use.refused_calls), *played, *figures)

    def _has_replays(self) -> bool:
        return any(
            use.replayed_calls for uses in (*self._tests.values(), *self._shared.values()) for use in uses.values()
        )

    def _every(self) -> Uses:
        return joined([*self._tests.values(), *self._shared.values()])

    def _notes(self) -> Iterator[str]:
        every = total(self._every().values())
        if every.replayed_calls:
            calls = "the replayed call" if every.replayed_calls == 1 else f"{every.replayed_calls} replayed calls"
            yield (
                f"really spent: {show_nanos(every.real_usd_nanos)} usd; {calls} would have cost "
                f"{show_nanos(every.replayed_usd_nanos)} usd"
            )
        notes = [f"prices: {', '.join(sorted(self._price_lists)) or 'none'}, on {datetime.now(UTC):%Y-%m-%d}"]
        if every.unpriced_calls:
            notes.append(f"{every.unpriced_calls} calls have no price and are not in usd")
        if every.reserved_usd_nanos:
            notes.append(f"in usd: {show_nanos(every.reserved_usd_nanos)} held for calls that had not ended")
        yield "; ".join(notes)

    def _as_markdown(self) -> Iterator[str]:
        yield "### What LLM calls cost"
        yield ""
        if self._growth:
            yield from _markdown_table(
                [("test", "figure", "was", "now", "more"), *(one.shown for one in self._growth)], 2
            )
            yield ""
        for test, reason in self._over_budget.items():
            yield f"- `{test}`: {reason}"
        if self._over_budget:
            yield ""
        if not self._tests and not self._shared:
            yield "No call was measured."
            return
        yield from _markdown_table(list(self._by_test()), 1)
        yield ""
        yield from _markdown_table(list(self._by_model()), 1)
        yield ""
        yield from self._notes()


def _nanos(use: Use) -> int:
    return use.usd_nanos + use.reserved_usd_nanos


def _usd_nanos(uses: Uses) -> int:
    return _nanos(total(uses.values()))


def columns(rows: Sequence[tuple[str, ...]], names: int) -> Iterator[str]:
    """Lines of equal columns: the first `names` to the left, figures to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (
            cell.ljust(width) if n < names else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join(cells).rstrip()


def _markdown_table(rows: Sequence[tuple[str, ...]], names: int) -> Iterator[str]:
    for n, row in enumerate(rows):
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"
        if n == 0:
            yield f"|{'|'.join('---' if at < names else '---:' for at in range(len(row)))}|"
