"""The records of the ledger contract: accounts, what calls need, and what a ledger answers."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final, Literal, NamedTuple

import attrs

from farebox._money import MOST_NANOS
from farebox.errors import Kind, Unit

#: A limit that is none.  Compares like any other amount, so the hot path has no branch for it.
NO_LIMIT: Final = MOST_NANOS


@attrs.frozen(eq=False)
class Account:
    """The key a limit is kept under.

    Attributes:
        key: Unique among the accounts of a ledger.  Hashable and not an int, which are the ids of holds.  A string, a tuple
            of strings or a bare `object()`: comparing keys must run no Python code, because a signal could cut it short.
        name: For people; not unique.
        limit_usd_nanos, limit_tokens, limit_calls: `NO_LIMIT` where there is none.
        starts_at, ends_at: The window in which it takes holds, in epoch seconds of the ledger's clock; None: for ever.
        controls: Keys under which a person may have changed its limits, or killed it (`Control`), the most specific last.
    """

    key: Any
    name: str
    limit_usd_nanos: int = NO_LIMIT
    limit_tokens: int = NO_LIMIT
    limit_calls: int = NO_LIMIT
    starts_at: int | None = None
    ends_at: int | None = None
    controls: tuple[str, ...] = ()


@attrs.frozen
class Balance:
    """What an account holds, read at one instant.  usd in nanodollars."""

    spent_usd_nanos: int = 0
    reserved_usd_nanos: int = 0
    debt_usd_nanos: int = 0
    spent_tokens: int = 0
    reserved_tokens: int = 0
    debt_tokens: int = 0
    spent_calls: int = 0
    reserved_calls: int = 0
    debt_calls: int = 0


@attrs.frozen
class View:
    """What an account holds, and the limits in force.

    Each limit is what the last of the account's `controls` says that says one, else its own, and what was put on top of it
    for this account; at most `NO_LIMIT`.
    """

    balance: Balance = Balance()
    limit_usd_nanos: int = NO_LIMIT
    limit_tokens: int = NO_LIMIT
    limit_calls: int = NO_LIMIT
    is_killed: bool = False


@attrs.frozen(kw_only=True)
class Control:
    """What a person says about accounts, in force until it is said otherwise; None says nothing.

    Said under a key, it holds for every account that names that key among its `controls`.  Of several that speak of the
    same limit the most specific key wins; an account is killed while one of them says so.
    """

    limit_usd_nanos: int | None = None
    limit_tokens: int | None = None
    limit_calls: int | None = None
    is_killed: bool | None = None

    def over(self, earlier: Control) -> Control:
        """What is in force where this is said after `earlier`, or under a more specific key."""
        return Control(
            limit_usd_nanos=earlier.limit_usd_nanos if self.limit_usd_nanos is None else self.limit_usd_nanos,
            limit_tokens=earlier.limit_tokens if self.limit_tokens is None else self.limit_tokens,
            limit_calls=earlier.limit_calls if self.limit_calls is None else self.limit_calls,
            is_killed=earlier.is_killed if self.is_killed is None else self.is_killed,
        )


class WindowClosed(Exception):
    """A hold was asked of an account whose window is not now, by the ledger's clock.  Nothing was held."""

    def __init__(self, now_seconds: float) -> None:
        super().__init__(f"its window is not now, at {now_seconds} by the ledger's clock")
        self.now_seconds = now_seconds


def with_slack(cap: int) -> int:
    """Output tokens to hold for a cap of `cap`: providers overran theirs by up to 16 tokens or 1 percent."""
    return cap + max(16, -(-cap // 100))


def cap_within(tokens: int) -> int:
    """The largest cap whose slack still fits into `tokens`; negative where not even a cap of 0 does."""
    return tokens - 16 if tokens <= 1616 else tokens * 100 // 101


class Need(NamedTuple):
    """What one call needs, as a line in its output cap: `fixed + per_token * with_slack(cap)`.

    Where the caller declared a cap, `least_cap == floor_cap == want_cap` and `share == 0`.  Otherwise the ledger picks
    the cap when it reserves, in one step: `want_cap`, or 1/`share` of the output tokens that what is left still buys
    where that is more, at most `most_cap` and what every account has left, at least `floor_cap` while others hold money
    in an account that is short, at least `least_cap` in any case.

    All are 0 or more and `least_cap <= floor_cap <= want_cap <= most_cap`.  A `with_slack(0)` is 16 tokens: a call that
    has no output says `tokens_per_token=0`.
    """

    fixed_usd_nanos: int = 0
    usd_nanos_per_token: int = 0
    fixed_tokens: int = 0
    tokens_per_token: int = 1
    calls: int = 1
    least_cap: int = 0
    floor_cap: int = 0
    want_cap: int = 0
    most_cap: int = 0
    share: int = 0

    def usd_nanos(self, cap: int) -> int:
        return self.fixed_usd_nanos + self.usd_nanos_per_token * with_slack(cap)

    def tokens(self, cap: int) -> int:
        return self.fixed_tokens + self.tokens_per_token * with_slack(cap)


class Grant(NamedTuple):
    """A hold that was made: the cap it pays for, and the amounts held in every account of it.

    A tuple, not an attrs record: every call makes one, and a frozen attrs instance takes four times as long to make.
    """

    cap: int
    usd_nanos: int
    tokens: int
    calls: int


@attrs.frozen
class Noted:
    """What `Ledger.note` was told of a hold: `hold` is what the ledger calls it, for `collect` alone to read."""

    hold: Any
    memo: str


@attrs.frozen
class Shortfall:
    """Why a reserve was refused: the first account in order that was short, and its numbers in `unit`.

    `kind` is `"oversized"` when what the smallest acceptable cap takes is alone above the limit, `"exhausted"` when
    spent + that is, else `"contended"`.  One that waiting cannot cure speaks before any `"contended"` one, wherever it
    stands in the order.  `needed` is what the smallest acceptable cap takes; in a contended account that is `floor_cap`.
    A newcomer refused only because others wait in line before it is `"contended"` too, and may need less than is left.
    A killed account is `"exhausted"`, whatever it has left, and refuses also where it is forced; the first such speaks before
    all others, in usd.
    """

    account: Account
    unit: Unit
    limit: int
    spent: int
    reserved: int
    needed: int
    kind: Kind
    is_killed: bool = False


Answer = Grant | Shortfall


@attrs.define(eq=False, kw_only=True)
class Ticket:
    """A place in the line for money, handed out by `Ledger.park`.

    `answer` is None until a grant was made in the waiter's name, or a Shortfall says that waiting became useless.
    """

    hold_id: int
    answer: Answer | None = None


Sums = tuple[int, ...]
#: How exactly it is known when something began: to the second, or the span of UTC time it lies in.
Span = Literal["second", "quarter", "hour", "day", "month", "ever"]
#: How exactly it is asked when something began.
Grain = Literal["hour", "day", "ever"]


class Sum(NamedTuple):
    """What the rows of one place come to that began in one span of time.

    `starts_at` is in epoch seconds: where the span begins, 0 for "ever".  A `tally` asked by the hour or day of a zone may
    answer with an "hour" or "day" of that zone.  `place` is None where nothing is known of it any more.
    """

    span: Span
    starts_at: int
    place: Hashable
    sums: Sums


@attrs.frozen(kw_only=True)
class PlaceParts:
    """What places are made of, for stores that add up those that differ in other parts than are asked for.

    Attributes:
        of: A place of which only these parts are known, from a whole one and their names.
        make: The same, from names and values (None: it has no such part).
        path: Where in the text of a place, which is JSON, a part of that name is: a path such as `$[1]` or `$[4]."tenant"`;
            None where no path leads there.
    """

    of: Callable[[Hashable, Sequence[str]], Hashable]
    make: Callable[[Sequence[str], Sequence[str | None]], Hashable]
    path: Callable[[str], str | None]


@attrs.frozen(kw_only=True)
class RowForm:
    """What a ledger is told about rows that it never reads itself: how they are summed, and how they are written down.

    All are pure and quick, and run under the ledger's lock: they must not call it.

    Attributes:
        sum_of: What a row comes to, with span "second".
        id_of: The id of the call that a row is of, ASCII text that its `dump` holds as it is.
        coarser: A span, its start and a place, less exactly: in time first, then in place; the same where nothing is
            less exact.
        dump, load: A row, or a call in flight, as text, and back.  What comes back need not be of the same class.
        dump_place, load_place: A place as text, one text for each place, and back.
        presumed: The row of a call in flight that nobody ended, from the call and its grant: charged at its bound.
        parts: What places are made of, where they are made of parts.
    """

    sum_of: Callable[[Any], Sum]
    id_of: Callable[[Any], str]
    coarser: Callable[[Span, int, Hashable], tuple[Span, int, Hashable]]
    dump: Callable[[Any], str]
    load: Callable[[str], Any]
    dump_place: Callable[[Hashable], str]
    load_place: Callable[[str], Hashable]
    presumed: Callable[[Any, Grant], Any]
    parts: PlaceParts | None = None


@attrs.frozen
class Snapshot:
    """What a ledger knows at one instant: each call is in exactly one of the three.

    Attributes:
        rows: Of calls that ended, in the order they ended.
        in_flight: `(call, grant)` of every hold that is HELD, as given to and answered by `reserve`.
        totals: What rows became that are no longer kept one by one: sums per key, as the ledger's `fold` made them.
    """

    rows: list[Any]
    in_flight: list[tuple[Any, Grant]]
    totals: dict[Hashable, Sums]
