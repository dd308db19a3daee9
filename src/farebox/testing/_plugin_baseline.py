"""What tests used, as a file that is committed, and by how much a run uses more.

Tokens and calls are compared as they are.  USD are compared at the prices that the baseline holds, those of plain text in and
out, so that a provider's new price changes no test.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import attrs
import pytest

from farebox.testing._plugin_use import Use, Uses, joined, show_nanos, total

_FORMAT: Final = 1
#: USD per million tokens are picodollars per token, moved by so many digits.
_PICOS_PER_MILLIONTH: Final = 1_000_000


@attrs.frozen
class Growth:
    """One figure of one test that is above its baseline; usd in nanodollars."""

    test: str
    figure: str
    was: int
    now: int

    @property
    def shown(self) -> tuple[str, str, str, str, str]:
        was, now = (show_nanos(n) if self.figure == "usd" else str(n) for n in (self.was, self.now))
        more = f"+{100 * (self.now - self.was) / self.was:.1f}%" if self.was else "new"
        return self.test, self.figure, was, now, more


# ── the file ─────────────────────────────────────────────────────────────────────────────────────────────────────


def to_json(tests: Mapping[str, Uses], shared: Mapping[str, Uses], price_lists: set[str]) -> dict[str, Any]:
    """What is written by `--farebox-json` and kept as a baseline; amounts of USD as text, so that none is rounded."""
    every = joined([*tests.values(), *shared.values()])
    return {
        "format": _FORMAT,
        "price_lists": sorted(price_lists),
        "prices": {
            model: {
                "input_per_million": _per_million(use.input_picos),
                "output_per_million": _per_million(use.output_picos),
            }
            for model, use in sorted(every.items())
            if use.input_picos is not None and use.output_picos is not None
        },
        "shared_fixtures": {name: _entry(uses) for name, uses in sorted(shared.items())},
        "tests": {test: _entry(uses) for test, uses in sorted(tests.items())},
        "total": _entry(every),
    }


def _entry(uses: Uses) -> dict[str, Any]:
    return {**_figures(total(uses.values())), "models": {model: _figures(use) for model, use in sorted(uses.items())}}


def _figures(use: Use) -> dict[str, Any]:
    return {
        "usd": show_nanos(use.usd_nanos),
        "reserved_usd": show_nanos(use.reserved_usd_nanos),
        "calls": use.calls,
        "refused_calls": use.refused_calls,
        "unpriced_calls": use.unpriced_calls,
        "replayed_calls": use.replayed_calls,
        "replayed_usd": show_nanos(use.replayed_usd_nanos),
        "input_tokens": use.input_tokens,
        "output_tokens": use.output_tokens,
    }


def _per_million(picos: int | None) -> str:
    return show_nanos((picos or 0) * 1_000_000_000 // _PICOS_PER_MILLIONTH)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Whole or not at all: who reads it meanwhile sees the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    unfinished.replace(path)


def read_baseline(path: Path) -> dict[str, Any]:
    """A baseline as it was written.

    Raises:
        pytest.UsageError: no such file, or another kind of file.
    """
    again = f"write it with --farebox-baseline={path} --farebox-update-baseline"
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise pytest.UsageError(f"--farebox-baseline={path}: there is no such file; {again}") from None
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"--farebox-baseline={path} can't be read ({error}); {again}") from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise pytest.UsageError(f"--farebox-baseline={path} is no baseline of this version of farebox; {again}")
    return content


def updated(baseline: Mapping[str, Any] | None, run: Mapping[str, Any]) -> dict[str, Any]:
    """The baseline after a run: tests that ran have its figures, the others keep theirs."""
    if baseline is None:
        return dict(run)
    kept = {word: {**baseline[word], **run[word]} for word in ("prices", "shared_fixtures", "tests")}
    lists = sorted({*baseline["price_lists"], *run["price_lists"]})
    merged = {**run, **kept, "price_lists": lists}
    del merged["total"]  # of this run only
    return merged


# ── what grew ────────────────────────────────────────────────────────────────────────────────────────────────────


def read_tolerance(text: str | None) -> Fraction:
    """`5%` as a share.

    Raises:
        pytest.UsageError: no percentage.
    """
    if text is None:
        return Fraction(0)
    found = re.fullmatch(r"(\d{1,6}(?:\.\d{1,6})?)\s*%?", text.strip())
    if found is None:
        raise pytest.UsageError(f"--farebox-tolerance={text} is no percentage; write --farebox-tolerance=5%")
    return Fraction(found[1]) / 100


def find_growth(run: Mapping[str, Any], baseline: Mapping[str, Any], tolerance: Fraction) -> list[Growth]:
    """Every figure of a test in both that is more than the tolerance above the baseline, the most grown first."""
    prices = {**run["prices"], **baseline["prices"]}
    found = [
        Growth(test, figure, was, now)
        for test, entry in run["tests"].items()
        if test in baseline["tests"]
        for figure, was, now in _pairs(baseline["tests"][test], entry, prices)
        if now > was * (1 + tolerance)
    ]
    return sorted(found, key=lambda growth: (-Fraction(growth.now, growth.was or 1), growth.test, growth.figure))


def _pairs(was: Mapping[str, Any], now: Mapping[str, Any], prices: Mapping[str, Any]) -> Iterator[tuple[str, int, int]]:
    for figure in ("calls", "input_tokens", "output_tokens"):
        yield figure.replace("_", " "), was[figure], now[figure]
    yield "usd", _nanos_at(was, prices), _nanos_at(now, prices)


def _nanos_at(entry: Mapping[str, Any], prices: Mapping[str, Any]) -> int:
    """What the tokens of an entry cost as plain text, in nanodollars, rounded up; models without a price add nothing."""
    usd = Fraction(0)
    for model, figures in entry["models"].items():
        if model in prices:
            usd += figures["input_tokens"] * Fraction(prices[model]["input_per_million"])
            usd += figures["output_tokens"] * Fraction(prices[model]["output_per_million"])
    return -int(-usd * 1_000 // 1)
