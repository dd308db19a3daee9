"""The pytest plugin in runs of its own: each test here starts a pytest that knows nothing of this one."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

import farebox_pytest
from farebox.testing._plugin_baseline import find_growth, read_baseline, read_tolerance, to_json
from farebox.testing._plugin_limits import mark_budget, option_budget
from farebox.testing._plugin_use import Use, Uses
from farebox.testing.plugin import GREW, OVER_BUDGET

pytest_plugins = ("pytester",)

Run = Callable[..., pytest.RunResult]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-the-pytest-plugin.md"

#: A call that no SDK makes, and that budgets see like any other: it holds 0.03 USD and costs 0.02.
PAY = """
import farebox
import pytest

def pay(times=1):
    for _ in range(times):
        with farebox.reserve(usd="0.03", tool="search") as hold:
            hold.settle(usd="0.02", tokens=100)
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs pytest in a process of its own on the given test module, with `pay` at hand."""
    monkeypatch.setenv("FAREBOX_CONFIG", "")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")

    def run(tests: str, *args: str, plugins: str = "farebox_pytest", **modules: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=PAY + tests, **modules)
        loaded = [word for name in plugins.split() for word in ("-p", name)]
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", *loaded, *args)

    return run


def needs(*modules: str) -> pytest.MarkDecorator:
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"needs {' and '.join(missing)}; pip install {' '.join(missing)}")


# ── nothing to do with farebox ───────────────────────────────────────────────────────────────────────────────────


def test_a_run_without_farebox_loads_nothing_of_it_and_says_nothing(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure():
            ours = sorted(name for name in sys.modules if name.partition(".")[0] in {"farebox", "attrs", "blinker"})
            sys.__stdout__.write(f"loaded: {ours}\\n")
        """
    )
    pytester.makepyfile("def test_nothing(): pass")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    ran = pytester.runpytest_subprocess("-p", "farebox_pytest", "-p", "no:cacheprovider")
    ran.assert_outcomes(passed=1)
    ran.stdout.fnmatch_lines(["loaded: []"])
    ran.stdout.no_fnmatch_line("*LLM*")


# ── what a test spends ───────────────────────────────────────────────────────────────────────────────────────────


def test_each_test_has_a_ledger_of_its_own_and_the_table_has_them_all(run: Run) -> None:
    ran = run(
        """
def test_a_forgotten_ledger_is_still_an_error():
    with pytest.raises(ValueError, match="none was chosen"):
        farebox.configure(budgets=[farebox.budget("org", usd=1, per="day")])

@pytest.fixture(scope="session")
def corpus():
    pay()
    yield
    pay()

@pytest.fixture
def warm():
    pay()

def test_first(spend, warm, corpus):
    pay()
    spend.assert_under(usd="0.04", tokens=200, calls=2)
    assert [str(call.usd) for call in spend.calls()] == ["0.02", "0.02"]
    assert farebox.report().total.calls == 3      # the program's own report has the fixture's call too
    with pytest.raises(AssertionError, match="0.04 USD is more than 0.03 USD"):
        spend.assert_under(usd="0.03")
    assert [row.tool for row in spend.report(by="tool")] == ["search"]

def test_second(spend, corpus):
    assert farebox.report().total.calls == 0
    with pytest.raises(AssertionError, match="no call was measured"):
        spend.assert_under(calls=1)
    spend.assert_under(calls=1, allow_empty=True)

def test_an_own_ledger(spend, tmp_path):
    farebox.configure(ledger=f"sqlite:///{tmp_path}/own.db")    # and nobody takes it back
    pay()
    spend.assert_under(usd="0.02", calls=1)
    assert farebox.report().total.calls == 1

def test_after_it():
    assert farebox.report().total.calls == 0
""",
        "--junitxml=junit.xml",
        "--farebox-json=out/spent.json",
        "--farebox-markdown=spent.md",
    )
    ran.assert_outcomes(passed=5)
    assert ran.ret == 0
    ran.stdout.fnmatch_lines(
        [
            "*what LLM calls cost*",
            "test * calls  refused  tokens in  tokens out   usd",
            "test_it.py::test_first * 2 * 0 * 200 * 0  0.04",
            "test_it.py::test_an_own_ledger * 1 * 0.02",
            "session fixture 'corpus' * 2 * 0.04",
            "total * 5 * 0.1",
        ]
    )
    ran.stdout.no_fnmatch_line("*test_second*")
    folder = ran_folder(ran)
    cases = ElementTree.parse(folder / "junit.xml").iter("testcase")
    noted = {case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
    assert noted["test_first"] == {"farebox_usd": "0.04", "farebox_calls": "2", "farebox_tokens": "200"}
    assert noted["test_second"] == {}
    spent = json.loads((folder / "out" / "spent.json").read_text("utf-8"))
    assert spent["tests"]["test_it.py::test_first"]["usd"] == "0.04"
    assert spent["tests"].keys() == {"test_it.py::test_first", "test_it.py::test_an_own_ledger"}
    assert spent["shared_fixtures"]["session fixture 'corpus'"]["calls"] == 2
    assert spent["total"]["usd"] == "0.1"
    assert "| test_it.py::test_first | 2 | 0 | 200 | 0 | 0.04 |" in (folder / "spent.md").read_text("utf-8")


def ran_folder(ran: pytest.RunResult) -> Path:
    found = next(line for line in ran.outlines if line.startswith("rootdir: "))
    return Path(found.removeprefix("rootdir: "))


def test_scopes_and_ledgers_of_wider_fixtures_stay_in_force_for_all_their_tests(run: Run) -> None:
    ran = run(
        """
@pytest.fixture(scope="module", autouse=True)
def shared():
    with farebox.configure(ledger="memory://"), farebox.track(feature="mod"), farebox.budget("mod", calls=2) as b:
        yield b

@pytest.mark.budget(calls=1)
def test_one(shared):
    pay()
    assert shared.spent_calls == 1

@pytest.mark.budget(calls=1)
def test_two(shared, spend):
    pay()
    assert shared.spent_calls == 2
    assert [call.tags["feature"] for call in spend.calls()] == ["mod"]
    assert farebox.report().total.calls == 2

def test_three(shared):
    with pytest.raises(farebox.BudgetExceeded, match="budget 'mod'"):
        pay()

def test_four(shared):
    farebox.detach()
    pay()
"""
    )
    ran.assert_outcomes(passed=4)


# ── what a test may spend ────────────────────────────────────────────────────────────────────────────────────────


def test_a_test_over_its_budget_is_stopped_before_the_call_and_counted_apart(run: Run) -> None:
    ran = run(
        """
pytestmark = pytest.mark.budget(calls=3)

@pytest.fixture
def costly():
    pay(2)
    yield
    pay(4)      # taking down is measured, and not limited

@pytest.mark.budget(usd="0.05")
def test_by_mark():
    pay(3)

def test_by_module(costly):
    pay(2)

class TestClass:
    pytestmark = pytest.mark.budget(calls=1)

    def test_by_class(self):
        pay(2)

    @pytest.mark.budget(calls=2)
    def test_within(self):
        pay(2)

def test_wrapped():
    try:
        pay(4)
    except farebox.BudgetExceeded as error:
        raise RuntimeError("no more") from error

def test_expects_it():
    with pytest.raises(farebox.BudgetExceeded):
        pay(4)
""",
        "-v",
    )
    assert ran.ret == 10
    ran.stdout.fnmatch_lines(
        [
            "*test_by_mark OVER BUDGET*",
            "*test_by_class OVER BUDGET*",
            "*test_within PASSED*",
            "*over budget*",
            "test_it.py::test_by_mark: budget '@pytest.mark.budget' (0.05 USD) needs 0.03 USD * has 0.01 USD remaining",
            "test_it.py::test_by_module: budget '@pytest.mark.budget' (3 calls) needs 1 call * has 0 calls remaining",
            "test_it.py::TestClass::test_by_class: budget '@pytest.mark.budget' (1 call) needs 1 call *",
            "test_it.py::test_wrapped: budget *",
            "test_it.py::test_by_module * 7  * 1 *",
            "*2 passed, 4 over budget*",
        ]
    )
    ran.stdout.no_fnmatch_line("*Traceback*")


def test_a_real_failure_beside_it_is_a_failed_run(run: Run) -> None:
    ran = run(
        """
@pytest.mark.budget(calls=0)
def test_over():
    pay()

def test_wrong():
    assert 1 == 2
"""
    )
    assert ran.ret == 1
    ran.stdout.fnmatch_lines(["*1 failed, 1 over budget*"])


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (pytest.mark.budget(usdd=1), "has no word usdd=1; choose from usd, tokens, calls, on_exceed"),
        (pytest.mark.budget(0.5), r"\(0\.5\) does not say of what; write @pytest\.mark\.budget\(usd="),
        (pytest.mark.budget(), "a budget needs a limit"),
        (pytest.mark.budget(usd=-1), "usd=-1 is negative"),
        (pytest.mark.budget(usd=1, on_exceed="blok"), "'blok' is unknown; choose from block, downgrade, clamp"),
        (pytest.mark.budget(usd=1, on_exceed="truncate"), "would end the test and let it pass; choose from block"),
        (pytest.mark.budget(usd={"call": 1}), "has a limit by period, and a test has one limit"),
    ],
    ids=["unknown word", "no word", "no limit", "negative", "unknown mode", "quiet mode", "period"],
)
def test_wrong_words_of_a_mark_are_refused_by_name(mark: pytest.MarkDecorator, said: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"^test_it.py::test: .*{said}"):
        mark_budget("test_it.py::test", mark.mark)


def test_a_wrong_mark_is_a_usage_error_of_the_run(run: Run) -> None:
    ran = run("@pytest.mark.budget(dollars=1)\ndef test_it(): pass")
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["ERROR: test_it.py::test_it: @pytest.mark.budget has no word dollars=1; choose from *"])


def test_the_budget_of_the_run_stops_it_once_it_is_spent(run: Run) -> None:
    # 0.02 + 0.02 are spent when a third call needs 0.03 of 0.06: refused, although the test swallows it.
    ran = run(
        """
def test_a(): pay()

def test_b():
    pay()
    try:
        pay()
    except Exception:
        pass

def test_c(): pay()
def test_d(): pay()
""",
        "--farebox-budget=0.06",
    )
    ran.stdout.fnmatch_lines(["total *2 * 1 * 0.04", "*--farebox-budget is spent: no further test is run*"])
    ran.assert_outcomes(passed=2)


def test_each_test_has_the_budget_of_the_option_for_itself(run: Run) -> None:
    ran = run(
        """
def test_a(): pay()
def test_b(): pay(2)
def test_c(): pay()
""",
        "--farebox-budget-per-test=0.04",
    )
    assert ran.ret == 10
    ran.stdout.fnmatch_lines(
        [
            "test_it.py::test_b: budget '--farebox-budget-per-test' (0.04 USD) needs 0.03 USD *",
            "*2 passed, 1 over budget*",
        ]
    )


@pytest.mark.parametrize(
    ("read", "said"),
    [
        (lambda: option_budget("--farebox-budget", "much"), "--farebox-budget=much: usd=.*write --farebox-budget=0.50"),
        (lambda: read_tolerance("some"), "--farebox-tolerance=some is no percentage; write --farebox-tolerance=5%"),
        (lambda: read_baseline(Path("no.json")), "no.json: there is no such file; write it with .*-update-baseline"),
        (lambda: read_baseline(PAGE), "can't be read"),
    ],
    ids=["amount", "tolerance", "no baseline", "no JSON"],
)
def test_a_wrong_option_is_a_usage_error_with_the_line_to_write(read: Callable[[], object], said: str) -> None:
    with pytest.raises(pytest.UsageError, match=said):
        read()


# ── more than one process, run or loop ───────────────────────────────────────────────────────────────────────────


@needs("xdist")
def test_workers_share_one_budget_and_one_table(run: Run) -> None:
    # 12 tests of 0.02 USD, and money for five of them: the sixth call needs 0.03 of the 0.02 that are left.
    ran = run(
        """
@pytest.mark.parametrize("n", range(12))
def test_pays(n): pay()
""",
        "--farebox-budget=0.12",
        "-n2",
        plugins="farebox_pytest xdist.plugin",
    )
    assert ran.ret == 10
    total = next(line for line in ran.outlines if line.startswith("total "))
    calls, refused, _, _, usd = total.split()[1:]
    assert (calls, usd) == ("5", "0.1")
    assert int(refused) >= 1
    assert sum(line.startswith("total ") for line in ran.outlines) == 1
    ran.stdout.fnmatch_lines(["*budget '--farebox-budget' (0.12 USD) needs 0.03 USD *", "*is spent: no further test*"])


ASYNC = """
import asyncio
import pytest
import farebox

pytestmark = {marks}

async def pay(times=1):
    for _ in range(times):
        async with farebox.reserve(usd="0.03") as hold:
            await asyncio.sleep(0)
            hold.settle(usd="0.02")

{fixtures}

@pytest.mark.budget(calls=2)
async def test_within(paid, spend):
    await pay()
    spend.assert_under(usd="0.04", calls=2)

@pytest.mark.budget(calls=2)
async def test_over(paid):
    await pay(2)

@pytest.mark.budget(calls=2)
async def test_tasks():
    ended = await asyncio.gather(*(pay() for _ in range(5)), return_exceptions=True)
    assert sum(isinstance(one, farebox.BudgetExceeded) for one in ended) == 3
"""


@pytest.mark.parametrize(
    ("plugin", "marks", "fixtures"),
    [
        pytest.param(
            "pytest_asyncio.plugin",
            'pytest.mark.asyncio(loop_scope="module")',
            """
import pytest_asyncio

@pytest_asyncio.fixture(loop_scope="module")
async def paid():
    await pay()
    yield
""",
            marks=needs("pytest_asyncio"),
        ),
        pytest.param(
            "anyio.pytest_plugin",
            "pytest.mark.anyio",
            """
@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"

@pytest.fixture
async def paid(anyio_backend):
    await pay()
    yield
""",
            marks=needs("anyio"),
        ),
    ],
    ids=["pytest-asyncio", "anyio"],
)
def test_a_budget_holds_in_the_task_of_an_async_test(run: Run, plugin: str, marks: str, fixtures: str) -> None:
    # One event loop for the whole module: it was started in the context of the first test.
    source = ASYNC.format(marks=marks, fixtures=fixtures)
    options = ("-o", "asyncio_default_fixture_loop_scope=function") if "asyncio" in plugin else ()
    ran = run(source, *options, plugins=f"farebox_pytest {plugin}")
    assert ran.ret == 10
    ran.stdout.fnmatch_lines(["test_it.py::test_over: budget *", "*2 passed*1 over budget*"])


@needs("anyio")
def test_a_budget_holds_where_a_plugin_puts_another_item_in_place_of_the_collected_one(run: Run) -> None:
    ran = run(
        """
@pytest.mark.budget(calls=1)
async def test_over():
    pay(2)
""",
        plugins="farebox_pytest anyio.pytest_plugin",
        conftest="""
import pytest

@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        item.add_marker(pytest.mark.anyio)      # so late that anyio makes its items anew

@pytest.fixture
def anyio_backend():
    return "asyncio"
""",
    )
    assert ran.ret == 10
    ran.stdout.fnmatch_lines(["test_it.py::test_over[[]asyncio]: budget '@pytest.mark.budget' (1 call) *"])


RERUN = """
from _pytest.runner import runtestprotocol

def pytest_runtest_protocol(item, nextitem):
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    if any(report.failed for report in reports):
        item._initrequest()
        reports = runtestprotocol(item, nextitem=nextitem, log=False)
    for report in reports:
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True
"""


def test_a_refusal_that_a_program_made_something_else_of_is_told_beside_its_failure(run: Run) -> None:
    ran = run(
        """
        @pytest.mark.budget(usd="0.03")
        def test_command():
            try:
                pay(3)
            except farebox.BudgetExceeded:
                code = 1
            assert code == 0
        """.replace("\n        ", "\n")
    )
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*calls of this test that were not sent*", "budget * refused 1 of its calls"])


def test_a_test_that_is_run_again_has_its_budget_again_and_paid_for_both(run: Run) -> None:
    ran = run(
        """
times = []

@pytest.mark.budget(calls=2)
def test_flaky(spend):
    times.append(None)
    pay(2)
    spend.assert_under(calls=2)
    assert len(times) == 2
""",
        conftest=RERUN,
    )
    ran.assert_outcomes(passed=1)
    ran.stdout.fnmatch_lines(["test_it.py::test_flaky (2 runs) * 4 * 0.08"])


# ── a baseline ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_test_that_uses_more_than_the_baseline_fails_the_run_by_how_much(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = """
import os

def test_talks():
    farebox.record(model="gpt-4.1-mini", provider="openai", input_tokens=int(os.environ["IN"]), output_tokens=100)

def test_new():
    if os.environ["IN"] != "1000":
        pay()
"""
    monkeypatch.setenv("IN", "1000")
    assert run(tests, "--farebox-baseline=base.json", "--farebox-update-baseline").ret == 0

    monkeypatch.setenv("IN", "1040")
    ran = run(tests, "--farebox-baseline=base.json", "--farebox-markdown=grown.md")
    assert ran.ret == 11
    # gpt-4.1-mini at 0.40 and 1.60 USD per million: 1000 and 100 tokens are 0.00056 USD, 1040 and 100 are 0.000576.
    ran.stdout.fnmatch_lines(
        [
            "*more than base.json*",
            "test_it.py::test_talks  input tokens * 1000 * 1040 * +4.0%",
            "test_it.py::test_talks  usd * 0.00056  0.000576  +2.9%",
        ]
    )
    ran.stdout.no_fnmatch_line("*test_new *new*")
    assert "| test_it.py::test_talks | input tokens | 1000 | 1040 | +4.0% |" in (
        ran_folder(ran) / "grown.md"
    ).read_text("utf-8")


@pytest.mark.parametrize(
    ("tolerance", "grown"),
    [("0%", ["input tokens", "usd"]), ("3.9%", ["input tokens"]), ("4", []), ("50%", [])],
)
def test_growth_within_the_tolerance_is_none(tolerance: str, grown: list[str]) -> None:
    def figures(input_tokens: int) -> Uses:
        return {
            "gpt": Use(
                calls=1, input_tokens=input_tokens, output_tokens=100, input_picos=400_000, output_picos=1_600_000
            )
        }

    was, now = (to_json({"test": figures(tokens)}, {}, set()) for tokens in (1_000, 1_040))
    now["prices"]["gpt"]["input_per_million"] = "400"  # a price that rose: the baseline's own holds
    found = find_growth(now, was, read_tolerance(tolerance))
    assert sorted(growth.figure for growth in found) == grown
    assert find_growth(was, now, read_tolerance("0%")) == []
    assert [growth.shown[1:] for growth in found if growth.figure == "usd"] in (
        [],
        [("usd", "0.00056", "0.000576", "+2.9%")],
    )


# ── a guard against live calls ───────────────────────────────────────────────────────────────────────────────────


@needs("openai")
def test_a_call_that_leaves_this_machine_is_not_sent_unless_the_test_is_marked(run: Run) -> None:
    ran = run(
        """
import openai._base_client
from openai import OpenAI
from farebox.testing.plugin import LiveCallBlocked

ANSWER = {
    "id": "x", "object": "chat.completion", "created": 1, "model": "gpt-4.1-mini",
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
    "usage": {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100},
}
http = getattr(openai._base_client, "httpx2", None) or openai._base_client.httpx    # since version 3, and before
sent = []

def ask(base_url, http_client=None):
    client = OpenAI(base_url=base_url, api_key="fake", max_retries=0, http_client=http_client)
    messages = [{"role": "user", "content": "Yes?"}]
    return client.chat.completions.create(model="gpt-4.1-mini", messages=messages, max_completion_tokens=100)

def elsewhere():
    def answer(request):
        sent.append(request.url.host)
        return http.Response(200, json=ANSWER)

    return ask("https://provider.invalid/v1", http.Client(transport=http.MockTransport(answer)))

def test_blocked(spend):
    with pytest.raises(LiveCallBlocked, match="a call to provider.invalid .* was not sent"):
        elsewhere()
    assert sent == []
    spend.assert_under(usd=0, allow_empty=True)

@pytest.mark.live
def test_live(spend):
    elsewhere()
    assert sent == ["provider.invalid"]
    spend.assert_under(usd="0.00056", tokens=1100, calls=1)

def test_here(fake_provider, spend):
    ask(fake_provider.openai_base_url)
    assert spend.report().total.usd == fake_provider.bill.usd
""",
        "--farebox-block-live",
        "--strict-markers",
    )
    ran.assert_outcomes(passed=3)


# ── its page ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_its_page_names_every_option_and_exit_code() -> None:
    page = PAGE.read_text(encoding="utf-8")
    options = re.findall(r'addoption\(\s*"(--[a-z-]+)"', inspect.getsource(farebox_pytest))
    assert len(options) == 11
    assert [option for option in options if option not in page] == []
    assert f"| {OVER_BUDGET} |" in page
    assert f"| {GREW} |" in page
