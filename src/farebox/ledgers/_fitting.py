"""Whether a need fits its accounts, with which output cap, and why not: arithmetic on balances, no state.

A balance is a tuple: (spent, reserved, debt) in usd nanodollars, then in tokens, then in calls, the number of holds open
on the account, what was put on top of its limits, and the account as last held.  `balances` maps account keys to them; an
account that is missing is `EMPTY`.  `in_force` maps account keys to limits that are others than the account's own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Final

from farebox._money import MOST_NANOS
from farebox.errors import Unit
from farebox.ledgers import NO_LIMIT, Account, Need, Shortfall, cap_within

Amounts = tuple[int, int, int]
BalanceTuple = tuple[int, int, int, int, int, int, int, int, int, int, Amounts, Account | None]
Limits = Mapping[Any, Amounts]

NOTHING: Final[Amounts] = (0, 0, 0)
EMPTY: Final[BalanceTuple] = (0, 0, 0, 0, 0, 0, 0, 0, 0, 0, NOTHING, None)
#: Nobody has changed a limit.
UNCHANGED: Final[Limits] = {}
UNITS: Final[tuple[Unit, Unit, Unit]] = ("usd", "tokens", "calls")


def amounts_of(need: Need, cap: int) -> Amounts:
    """What `need` takes with an output cap of `cap`: usd nanodollars, tokens, calls."""
    return need.usd_nanos(cap), need.tokens(cap), need.calls


def limits_of(account: Account, in_force: Limits = UNCHANGED) -> Amounts:
    return in_force.get(account.key) or (account.limit_usd_nanos, account.limit_tokens, account.limit_calls)


def check_key(key: Any) -> None:
    if isinstance(key, int):
        raise ValueError(
            f"account key {key!r} is an int, and ints are the ids of holds; use a string, tuple or object()"
        )


def check_amounts(usd_nanos: Any, tokens: Any, calls: Any) -> None:
    """ValueError unless all are ints, 0 or more and below 2**63: one look at the bits of all three."""
    try:
        if not (usd_nanos | tokens | calls) >> 63:
            return
    except TypeError:
        pass
    raise ValueError(
        f"usd_nanos={usd_nanos!r}, tokens={tokens!r}, calls={calls!r}: amounts are ints, 0 or more and at most {MOST_NANOS}"
    )


def past(before: int, more: int, limit: int) -> int:
    """How much of `more` lies past `limit` when it is put on top of `before`."""
    return max(0, min(more, before + more - limit))


def shortfall(
    balances: Mapping[Any, Any],
    accounts: Sequence[Account],
    forced: Collection[Account],
    least: Amounts,
    floor: Amounts,
    own: Amounts = NOTHING,
    in_force: Limits = UNCHANGED,
    crossing: Collection[Account] = (),
) -> Shortfall | None:
    """Who is short, or None: `floor` must fit where others hold some of the unit, `least` where nobody does.

    `own` is what the asking hold has already: it can't be waited for, because it ends after what it asks for.
    """
    contended: Shortfall | None = None
    for account in accounts:
        if account in forced:
            continue
        balance, limits = balances.get(account.key, EMPTY), limits_of(account, in_force)
        short = _short_in(account, balance, limits, least, floor, own)
        if short is not None and account in crossing:
            short = _no_crossing(account, balance, limits, least)
        if short is not None and short.kind != "contended":
            return short
        contended = contended or short
    return contended


def _short_in(
    account: Account, balance: Sequence[Any], limits: Amounts, least: Amounts, floor: Amounts, own: Amounts
) -> Shortfall | None:
    contended: Shortfall | None = None
    for i, limit in enumerate(limits):
        spent, reserved, smallest = balance[3 * i], balance[3 * i + 1], least[i]
        if own[i] + smallest > limit:
            return Shortfall(account, UNITS[i], limit, spent, reserved, smallest, "oversized")
        if spent + own[i] + smallest > limit:
            return Shortfall(account, UNITS[i], limit, spent, reserved, smallest, "exhausted")
        required = floor[i] if reserved else smallest
        if contended is None and spent + reserved + required > limit:
            contended = Shortfall(account, UNITS[i], limit, spent, reserved, required, "contended")
    return contended


def _no_crossing(account: Account, balance: Sequence[Any], limits: Amounts, least: Amounts) -> Shortfall | None:
    """Why nobody may cross a limit of the account now, or None: one is spent, or somebody is past one already."""
    for i, limit in enumerate(limits):
        if balance[3 * i] >= limit:
            return Shortfall(account, UNITS[i], limit, balance[3 * i], balance[3 * i + 1], least[i], "exhausted")
    for i, limit in enumerate(limits):
        if balance[3 * i] + balance[3 * i + 1] > limit:
            return Shortfall(account, UNITS[i], limit, balance[3 * i], balance[3 * i + 1], least[i], "contended")
    return None


def short_or_crossed(
    balances: Mapping[Any, Any],
    accounts: Sequence[Account],
    need: Need,
    forced: Collection[Account],
    crossing: Collection[Account],
    in_force: Limits = UNCHANGED,
) -> Shortfall | tuple[Account, ...]:
    """Of a need that does not fit: who is short; or the `forced` with those of `crossing` that are, and let it cross."""
    least, floor = amounts_of(need, need.least_cap), amounts_of(need, need.floor_cap)
    short = shortfall(balances, accounts, forced, least, floor, in_force=in_force, crossing=crossing)
    if short is not None:
        return short
    let = (one for one in crossing if shortfall(balances, [one], forced, least, floor, in_force=in_force))
    return (*forced, *let)


def pick_cap(
    balances: Mapping[Any, Any],
    accounts: Sequence[Account],
    need: Need,
    forced: Collection[Account],
    in_force: Limits = UNCHANGED,
) -> int | Shortfall:
    """The output cap to grant, as `Need` says, from what is left in all accounts right now."""
    # Comparisons where min() and max() would read better: those cost four times as much, and most calls come this way.
    left_usd = left_tokens = NO_LIMIT
    for account in accounts:
        if forced and account in forced:
            continue
        balance = balances.get(account.key, EMPTY)
        limit_usd, limit_tokens = account.limit_usd_nanos, account.limit_tokens
        if in_force:
            limit_usd, limit_tokens, _ = in_force[account.key]
        left = limit_usd - balance[0] - balance[1]
        if left < left_usd:  # noqa: PLR1730
            left_usd = left
        if limit_tokens != NO_LIMIT:
            left = limit_tokens - balance[3] - balance[4]
            if left < left_tokens:  # noqa: PLR1730
                left_tokens = left
    # How many output tokens that buys; below zero where not even the fixed part fits.
    buys = left_usd - need.fixed_usd_nanos
    rate = need.usd_nanos_per_token
    if rate:
        buys //= rate
    elif buys >= 0:
        buys = NO_LIMIT
    if left_tokens != NO_LIMIT:
        left_tokens -= need.fixed_tokens
        rate = need.tokens_per_token
        if rate:
            left_tokens //= rate
        elif left_tokens >= 0:
            left_tokens = NO_LIMIT
        if left_tokens < buys:  # noqa: PLR1730
            buys = left_tokens
    affordable = cap_within(buys)
    if affordable < need.floor_cap:
        least, floor = amounts_of(need, need.least_cap), amounts_of(need, need.floor_cap)
        short = shortfall(balances, accounts, forced, least, floor, in_force=in_force)
        if short is not None:
            return short
    cap = need.want_cap
    if need.share:
        shared = cap_within(buys // need.share)
        if shared > cap:  # noqa: PLR1730
            cap = shared
    if cap > need.most_cap:  # noqa: PLR1730
        cap = need.most_cap
    return cap if cap < affordable else affordable  # noqa: FURB136


def would_fit(
    balances: Mapping[Any, Any],
    accounts: Sequence[Account],
    need: Need,
    forced: Collection[Account],
    back: Mapping[Any, Sequence[int]],
    in_force: Limits = UNCHANGED,
    crossing: Collection[Account] = (),
) -> bool:
    """Whether `need` fits once `back`, amounts per account key, was given back unspent."""
    least, floor = amounts_of(need, need.least_cap), amounts_of(need, need.floor_cap)
    for account in accounts:
        if account in forced:
            continue
        balance, returned = balances.get(account.key, EMPTY), back.get(account.key, NOTHING)
        fits, may_cross = True, account in crossing
        for i, limit in enumerate(limits_of(account, in_force)):
            spent, still_reserved = balance[3 * i], balance[3 * i + 1] - returned[i]
            required = floor[i] if still_reserved > 0 else least[i]
            fits = fits and spent + still_reserved + required <= limit
            may_cross = may_cross and spent < limit and spent + still_reserved <= limit
            if not fits and not may_cross:
                return False
    return True
