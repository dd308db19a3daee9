"""What a person asks and says of standing budgets: status(), set_limit(), top_up(), reset(), kill(), unkill().

What is said is an entry in the ledger, in force at once for everybody who shares it.  It is said of a budget by its name, so
a program that did not make the budget may say it too.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal

import attrs

from farebox import _config
from farebox._budget import Budget, in_unit
from farebox._budget_words import CountLimit, UsdLimit, read_limits
from farebox._call import read_tags
from farebox._keys import Key, control_key, read_control_tags, read_key, stem_prefix
from farebox._standing import terms_at
from farebox._windows import Period
from farebox.errors import Unit
from farebox.ledgers import NO_LIMIT, Account, Control, Ledger, View


@attrs.frozen(kw_only=True)
class Status:
    """One limit of one account of a standing budget, in the window of now.  Amounts are in `unit`, usd as Decimal.

    Attributes:
        tags: The values of the tags that the budget has an account for each of.
        limit: In force, with what was topped up.  `used`: the share of it that is spent, 0.8 for 80 percent.
        next_rung: The lowest rung of `at=` that spent has not reached; None where there is none, or nobody here knows.
        resets_at: When the limit starts again (aware, UTC); None for a limit for ever.
    """

    budget: str
    tags: Mapping[str, str]
    period: str
    unit: Unit
    limit: Decimal | int
    spent: Decimal | int
    reserved: Decimal | int
    remaining: Decimal | int
    debt: Decimal | int
    used: float
    next_rung: float | None
    resets_at: datetime | None
    is_killed: bool


def status(budget: str | None = None, /, **tags: object) -> list[Status]:
    """How standing budgets stand now: all that this process has, and all accounts that the ledger knows.

    Args:
        budget: Only the budget of that name.
        tags: Only accounts with these tags.

    Raises:
        LedgerUnavailable: the ledger did not answer.
    """
    state = _config.state()
    asked = _texts(tags)
    known = {one.name: one for one in state.standing}
    found: dict[str, tuple[Key, View]] = {}
    for key, view in state.ledger.accounts("" if budget is None else stem_prefix(budget)):
        parts = read_key(key)
        if parts is not None:
            found[key] = parts, view
    for one in state.standing:
        # An account that was topped up before its first call is there, and its limits are not.
        bare = [parts.tags for parts, view in found.values() if parts.budget == one.name and _is_bare(view)]
        for chosen in _chosen(one, asked, state.ledger, bare):
            for account in terms_at(one, chosen, state):
                parts = read_key(account.key)
                assert parts is not None
                found[account.key] = parts, state.ledger.view(account)
    now = state.ledger.now_seconds()
    rows = [
        row
        for parts, view in found.values()
        if parts.is_open_at(now) and (budget is None or parts.budget == budget)
        if all(parts.tags.get(name) == value for name, value in asked.items())
        for row in _rows(parts, view, known.get(parts.budget))
    ]
    return sorted(rows, key=lambda row: (row.budget, tuple(row.tags.items()), row.period, row.unit))


def _is_bare(view: View) -> bool:
    return view.limit_usd_nanos == view.limit_tokens == view.limit_calls == NO_LIMIT


def _chosen(
    budget: Budget, asked: Mapping[str, str], ledger: Ledger, bare: list[Mapping[str, str]]
) -> list[Mapping[str, str]]:
    """The tags of accounts that are there without a call: the only one, the one that is asked for, those somebody spoke of."""
    if not budget.each:
        return [{}]
    said = [read_control_tags(key, budget.name) for key in ledger.controls()]
    return [tags for tags in (asked, *said, *bare) if tags is not None and set(tags) == set(budget.each)]


def _rows(parts: Key, view: View, budget: Budget | None) -> Iterator[Status]:
    now = view.balance
    numbers: tuple[tuple[Unit, int, int, int, int], ...] = (
        ("usd", view.limit_usd_nanos, now.spent_usd_nanos, now.reserved_usd_nanos, now.debt_usd_nanos),
        ("tokens", view.limit_tokens, now.spent_tokens, now.reserved_tokens, now.debt_tokens),
        ("calls", view.limit_calls, now.spent_calls, now.reserved_calls, now.debt_calls),
    )
    for unit, limit, spent, reserved, debt in numbers:
        if limit == NO_LIMIT:
            continue
        rungs = () if budget is None else budget.rungs
        ahead = (rung.share for rung in rungs if (threshold := rung.threshold(limit)) is not None and spent < threshold)
        yield Status(
            budget=parts.budget,
            tags=parts.tags,
            period=parts.period,
            unit=unit,
            limit=in_unit(unit, limit),
            spent=in_unit(unit, spent),
            reserved=in_unit(unit, reserved),
            remaining=in_unit(unit, max(0, limit - spent - reserved)),
            debt=in_unit(unit, debt),
            used=spent / limit if limit else float(spent > 0),
            next_rung=next(ahead, None),
            resets_at=parts.ends_at,
            is_killed=view.is_killed,
        )


# ── what a person says ───────────────────────────────────────────────────────────────────────────────────────────


def set_limit(
    budget: str,
    /,
    *,
    usd: UsdLimit | None = None,
    tokens: CountLimit | None = None,
    calls: CountLimit | None = None,
    **tags: object,
) -> None:
    """Give a standing budget other limits from now on, in this window and all later ones.

    What is spent and held stays; where that is more already, nothing is admitted until the limit is raised or the window
    turns.  A limit that is not given stays as it is.

    >>> import farebox
    >>> with farebox.configure(ledger="memory://", budgets=[farebox.budget("plan", usd=50, per="month", each="tenant")]):
    ...     farebox.set_limit("plan", usd=500, tenant="acme")

    Args:
        budget: Its name.
        usd, tokens, calls: As in `budget(...)`; by period where it has several.
        tags: The account that is meant, by the tags the budget has an account for each of; without them all accounts.

    Raises:
        ValueError: no limit given, one that is negative or not finite, a tag the budget does not go by, a plain limit for a
            budget with several periods.
        LedgerUnavailable: the ledger did not answer; nothing changed.
    """
    given, plain = _given(usd, tokens, calls, f"set_limit({budget!r}) changes nothing")
    state = _config.state()
    known, chosen = _known(budget, state, tags)
    if plain and known is not None and len(known.terms) > 1:
        raise ValueError(
            f"{plain[0]}={given[plain[0]]!r}: budget {budget!r} has a limit per "
            f"{' and per '.join(term.period for term in known.terms)}; write {plain[0]}={{{known.terms[0].period!r}: ...}}"
        )
    for period, limits in read_limits(given, "ever" if plain else None).items():
        usd_nanos, most_tokens, most_calls = (None if limit == NO_LIMIT else limit for limit in limits)
        by_name = plain and period == "ever"  # whatever its period is
        state.ledger.control(
            _entry_id(),
            control_key(budget, None if by_name else period, chosen),
            Control(limit_usd_nanos=usd_nanos, limit_tokens=most_tokens, limit_calls=most_calls),
        )


def kill(budget: str, /, **tags: object) -> None:
    """Refuse every call that a standing budget is about, in any mode, from now on and for everybody who shares the ledger.

    Args:
        budget: Its name.
        tags: Only the accounts with these tags.
    """
    _switch(budget, tags, is_killed=True)


def unkill(budget: str, /, **tags: object) -> None:
    """Let a budget go on that was killed with the same tags."""
    _switch(budget, tags, is_killed=False)


def _switch(budget: str, tags: Mapping[str, object], *, is_killed: bool) -> None:
    state = _config.state()
    _, chosen = _known(budget, state, tags)
    state.ledger.control(_entry_id(), control_key(budget, None, chosen), Control(is_killed=is_killed))


def top_up(
    budget: str,
    /,
    *,
    usd: UsdLimit | None = None,
    tokens: CountLimit | None = None,
    calls: CountLimit | None = None,
    **tags: object,
) -> None:
    """Put an amount on top of the limits of one account, in the window of now only.

    Args:
        budget: Its name.  Its accounts must be known here: this process made it, or the ledger has seen a call of it.
        usd, tokens, calls: So much more; by period where it has several.
        tags: The account that is meant.

    Raises:
        ValueError: no amount given, a bad one, no such account.
    """
    given, plain = _given(usd, tokens, calls, f"top_up({budget!r}) adds nothing")
    state = _config.state()
    accounts = _accounts(budget, state, tags)
    if plain and len({period for period, _ in accounts}) > 1:
        periods = sorted({period for period, _ in accounts})
        raise ValueError(
            f"{plain[0]}={given[plain[0]]!r}: budget {budget!r} has a limit per {' and per '.join(periods)}; "
            f"write {plain[0]}={{{periods[0]!r}: ...}}"
        )
    for period, limits in read_limits(given, "ever" if plain else None).items():
        amounts = tuple(0 if limit == NO_LIMIT else limit for limit in limits)
        for of, account in accounts:
            if of == period or plain:
                state.ledger.top_up(_entry_id(), account, *amounts)


def reset(budget: str, /, **tags: object) -> None:
    """Start a standing budget anew in the window of now: nothing spent, no debt.  What is held stays held.

    The rows of its calls stay too: reports say what was spent, whatever a budget counts.

    Raises:
        ValueError: no such account.
    """
    state = _config.state()
    for _, account in _accounts(budget, state, tags):
        state.ledger.reset(_entry_id(), account)


def _given(
    usd: UsdLimit | None, tokens: CountLimit | None, calls: CountLimit | None, fault: str
) -> tuple[dict[Unit, UsdLimit | CountLimit], list[Unit]]:
    """What was given of the three, and which of it by no period.

    Raises:
        ValueError: nothing was given, which is the `fault`.
    """
    written: dict[Unit, UsdLimit | CountLimit | None] = {"usd": usd, "tokens": tokens, "calls": calls}
    given = {unit: limit for unit, limit in written.items() if limit is not None}
    if not given:
        raise ValueError(f"{fault}; give usd=, tokens= or calls=")
    return given, [unit for unit, limit in given.items() if not isinstance(limit, Mapping)]


def _known(budget: str, state: _config.State, tags: Mapping[str, object]) -> tuple[Budget | None, dict[str, str]]:
    """The budget of that name, where this process has it, and the tags as text.

    Raises:
        ValueError: a tag it does not go by.
        TypeError: a name that is no text.
    """
    if not isinstance(budget, str):
        raise TypeError(f"{budget!r} is a {type(budget).__name__}; give the budget's name")
    if not state.is_ledger_chosen:
        raise ValueError(
            f"budget {budget!r}: standing budgets are kept in a ledger, and none was chosen; write configure(ledger=...)"
        )
    known = next((one for one in state.standing if one.name == budget), None)
    chosen = _texts(tags)
    seen = [] if known is not None else [read_key(key) for key, _ in state.ledger.accounts(stem_prefix(budget))]
    if known is None and not seen:
        names = sorted({one.name for one in state.standing})
        raise ValueError(
            f"no budget {budget!r} is known here, and the ledger has no account of one; "
            + (f"budgets of this process: {', '.join(names)}" if names else "configure(budgets=[...]) first")
        )
    each = (
        known.each if known is not None else sorted({tag for parts in seen if parts is not None for tag in parts.tags})
    )
    for name in chosen:
        if name not in each:
            goes_by = f"goes by {', '.join(each)}" if each else "has one account for all"
            raise ValueError(f"{name}={chosen[name]!r} chooses no account of budget {budget!r}, which {goes_by}")
    return known, chosen


def _accounts(budget: str, state: _config.State, tags: Mapping[str, object]) -> list[tuple[Period | str, Account]]:
    """The accounts of now with these tags: of a budget that this process has, and that its ledger has seen."""
    known, chosen = _known(budget, state, tags)
    found: dict[str, tuple[Period | str, Account]] = {}
    now = state.ledger.now_seconds()
    for key, view in state.ledger.accounts(stem_prefix(budget)):
        parts = read_key(key)
        if parts is None or not parts.is_open_at(now):
            continue
        if all(parts.tags.get(name) == value for name, value in chosen.items()):
            limits = view.limit_usd_nanos, view.limit_tokens, view.limit_calls
            found[key] = parts.period, Account(key, budget, *limits)
    if known is not None and set(known.each) <= set(chosen):
        for account in terms_at(known, chosen, state):
            parts = read_key(account.key)
            assert parts is not None
            found[account.key] = parts.period, account
    if not found:
        of = f" of {', '.join(f'{name}={value}' for name, value in chosen.items())}" if chosen else ""
        raise ValueError(
            f"no account{of} of budget {budget!r} is known now; give the tags it has an account for each of"
        )
    return list(found.values())


def _texts(tags: Mapping[str, object]) -> dict[str, str]:
    """The tags as calls have them.

    Raises:
        ValueError: None, which is the tag of no call.
    """
    for name, value in tags.items():
        if value is None:
            raise ValueError(f"{name}=None chooses no account; give the value of the tag, or leave it out for all")
    return dict(read_tags(tags))


def _entry_id() -> str:
    return f"{int(time.time())}-{os.urandom(8).hex()}"


def flush(timeout: float | None = None) -> bool:
    """Write what this process has queued for its ledger; False where that took longer than `timeout` seconds."""
    ledger: Ledger = _config.state().ledger
    return ledger.flush(timeout)
