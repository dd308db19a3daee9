"""docs/compared.md holds what `benchmarks/peers.py` measured: a figure, or a reason, for every library in every table."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).resolve().parents[1] / "docs" / "compared.md"


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(PAGE.parents[1] / "benchmarks"))
    return importlib.import_module("peers")


def tables() -> list[list[list[str]]]:
    """Cells of the rows of each table between the markers, without its head."""
    text = PAGE.read_text(encoding="utf-8")
    measured = text[text.index("<!-- measured: begin -->") : text.index("<!-- measured: end -->")]
    found = re.findall(r"(?:^\|.*\|\n)+", measured, re.MULTILINE)
    return [[[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines()[2:]] for table in found]


def test_every_library_is_in_every_table(peers: Any) -> None:
    names = [peer.name for peer in peers.PEERS]
    assert [[row[0] for row in table] for table in tables()] == [names] * 3
    assert all(cell for table in tables() for row in table for cell in row)


def test_no_more_calls_reached_the_server_than_were_tried(peers: Any) -> None:
    _, let_through, _ = tables()
    for name, *cells in let_through:
        for cell, (tries, _) in zip(cells, peers.STORMS.values(), strict=False):
            if cell.isdigit():
                assert int(cell) <= tries, name


def test_farebox_kept_its_budget_in_every_storm(peers: Any) -> None:
    _, let_through, _ = tables()
    (ours,) = [cells for name, *cells in let_through if name == "farebox"]
    assert all(0 < int(cell) <= peers.BUDGET_FOR for cell in ours[: len(peers.STORMS)])


def test_every_call_costs_the_same_and_no_prompt_comes_twice(peers: Any) -> None:
    prompts = [peers.words(number)["messages"][0]["content"] for number in range(100)]
    assert len(set(prompts)) == 100
    assert {len(prompt.encode()) for prompt in prompts} == {4_096}
