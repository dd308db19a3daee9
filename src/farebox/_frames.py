"""What one entry of a scope holds: the budgets in force there, its tags, and what a budget has decided.

Frames are linked outwards and never change their links, so a context that was copied keeps the stack it had.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final

from farebox import _config, signals
from farebox._budget import Budget, Rung
from farebox._call import EMPTY_TAGS
from farebox._money import to_usd
from farebox.ledgers import NO_LIMIT, Account, Balance, Ledger
from farebox.on_exceed import DecisionEvent

_KEPT_DECISIONS: Final = 1_000

_account_keys = itertools.count(1)

#: Grows in a forked child, so that a frame knows that it was inherited.
_generation = 0


def _next_generation() -> None:
    global _generation
    _generation += 1


os.register_at_fork(after_in_child=_next_generation)


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
        "tags",
    )

    def __init__(self, origin: object, parent: Frame | None, tags: Mapping[str, str]) -> None:
        self.origin = origin
        self.parent = parent
        #: Whether the code that it covers has ended; what was started in it may go on.
        self.is_left = False
        if parent is None:
            self.generation = _generation
            self._outer_budgets: tuple[BudgetFrame, ...] = ()
            #: The ledger keys of all budgets around, innermost first: the order in which they speak.
            self.accounts: tuple[Account, ...] = ()
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
            self.path = parent.path
            self.tags = MappingProxyType({**parent.tags, **tags}) if tags else parent.tags

    def __repr__(self) -> str:
        if not self.budgets:
            return f"<frame {dict(self.tags)}>"
        return f"<frame {self.path!r} {dict(self.tags)} spent {self.spent_usd:f} USD, limit {self.limit_usd}>"

    @property
    def budgets(self) -> tuple[BudgetFrame, ...]:
        """The budget frames in force here, innermost first."""
        return self._outer_budgets

    @property
    def is_inherited(self) -> bool:
        """Whether a forked child got this frame from its parent process, whose money it can't share."""
        return self.generation != _generation

    @property
    def balance(self) -> Balance:
        """All numbers of the innermost budget at one instant; zeros where there is none."""
        signals.settle_late_calls()
        if not self.budgets or self.ledger is None:
            return Balance()
        return self.ledger.balance(self.budgets[0].account)

    @property
    def spent_usd(self) -> Decimal:
        return to_usd(self.balance.spent_usd_nanos)

    @property
    def reserved_usd(self) -> Decimal:
        return to_usd(self.balance.reserved_usd_nanos)

    @property
    def remaining_usd(self) -> Decimal | None:
        """What this budget could still hold, 0 or more; an outer one may have less.  None without a usd limit."""
        limit = self.budgets[0].budget.limit_usd_nanos if self.budgets else NO_LIMIT
        now = self.balance
        return None if limit == NO_LIMIT else to_usd(max(0, limit - now.spent_usd_nanos - now.reserved_usd_nanos))

    @property
    def limit_usd(self) -> Decimal | None:
        """The usd limit; None without one."""
        limit = self.budgets[0].budget.limit_usd_nanos if self.budgets else NO_LIMIT
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
        return list(self.budgets[0].noted) if self.budgets else []

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
        both.path = " > ".join(path for path in (self.path, inner.path) if path)
        both.tags = MappingProxyType({**self.tags, **inner.tags})
        return both


class BudgetFrame(Frame):
    """One entry of a budget: its own full limit, held against every outer frame as well.

    It goes on limiting what was started in it after it was left, and can be read for as long as it is kept.
    """

    __slots__ = ("account", "budget", "crossing", "entered_rungs", "has_warned", "has_warned_cut", "noted")

    def __init__(self, origin: object, parent: Frame | None, budget: Budget) -> None:
        super().__init__(origin, parent, EMPTY_TAGS)
        if self.is_inherited:
            # The budgets around belong to the parent process; one opened here is this process's own, and the outermost.
            self.generation = _generation
            self._outer_budgets, self.accounts, self.ledger, self.path, self.caps_output = (), (), None, "", False
            self.has_rungs, self.proves_input, self.prefers_whole, self.output_cap = False, False, False, NO_LIMIT
        self.budget = budget
        self.has_warned = False
        self.has_warned_cut = False
        #: The number of the call that was let cross the limit and is under way: a dict, whose `setdefault` is atomic.
        self.crossing: dict[str, int] = {}
        #: Rungs that spent has reached, by unit and share, and the highest of them that has a mode.
        self.entered_rungs: dict[tuple[str, float], object] = {}
        self.noted: deque[DecisionEvent] = deque(maxlen=_KEPT_DECISIONS)
        self.account = budget.account(("frame", next(_account_keys)))
        self.ledger = self.ledger or _config.state().scope_ledger
        self.accounts = (self.account, *self.accounts)
        has_limit = budget.limit_usd_nanos != NO_LIMIT or budget.limit_tokens != NO_LIMIT
        self.caps_output = self.caps_output or (has_limit and budget.mode.stops)
        self.has_rungs = self.has_rungs or bool(budget.rungs)
        self.proves_input = self.proves_input or budget.proves_input
        self.prefers_whole = self.prefers_whole or budget.mode.prefers_whole
        self.output_cap = min(self.output_cap, budget.output_cap)
        self.path = f"{self.path} > {budget.name}" if self.path else budget.name

    def __del__(self) -> None:
        ledger = getattr(self, "ledger", None)
        if ledger is not None and hasattr(self, "account"):
            ledger.forget(self.account.key)

    @property
    def budgets(self) -> tuple[BudgetFrame, ...]:
        # Not kept: a frame that referred to itself would wait for the garbage collector, and its account with it.
        return (self, *self._outer_budgets)

    @property
    def rung(self) -> Rung | None:
        """The highest rung with a mode that spent has reached in some unit."""
        entered = {share for _, share in tuple(self.entered_rungs)}
        return next((rung for rung in reversed(self.budget.rungs) if rung.mode and rung.share in entered), None)

    def note(self, event: DecisionEvent) -> None:
        """Keep a decision of this frame."""
        self.noted.append(event)
