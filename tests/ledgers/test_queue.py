"""Threads that wait for what is done together are told by one another."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from farebox.ledgers import NO_LIMIT, Account, Grant, Need, _queue, open_ledger

_THREADS, _EACH = 8, 40
_LONGEST_SECONDS = 60.0


def test_everybody_who_waits_is_woken_without_having_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_queue, "_LOOK_SECONDS", 3_600.0)
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    account = Account("all", "all", NO_LIMIT - 1)
    need = Need(fixed_usd_nanos=10, tokens_per_token=0)
    granted: list[Grant] = []

    def work(thread: int) -> None:
        for number in range(_EACH):
            hold_id = thread * _EACH + number
            answer = ledger.reserve(hold_id, [account], need)
            assert isinstance(answer, Grant)
            granted.append(answer)
            ledger.settle(hold_id, 7, 0)

    crew = [threading.Thread(target=work, args=(thread,), daemon=True) for thread in range(_THREADS)]
    for one in crew:
        one.start()
    for one in crew:
        one.join(_LONGEST_SECONDS)
    assert not any(one.is_alive() for one in crew)
    assert len(granted) == _THREADS * _EACH
    assert ledger.balance(account).spent_usd_nanos == 7 * _THREADS * _EACH
    ledger.close()
