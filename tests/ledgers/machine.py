"""A state machine that does the same to a ledger and to a model of a hundred lines, and compares all they know.

Invariants are those of the contract: the model never asks the ledger anything.  A backend's test makes a subclass with
`make_ledger` and hands it to `run_state_machine_as_test`.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import hypothesis.strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from farebox.ledgers import NO_LIMIT, Account, Control, Grant, Ledger, Need, Shortfall
from tests.ledgers.forms import FORM, Row

ACCOUNTS = (
    Account("usd", "usd", limit_usd_nanos=300, controls=("all", "some")),
    Account("both", "both", limit_usd_nanos=450, limit_tokens=250, controls=("some", "all")),
    Account("calls", "calls", limit_calls=4, controls=("all",)),
)
OWN_LIMITS = {a.key: (a.limit_usd_nanos, a.limit_tokens, a.limit_calls) for a in ACCOUNTS}
CONTROLS = {a.key: a.controls for a in ACCOUNTS}
TTL = 10.0
#: When calls begin, and where they belong: the same for all.
BEGAN_AT, PLACE = 1_000, "search"
CALL: Row = (BEGAN_AT, PLACE, 0)


class Hold(NamedTuple):
    state: str
    keys: tuple[str, ...]
    forced: tuple[str, ...]
    bound: tuple[int, int, int]
    charge: tuple[int, int, int]
    deadline: float | None


class Model:
    """Holds in a dict; what is reserved is summed anew each time, what is spent and owed is kept per key and unit.

    So are top-ups.  `said` is (limits, killed) by the key of a control.  `excused` are accounts whose limit was lowered, or
    which were reset: they may hold more than their limit and debt allow.  `limited` are those of which the ledger was told a limit.
    """

    def __init__(self) -> None:
        self.holds: dict[int, Hold] = {}
        self.spent: dict[str, list[int]] = {}
        self.debt: dict[str, list[int]] = {}
        self.let_past: dict[int, dict[str, list[int]]] = {}
        self.forgotten: set[str] = set()
        self.said: dict[str, tuple[list[int | None], bool | None]] = {}
        self.on_top: dict[str, list[int]] = {}
        self.excused: set[str] = set()
        self.limited: set[str] = set()
        #: Who has changed what calls cost after their end: "hand" or "late".  All calls have the same id.
        self.turns: list[str] = []
        #: The holds that answers of these names are for.
        self.names: dict[str, int] = {}

    def noted(self, name: str) -> int | None:
        """The hold that is known by this name."""
        hold_id = self.names.get(name, 0)
        return hold_id if hold_id in self.holds and self.holds[hold_id].state in ("held", "expired") else None

    def limits(self, key: str) -> list[int]:
        limits = list(OWN_LIMITS[key])
        for said, _ in (self.said[control] for control in CONTROLS[key] if control in self.said):
            limits = [own if limit is None else limit for own, limit in zip(limits, said, strict=True)]
        return [min(NO_LIMIT, a + b) for a, b in zip(limits, self.on_top.get(key, [0] * 3), strict=True)]

    def is_killed(self, keys: Any) -> bool:
        return any(self.said[control][1] for key in keys for control in CONTROLS[key] if control in self.said)

    def say(self, control: str, limits: list[int | None], killed: bool | None) -> None:
        before = {key: self.limits(key) for key in OWN_LIMITS}
        known, was_killed = self.said.get(control, ([None] * 3, None))
        limits = [old if new is None else new for old, new in zip(known, limits, strict=True)]
        self.said[control] = limits, was_killed if killed is None else killed
        self.excused |= {k for k in before if any(n < b for n, b in zip(self.limits(k), before[k], strict=True))}

    def spend(self, key: str, amounts: Any) -> None:
        """Without a hold: what it takes past the limit is debt."""
        used = self.used(key)
        self.charge(key, amounts)
        self.limited.add(key)
        for u, more in enumerate(amounts):
            self.debt[key][u] += max(0, min(more, used[u] + more - self.limits(key)[u]))

    def top_up(self, key: str, amounts: Any) -> None:
        self.charge(key, (0, 0, 0))
        self.on_top[key] = [a + b for a, b in zip(self.on_top.get(key, [0] * 3), amounts, strict=True)]

    def reset(self, key: str) -> None:
        self.spent[key], self.debt[key] = [0] * 3, [0] * 3
        self.excused.add(key)

    def reserved(self, key: str) -> list[int]:
        return [sum(h.bound[u] for h in self.holds.values() if h.state == "held" and key in h.keys) for u in range(3)]

    def used(self, key: str) -> list[int]:
        return [s + r for s, r in zip(self.spent.get(key, [0] * 3), self.reserved(key), strict=True)]

    def kind(self, keys: Any, least: Any, floor: Any, own: Any = (0, 0, 0), crossing: Any = ()) -> str:
        kinds = ["granted"]
        for key in keys:
            if key in crossing:
                if self.kind((key,), least, floor) != "granted":
                    limits, spent = self.limits(key), self.spent.get(key, [0] * 3)
                    if any(s >= limit for s, limit in zip(spent, limits, strict=True)):
                        return "exhausted"
                    is_past = any(used > limit for used, limit in zip(self.used(key), limits, strict=True))
                    kinds.append("contended" if is_past else kinds[-1])
                continue
            for u, limit in enumerate(self.limits(key)):
                spent, reserved = self.spent.get(key, [0] * 3)[u], self.reserved(key)[u]
                if own[u] + least[u] > limit:
                    return "oversized"
                if spent + own[u] + least[u] > limit:
                    return "exhausted"
                if spent + reserved + (floor if reserved else least)[u] > limit:
                    kinds.append("contended")
        return kinds[-1]

    def hold(self, hold_id: int, keys: Any, forced: Any, bound: Any, deadline: float | None) -> None:
        for key in keys:
            self.charge(key, (0, 0, 0))
            self.limited.add(key)
            for u in range(3):
                over = self.used(key)[u] + bound[u] - self.limits(key)[u]
                past = min(bound[u], max(0, over)) if key in forced else 0
                self.debt[key][u] += past
                self.let_past.setdefault(hold_id, {}).setdefault(key, [0, 0, 0])[u] += past
        self.holds[hold_id] = Hold("held", keys, forced, bound, (0, 0, 0), deadline)

    def charge(self, key: str, amounts: Any) -> None:
        spent = self.spent.setdefault(key, [0, 0, 0])
        self.spent[key] = [max(0, s + a) for s, a in zip(spent, amounts, strict=True)]
        self.debt.setdefault(key, [0, 0, 0])

    def end(self, hold_id: int, state: str, amounts: tuple[int, int, int]) -> bool:
        hold = self.holds.get(hold_id)
        if hold is None or hold.state not in ("held", "expired") or state == hold.state:
            return False
        if hold.state == "expired":
            changes = [a - b for a, b in zip(amounts, hold.bound, strict=True)]
            if "hand" in self.turns and (min(changes) < 0 or max(changes) == 0):
                self.holds[hold_id] = hold._replace(state=state)
                return True
            self.turns.append("late")
        for key in hold.keys:
            if hold.state == "expired" and key not in self.spent:
                continue  # forgotten meanwhile
            self.charge(key, [a - c for a, c in zip(amounts, hold.charge, strict=True)])
            self.debt[key] = [d + max(0, a - b) for d, a, b in zip(self.debt[key], amounts, hold.bound, strict=True)]
        self.holds[hold_id] = hold._replace(state=state, charge=amounts)
        for key, past in self.let_past.pop(hold_id, {}).items():
            unused = [max(0, min(p, b - a)) for p, b, a in zip(past, hold.bound, amounts, strict=True)]
            self.debt[key] = [max(0, d - u) for d, u in zip(self.debt[key], unused, strict=True)]
        for key in list(self.forgotten):
            self.forget(key)
        return True

    def forget(self, key: str) -> None:
        self.forgotten.add(key)
        if not any(h.state == "held" and key in h.keys for h in self.holds.values()):
            self.forgotten.discard(key)
            for known in (self.spent, self.debt, self.on_top):
                known.pop(key, None)
            self.excused.discard(key)
            self.limited.discard(key)


def slack(cap: int) -> int:
    return max(16, (cap + 99) // 100)


def best_cap(model: Model, keys: Any, need: Need) -> int:
    """The cap that `Need` promises, found by trying them all from above."""

    usd_left = min([NO_LIMIT, *(model.limits(key)[0] - model.used(key)[0] for key in keys)])
    tokens_left = min([NO_LIMIT, *(model.limits(key)[1] - model.used(key)[1] for key in keys)])

    def fits(tokens: int) -> bool:
        usd, total = need.usd_nanos_per_token * tokens, need.tokens_per_token * tokens
        return need.fixed_usd_nanos + usd <= usd_left and need.fixed_tokens + total <= tokens_left

    # enough for four times the largest cap
    buys = next((tokens for tokens in range(1_500, -1, -1) if fits(tokens)), -1)
    shared = next((cap for cap in range(buys, -1, -1) if need.share and cap + slack(cap) <= buys // need.share), 0)
    wanted = min(max(need.want_cap, shared), need.most_cap)
    return next(cap for cap in range(wanted, -1, -1) if fits(cap + slack(cap)))


some_accounts = st.lists(st.sampled_from(ACCOUNTS), unique_by=lambda a: a.key, max_size=3).map(tuple)
amount = st.integers(0, 120)
pick = st.integers(0, 30)
some_limit = st.none() | st.integers(0, 500)


class LedgerMachine(RuleBasedStateMachine):
    """Subclasses say what ledger: empty, made with `FORM`; it reads `self.time` as its clock."""

    time: float = 0.0
    #: Whether it knows holds by the names of their answers.
    keeps_notes: ClassVar[bool] = True

    def make_ledger(self) -> Ledger:
        raise NotImplementedError

    @initialize()
    def start(self) -> None:
        self.time = 1_000.0
        self.model = Model()
        self.ledger = self.make_ledger()
        self.ids = 0
        #: Holds that ended under another id: what their own one is answered then is not said.
        self.collected: set[int] = set()

    def some_hold(self, nth: int) -> int:
        """One of the latest holds, or an id nobody used."""
        return max(0, self.ids - nth)

    def compare(self, hold_id: int, answer: Any, expected: str, keys: Any, forced: Any, bound: Any, ttl: Any) -> None:
        if expected == "granted":
            assert isinstance(answer, Grant)
            assert answer[1:] == bound
            self.model.hold(hold_id, keys, forced, bound, None if ttl is None else self.time + ttl)
        else:
            assert isinstance(answer, Shortfall)
            assert (answer.kind, answer.is_killed) == (
                ("exhausted", True) if expected == "killed" else (expected, False)
            )

    @rule(
        accounts=some_accounts, usd=amount, tokens=amount, calls=st.integers(0, 2), data=st.data(), dies=st.booleans()
    )
    def reserve(self, accounts: Any, usd: int, tokens: int, calls: int, data: Any, dies: bool) -> None:
        may = {a: data.draw(st.sampled_from(["", "", "pass", "cross"])) for a in accounts}
        forced, crossing = (tuple(a for a in accounts if may[a] == word) for word in ("pass", "cross"))
        keys, free = tuple(a.key for a in accounts), tuple(a.key for a in accounts if a not in forced)
        need = Need(fixed_usd_nanos=usd, fixed_tokens=tokens, tokens_per_token=0, calls=calls)
        bound, ttl = (usd, tokens, calls), TTL if dies else None
        let_cross = tuple(a.key for a in crossing)
        kind = self.model.kind(free, bound, bound, crossing=let_cross)
        how: dict[str, Any] = {"call": CALL, "forced": forced, "ttl_seconds": ttl, "crossing": crossing}
        self.ids += 1
        answer = self.ledger.reserve(self.ids, accounts, need, **how)
        let = tuple(a.key for a in forced) + let_cross  # of those where it fits nothing is past a limit
        self.compare(self.ids, answer, "killed" if self.model.is_killed(keys) else kind, keys, let, bound, ttl)
        assert self.ledger.reserve(self.ids, accounts, need, **how) == answer

    @rule(
        accounts=some_accounts,
        usd=st.integers(0, 60),
        usd_rate=st.integers(0, 2),
        token_rate=st.integers(0, 1),
        caps=st.lists(st.integers(0, 250), min_size=4, max_size=4).map(sorted),
        share=st.sampled_from([0, 0, 2, 4]),
    )
    def reserve_upto(
        self, accounts: Any, usd: int, usd_rate: int, token_rate: int, caps: list[int], share: int
    ) -> None:
        need = Need(usd, usd_rate, 3, token_rate, 1, *caps, share)
        keys = tuple(a.key for a in accounts)

        def takes(cap: int) -> tuple[int, int, int]:
            return usd + usd_rate * (cap + slack(cap)), 3 + token_rate * (cap + slack(cap)), 1

        expected = "killed" if self.model.is_killed(keys) else self.model.kind(keys, takes(caps[0]), takes(caps[1]))
        self.ids += 1
        answer = self.ledger.reserve(self.ids, accounts, need, call=CALL)
        bound = None
        if expected == "granted":
            cap = best_cap(self.model, keys, need) if share or caps[0] != caps[2] else caps[2]
            assert isinstance(answer, Grant)
            assert answer.cap == cap
            bound = takes(cap)
        self.compare(self.ids, answer, expected, keys, (), bound, None)

    @rule(nth=pick, usd=amount, tokens=amount)
    def extend(self, nth: int, usd: int, tokens: int) -> None:
        hold_id = self.some_hold(nth)
        answer = self.ledger.extend(hold_id, usd, tokens)
        hold = self.model.holds.get(hold_id)
        if hold is None or hold.state != "held":
            assert answer is None
            return
        more = (usd, tokens, 0)
        expected = self.model.kind(hold.keys, more, more, hold.bound)  # what let it in once is asked again
        if self.model.is_killed(hold.keys):
            expected = "killed"
        if expected != "granted":
            self.compare(hold_id, answer, expected, hold.keys, (), None, None)
            return
        bound = (hold.bound[0] + usd, hold.bound[1] + tokens, hold.bound[2])
        assert isinstance(answer, Grant)
        assert answer[1:] == bound
        self.model.holds[hold_id] = hold._replace(bound=bound)

    @rule(nth=pick, part=st.integers(0, 150), later=st.booleans())
    def settle(self, nth: int, part: int, later: bool) -> None:
        """`part` percent of the bound: above 100 it is an over-settle."""
        hold_id = self.some_hold(nth)
        bound = self.model.holds[hold_id].bound if hold_id in self.model.holds else (50, 50, 1)
        actual = (bound[0] * part // 100, bound[1] * part // 100, bound[2])
        row = (BEGAN_AT, PLACE, actual[0])
        done = self.model.end(hold_id, "settled", actual)
        if later:
            self.ledger.settle_later(hold_id, *actual, row)
        else:
            assert self.ledger.settle(hold_id, *actual, row) is done or hold_id in self.collected
        assert self.ledger.settle(hold_id, *actual, row) is False

    @rule(nth=pick)
    def release(self, nth: int) -> None:
        hold_id = self.some_hold(nth)
        done = self.model.end(hold_id, "released", (0, 0, 0))
        assert self.ledger.release(hold_id, CALL) is done or hold_id in self.collected
        assert self.ledger.release(hold_id, CALL) is False

    @rule(nth=pick, name=st.sampled_from(["one", "two"]), lives=st.sampled_from([0.0, TTL, 3 * TTL]))
    def note(self, nth: int, name: str, lives: float) -> None:
        hold_id = self.some_hold(nth)
        hold = self.model.holds.get(hold_id)
        self.ledger.note(hold_id, name, f"hold {hold_id}", lives)
        if not self.keeps_notes or hold is None or hold.state not in ("held", "expired"):
            return
        self.model.names = {other: known for other, known in self.model.names.items() if known != hold_id}
        self.model.names[name] = hold_id
        if hold.state == "held" and hold.deadline is not None:
            self.model.holds[hold_id] = hold._replace(deadline=max(hold.deadline, self.time + lives))

    @rule(name=st.sampled_from(["one", "two"]), part=st.integers(0, 150), is_released=st.booleans())
    def collect(self, name: str, part: int, is_released: bool) -> None:
        """By another id, as another process would; and by a third one, which comes too late."""
        noted, hold_id = self.ledger.noted(name), self.model.noted(name)
        assert (noted is None) is (hold_id is None)
        if noted is None or hold_id is None:
            return
        assert noted.memo == f"hold {hold_id}"
        bound = self.model.holds[hold_id].bound
        actual = (0, 0, 0) if is_released else (bound[0] * part // 100, bound[1] * part // 100, bound[2])
        assert self.model.end(hold_id, "released" if is_released else "settled", actual)
        for _ in range(2):
            self.ids += 1
            self.ledger.collect(self.ids, noted)
            if is_released:
                self.ledger.release(self.ids, CALL)
            else:
                self.ledger.settle(self.ids, *actual, (BEGAN_AT, PLACE, actual[0]))
        self.collected.add(hold_id)
        assert self.ledger.noted(name) is None

    @rule(seconds=st.sampled_from([1.0, TTL / 2, TTL]))
    def tick_and_expire(self, seconds: float) -> None:
        self.time += seconds
        due = [
            (hold_id, hold.bound)
            for hold_id, hold in self.model.holds.items()
            if hold.state == "held" and hold.deadline is not None and hold.deadline <= self.time
        ]
        for hold_id, bound in due:
            self.model.end(hold_id, "expired", bound)
        assert self.ledger.expire(row_of=FORM.presumed) == len(due)
        assert self.ledger.expire() == 0

    @rule(accounts=some_accounts, usd=st.integers(-80, 80), tokens=st.integers(-80, 80))
    def adjust(self, accounts: Any, usd: int, tokens: int) -> None:
        self.ids += 1
        adjust_id = f"adjustment {self.ids}"
        for key in [a.key for a in accounts]:
            self.model.spend(key, (usd, tokens, 0))
        assert self.ledger.adjust(adjust_id, accounts, usd, tokens, 0) is True
        assert self.ledger.adjust(adjust_id, accounts, usd, tokens, 0) is False

    @rule(accounts=some_accounts, usd=st.integers(-80, 80), behind=st.integers(0, 2))
    def adjust_in_turn(self, accounts: Any, usd: int, behind: int) -> None:
        """By one who has seen all changes of the call, or all but the latest ones."""
        self.ids += 1
        turns = self.model.turns
        number = max(1, len(turns) + 1 - behind)
        is_next = number > len(turns)
        if is_next:
            turns.append("hand")
            for account in accounts:
                self.model.spend(account.key, (usd, 0, 0))
        adjust_id = f"adjustment {self.ids}"
        assert self.ledger.adjust(adjust_id, accounts, usd, 0, 0, turn=(PLACE, number)) is is_next
        again = (PLACE, len(turns) + 1)
        if is_next:
            assert self.ledger.adjust(adjust_id, accounts, usd, 0, 0, turn=again) is False

    @rule(accounts=some_accounts, usd=st.integers(-80, 80), tokens=st.integers(-80, 80))
    def adjust_what_is_known(self, accounts: Any, usd: int, tokens: int) -> None:
        """By key alone: those that the ledger does not know are passed over."""
        self.ids += 1
        adjust_id = f"adjustment {self.ids}"
        keys = [a.key for a in accounts]
        for key in set(keys).intersection(self.model.spent):
            if key in self.model.limited:
                self.model.spend(key, (usd, tokens, 0))
            else:
                self.model.charge(key, (usd, tokens, 0))
        assert self.ledger.adjust(adjust_id, keys, usd, tokens, 0) is True
        assert self.ledger.adjust(adjust_id, keys, usd, tokens, 0) is False

    @rule(accounts=some_accounts, usd=amount, tokens=amount, calls=st.integers(0, 2), nth=pick, again=st.booleans())
    def charge(self, accounts: Any, usd: int, tokens: int, calls: int, nth: int, again: bool) -> None:
        """Under an id of its own, or under one that may have been used."""
        hold_id = self.some_hold(nth) if again else 0
        if hold_id == 0:
            self.ids += 1
            hold_id = self.ids
        if hold_id not in self.model.holds:
            keys, amounts = tuple(a.key for a in accounts), (usd, tokens, calls)
            for key in keys:
                self.model.spend(key, amounts)
            self.model.holds[hold_id] = Hold("settled", keys, (), amounts, amounts, None)
        for _ in range(2):
            self.ledger.charge(hold_id, accounts, usd, tokens, calls, (BEGAN_AT, PLACE, usd))

    @rule(
        key=st.sampled_from(["all", "some"]),
        limits=st.lists(some_limit, min_size=3, max_size=3),
        killed=st.sampled_from([None, None, True, False, False]),
    )
    def control(self, key: str, limits: list[int | None], killed: bool | None) -> None:
        self.model.say(key, limits, killed)
        usd, tokens, calls = limits
        said = Control(limit_usd_nanos=usd, limit_tokens=tokens, limit_calls=calls, is_killed=killed)
        self.ids += 1
        assert self.ledger.control(f"control {self.ids}", key, said) is True
        assert self.ledger.control(f"control {self.ids}", key, Control(limit_usd_nanos=1, is_killed=True)) is False

    @rule(account=st.sampled_from(ACCOUNTS), usd=amount, tokens=amount, calls=st.integers(0, 2))
    def top_up(self, account: Account, usd: int, tokens: int, calls: int) -> None:
        self.model.top_up(account.key, (usd, tokens, calls))
        self.ids += 1
        assert self.ledger.top_up(f"top-up {self.ids}", account, usd, tokens, calls) is True
        assert self.ledger.top_up(f"top-up {self.ids}", account, usd, tokens, calls) is False

    @rule(account=st.sampled_from(ACCOUNTS))
    def reset(self, account: Account) -> None:
        self.model.reset(account.key)
        self.ids += 1
        assert self.ledger.reset(f"reset {self.ids}", account) is True
        assert self.ledger.reset(f"reset {self.ids}", account) is False

    @rule(account=st.sampled_from(ACCOUNTS))
    def forget(self, account: Account) -> None:
        self.ledger.forget(account.key)
        self.model.forget(account.key)

    @invariant()
    def balances_are_those_of_the_model(self) -> None:
        for account in ACCOUNTS:
            view = self.ledger.view(account)
            limits, b = self.model.limits(account.key), view.balance
            assert [view.limit_usd_nanos, view.limit_tokens, view.limit_calls] == limits
            assert view.is_killed is self.model.is_killed([account.key])
            spent, debt = self.model.spent.get(account.key, [0] * 3), self.model.debt.get(account.key, [0] * 3)
            assert [b.spent_usd_nanos, b.spent_tokens, b.spent_calls] == spent
            assert [b.reserved_usd_nanos, b.reserved_tokens, b.reserved_calls] == self.model.reserved(account.key)
            assert [b.debt_usd_nanos, b.debt_tokens, b.debt_calls] == debt
            for s, d, r, limit in zip(spent, debt, self.model.reserved(account.key), limits, strict=True):
                assert s >= 0 <= r
                assert d >= 0
                assert s + r <= limit + d or account.key in self.model.excused

    @invariant()
    def every_call_is_in_flight_or_a_row(self) -> None:
        snapshot = self.ledger.snapshot()
        held = [h.bound for h in self.model.holds.values() if h.state == "held"]
        assert sorted(grant[1:] for _, grant in snapshot.in_flight) == sorted(held)
        ended = [h.charge[0] for h in self.model.holds.values() if h.state != "held"]
        assert sorted(usd for _, _, usd in snapshot.rows) == sorted(ended)
        sums = [found.sums for found in self.ledger.tally()]
        assert (sum(usd for usd, _ in sums), sum(rows for _, rows in sums)) == (sum(ended), len(ended))
