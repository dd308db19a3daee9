"""Standing budgets: which accounts a call is held against beyond those of its scopes.

A standing budget has an account for each of its periods, for each value of its tags, in each window.  They live in the
ledger of the process, under the keys of `_keys`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import attrs

from farebox import _config
from farebox._budget import Budget, Term
from farebox._call import EMPTY_TAGS, Call
from farebox._frames import BudgetFrame, Frame, Speaker, new_notes
from farebox._keys import account_key, account_stem, control_keys
from farebox._windows import Period, WindowFinder, read_zone
from farebox.errors import MissingTag
from farebox.ledgers import NO_LIMIT, Account, Ledger, View
from farebox.prices._names import provider_id

#: Choices of tags, and accounts, that this process remembers something about; the oldest are forgotten first.
_MOST_KEPT: Final = 10_000


class Notes:
    """What this process remembers of one account, whichever of the budgets that share it is asked."""

    __slots__ = ("crossing", "entered_rungs", "noted", "warned")

    def __init__(self) -> None:
        self.crossing: dict[str, int] = {}
        self.entered_rungs: dict[tuple[str, float], object] = {}
        self.noted = new_notes()
        self.warned: set[str] = set()


class StandingAccount(Speaker):
    """One account of a standing budget, in one window: who speaks where it is short."""

    __slots__ = (
        "account",
        "budget",
        "crossing",
        "entered_rungs",
        "ledger",
        "noted",
        "path",
        "period",
        "resets_at",
        "tags",
        "warned",
    )

    ledger: Ledger

    def __init__(
        self, budget: Budget, period: Period, account: Account, ledger: Ledger, tags: Mapping[str, str], notes: Notes
    ) -> None:
        self.budget = budget
        self.account = account
        self.ledger = ledger
        self.tags = tags
        of = ", ".join(f"{name} {value!r}" for name, value in tags.items())
        self.period = (f" per {period}" if period != "ever" else " ever") + (f" for {of}" if of else "")
        self.path = budget.name
        self.resets_at = None if account.ends_at is None else datetime.fromtimestamp(account.ends_at, UTC)
        self.warned = notes.warned
        self.crossing = notes.crossing
        self.entered_rungs = notes.entered_rungs
        self.noted = notes.noted

    def view(self) -> View:
        account = self.account
        seen = self.ledger.last_view(account)
        return seen or View(
            limit_usd_nanos=account.limit_usd_nanos,
            limit_tokens=account.limit_tokens,
            limit_calls=account.limit_calls,
        )

    def fresh_view(self) -> View:
        return self.ledger.view(self.account)

    def is_first_at(self, mark: str) -> bool:
        return self.ledger.adjust(f"{self.account.key} {mark}", (), 0, 0, 0)


class OneCall(BudgetFrame):
    """A limit of one call alone: an account that is gone with it."""

    __slots__ = ()

    period = " per call"


class StandingFrame(Frame):
    """One entry of a standing budget: what the calls inside are held against is shared with everybody who has its name.

    Its numbers are those of the tags that are in force here.
    """

    __slots__ = ("budget",)

    def __init__(self, origin: object, parent: Frame | None, budget: Budget) -> None:
        super().__init__(origin, parent, EMPTY_TAGS)
        _config.check_ledger(budget, _config.state())
        self.budget = budget
        self.standing = (budget, *self.standing)
        self.path = f"{self.path} > {budget.name}" if self.path else budget.name

    def _innermost(self) -> Speaker | None:
        """Its account of the shortest period."""
        state = _config.state()
        tags = {**state.tags, **self.tags}
        return next(_accounts_of(self.budget, tags, state), None)


def join(frame: Frame | None, call: Call, state: _config.State) -> Frame:
    """The frame of one call: the scopes around it, and the accounts of the standing budgets that are about it.

    Raises:
        MissingTag: a budget keeps an account for each value of a tag that the call has not.
    """
    joined = Frame(None, frame, EMPTY_TAGS)
    budgets = state.standing if frame is None else (*frame.standing, *state.standing)
    speakers: list[Speaker] = []
    for budget in dict.fromkeys(budgets):
        if budget.where and not covers(budget.where, call):
            continue
        for term in budget.terms:
            if term.period == "call":
                own = OneCall(None, None, _for_one_call(budget, term))
                speakers.append(own)
                joined.accounts = (*joined.accounts, own.account)
                joined.ledger = joined.ledger or state.scope_ledger
        for speaker in _accounts_of(budget, call.tags, state):
            speakers.append(speaker)
            joined.standing_accounts = (*joined.standing_accounts, speaker.account)
        joined.heed(budget, budget.limit_usd_nanos != NO_LIMIT or budget.limit_tokens != NO_LIMIT)
    call.accounts = tuple([account.key for account in joined.standing_accounts])
    joined._outer_budgets = (*joined._outer_budgets, *speakers)
    return joined


def covers(where: Mapping[str, str], call: Call) -> bool:
    """Whether a budget is about `call`: every tag or dimension it names is as it says, up to a trailing `*`.

    A provider goes by OpenTelemetry's name or by the price list's: "gcp.gemini" and "google", "aws.bedrock" and "aws".
    """
    for name, pattern in where.items():
        if name == "model":
            value: str | None = call.model
        elif name == "provider":
            value = call.provider_name
        elif name == "operation":
            value = call.operation_name
        else:
            value = call.tags.get(name)
        if value is None:
            return False
        if not _fits(value, pattern) and not (name == "provider" and _fits(provider_id(value), pattern)):
            return False
    return True


def _fits(value: str, pattern: str) -> bool:
    return value.startswith(pattern[:-1]) if pattern.endswith("*") else value == pattern


def terms_at(budget: Budget, tags: Mapping[str, str], state: _config.State) -> list[Account]:
    """The accounts of a budget with these tags, in the windows of now."""
    return [speaker.account for speaker in _accounts_of(budget, tags, state)]


def scope_of(frame: Frame | None, speaker: Speaker) -> Frame | None:
    """The scope to end where `speaker` ends it quietly: the innermost one of its budget that was not left; or None."""
    while frame is not None:
        is_its_own = frame is speaker if isinstance(frame, BudgetFrame) else isinstance(frame, StandingFrame)
        if is_its_own and getattr(frame, "budget", None) is speaker.budget:
            return None if frame.is_left else frame
        frame = frame.parent
    return None


# ── the accounts of a budget ─────────────────────────────────────────────────────────────────────────────────────


class _Line:
    """The accounts of one period of a budget for one choice of tags, one after the other."""

    def __init__(
        self, budget: Budget, term: Term, finder: WindowFinder, state: _config.State, tags: Mapping[str, str]
    ) -> None:
        self._budget = budget
        self._term = term
        self._finder = finder
        self._ledger = state.ledger
        self._notes = state.standing_notes
        self._tags = tags
        self._stem = account_stem(budget.name, term.period, budget.zone_name, tags)
        self._controls = control_keys(budget.name, term.period, tags)
        self._starts_at = -1
        self._speaker: StandingAccount | None = None

    def at(self, seconds: float) -> StandingAccount:
        window = self._finder.at(seconds)
        speaker = self._speaker
        if speaker is None or window.starts_at != self._starts_at:
            term = self._term
            account = Account(
                account_key(self._stem, window.starts_at),
                self._budget.name,
                term.limit_usd_nanos,
                term.limit_tokens,
                term.limit_calls,
                None if window.ends_at is None else window.starts_at,
                window.ends_at,
                self._controls,
            )
            notes = self._notes.setdefault(account.key, Notes())
            _keep_most(self._notes)
            speaker = StandingAccount(self._budget, term.period, account, self._ledger, self._tags, notes)
            self._speaker, self._starts_at = speaker, window.starts_at
        return speaker


class _Lines:
    """The accounts of one budget in one ledger, by the values of its tags."""

    def __init__(self, budget: Budget, state: _config.State) -> None:
        self.notes = state.standing_notes
        self._budget = budget
        zone = read_zone(budget.zone_name)
        self._terms = [(term, WindowFinder(term.period, zone)) for term in budget.terms if term.period != "call"]
        self._by_values: dict[tuple[str, ...], tuple[_Line, ...]] = {}

    def of(self, values: tuple[str, ...], state: _config.State) -> tuple[_Line, ...]:
        found = self._by_values.get(values)
        if found is None:
            tags = dict(zip(self._budget.each, values, strict=True))
            found = tuple(_Line(self._budget, term, finder, state, tags) for term, finder in self._terms)
            self._by_values[values] = found
            _keep_most(self._by_values)
        return found


def _keep_most(kept: dict[Any, Any]) -> None:
    while len(kept) > _MOST_KEPT:
        kept.pop(next(iter(kept)), None)


def _accounts_of(budget: Budget, tags: Mapping[str, str], state: _config.State) -> Iterator[StandingAccount]:
    """Its accounts of now, the shortest period first.

    Raises:
        MissingTag: there is no such tag, and the budget does not share an account among those without.
    """
    for name in budget.each:
        if name not in tags and budget.each_missing == "error":
            raise MissingTag(
                f"budget {budget.name!r} has an account for each {name}, and this call has no tag {name!r}; write "
                f'with track({name}=...): ..., or budget({budget.name!r}, each_missing="shared")',
                budget=budget.name,
                tag=name,
            )
    values = tuple(tags.get(name, "") for name in budget.each)
    lines = budget.kept.get("lines")
    if not isinstance(lines, _Lines) or lines.notes is not state.standing_notes:
        lines = budget.kept["lines"] = _Lines(budget, state)  # of another ledger, before
    now = state.ledger.now_seconds()
    for line in lines.of(values, state):
        yield line.at(now)


def _for_one_call(budget: Budget, term: Term) -> Budget:
    made = budget.kept.get("one call")
    if isinstance(made, Budget):
        return made
    made = budget.kept["one call"] = attrs.evolve(
        budget,
        limit_usd_nanos=term.limit_usd_nanos,
        limit_tokens=term.limit_tokens,
        limit_calls=term.limit_calls,
        terms=(),
        rungs=(),
    )
    return made
