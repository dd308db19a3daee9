"""What a person says of budgets at a terminal is in force for the next call of a program that runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

import farebox
from tests.cli.conftest import Command, buy

Use = Callable[..., None]


@pytest.fixture
def org(ledger: Use) -> None:
    ledger(
        budgets=[
            farebox.budget("org", usd="0.01", calls=5, per="ever"),
            farebox.budget("plan", usd=1, per="day", each="tenant"),
        ]
    )
    buy("0.006", tenant="acme")


def limits(name: str, **tags: str) -> dict[str, str]:
    return {row.unit: str(row.limit) for row in farebox.status(name, **tags)}


def test_a_limit_is_set_and_topped_up(command: Command, org: None) -> None:
    ended = command("set-limit", "org", "--usd", "5", "--json")
    assert {row["unit"]: row["limit"] for row in json.loads(ended.stdout)} == {"calls": 5, "usd": "5"}
    assert command("top-up", "org", "--calls", "3").returncode == 0
    assert limits("org") == {"calls": "8", "usd": "5"}
    assert command("set-limit", "plan", "--usd", "day=7", "--tag", "tenant=acme").returncode == 0
    assert limits("plan", tenant="acme") == {"usd": "7"}


def test_a_kill_refuses_until_it_is_taken_back(command: Command, org: None) -> None:
    assert "killed" in command("kill", "org").stdout
    with farebox.track(tenant="acme"), pytest.raises(farebox.BudgetExceeded, match="org"):
        with farebox.reserve(usd="0.001"):
            pass
    assert "killed" not in command("unkill", "org").stdout
    with farebox.track(tenant="acme"), farebox.reserve(usd="0.001") as hold:
        hold.release()


def test_a_reset_starts_anew_and_the_report_still_knows(command: Command, org: None) -> None:
    assert command("reset", "org").returncode == 0
    assert {str(row.spent) for row in farebox.status("org")} == {"0"}
    assert str(farebox.report().total.usd) == "0.006"


def test_a_budget_that_only_the_file_knows_can_be_told_about(command: Command) -> None:
    (command.folder / "farebox.toml").write_text(
        'ledger = "sqlite:///new.db"\n[[budgets]]\nname = "org"\nusd = 1\nper = "day"\n', encoding="utf-8"
    )
    (row,) = json.loads(command("set-limit", "org", "--usd", "2", "--json").stdout)
    assert (row["budget"], row["limit"]) == ("org", "2")


def test_a_budget_with_an_account_for_each_can_be_told_about_before_its_first_call(command: Command) -> None:
    (command.folder / "farebox.toml").write_text(
        'ledger = "sqlite:///new.db"\n[[budgets]]\nname = "plan"\nusd = 1\nper = "month"\neach = "tenant"\n',
        encoding="utf-8",
    )
    path = command.folder / "new.db"
    none_yet = f"no account of budget 'plan' is known yet in sqlite:///{path}; it has one for each tenant\n"
    assert command("budgets").stdout == command("budgets", "plan").stdout == none_yet
    for word in ("kill", "unkill"):
        told = command(word, "plan")
        assert told.stdout == "done; no account of budget 'plan' is known yet, and it holds for those to come\n"
    wrong = command("top-up", "plan", "--usd", "much", "--tag", "tenant=acme")
    assert (wrong.returncode, wrong.stderr.count("\n")) == (2, 1)
    assert "usd='much'" in wrong.stderr

    assert command("top-up", "plan", "--usd", "20", "--tag", "tenant=acme").returncode == 0
    for listed in (command("budgets", "--json"), command("reset", "plan", "--json")):
        (row,) = json.loads(listed.stdout)
        assert (row["budget"], row["tags"], row["limit"], row["spent"]) == ("plan", {"tenant": "acme"}, "21", "0")


def test_pruned_calls_are_gone_and_their_sums_stay(command: Command, org: None) -> None:
    assert command("prune", "--before", "1d").stdout.startswith("0 calls that ended before ")
    assert len(farebox.calls()) == 1
    ended = command("prune", "--before", "0s", "--json", "--tz", "Asia/Tokyo")
    found = json.loads(ended.stdout)
    assert found["pruned"] == 1
    assert datetime.fromisoformat(found["before"]).utcoffset() == timedelta(hours=9)
    assert datetime.fromisoformat(found["before"]) <= datetime.now(UTC)
    assert (farebox.calls(), str(farebox.report().total.usd)) == ([], "0.006")
