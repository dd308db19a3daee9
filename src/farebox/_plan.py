"""What enforcement keeps about a call while it is open, and how that is held in one ledger or in two."""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Generator
from typing import Any, Final

from farebox import _config
from farebox._call import Call, next_number
from farebox._frames import Frame, Speaker
from farebox._line import Line, Work
from farebox._loops import current_task
from farebox._needs import Site
from farebox.errors import LedgerLost, LedgerUnavailable
from farebox.ledgers import Account, Answer, Grant, Ledger, Need, with_slack
from farebox.prices import Rates

_NONE: Final[tuple[Account, ...]] = ()
_logger = logging.getLogger("farebox")
#: Chunks of a stream that hold no token: those that open and close it and its parts.
_CHUNKS_WITHOUT_TEXT: Final = 16


class _Thread(threading.local):
    """An object for each thread, made once: the number of a thread is used again when it is gone."""

    def __init__(self) -> None:
        self.identity = object()


this_thread: Final = _Thread()


def owner_of(call: Call) -> object:
    """The thread or the task that makes the call."""
    return (current_task() if call.is_async else None) or this_thread.identity


class _Negotiated:
    """What there is to know about a call that was not simply held with the cap it declares; see `Plan.is_ordinary`."""

    #: What such calls need, where the cap is ours to choose; None where it is not.
    site: Site | None = None
    #: Whether the cap that was granted is to be sent.
    sends_cap: bool = False
    #: The least cap worth sending, where `need` asks for more because a mode would rather change the call; else None.
    stump_cap: int | None = None
    #: Accounts that may be taken past their limit by this call.
    forced: tuple[Account, ...] = ()
    #: Accounts that this call may cross, one call at a time.
    crossing: tuple[Account, ...] = ()
    #: The budgets whose limit it has been let cross, and that will raise, and the one that raises where its cap cuts it.
    crossed: tuple[Speaker, ...] = ()
    cut_by: Speaker | None = None
    #: Where the ledger of its row holds nothing for it: the id under which it is told afterwards what it cost.  Not that of
    #: the hold, which was given back unseen, so that nothing more can happen under it.
    charge_id: int | None = None


class Plan(_Negotiated):
    """What enforcement keeps about a call while it is open.  Every call makes one: see `Call` for how it is written."""

    __slots__ = (
        "accounts",
        "books",
        "frame",
        "grant",
        "hold_id",
        "is_ordinary",
        "need",
        "owner",
        "rates",
        "scope_frame",
        "standing",
        "state",
    )

    #: What is held; None until then.
    grant: Grant | None

    def __init__(
        self,
        frame: Frame | None,
        scope_frame: Frame | None,
        state: _config.State,
        need: Need,
        rates: Rates | None,
        owner: object,
        hold_id: int,
    ) -> None:
        #: The frame of the call: that of the scopes around it, with the standing budgets that are about it.
        self.frame = frame
        #: The frame of the scopes around it.
        self.scope_frame = scope_frame
        #: What the process had been told when the call began.
        self.state = state
        self.need = need
        self.rates = rates
        #: The thread or task that makes the call.
        self.owner = owner
        #: The id of its holds.  Another one after they were given back: a ledger answers for an old one as it did then.
        self.hold_id = hold_id
        self.grant = None
        #: With the cap as declared, held at once in one ledger: nothing that `_Negotiated` names was decided.
        self.is_ordinary = False
        if frame is None:
            self.books, self.accounts, self.standing = state.ledger, _NONE, _NONE
        else:
            #: Where the accounts of scopes are kept; without one, the same as `journal`.
            self.books = frame.ledger or state.ledger
            self.accounts = frame.accounts
            self.standing = frame.standing_accounts

    @property
    def journal(self) -> Ledger:
        """Where the accounts of standing budgets are kept, and where the call's row goes."""
        return self.state.ledger

    @property
    def is_unheld(self) -> bool:
        return self.charge_id is not None

    @property
    def is_quick(self) -> bool:
        """Whether one ledger in memory has all accounts, and none has a window."""
        return self.journal is self.books and not self.standing and not self.books.blocking

    def reserve(self, call: Call) -> Answer:
        """Hold what `call` needs in every account in scope, or in none; where that `is_quick`."""
        answer = self.books.reserve(
            self.hold_id,
            self.accounts,
            self.need,
            owner=self.owner,
            call=call,
            forced=self.forced,
            crossing=self.crossing,
        )
        if type(answer) is Grant:
            self.admit(call, answer)
        return answer

    def hold(
        self, call: Call, granted: Grant | None = None, granted_by: Ledger | None = None
    ) -> Generator[Line | Work, Any, Answer]:
        """As `reserve`, in both ledgers: in scopes first, in memory, then in the ledger of the standing budgets.

        `granted` is what one of them has granted already, to one who waited for it.  What the second one has less of
        makes the cap lower; the first then holds a little more than is sent, until the call is settled.

        Raises:
            WindowClosed: a window has turned since the call was quoted; nothing is held.
            LedgerUnavailable: the ledger did not answer and `on_ledger_error` is "closed"; nothing is held.
        """
        if self.is_quick and granted is None:
            return self.reserve(call)
        need = self.need if granted is None else _at_most(self.need, granted.cap)
        for ledger, accounts in self._places():
            if ledger is granted_by:
                continue
            ask = functools.partial(
                ledger.reserve,
                self.hold_id,
                accounts,
                need,
                owner=self.owner,
                call=call,
                forced=self.forced,
                crossing=self.crossing,
            )
            try:
                if ledger.blocking:
                    answer: Answer = yield Work(ask, functools.partial(ledger.release_later, self.hold_id))
                else:
                    answer = ask()
            except LedgerUnavailable as error:
                try:
                    self.go_on_without(error)
                except LedgerUnavailable:
                    self.let_go()
                    raise
                self.charge_id = next_number()
                ledger.expect(self.charge_id)
                answer = granted or Grant(need.want_cap, *_amounts(need, need.want_cap))
            except BaseException:
                self.let_go()
                raise
            if type(answer) is not Grant:
                self.let_go()
                return answer
            granted = answer
            need = _at_most(need, answer.cap)
        assert granted is not None
        self.admit(call, granted)
        return granted

    def go_on_without(self, error: LedgerUnavailable) -> None:
        """Log that a ledger does not answer, where calls are sent all the same.

        Raises:
            LedgerUnavailable: `error`, where they are not; LedgerLost in any case, since nothing can be charged there later.
        """
        if self.state.on_ledger_error == "closed" or isinstance(error, LedgerLost):
            raise error
        _warn_open(error)

    def _places(self) -> tuple[tuple[Ledger, tuple[Account, ...]], ...]:
        if self.journal is self.books:
            return ((self.books, self.accounts + self.standing),)
        return (self.books, self.accounts), (self.journal, self.standing)

    def let_go(self) -> None:
        """Give back what is held; the next try is another hold."""
        for ledger, _ in self._places():
            ledger.release_later(self.hold_id)
        self.hold_id = next_number()

    def admit(self, call: Call, grant: Grant) -> None:
        """The call is paid for: say so on it, and which cap to send where it was ours to choose."""
        self.grant = grant
        call.plan = self
        call.bound_usd_nanos = grant.usd_nanos
        call.bound_tokens = grant.tokens
        if self.sends_cap and grant.cap != call.declared_cap:
            call.sent_cap = grant.cap
            if self.cut_by is not None:
                call.most_chunks = (with_slack(grant.cap) + _CHUNKS_WITHOUT_TEXT) * call.choices

    def charge_afterwards(self, call: Call) -> None:
        """Ask nobody: what is billed in any case is charged when it has ended, and past a limit is debt."""
        self.charge_id = next_number()
        self.journal.expect(self.charge_id)
        self.forced = self.accounts
        if self.journal is not self.books:
            self.reserve(call)
            return
        self.accounts, self.standing = _NONE, self.accounts + self.standing
        self.admit(call, Grant(self.need.want_cap, *_amounts(self.need, self.need.want_cap)))

    def settle_for_less(self) -> None:
        """No mode can change the call: rather a short answer than none."""
        assert self.stump_cap is not None
        self.need = self.need._replace(least_cap=self.stump_cap)
        self.stump_cap = None

    def give_up(self, call: Call) -> None:
        """The call will not be sent: nothing of it stays behind, wherever it was cut short."""
        if self.site is not None:
            self.site.open_calls.pop(call.number, None)
        for ledger, _ in self._places():
            ledger.release_later(self.hold_id)


def _at_most(need: Need, cap: int) -> Need:
    """The same with a cap of `cap` at most, and no more than that asked for."""
    return need._replace(
        least_cap=min(need.least_cap, cap), floor_cap=min(need.floor_cap, cap), want_cap=cap, most_cap=cap, share=0
    )


def _amounts(need: Need, cap: int) -> tuple[int, int, int]:
    return need.usd_nanos(cap), need.tokens(cap), need.calls


_has_warned_open = False


def _warn_open(error: LedgerUnavailable) -> None:
    global _has_warned_open
    if not _has_warned_open:
        _has_warned_open = True
        _logger.error('%s; on_ledger_error="open", so calls are sent and charged when it answers again', error)
