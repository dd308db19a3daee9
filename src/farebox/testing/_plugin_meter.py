"""What tests spend: every metered call of the process is noted for the test, or the wider fixture, that it began in."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

import attrs

from farebox import _config, signals
from farebox._call import Call, CallRecord
from farebox._money import UsdLike, to_usd
from farebox._report import report_on
from farebox._rows import FORM
from farebox._tally import amount
from farebox.ledgers import Grant
from farebox.ledgers.memory import MemoryLedger
from farebox.testing._plugin_use import Use, total

if TYPE_CHECKING:
    from farebox._report import Report
    from farebox.on_exceed import DecisionEvent


class _Books(MemoryLedger):
    """The rows of the calls that one test began, wherever the program keeps its own."""

    def __init__(self) -> None:
        super().__init__(form=FORM)
        self.open_calls: dict[int, Call] = {}

    def in_flight(self) -> list[tuple[Any, Grant]]:
        return [
            (call, Grant(0, call.bound_usd_nanos, call.bound_tokens, 1)) for call in tuple(self.open_calls.values())
        ]


class Spend:
    """What one run of a test has spent so far; those of its fixtures too, but not of wider ones."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.uses: dict[str, Use] = {}
        #: Ids of calls that a budget refused.
        self.refused: set[str] = set()
        self.books = _Books()
        #: The calls whose last attempt a cassette answered, by number.
        self.replayed: set[int] = set()

    def report(
        self, by: str | Iterable[str] = (), *, where: Mapping[str, str] | None = None, tz: str = "UTC"
    ) -> Report:
        """As `farebox.report`, about the calls of this test, in whatever ledger they are.

        Calls that were refused are not among them.
        """
        return report_on(self.books, by, where=where, tz=tz)

    def assert_under(
        self,
        *,
        usd: UsdLike | None = None,
        tokens: int | None = None,
        calls: int | None = None,
        where: Mapping[str, str] | None = None,
        allow_empty: bool = False,
        allow_unmetered: bool = False,
        **tags: str,
    ) -> None:
        """Fail unless this test has spent, and holds, at most the given amounts; as `Report.assert_under`.

        Raises:
            AssertionError: more than that, a call without a price or of an unknown use, or no call at all.
            ValueError: no limit given, or a negative one.
        """
        __tracebackhide__ = True
        self.report().assert_under(
            usd=usd,
            tokens=tokens,
            calls=calls,
            where=where,
            allow_empty=allow_empty,
            allow_unmetered=allow_unmetered,
            **tags,
        )

    def calls(self) -> list[CallRecord]:
        """The single calls of this test that were sent, those in flight too, oldest first."""
        signals.settle_late_calls()
        open_calls = tuple(self.books.open_calls.values())
        found = {row.call_id: CallRecord.of(row) for row in (*open_calls, *self.books.rows())}
        return sorted(found.values(), key=lambda call: (call.started_at, call.call_id))

    @property
    def replayed_calls(self) -> int:
        """How many calls a cassette has answered."""
        return total(self.used().values()).replayed_calls

    @property
    def real_usd(self) -> Decimal:
        """What was really spent, in USD: all but what a cassette has answered; calls in flight at their bound."""
        return to_usd(total(self.used().values()).real_usd_nanos)

    def used(self) -> dict[str, Use]:
        """What it comes to, by model; calls in flight at their bound."""
        signals.settle_late_calls()
        uses = {model: attrs.evolve(use) for model, use in self.uses.items()}
        for call in tuple(self.books.open_calls.values()):
            use = uses.setdefault(_model(call), Use())
            played = call.number in self.replayed
            use.add(
                Use(
                    calls=1,
                    reserved_usd_nanos=call.bound_usd_nanos,
                    replayed_calls=int(played),
                    replayed_usd_nanos=call.bound_usd_nanos if played else 0,
                )
            )
        return uses

    def __repr__(self) -> str:
        return f"<spend of {self.name}: {self.report().total.usd:f} USD>"


class Meter:
    """Listens to the bus for the whole process: threads, tasks and clients of any scope."""

    def __init__(self) -> None:
        #: Whom a call that begins now is noted for; None between tests.
        self.spend: Spend | None = None
        self.price_versions: set[str] = set()
        self._begun_in: dict[int, Spend] = {}
        self._lock: Final = threading.Lock()

    def listen(self) -> None:
        """Connect, or connect again: a program may clear its receivers."""
        signals.pre_call.connect(self._begin)
        signals.post_call.connect(self._end)
        signals.decision.connect(self._decide)

    def stop(self) -> None:
        signals.pre_call.disconnect(self._begin)
        signals.post_call.disconnect(self._end)
        signals.decision.disconnect(self._decide)

    def note(self, call: Call, how: str) -> None:
        """What became of an attempt of a call that is under way: it was `replayed`, or anything else."""
        spend = self._begun_in.get(call.number)
        if spend is not None:
            if how == "replayed":
                spend.replayed.add(call.number)
            else:
                spend.replayed.discard(call.number)

    def _begin(self, provider_name: str, *, call: Call) -> None:
        spend = self.spend
        if spend is not None:
            self._begun_in[call.number] = spend
            spend.books.open_calls[call.number] = call

    def _end(self, provider_name: str, *, call: Call) -> None:
        spend = self._begun_in.pop(call.number, None) or self.spend
        if spend is None:
            return
        spend.books.open_calls.pop(call.number, None)
        spend.books.add_row(call)
        added = amount(call)
        played = call.number in spend.replayed
        rates = _config.state().card.find(provider_name, call.model, call.started_at_seconds)
        with self._lock:
            if call.price_version:
                self.price_versions.add(call.price_version)
            use = spend.uses.setdefault(_model(call), Use())
            use.add(
                Use(
                    calls=added.calls,
                    refused_calls=added.refused_calls,
                    input_tokens=added.input_tokens,
                    output_tokens=added.output_tokens,
                    usd_nanos=added.usd_nanos,
                    unpriced_calls=added.unpriced_calls,
                    replayed_calls=added.calls if played else 0,
                    replayed_usd_nanos=added.usd_nanos if played else 0,
                )
            )
            if rates is not None:
                use.input_picos, use.output_picos = rates.steps[0].uncached_input, rates.steps[0].visible_output

    def _decide(self, budget_name: str, *, decision: DecisionEvent) -> None:
        spend = self.spend
        if spend is not None and decision.did == "stop" and decision.call_id not in spend.refused:
            spend.refused.add(decision.call_id)
            with self._lock:
                spend.uses.setdefault(decision.model or "-", Use()).add(Use(refused_calls=1))


def _model(call: Call) -> str:
    return call.model or call.operation_name
