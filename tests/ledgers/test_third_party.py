"""A ledger of somebody else, installed as a package of its own, is found by its URL and keeps the same contract."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import farebox
from farebox import budget, configure
from farebox.ledgers import Ledger, RowForm, open_ledger
from farebox.testing import FixedClock
from tests.ledgers.contract import LedgerContract
from tests.strategies import paid

#: The whole package: what a ledger of one's own has to be, here kept on top of the one in memory.
SHELF = '''
from farebox.ledgers.memory import MemoryLedger


class ShelfLedger(MemoryLedger):
    """Kept on a shelf: `shelf://name`."""

    @classmethod
    def open(cls, url, *, form=None, **options):
        name = url.removeprefix("shelf://")
        if not name.isalnum():
            raise ValueError(f"{url!r} names no shelf; write shelf://top")
        return super().open("memory://", form=form, **options)
'''


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The package `shelf`, installed."""
    (tmp_path / "shelf.py").write_text(SHELF, "utf-8")
    info = tmp_path / "shelf-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shelf\nVersion: 1.0\n", "utf-8")
    (info / "entry_points.txt").write_text("[farebox.ledgers]\nshelf = shelf:ShelfLedger\n", "utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "shelf", raising=False)
    importlib.invalidate_caches()


class TestThirdPartyLedger(LedgerContract):
    keeps_learnt = False
    keeps_notes = False

    @pytest.fixture
    def make(self, shelf: None, wall: FixedClock) -> Callable[[RowForm], Ledger]:
        return lambda form: open_ledger("shelf://top", form=form, clock=wall)

    @pytest.fixture
    def now(self) -> Callable[[], float]:
        return time.monotonic


@pytest.mark.usefixtures("shelf")
def test_it_is_configured_by_its_url_and_named_among_the_choices() -> None:
    with configure(ledger="shelf://top", budgets=[budget("org", calls=1, per="day")]):
        paid()
        with pytest.raises(farebox.BudgetExceeded):
            paid()
    with pytest.raises(ValueError, match=r"memory://, .*shelf://"):
        configure(ledger="cupboard://")
    with pytest.raises(ValueError, match="names no shelf"):
        configure(ledger="shelf://")
