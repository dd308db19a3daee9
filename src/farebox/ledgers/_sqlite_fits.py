"""Whether a need fits the accounts of a SQLite ledger, and what they come to then; changes nothing.

It is what `_book.Book.reserve` does to the memory ledger, line by line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from farebox.ledgers import Account, Grant, Need, Shortfall
from farebox.ledgers._fitting import (
    UNCHANGED,
    Amounts,
    amounts_of,
    check_amounts,
    past,
    pick_cap,
    short_or_crossed,
)
from farebox.ledgers._sqlite_books import EMPTY, Books, Numbers, check_fits

_tuple = tuple.__new__

#: What is granted, the balances after it, and what was let past a limit.
Fitted = tuple[Grant, dict[str, Numbers], Mapping[str, Amounts]]


def fit(
    books: Books,
    accounts: Sequence[Account],
    need: Need,
    forced: Sequence[Account],
    crossing: Sequence[Account] = (),
) -> Shortfall | Fitted:
    """A killed account speaks first; those of `crossing` that alone are short and let it cross are as if forced."""
    balances = books.balances
    if books.controls:
        killed = books.killed(accounts, need.usd_nanos(need.least_cap))
        if killed is not None:
            return killed
    in_force = books.in_force(accounts)
    cap = need.want_cap
    if need.share or need.least_cap != cap:
        picked = pick_cap(balances, accounts, need, forced, in_force)
        if isinstance(picked, Shortfall):
            return _cross(books, accounts, need, forced, crossing)
        cap = picked
    usd, tokens, calls = amounts_of(need, cap)
    check_amounts(usd, tokens, calls)
    changes: dict[str, Numbers] = {}
    let_past: dict[str, Amounts] | None = None
    for account in accounts:
        key = account.key
        su, ru, du, st, rt, dt, sc, rc, dc, open_holds = balances.get(key, EMPTY)
        ru, rt, rc = ru + usd, rt + tokens, rc + calls
        if in_force:
            most_usd, most_tokens, most_calls = in_force[key]
        else:
            most_usd, most_tokens, most_calls = account.limit_usd_nanos, account.limit_tokens, account.limit_calls
        if su + ru > most_usd or st + rt > most_tokens or sc + rc > most_calls:
            if account not in forced:
                return _cross(books, accounts, need, forced, crossing)
            over = (
                past(su + ru - usd, usd, most_usd),
                past(st + rt - tokens, tokens, most_tokens),
                past(sc + rc - calls, calls, most_calls),
            )
            du, dt, dc = du + over[0], dt + over[1], dc + over[2]
            let_past = let_past or {}
            let_past[key] = over
        changes[key] = (su, ru, du, st, rt, dt, sc, rc, dc, open_holds + 1)
    if let_past:
        check_fits(changes)
    return _tuple(Grant, (cap, usd, tokens, calls)), changes, let_past or UNCHANGED


def _cross(
    books: Books, accounts: Sequence[Account], need: Need, forced: Sequence[Account], crossing: Sequence[Account]
) -> Shortfall | Fitted:
    found = short_or_crossed(books.balances, accounts, need, forced, crossing, books.in_force(accounts))
    return found if isinstance(found, Shortfall) else fit(books, accounts, need, found)
