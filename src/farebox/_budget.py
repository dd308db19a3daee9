"""What a budget is: a name, limits and when they start again, a mode and what else it asks of calls.  Where it applies is
`_scope`, what it holds is a ledger's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final, get_args

import attrs

from farebox._budget_words import (
    CountLimit,
    EachMissing,
    InputBound,
    Limits,
    OnUnmetered,
    OnUnpriced,
    UsdLimit,
    check_mode,
    check_options,
    choice,
    is_finite,
    read_cap,
    read_each,
    read_limits,
    read_name,
    read_seconds,
    read_where,
    refuse_without_period,
)
from farebox._call import EMPTY_TAGS
from farebox._money import show_usd, to_usd
from farebox._windows import Period, read_zone
from farebox.errors import Unit
from farebox.ledgers import NO_LIMIT, Account
from farebox.on_exceed import Mode, OnExceed, Threshold, read_mode
from farebox.prices import RateCard

#: How long a call waits for calls in flight to settle, in seconds.
PATIENCE_SECONDS: Final = 30.0
#: Of rungs: what is compared with spent is worked out exactly, and must stay of a size to work with.
_SMALLEST_SHARE: Final = Decimal("1e-30")


@attrs.frozen(eq=False)
class Rung:
    """A share of the limit, and who is to speak or to be told once spent has reached it.

    `exact_share` is `share` as it was written: the float 0.1 is a little more than a tenth.
    """

    share: float
    exact_share: Decimal
    mode: Mode | None
    notify: Callable[[Threshold], Any] | None

    def threshold(self, limit: int) -> int | None:
        """What spent must reach under this limit, rounded up; None for `NO_LIMIT` and for a limit of 0."""
        if limit in (0, NO_LIMIT):
            return None
        # In whole numbers: the decimal context belongs to the program, and may round to three digits.
        numerator, denominator = self.exact_share.as_integer_ratio()
        return -(-limit * numerator // denominator)


@attrs.frozen
class Term:
    """The limits that start again with one period; `NO_LIMIT` in a unit that has none there."""

    period: Period
    limit_usd_nanos: int
    limit_tokens: int
    limit_calls: int


@attrs.frozen(kw_only=True, eq=False)
class Budget:
    """Limits and what to do about them.  `NO_LIMIT` where a unit has none; of several terms the smallest limit of each unit."""

    name: str
    limit_usd_nanos: int
    limit_tokens: int
    limit_calls: int
    mode: Mode
    patience_seconds: float
    #: The limits of each period, the shortest first; none for a scope budget, whose limits are each frame's own.
    terms: tuple[Term, ...] = ()
    #: The time zone that windows begin in.
    zone_name: str = "UTC"
    #: Tags with an account for each value, up to four; none: one account for all.
    each: tuple[str, ...] = ()
    #: What happens to a call without such a tag: refused as an error, or kept in an account that all such calls share.
    each_missing: EachMissing = "error"
    #: Which calls it is about, by tag or by model, provider and operation: exact text, or with a trailing `*`.
    where: Mapping[str, str] = EMPTY_TAGS
    #: At most so many output tokens per choice; `NO_LIMIT` where the budget does not say.
    output_cap: int = NO_LIMIT
    #: Whether input is bounded by proof instead of by estimate.
    proves_input: bool = False
    on_unpriced: OnUnpriced = "refuse"
    on_unmetered: OnUnmetered = "refuse"
    rungs: tuple[Rung, ...] = ()
    #: Whatever others keep about it for as long as it lives.
    kept: dict[str, object] = attrs.field(factory=dict, init=False, repr=False)

    @classmethod
    def of(
        cls,
        name: str | None,
        *,
        usd: UsdLimit | None = None,
        tokens: CountLimit | None = None,
        calls: CountLimit | None = None,
        per: Period | None = None,
        tz: str = "UTC",
        each: str | Sequence[str] | None = None,
        each_missing: EachMissing = "error",
        where: Mapping[str, str] | None = None,
        on_exceed: OnExceed = "block",
        patience: float = PATIENCE_SECONDS,
        output_cap: int | None = None,
        input_bound: InputBound = "estimate",
        on_unpriced: OnUnpriced = "refuse",
        on_unmetered: OnUnmetered = "refuse",
        at: Mapping[float, OnExceed | Callable[[Threshold], object]] | None = None,
        mode_options: Mapping[str, Any] | None = None,
    ) -> Budget:
        """Check every word of a budget when it is made.

        Raises:
            ValueError: an unknown option, no limit at all, a limit that is negative, not finite or not whole, an unknown
                period or zone, a period and no name, a word that needs a period and has none, tags or patterns that can't
                be told apart when a call starts, a mode that can do nothing about these limits, a rung outside 0 to 1 or
                out of order.
            TypeError: a word of the wrong type.
        """
        if name is not None and not isinstance(name, str):
            raise TypeError(
                f"name={name!r} is a {type(name).__name__}; a budget's name is a string: budget('search', usd=1)"
            )
        if mode_options:
            check_options(on_exceed, mode_options)
        written: dict[Unit, UsdLimit | CountLimit | None] = {"usd": usd, "tokens": tokens, "calls": calls}
        given = {unit: limit for unit, limit in written.items() if limit is not None}
        by_period = read_limits(given, per)
        terms = tuple(Term(period, *limits) for period, limits in by_period.items() if period is not None)
        if not terms:
            refuse_without_period(tz=tz, each=each, each_missing=each_missing, where=where)
        read_zone(tz)
        usd_nanos, whole_tokens, whole_calls = zip(*by_period.values(), strict=True)
        limits = (min(usd_nanos), min(whole_tokens), min(whole_calls))
        mode = read_mode(on_exceed, mode_options)
        check_mode("on_exceed", mode, limits)
        return cls(
            name=read_name(name, given, [term.period for term in terms]),
            limit_usd_nanos=limits[0],
            limit_tokens=limits[1],
            limit_calls=limits[2],
            mode=mode,
            patience_seconds=read_seconds("patience", patience),
            terms=terms,
            zone_name=tz,
            each=read_each(each, each_missing),
            each_missing=each_missing,
            where=read_where(where),
            output_cap=read_cap("output_cap", output_cap),
            proves_input=choice("input_bound", input_bound, get_args(InputBound)) == "bytes",
            on_unpriced=choice("on_unpriced", on_unpriced, get_args(OnUnpriced)),
            on_unmetered=choice("on_unmetered", on_unmetered, get_args(OnUnmetered)),
            rungs=_rungs(at, limits),
        )

    @property
    def is_standing(self) -> bool:
        """Whether its limits are not those of a scope but of a period."""
        return bool(self.terms)

    @property
    def limits_size(self) -> bool:
        """Whether it limits what calls use, and not only how many there are."""
        return self.limit_usd_nanos != NO_LIMIT or self.limit_tokens != NO_LIMIT

    @property
    def is_per_call(self) -> bool:
        """Whether its only period is the single call, so that no account of it outlives one."""
        return [term.period for term in self.terms] == ["call"]

    def check_modes(self, card: RateCard) -> None:
        """ValueError where a mode can do nothing at these prices, such as a downgrade that goes up."""
        for mode in (self.mode, *(rung.mode for rung in self.rungs)):
            if mode is not None:
                mode.check(card)

    def account(self, key: Any) -> Account:
        """The ledger key that one frame of this budget is kept under."""
        return Account(key, self.name, self.limit_usd_nanos, self.limit_tokens, self.limit_calls)


def in_unit(unit: Unit, amount: int) -> Decimal | int:
    """An amount of the ledger as people read it: Decimal USD, or whole tokens or calls."""
    return to_usd(amount) if unit == "usd" else amount


def show(unit: Unit, amount: int) -> str:
    """An amount of the ledger with its unit, for messages."""
    if unit == "usd":
        return f"{show_usd(amount)} USD"
    return f"{amount} {unit if amount != 1 else unit.removesuffix('s')}"


def _rungs(at: Mapping[float, OnExceed | Callable[[Threshold], object]] | None, limits: Limits) -> tuple[Rung, ...]:
    if at is None:
        return ()
    if not isinstance(at, Mapping):
        raise TypeError(
            f"at={at!r} is a {type(at).__name__}; pass shares of the limit: at={{0.8: notify, 0.9: 'downgrade'}}"
        )
    rungs: list[Rung] = []
    for share, action in at.items():
        if isinstance(share, bool) or not isinstance(share, (int, float, Decimal)):
            raise TypeError(
                f"at={{{share!r}: ...}} is a {type(share).__name__}; a rung is a share of the limit such as 0.8"
            )
        if not is_finite(share) or not 0 < share <= 1:
            raise ValueError(f"at={{{share}: ...}} is no rung; it is a share of the limit, above 0 and up to 1")
        exact_share = Decimal(str(share))
        if exact_share < _SMALLEST_SHARE:
            raise ValueError(f"at={{{share}: ...}} is no rung; the smallest share is {_SMALLEST_SHARE}")
        if rungs and exact_share <= rungs[-1].exact_share:
            raise ValueError(
                f"at={{{rungs[-1].share}: ..., {share}: ...}} is out of order; write the lowest rung first"
            )
        said = f"at={{{share}: ...}}"
        if inspect.iscoroutinefunction(action):
            raise TypeError(f"{said} is an async function, and nobody would await it; pass a plain one")
        mode = None if callable(action) and not isinstance(action, (Mode, type)) else read_mode(action, said=said)
        if mode is not None:
            check_mode(said, mode, limits)
            if not mode.at_rungs:
                raise ValueError(
                    f"{said}={mode.name!r} can do nothing below the limit; choose block, downgrade, truncate or warn, "
                    "or a callable to be told"
                )
        rungs.append(Rung(float(share), exact_share, mode, action if mode is None else None))  # type: ignore[arg-type]
    return tuple(rungs)
