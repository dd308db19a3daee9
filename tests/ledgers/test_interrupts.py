"""An exception after each bytecode at which the interpreter may deliver a signal, one by one, in every operation.

The storms hit the same places by chance; here none is left out.
"""

from __future__ import annotations

import dis
import sys
from collections.abc import Callable
from types import CodeType, FrameType
from typing import Any

import pytest

from farebox.ledgers import Control, Grant, Ticket
from farebox.ledgers.memory import MemoryLedger
from tests.ledgers.contract import account, fixed

#: The interpreter looks for signals when it enters a function, returns from a call or jumps back.
LOOKS_AFTER = ("RESUME", "CALL", "CALL_KW", "CALL_FUNCTION_EX", "JUMP_BACKWARD")
#: Since Python 3.13 before it jumps back: of a loop with a condition that is no more within the `try` around it.
LOOKS_BEFORE = ("JUMP_BACKWARD",)
#: The name by which the interpreter tells this file of bytecodes.
TOOL = 4


class Interrupt(BaseException):
    pass


def interrupted_at(moment: int, action: Callable[[], object]) -> bool:
    """Run `action` and raise at the `moment`-th place inside the ledger; False where there are fewer."""
    return (monitored if sys.version_info >= (3, 13) else traced)(moment, action)


def monitored(moment: int, action: Callable[[], object]) -> bool:
    """As `interrupted_at`, since Python 3.13: its traces tell of the bytecodes of a function from the second on only."""
    monitoring: Any = sys.monitoring
    last: dict[FrameType, str] = {}
    seen = 0

    def see(code: CodeType, offset: int) -> Any:
        nonlocal seen
        if "/farebox/ledgers/" not in code.co_filename.replace("\\", "/"):
            return monitoring.DISABLE
        frame = sys._getframe(1)
        before, last[frame] = last.get(frame, ""), dis.opname[code.co_code[offset]]
        if before in LOOKS_AFTER or last[frame] in LOOKS_BEFORE:
            seen += 1
            if seen == moment:
                raise Interrupt
        return None

    monitoring.use_tool_id(TOOL, "interrupts")
    try:
        monitoring.register_callback(TOOL, monitoring.events.INSTRUCTION, see)
        monitoring.set_events(TOOL, monitoring.events.INSTRUCTION)
        action()
    except Interrupt:
        return True
    finally:
        monitoring.set_events(TOOL, 0)
        monitoring.free_tool_id(TOOL)
    return False


def traced(moment: int, action: Callable[[], object]) -> bool:
    """As `interrupted_at`, until Python 3.12."""
    last: dict[FrameType, str] = {}
    seen = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal seen
        if "/farebox/ledgers/" not in frame.f_code.co_filename.replace("\\", "/"):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode":
            before = last.get(frame, "")
            last[frame] = dis.opname[frame.f_code.co_code[frame.f_lasti]]
            if before in LOOKS_AFTER:
                seen += 1
                if seen == moment:
                    raise Interrupt
        return trace

    outer = sys.gettrace()
    sys._getframe().f_trace_opcodes = True  # Python 3.12 has to know before it begins that bytecodes are asked for
    sys.settrace(trace)
    try:
        action()
    except Interrupt:
        return True
    finally:
        sys.settrace(outer)
    return False


class Scene:
    """A ledger in the middle of its work: 1 and 2 settled, 3 held, 4 expired, 5 parked behind 3, and one hold to come."""

    def __init__(self) -> None:
        self.now = 100.0
        self.ledger = MemoryLedger(keep_rows=2, fold=lambda row: (row[0] % 2, (1, row[1])), clock=lambda: self.now)
        self.trip, self.org = (
            account("trip", limit_usd_nanos=10_000, controls=("plan",)),
            account("org", limit_usd_nanos=10**9),
        )
        self.both = [self.trip, self.org]
        for hold_id in (1, 2):
            self.ledger.reserve(hold_id, self.both, fixed(50, 5))
            self.ledger.settle(hold_id, 40, 4, 1, (hold_id, 40))
        self.ledger.reserve(4, self.both, fixed(60), ttl_seconds=1)
        self.ledger.expire(102.0, row_of=lambda call, grant: (4, 60))
        self.ledger.reserve(3, self.both, fixed(9_000), owner="three", ttl_seconds=9)
        ticket = self.ledger.park(5, self.both, fixed(8_000), owner="five", wake=lambda: None)
        assert isinstance(ticket, Ticket)
        self.ticket = ticket

    def check(self) -> None:
        """The books balance as they are, and again when everything ended."""
        ledger = self.ledger
        adjusted = 7 if any(key[-1] == "by hand" for key in ledger._book.entries if isinstance(key, tuple)) else 0
        assert not ledger._lock.locked()
        for what in self.both:
            balance, held = ledger.balance(what), [grant for _, grant in ledger.in_flight()]
            assert balance.reserved_usd_nanos == sum(grant.usd_nanos for grant in held)
            assert balance.reserved_tokens == sum(grant.tokens for grant in held)
            assert balance.reserved_calls == len(held)
        ledger.release(3, (3, 0))
        if not self.ticket.left:
            assert ledger.still_hopeful(self.ticket)
            assert isinstance(self.ticket.answer, Grant) is not ledger.view(self.trip).is_killed
        for hold_id in range(10):
            ledger.release(hold_id, (hold_id, 0))
        snapshot = ledger.snapshot()
        assert snapshot.in_flight == []
        charged = sum(row[1] for row in snapshot.rows) + sum(sums[1] for sums in snapshot.totals.values())
        for what in self.both:
            assert ledger.balance(what).reserved_usd_nanos == 0
            assert ledger.balance(what).spent_usd_nanos == charged + adjusted
        assert not ledger._book.queues
        assert not ledger._book.line.tickets
        assert not ledger._book.held
        assert not ledger._wakes
        assert ledger._waking is None
        assert not ledger._later


ACTIONS: dict[str, Callable[[Scene], object]] = {
    "reserve": lambda s: s.ledger.reserve(6, s.both, fixed(10, 1)),
    "refuse": lambda s: s.ledger.reserve(6, s.both, fixed(2_000)),
    "extend": lambda s: s.ledger.extend(3, 100, 5),
    "settle, hand over and fold": lambda s: s.ledger.settle(3, 1_000, 5, 1, (3, 1_000)),
    "settle, hand over to two": lambda s: (
        s.ledger.park(6, s.both, fixed(900), owner="six", wake=lambda: None),
        s.ledger.settle(3, 0, 0, 1, (3, 0)),
    ),
    "release": lambda s: s.ledger.release(3, (3, 0)),
    "expire": lambda s: s.ledger.expire(102.0),
    "correct": lambda s: s.ledger.settle(4, 20, 0, 1, (4, 20)),
    "adjust": lambda s: s.ledger.adjust("by hand", s.both, 7, 0, 0),
    "charge": lambda s: s.ledger.charge(6, s.both, 30, 3, 1, (6, 30)),
    "adjust, leaving a row": lambda s: s.ledger.adjust("with a row", s.both, 7, 0, 0, (7, 7)),
    "control, hand over": lambda s: s.ledger.control("entry", "plan", Control(limit_usd_nanos=50_000)),
    "control, kill": lambda s: s.ledger.control("entry", "plan", Control(is_killed=True)),
    "top_up, hand over": lambda s: s.ledger.top_up("entry", s.trip, 50_000, 0, 0),
    "reserve by the limits in force": lambda s: (
        s.ledger.control("entry", "plan", Control(limit_usd_nanos=20_000)),
        s.ledger.reserve(6, s.both, fixed(10, 1)),
    ),
    "reserve in a window": lambda s: s.ledger.reserve(6, [*s.both, account("hour", ends_at=10**12)], fixed(10, 1)),
    "prune": lambda s: s.ledger.prune(1),
    "settle_later": lambda s: s.ledger.settle_later(3, 1_000, 5, 1, (3, 1_000)),
    "release_later": lambda s: s.ledger.release_later(3, (3, 0)),
    "forget": lambda s: (s.ledger.forget("key of nobody"), s.ledger.snapshot()),
    "add_row": lambda s: s.ledger.add_row((8, 0)),
    "park": lambda s: s.ledger.park(6, s.both, fixed(2_000), owner="six", wake=lambda: None),
    "unpark": lambda s: s.ledger.unpark(s.ticket),
    "still_hopeful": lambda s: s.ledger.still_hopeful(s.ticket),
    "snapshot": lambda s: s.ledger.snapshot(),
}


@pytest.mark.parametrize("action", ACTIONS.values(), ids=list(ACTIONS))
def test_a_signal_at_any_place_of_an_operation_leaves_the_books_right(action: Callable[[Scene], object]) -> None:
    moment = 1
    while True:
        scene = Scene()
        interrupted = interrupted_at(moment, lambda: action(scene))  # noqa: B023
        scene.check()
        if not interrupted:
            break
        moment += 1
    assert moment > 3


def test_a_signal_while_doing_what_finalizers_left_loses_none_of_it() -> None:
    moment = 1
    while True:
        scene = Scene()
        scene.ledger._later.append((3, 8_000, 0, 1, (3, 8_000), "settled"))
        interrupted = interrupted_at(moment, lambda: scene.ledger.balance(scene.trip))  # noqa: B023
        assert scene.ledger.balance(scene.trip).spent_usd_nanos == 8_140
        assert scene.ledger.settle(3, 0, 0) is False
        if not interrupted:
            break
        moment += 1
    assert moment > 20


def test_a_signal_while_resetting_takes_away_all_or_nothing() -> None:
    moment = 1
    while True:
        scene = Scene()
        before = scene.ledger.balance(scene.trip)
        interrupted = interrupted_at(moment, lambda: scene.ledger.reset("entry", scene.trip))  # noqa: B023
        after = scene.ledger.balance(scene.trip)
        is_known = not scene.ledger.reset("entry", scene.trip)
        assert after.spent_usd_nanos == (0 if is_known else before.spent_usd_nanos)
        assert after.reserved_usd_nanos == before.reserved_usd_nanos
        if not interrupted:
            break
        moment += 1
    assert moment > 3
