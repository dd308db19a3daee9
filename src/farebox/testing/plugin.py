"""The pytest plugin: what tests spend, what they may spend, and a table of it.

`farebox_pytest` is what pytest loads; it imports this module once a run has to do with farebox.  Where a hook runs:

    before the tests   options and marks are read, wrong ones are usage errors
    around a test      a fresh ledger, the test's budgets, and the meter that notes its calls
    on its report      what it spent, as plain numbers, so that it also comes over from xdist's workers
    at the end         in one process only: table, files, baseline, exit code (`_plugin_summary`)
"""

from __future__ import annotations

import collections
import contextlib
import functools
import inspect
import ipaddress
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final

import pytest

import farebox
from farebox import _money, signals
from farebox._call import Call
from farebox._instrument import Instrumentation
from farebox.on_exceed import DecisionEvent
from farebox.testing._cassette import Cassette, UnmatchedCall
from farebox.testing._plugin_cassettes import Cassettes, hide_sdks, read_mode
from farebox.testing._plugin_gate import Gate
from farebox.testing._plugin_ledger import FreshLedgers
from farebox.testing._plugin_limits import MARK, PER_TEST, RUN, Limits, mark_budget, option_budget, stopped_by
from farebox.testing._plugin_meter import Meter, Spend
from farebox.testing._plugin_summary import GREW, OVER_BUDGET, Summary
from farebox.testing._plugin_use import Uses, joined, show_nanos, to_plain, total

__all__ = ["GREW", "OVER_BUDGET", "Cassette", "LiveCallBlocked", "Plugin", "Spend", "UnmatchedCall"]

_RUN_IS_SPENT: Final = f"{RUN} is spent: no further test is run"

_budget: Final = pytest.StashKey[farebox.budget]()
_past_runs: Final = pytest.StashKey[list[Uses]]()
#: What is said in the last report of a test's run.
_said: Final = pytest.StashKey[dict[str, Any]]()


class LiveCallBlocked(RuntimeError):
    """A metered call to a host that is not this machine, under `--farebox-block-live`; nothing was sent."""


class Plugin:
    """One for each process of a run."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        options = config.option
        #: What xdist's controller tells this worker; None in any other process.
        self._told: dict[str, Any] | None = getattr(config, "workerinput", None)
        self._blocks_live: bool = options.farebox_block_live
        self._has_options = bool(self._blocks_live or options.farebox_budget or options.farebox_budget_per_test)
        self._measures_all = self._has_options or bool(
            options.farebox_json or options.farebox_markdown or options.farebox_baseline or options.farebox_top
        )
        self._meter = Meter()
        self._ledgers = FreshLedgers()
        mode = read_mode(options.farebox_cassettes, config.getini("farebox_cassettes"))
        self._cassettes = Cassettes(mode, options.farebox_strict_cassettes, self._meter, self._refuses)
        config.pluginmanager.register(self._cassettes, "farebox-cassettes")
        #: Whether the running test has passed, but for its teardown.
        self._has_passed = False
        #: Of a class, module, package or session fixture: what it spent, by what it is called.
        self._shared: dict[str, Spend] = {}
        self._item: pytest.Item | None = None
        self._spend: Spend | None = None
        self._metering: Instrumentation | None = None
        self._is_run_spent = False
        #: Refusals of this test's budgets, by budget.
        self._refused: collections.Counter[str] = collections.Counter()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._gate: Gate | None = None
        self._summary: Summary | None = Summary(config) if self._told is None else None
        with self._fresh_ledger():
            run = option_budget(RUN, options.farebox_budget)
            per_test = option_budget(PER_TEST, options.farebox_budget_per_test)
        with farebox.instrument() if self._has_options else contextlib.nullcontext():
            self._limits = Limits(run, per_test)
        if self._told is not None and "farebox_folder" in self._told:
            self._gate = Gate(self._told["farebox_folder"], _money.to_nanos(options.farebox_budget))
        signals.decision.connect(self._decide)

    @contextlib.contextmanager
    def _fresh_ledger(self) -> Iterator[None]:
        self._ledgers.begin()
        try:
            yield
        finally:
            self._ledgers.end()

    def check_marks(self, marked: list[pytest.Item]) -> None:
        """Read the budgets and cassettes of these tests.

        Raises:
            pytest.UsageError: a mark with wrong words.
        """
        with self._fresh_ledger():
            for item in marked:
                self._budget_of(item)
        self._cassettes.read_marks([item for item in marked if item.get_closest_marker("cassette")])

    def _budget_of(self, item: pytest.Item) -> farebox.budget | None:
        """The budget that the mark of a test asks for.  Plugins rename and mark items late, so it is kept with the item."""
        if _budget not in item.stash:
            mark = item.get_closest_marker("budget")  # of the test itself, else of its class, else of its module
            if mark is None:
                return None
            item.stash[_budget] = mark_budget(item.nodeid, mark)
        return item.stash[_budget]

    def spend_of(self, item: pytest.Item) -> Spend:
        """What a test that runs has spent; from here on its calls are metered, whether the program does so or not."""
        assert self._spend is not None
        self._instrument()
        return self._spend

    def cassette_of(self, item: pytest.Item) -> Cassette:
        """The cassette of a test that runs, which is in from here on, if it was not by a mark."""
        self._instrument()
        if self._cassettes.may_play_at_all:
            self._ledgers.begin(is_played=True)
        return self._cassettes.begin(item)

    def opened_cassettes(self, folder: Path) -> Callable[..., AbstractContextManager[Cassette | None]]:
        """For the fixture `cassettes`; paths are meant from `folder`."""
        return lambda path, **words: self._cassettes.opened(folder / path, **words)

    def _instrument(self) -> None:
        if self._metering is None:
            self._metering = farebox.instrument()

    # ── around a test ────────────────────────────────────────────────────────────────────────────────────────────

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        self._item = item
        self._spend = self._meter.spend = Spend(item.nodeid)
        self._refused.clear()
        self._has_passed = False
        has_cassette = self._cassettes.is_asked_for(item)
        self._ledgers.begin(is_played=has_cassette and self._cassettes.may_play_at_all)
        self._meter.listen()
        signals.pre_call.connect(self._check_host)
        if self._gate is not None:
            self._gate.listen()
        of_mark = self._budget_of(item)
        if self._measures_all or of_mark is not None or has_cassette or "spend" in getattr(item, "fixturenames", ()):
            self._instrument()
        self._limits.begin(of_mark)
        with self._checked():
            return (yield)

    @contextlib.contextmanager
    def _checked(self) -> Iterator[None]:
        """Around a phase of a test: a call that its cassette has no answer for fails it."""
        __tracebackhide__ = True
        try:
            yield
        except BaseException as error:
            self._cassettes.check(error)
            raise
        self._cassettes.check(None)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        test: Any = getattr(item, "obj", None)
        carried = test if farebox.current() is None else _carried(test)
        if carried is not test:
            item.obj = carried  # type: ignore[attr-defined]
        try:
            with self._checked():
                return (yield)
        finally:
            if carried is not test:
                item.obj = test  # type: ignore[attr-defined]
            self._limits.end(even_within=False)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        self._limits.end(even_within=False)
        try:
            with self._checked():
                result = yield
            item.stash[_said] = self._cassettes.end(self._has_passed)
            return result
        finally:
            if said := self._cassettes.end(has_passed=False):
                item.stash[_said] = said
            self._limits.end(even_within=True)
            if self._metering is not None:
                self._metering.undo()
                self._metering = None
            self._ledgers.end()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any], request: pytest.FixtureRequest
    ) -> Generator[None, object, object]:
        is_shared = fixturedef.scope != "function" and self._spend is not None
        with contextlib.ExitStack() as around:
            if is_shared:
                name = f"{fixturedef.scope} fixture {fixturedef.argname!r}"
                around.enter_context(self._ledgers.shared())
                around.enter_context(self._limits.lifted())
                around.enter_context(self._cassettes.lifted(name))
                around.enter_context(self._noted_for(name))
                # Finalizers run last in, first out: this one after the fixture's own, the other one before it.
                fixturedef.addfinalizer(self._note_for_test)
            function = fixturedef.func
            if farebox.current() is not None and (carried := _carried(function)) is not function:
                fixturedef.func = carried  # type: ignore[misc]
                around.callback(setattr, fixturedef, "func", function)
            made = yield
            if is_shared:
                fixturedef.addfinalizer(lambda: self._tear_down_shared(name))
            return made

    @contextlib.contextmanager
    def _noted_for(self, name: str) -> Iterator[None]:
        before = self._meter.spend
        self._meter.spend = self._shared.setdefault(name, Spend(name))
        try:
            yield
        finally:
            self._meter.spend = before

    def _tear_down_shared(self, name: str) -> None:
        self._limits.end(even_within=True)
        self._cassettes.lift(name)
        self._meter.spend = self._shared[name]

    def _note_for_test(self) -> None:
        self._cassettes.put_back()
        self._meter.spend = self._spend

    # ── before a call ────────────────────────────────────────────────────────────────────────────────────────────

    def _check_host(self, provider_name: str, *, call: Call) -> None:
        if self._cassettes.may_play:
            return  # the cassette answers it, or asks when it does not
        refused = self._refuses(call.server_address)
        if refused:
            raise LiveCallBlocked(f"a call to {call.server_address} ({call.model}) was not sent: {refused}")

    def _refuses(self, host: str) -> str:
        """Why nothing may be sent to a host now, or ""."""
        if not self._blocks_live or not host or _is_this_machine(host):
            return ""
        if self._item is not None and self._item.get_closest_marker("live"):
            return ""
        return (
            "--farebox-block-live; use the fixture fake_provider or a cassette, or mark the test with @pytest.mark.live"
        )

    def _decide(self, budget_name: str, *, decision: DecisionEvent) -> None:
        if budget_name == RUN and decision.did == "stop" and decision.kind == "exhausted":
            self._is_run_spent = True
        if budget_name in (RUN, PER_TEST, MARK) and decision.did == "stop":
            self._refused[budget_name] += 1

    # ── what is said about a test ────────────────────────────────────────────────────────────────────────────────

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        if call.excinfo is not None and hide_sdks(call.excinfo.value):
            call.excinfo = pytest.ExceptionInfo.from_exception(call.excinfo.value)
        report = yield
        said: dict[str, Any] = {}
        if call.when == "teardown":
            said, item.stash[_said] = item.stash.get(_said, said), {}
        self._has_passed = call.when == "call" and report.outcome == "passed"
        missed = self._cassettes.missed() if report.failed else ""
        if missed and call.excinfo is not None and str(call.excinfo.value) not in missed:
            report.sections.append(("what the cassette had no answer for", missed))
        stop = None if call.excinfo is None or hasattr(report, "wasxfail") else stopped_by(call.excinfo.value)
        if stop is not None and report.failed:
            said["over_budget"] = report.longrepr = f"over budget: {str(stop).partition(chr(10))[0]}"
        elif report.failed and self._refused:  # whoever caught it may have made something else of it
            lines = [f"budget {name!r} refused {count} of its calls" for name, count in self._refused.items()]
            report.sections.append(("calls of this test that were not sent", "\n".join(lines)))
        if call.when == "teardown" and self._spend is not None:
            self._say_spent(item, report, said)
        if said:
            report.farebox = said  # type: ignore[attr-defined]
        return report

    def _say_spent(self, item: pytest.Item, report: pytest.TestReport, said: dict[str, Any]) -> None:
        assert self._spend is not None
        runs = item.stash.setdefault(_past_runs, [])
        runs.append(self._spend.used())
        self._spend = self._meter.spend = self._item = None
        uses = joined(runs)
        if uses:
            said["uses"] = to_plain(uses)
            said["runs"] = len(runs)
            spent = total(uses.values())
            report.user_properties += [
                ("farebox_usd", show_nanos(spent.usd_nanos)),
                ("farebox_calls", str(spent.calls)),
                ("farebox_tokens", str(spent.tokens)),
            ]
            if spent.replayed_calls:
                report.user_properties += [
                    ("farebox_replayed_calls", str(spent.replayed_calls)),
                    ("farebox_real_usd", show_nanos(spent.real_usd_nanos)),
                ]
        shared = {name: to_plain(found) for name, spend in self._shared.items() if (found := spend.used())}
        if shared:
            worker = "" if self._told is None else f" of {self._told['workerid']}"
            said["shared"] = {name + worker: plain for name, plain in shared.items()}
        if uses or shared:
            said["prices"] = sorted(self._meter.price_versions)
        if self._is_run_spent or (self._gate is not None and self._gate.is_exhausted):
            said["run_is_spent"] = True

    # ── in the process that says how the run went ────────────────────────────────────────────────────────────────

    def pytest_report_teststatus(self, report: pytest.CollectReport | pytest.TestReport) -> Any:
        said = getattr(report, "farebox", {})
        if "over_budget" in said and report.outcome == "failed":
            return "over budget", "$", ("OVER BUDGET", {"red": True})
        return None

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        said = getattr(report, "farebox", None)
        if said is None or self._summary is None:
            return
        self._summary.collect(report.nodeid, report.outcome, said)
        if "run_is_spent" in said:
            for name in ("session", "dsession"):  # xdist's has a loop of its own
                session = self._config.pluginmanager.get_plugin(name)
                if session is not None:
                    session.shouldstop = session.shouldstop or _RUN_IS_SPENT

    @pytest.hookimpl(optionalhook=True)
    def pytest_configure_node(self, node: Any) -> None:
        """Of xdist: a worker is about to start."""
        if self._config.option.farebox_budget:
            if self._folder is None:
                self._folder = tempfile.TemporaryDirectory(prefix="farebox-run-", ignore_cleanup_errors=True)
            node.workerinput["farebox_folder"] = self._folder.name

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> Iterator[None]:
        if self._summary is not None:
            session.exitstatus = self._summary.finish(session, exitstatus, _RUN_IS_SPENT)
        return (yield)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if self._summary is not None:
            self._summary.print(terminalreporter)

    def pytest_unconfigure(self) -> None:
        self._meter.stop()
        signals.decision.disconnect(self._decide)
        signals.pre_call.disconnect(self._check_host)
        if self._gate is not None:
            self._gate.close()
        if self._folder is not None:
            self._folder.cleanup()


def _is_this_machine(host: str) -> bool:
    name = host.strip("[]").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _carried(function: Any) -> Any:
    """A coroutine function, or an async generator function up to its first `yield`, bound to the scope of now.

    An event loop that outlives one test runs the tests after it in the context of the first.  Other functions come back as
    they are: they run in the context of who calls them.
    """
    if inspect.iscoroutinefunction(function):
        return farebox.carry(function)
    if not inspect.isasyncgenfunction(function):
        return function

    step = farebox.carry(_first)

    @functools.wraps(function)
    async def run(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, None]:
        async with contextlib.aclosing(function(*args, **kwargs)) as values:
            yield await step(values)
            async for value in values:
                yield value

    return run


async def _first(values: AsyncGenerator[Any, None]) -> Any:
    return await anext(values)
