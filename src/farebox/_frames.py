"""What one entry of a scope holds: the budgets in force there, its tags, and what a budget has decided.

Frames are linked outwards and never change their links, so a context that was copied keeps the stack it had.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from farebox import _config, signals
from farebox._budget import Budget, Rung
from farebox._call import EMPTY_TAGS
from farebox._money import to_usd
from farebox.ledgers import NO_LIMIT, Account, Balance, Ledger, View
from farebox.on_exceed import DecisionEvent

_KEPT_DECISIONS: Final = 1_000

_account_keys = itertools.count(1)

#: Grows in a forked child, so that a frame knows that it was inherited.
generation = 0


def _next_generation() -> None:
    global generation
    generation += 1


os.register_at_fork(after_in_child=_next_generation)


class Speaker:
    """A budget with the account that speaks for it: that of one entry of a scope, or of one window of a standing budget.

    A mixin of methods; those who speak have these fields.
    """

    __slots__ = ()

    budget: Budget
    account: Account
    #: Where the account is kept.
    ledger: Ledger | None
    #: What messages say after the limit, such as " per day".
    period: str
    #: The values of the tags that its budget has an account for each of.
    tags: Mapping[str, str]
    #: Names of the budgets around and its own, outermost first.
    path: str
    #: When the limit starts again; None where it never does.
    resets_at: datetime | None
    #: What was warned about, so that it is said once: "passed", "cut".
    warned: set[str]
    #: The number of the "call" that was the last to be let cross the limit, as far as this process knows.
    crossing: dict[str, int]
    #: Rungs that spent has reached, by unit and share, and the highest of them that has a mode.
    entered_rungs: dict[tuple[str, float], object]
    noted: deque[DecisionEvent]

    def view(self) -> View:
        """Balance and limits in force, as this process knows them: it never asks a store."""
        raise NotImplementedError

    def fresh_view(self) -> View:
        """As `view`, asked of the store where there is one."""
        return self.view()

    @property
    def resets_in_seconds(self) -> float | None:
        """How long until its limit starts again, by its ledger's clock; None where it never does."""
        if self.resets_at is None or self.ledger is None:
            return None
        return self.resets_at.timestamp() - self.ledger.now_seconds()

    @property
    def rung(self) -> Rung | None:
        """The highest rung with a mode that spent has reached in some unit."""
        entered = {share for _, share in tuple(self.entered_rungs)}
        return next((rung for rung in reversed(self.budget.rungs) if rung.mode and rung.share in entered), None)

    def is_first_at(self, mark: str) -> bool:
        """Whether nobody who shares the account has reached `mark` before; of rungs, which are entered once."""
        return True

    def note(self, event: DecisionEvent) -> None:
        """Keep a decision of this account."""
        self.noted.append(event)


def new_notes() -> deque[DecisionEvent]:
    """Where decisions are kept: the newest thousand."""
    return deque(maxlen=_KEPT_DECISIONS)


class Frame:
    """One entry of a scope, with the numbers of the innermost budget around it.

    Attributes:
        parent: The frame around this one, or None.
        tags: Labels of this frame and all around it, inner ones win.  Read-only.
        path: Names of the budgets around, outermost first, joined by " > ".
    """

    __slots__ = (
        "__weakref__",
        "_outer_budgets",
        "accounts",
        "caps_output",
        "generation",
        "has_rungs",
        "is_left",
        "ledger",
        "origin",
        "output_cap",
        "parent",
        "path",
        "prefers_whole",
        "proves_input",
        "standing",
        "standing_accounts",
        "tags",
    )

    def __init__(self, origin: object, parent: Frame | None, tags: Mapping[str, str]) -> None:
        self.origin = origin
        self.parent = parent
        #: Whether the code that it covers has ended; what was started in it may go on.
        self.is_left = False
        if parent is None:
            self.generation = generation
            self._outer_budgets: tuple[Speaker, ...] = ()
            #: The ledger keys of all scope budgets around, innermost first: the order in which they speak.
            self.accounts: tuple[Account, ...] = ()
            #: Standing budgets of the scopes around, innermost first; which accounts they mean depends on the call.
            self.standing: tuple[Budget, ...] = ()
            #: The accounts they mean: in the frame of a single call.
            self.standing_accounts: tuple[Account, ...] = ()
            #: Where the accounts of this frame are kept; None while there are none.
            self.ledger: Ledger | None = None
            #: Whether a limit in usd or tokens is in force here, so that a call must have an output cap.
            self.caps_output = False
            #: Whether a budget around has rungs.
            self.has_rungs = False
            #: Whether a budget around wants input bounded by proof.
            self.proves_input = False
            #: Whether a budget around would rather see a call changed than sent with too low an output cap.
            self.prefers_whole = False
            #: The most output tokens per choice that the budgets around allow.
            self.output_cap = NO_LIMIT
            self.path = ""
            self.tags = tags
        else:
            self.generation = parent.generation
            self._outer_budgets = parent.budgets
            self.accounts, self.ledger, self.caps_output = parent.accounts, parent.ledger, parent.caps_output
            self.has_rungs, self.proves_input = parent.has_rungs, parent.proves_input
            self.output_cap, self.prefers_whole = parent.output_cap, parent.prefers_whole
            self.standing, self.standing_accounts = parent.standing, parent.standing_accounts
            self.path = parent.path
            self.tags = MappingProxyType({**parent.tags, **tags}) if tags else parent.tags

    def __repr__(self) -> str:
        if self._innermost() is None:
            return f"<frame {dict(self.tags)}>"
        return f"<frame {self.path!r} {dict(self.tags)} spent {self.spent_usd:f} USD, limit {self.limit_usd}>"

    @property
    def budgets(self) -> tuple[Speaker, ...]:
        """Who speaks for the budgets in force here, innermost first."""
        return self._outer_budgets

    @property
    def is_inherited(self) -> bool:
        """Whether a forked child got this frame from its parent process, whose money it can't share."""
        return self.generation != generation

    def _innermost(self) -> Speaker | None:
        """Who speaks for the innermost budget; None where there is none."""
        return None if self.parent is None else self.parent._innermost()

    def _view(self) -> View:
        """Balance and limits of the innermost budget, as they are now."""
        signals.settle_late_calls()
        speaker = self._innermost()
        if speaker is None:
            return View()
        return speaker.fresh_view()

    @property
    def balance(self) -> Balance:
        """All numbers of the innermost budget at one instant; zeros where there is none.

        Those of a standing budget are asked of its ledger, and are of the window of now.
        """
        return self._view().balance

    @property
    def spent_usd(self) -> Decimal:
        return to_usd(self.balance.spent_usd_nanos)

    @property
    def reserved_usd(self) -> Decimal:
        return to_usd(self.balance.reserved_usd_nanos)

    @property
    def remaining_usd(self) -> Decimal | None:
        """What this budget could still hold, 0 or more; an outer one may have less.  None without a usd limit."""
        view = self._view()
        limit, now = view.limit_usd_nanos, view.balance
        return None if limit == NO_LIMIT else to_usd(max(0, limit - now.spent_usd_nanos - now.reserved_usd_nanos))

    @property
    def limit_usd(self) -> Decimal | None:
        """The usd limit; None without one."""
        limit = self._view().limit_usd_nanos
        return None if limit == NO_LIMIT else to_usd(limit)

    @property
    def debt_usd(self) -> Decimal:
        """By how much charges went past what was held for them."""
        return to_usd(self.balance.debt_usd_nanos)

    @property
    def spent_tokens(self) -> int:
        return self.balance.spent_tokens

    @property
    def reserved_tokens(self) -> int:
        return self.balance.reserved_tokens

    @property
    def spent_calls(self) -> int:
        return self.balance.spent_calls

    @property
    def reserved_calls(self) -> int:
        return self.balance.reserved_calls

    @property
    def decisions(self) -> list[DecisionEvent]:
        """What the innermost budget decided, oldest first; the newest thousand are kept."""
        speaker = self._innermost()
        return [] if speaker is None else list(speaker.noted)

    def heed(self, budget: Budget, limits_size: bool) -> None:
        """Have the calls in this frame do as `budget` asks; `limits_size`: it has a limit in usd or tokens."""
        self.caps_output = self.caps_output or (limits_size and budget.mode.stops)
        self.has_rungs = self.has_rungs or bool(budget.rungs)
        self.proves_input = self.proves_input or budget.proves_input
        self.prefers_whole = self.prefers_whole or budget.mode.prefers_whole
        self.output_cap = min(self.output_cap, budget.output_cap)

    def around(self, inner: Frame | None) -> Frame:
        """The frame of a call in `inner` through a client that brings this one along, outermost."""
        if inner is None:
            return self
        both = Frame(inner.origin, inner, EMPTY_TAGS)
        if self.accounts and (self.is_inherited or not inner.accounts):
            both.generation = self.generation  # what holds no money may come from another process
        both._outer_budgets = inner.budgets + self.budgets
        both.accounts = inner.accounts + self.accounts
        both.ledger = inner.ledger or self.ledger
        both.caps_output = inner.caps_output or self.caps_output
        both.has_rungs = inner.has_rungs or self.has_rungs
        both.proves_input = inner.proves_input or self.proves_input
        both.prefers_whole = inner.prefers_whole or self.prefers_whole
        both.output_cap = min(inner.output_cap, self.output_cap)
        both.standing = inner.standing + self.standing
        both.path = " > ".join(path for path in (self.path, inner.path) if path)
        both.tags = MappingProxyType({**self.tags, **inner.tags})
        return both


class BudgetFrame(Frame, Speaker):
    """One entry of a budget: its own full limit, held against every outer frame as well.

    It goes on limiting what was started in it after it was left, and can be read for as long as it is kept.
    """

    __slots__ = ("account", "budget", "crossing", "entered_rungs", "noted", "warned")

    period = ""
    resets_at = None

    def __init__(self, origin: object, parent: Frame | None, budget: Budget) -> None:
        super().__init__(origin, parent, EMPTY_TAGS)
        if self.is_inherited:
            # The budgets around belong to the parent process; one opened here is this process's own, and the outermost.
            # Standing ones go on, as their ledger does.
            self.generation = generation
            self._outer_budgets, self.accounts, self.ledger, self.path, self.caps_output = (), (), None, "", False
            self.has_rungs, self.proves_input, self.prefers_whole, self.output_cap = False, False, False, NO_LIMIT
        self.budget = budget
        self.warned = set()
        self.crossing = {}
        self.entered_rungs = {}
        self.noted = new_notes()
        self.account = budget.account(("frame", next(_account_keys)))
        self.ledger = self.ledger or _config.state().scope_ledger
        self.accounts = (self.account, *self.accounts)
        self.heed(budget, budget.limits_size)
        self.path = f"{self.path} > {budget.name}" if self.path else budget.name

    def __del__(self) -> None:
        ledger = getattr(self, "ledger", None)
        if ledger is not None and hasattr(self, "account"):
            ledger.forget(self.account.key)

    @property
    def budgets(self) -> tuple[Speaker, ...]:
        # Not kept: a frame that referred to itself would wait for the garbage collector, and its account with it.
        return (self, *self._outer_budgets)

    def _innermost(self) -> Speaker:
        return self

    def view(self) -> View:
        assert self.ledger is not None
        budget = self.budget
        balance = self.ledger.balance(self.account)
        return View(balance, budget.limit_usd_nanos, budget.limit_tokens, budget.limit_calls)
