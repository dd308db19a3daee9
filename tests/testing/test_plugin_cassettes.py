"""Cassettes in runs of pytest of their own: recorded with a provider, played without one and without a key."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest

import farebox.testing.plugin  # noqa: F401 - runs within this process share it; else each would import its own
import farebox_pytest  # noqa: F401
from farebox.testing import FakeProvider

pytest_plugins = ("pytester",)

Run = Callable[..., pytest.RunResult]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "record-and-replay.md"

#: 7 tokens in and 100 out of gpt-4.1-mini, at 0.40 and 1.60 USD per million: 0.0001628 USD a call.
ASK = """
import farebox
import pytest
from openai import OpenAI

def ask(text="Hi", **options):
    client = OpenAI(max_retries=0)
    messages = [{"role": "user", "content": text}]
    reply = client.chat.completions.create(model="gpt-4.1-mini", messages=messages, max_completion_tokens=100, **options)
    return reply.choices[0].message.content
"""


@pytest.fixture
def run(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, provider: FakeProvider) -> Run:
    """Runs pytest on a test module, with workers in processes of its own; with a key and a provider only if it records."""
    monkeypatch.setenv("FAREBOX_CONFIG", "")
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("OPENAI_API_KEY", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://provider.invalid/v1")

    def run(tests: str, *args: str, plugins: str = "farebox_pytest", **modules: str) -> pytest.RunResult:
        pytester.makepyfile(test_it=ASK + tests, **modules)
        with pytest.MonkeyPatch.context() as patch:
            if any(arg.endswith(("=record", "=new")) for arg in args):
                patch.setenv("OPENAI_BASE_URL", provider.openai_base_url)
                patch.setenv("OPENAI_API_KEY", "sk-abcdefghijklmnopqrstuvwxyz")
            loaded = [word for name in plugins.split() for word in ("-p", name)]
            start = pytester.runpytest_subprocess if "xdist" in plugins else pytester.runpytest_inprocess
            return start("-p", "no:cacheprovider", *loaded, *args)

    return run


RECORD = "--farebox-cassettes=record"


def files(pytester: pytest.Pytester) -> list[str]:
    return sorted(str(path.relative_to(pytester.path)) for path in pytester.path.rglob("*.json"))


def test_a_test_is_played_without_a_key_and_its_table_says_what_it_would_have_cost(
    run: Run, pytester: pytest.Pytester, provider: FakeProvider
) -> None:
    tests = """
@pytest.mark.cassette
def test_one(spend):
    assert ask() == ask()
    spend.assert_under(usd="0.0003256", tokens=214, calls=2)

@pytest.mark.cassette
@pytest.mark.budget(calls=1)
@pytest.mark.parametrize("text", ["a/b", "ä"])
def test_each(text):
    ask(text)

class TestClass:
    @pytest.mark.cassette("of_a_class")
    def test_within(self, cassette, spend):
        ask()
        assert (cassette.played, cassette.recorded) in [(0, 1), (1, 0)]
        assert spend.replayed_calls == cassette.played
        assert (spend.real_usd == 0) == (cassette.played == 1)
"""
    recorded = run(tests, RECORD, "--farebox-json=recorded.json")
    recorded.assert_outcomes(passed=4)
    recorded.stdout.fnmatch_lines(
        [
            "total * 5 * 0 * 35 * 500 * 0.000814",
            "*cassettes*",
            "cassettes?test_it?of_a_class.json: 1 request was recorded",
            "cassettes?test_it?test_one.json: 2 requests were recorded",
        ]
    )
    recorded.stdout.no_fnmatch_line("*replayed*")
    (pytester.path / "recorded.json").unlink()
    assert [re.sub("-[0-9a-f]{8}", "-HASH", name) for name in files(pytester)] == [
        "cassettes/test_it/of_a_class.json",
        "cassettes/test_it/test_each[-xe4]-HASH.json",  # other names would be refused by some file systems
        "cassettes/test_it/test_each[a-b]-HASH.json",
        "cassettes/test_it/test_one.json",
    ]

    ran = run(tests, "--junitxml=junit.xml", "--farebox-json=spent.json", "--farebox-block-live")
    ran.assert_outcomes(passed=4)
    ran.stdout.fnmatch_lines(
        [
            "test * calls  refused  replayed  tokens in  tokens out * usd",
            "test_it.py::test_one * 2 * 0 * 2 * 14 * 200 * 0.0003256",
            "total * 5 * 0 * 5 * 35 * 500 * 0.000814",
            "really spent: 0 usd; 5 replayed calls would have cost 0.000814 usd",
        ]
    )
    assert len(provider.requests) == 5
    spent = json.loads((pytester.path / "spent.json").read_text("utf-8"))["tests"]["test_it.py::test_one"]
    assert (spent["usd"], spent["replayed_usd"], spent["replayed_calls"]) == ("0.0003256", "0.0003256", 2)
    cases = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    noted = {case.get("name"): {p.get("name"): p.get("value") for p in case.iter("property")} for case in cases}
    assert noted["test_one"]["farebox_usd"] == "0.0003256"
    assert (noted["test_one"]["farebox_real_usd"], noted["test_one"]["farebox_replayed_calls"]) == ("0", "2")


def test_budgets_and_baselines_judge_what_would_have_been_spent(run: Run) -> None:
    tests = """
@pytest.mark.cassette
def test_one():
    ask()
    ask("Hello")
"""
    run(tests, RECORD).assert_outcomes(passed=1)
    assert run(tests, "--farebox-baseline=base.json", "--farebox-update-baseline").ret == 0
    assert run(tests, "--farebox-baseline=base.json").ret == 0
    over = run(tests, "--farebox-budget-per-test=0.0003")
    assert over.ret == 10
    over.stdout.fnmatch_lines(["test_it.py::test_one: budget '--farebox-budget-per-test' *", "*1 over budget*"])


def test_a_test_that_fails_is_not_recorded_and_the_old_file_stays(run: Run, pytester: pytest.Pytester) -> None:
    tests = """
@pytest.mark.cassette
def test_one():
    ask({text!r})
    assert {text!r} == "good"
"""
    run(tests.format(text="good"), RECORD).assert_outcomes(passed=1)
    before = (pytester.path / "cassettes/test_it/test_one.json").read_text("utf-8")
    ran = run(tests.format(text="bad"), RECORD)
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*test_one.json: nothing was recorded, as the test has not passed"])
    assert (pytester.path / "cassettes/test_it/test_one.json").read_text("utf-8") == before
    assert files(pytester) == ["cassettes/test_it/test_one.json"]


def test_a_call_that_is_not_in_the_cassette_fails_the_test_whatever_becomes_of_the_error(
    run: Run, provider: FakeProvider
) -> None:
    tests = """
import asyncio
import threading

@pytest.mark.cassette
def test_plain():
    ask({text!r})

@pytest.mark.cassette
def test_swallowed():
    try:
        ask({text!r})
    except BaseException:
        pass

@pytest.mark.cassette
def test_another_error():
    try:
        ask({text!r})
    except BaseException:
        assert 1 == 2

@pytest.mark.cassette
def test_in_a_task():
    async def main():
        return await asyncio.gather(asyncio.to_thread(ask, {text!r}), return_exceptions=True)
    asyncio.run(main())

@pytest.fixture
def late():
    yield
    try:
        ask({text!r})
    except BaseException:
        pass

@pytest.mark.cassette
def test_teardown(late):
    pass
"""
    run(tests.format(text="Hi"), RECORD).assert_outcomes(passed=5)
    before = len(provider.requests)
    ran = run(tests.format(text="Hi!"), "-rfE")
    ran.assert_outcomes(failed=4, passed=1, errors=1)
    assert len(provider.requests) == before
    ran.stdout.fnmatch_lines(
        [
            "*what the cassette had no answer for*",
            "POST /chat/completions (gpt-4.1-mini) is not in the cassette cassettes?test_it?test_another_error.json, *",
            "  body.messages[[]0].content: was a text of 2 characters (*), is a text of 3 characters (*); they differ*",
            "FAILED test_it.py::test_plain - farebox.testing.UnmatchedCall: POST*",
            "FAILED test_it.py::test_swallowed - Failed: POST*",
            "FAILED test_it.py::test_another_error - *assert 1 == 2*",
            "FAILED test_it.py::test_in_a_task - Failed: POST*",
            "ERROR test_it.py::test_teardown - Failed: POST*",
        ]
    )
    ran.stdout.fnmatch_lines([">       ask('Hi!')", "test_it.py:16: ", "test_it.py:8: UnmatchedCall"])
    for internal in ("*farebox/testing*", "*openai/_base_client*", "*httpx*"):
        ran.stdout.no_fnmatch_line(internal)


def test_a_test_without_a_cassette_says_how_to_get_one(run: Run) -> None:
    ran = run("@pytest.mark.cassette\ndef test_one(): ask()")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*UnmatchedCall: * there is no such file; record it with --farebox-cassettes=new*"])


def test_a_damaged_cassette_is_one_error_without_a_traceback(run: Run, pytester: pytest.Pytester) -> None:
    path = pytester.mkdir("cassettes") / "test_it" / "test_one.json"
    path.parent.mkdir()
    path.write_text('{"farebox_cassette": 1,', "utf-8")
    ran = run("@pytest.mark.cassette\ndef test_one(): ask()")
    ran.assert_outcomes(errors=1)
    ran.stdout.fnmatch_lines(["the cassette *test_one.json can't be read: *; record it anew *"])
    ran.stdout.no_fnmatch_line("*Traceback*")
    ran.stdout.no_fnmatch_line("*farebox/testing*")


def test_calls_that_were_recorded_and_not_played_are_told_and_fail_a_strict_run(run: Run) -> None:
    tests = "@pytest.mark.cassette\ndef test_one():\n    for text in {texts}: ask(text)"
    run(tests.format(texts=["a", "b", "c"]), RECORD).assert_outcomes(passed=1)
    ran = run(tests.format(texts=["b"]))
    assert ran.ret == 0
    said = "*test_one.json: 2 requests were not played: POST /chat/completions (gpt-4.1-mini) and 1 more"
    ran.stdout.fnmatch_lines(["*cassettes*", said])
    strict = run(tests.format(texts=["b"]), "--farebox-strict-cassettes")
    strict.assert_outcomes(passed=1, errors=1)
    strict.stdout.fnmatch_lines([f"the cassette {said}"])


def test_the_guard_lets_replays_pass_and_stops_a_recording_of_another_machine(run: Run, provider: FakeProvider) -> None:
    tests = """
from farebox.testing.plugin import LiveCallBlocked

@pytest.mark.cassette
def test_one(monkeypatch, cassette):
    if cassette.mode != "replay" and {remote}:
        monkeypatch.setenv("OPENAI_BASE_URL", "https://provider.invalid/v1")
    ask()
"""
    run(tests.format(remote=False), RECORD, "--farebox-block-live").assert_outcomes(passed=1)
    run(tests.format(remote=True), "--farebox-block-live").assert_outcomes(passed=1)  # the host is no one's
    ran = run(tests.format(remote=True), RECORD, "--farebox-block-live")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*LiveCallBlocked: a call to provider.invalid * was not sent: *pytest.mark.live*"])
    other = tests.replace("ask()", 'ask("More")')
    ran = run(other.format(remote=True), "--farebox-cassettes=new", "--farebox-block-live")
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["*UnmatchedCall: *nothing was sent; it differs*", "*--farebox-block-live; *"])
    assert len(provider.requests) == 1


def test_off_sends_as_if_there_were_no_mark_and_an_ini_file_may_choose(
    run: Run, pytester: pytest.Pytester, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    tests = "@pytest.mark.cassette\ndef test_one(cassette): ask()"
    pytester.makeini("[pytest]\nfarebox_cassettes = off")
    monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "fake")
    run(tests).assert_outcomes(passed=1)
    assert (files(pytester), len(provider.requests)) == ([], 1)
    run(tests, RECORD).assert_outcomes(passed=1)
    assert files(pytester) == ["cassettes/test_it/test_one.json"]
    wrong = run(tests, "--farebox-cassettes=once")
    assert wrong.ret == pytest.ExitCode.USAGE_ERROR
    wrong.stderr.fnmatch_lines(["ERROR: --farebox-cassettes=once is unknown; choose from replay, record, new, off"])


def test_two_tests_may_share_a_file_to_play_it_and_not_to_record_it(run: Run) -> None:
    tests = """
@pytest.mark.cassette("shared")
@pytest.mark.parametrize("n", [1, 2])
def test_one(n): ask()
"""
    ran = run(tests, RECORD)
    assert ran.ret == pytest.ExitCode.USAGE_ERROR
    ran.stderr.fnmatch_lines(["ERROR: *test_one[[]1] and *test_one[[]2] would both be recorded in *shared.json; *"])
    run(tests, RECORD, "-k", "1").assert_outcomes(passed=1, deselected=1)
    run(tests).assert_outcomes(passed=2)


def test_workers_record_and_play_and_a_test_that_is_run_again_starts_anew(run: Run, provider: FakeProvider) -> None:
    pytest.importorskip("xdist")
    pytest.importorskip("pytest_rerunfailures")
    tests = """
import pathlib

@pytest.mark.cassette
@pytest.mark.parametrize("n", range(6))
def test_one(n):
    ask(f"text {n}")
    seen = pathlib.Path(f"seen {n}")
    if n == 3 and not seen.exists():
        seen.touch()
        assert False
"""
    plugins = "farebox_pytest xdist.plugin pytest_rerunfailures"
    ran = run(tests, RECORD, "-n2", "--reruns=1", plugins=plugins)
    ran.assert_outcomes(passed=6)
    assert ran.ret == 0
    assert len(provider.requests) == 7
    ran.stdout.fnmatch_lines(["*test_one[[]3] (2 runs) * 2 *", "total * 7 *"])
    again = run(tests)
    again.assert_outcomes(passed=6)
    again.stdout.fnmatch_lines(["total * 6 * 0 * 6 *", "really spent: 0 usd; 6 replayed calls would have cost *"])


def test_what_several_tests_share_has_a_cassette_of_its_own(run: Run, pytester: pytest.Pytester) -> None:
    tests = """
@pytest.fixture(scope="session")
def corpus(cassettes):
    with cassettes("cassettes/corpus.json"):
        yield ask("the corpus")
        ask("the corpus, at the end")

@pytest.mark.cassette
def test_one(corpus):
    ask("one")

def test_two(corpus): pass
"""
    run(tests, RECORD).assert_outcomes(passed=2)
    assert files(pytester) == ["cassettes/corpus.json", "cassettes/test_it/test_one.json"]
    for order in ((), ("-k", "two"), ("-k", "one")):
        ran = run(tests, *order)
        ran.assert_outcomes(passed=2 if not order else 1, deselected=1 if order else 0)
        ran.stdout.fnmatch_lines(["session fixture 'corpus' * 2 * 0 * 2 * 0.00032*"])


def test_no_stored_ledger_of_wider_fixtures_is_charged_for_what_was_played(run: Run) -> None:
    tests = """
@pytest.fixture(scope="session", autouse=True)
def app(tmp_path_factory):
    with farebox.configure(ledger=f"sqlite:///{tmp_path_factory.getbasetemp()}/real.db"):
        yield

@pytest.mark.cassette
def test_one(spend, cassette):
    ask()
    assert farebox.report().total.calls == 1      # the test still sees what it would have cost
    spend.assert_under(usd="0.0001628", calls=1)

def test_the_real_one(pytestconfig):
    mode = pytestconfig.getoption("--farebox-cassettes")
    assert farebox.report().total.calls == (1 if mode == "record" else 0)
"""
    run(tests, RECORD).assert_outcomes(passed=2)
    run(tests).assert_outcomes(passed=2)


def test_a_conftest_says_what_goes_for_all_cassettes(run: Run, pytester: pytest.Pytester) -> None:
    conftest = """
def pytest_farebox_cassette(item):
    return {"ignore": ["user"], "redact": lambda text: text.replace("Alice", "NAME")}
"""
    tests = "@pytest.mark.cassette\ndef test_one(): ask('For Alice', user='{user}')"
    run(tests.format(user=1), RECORD, conftest=conftest).assert_outcomes(passed=1)
    text = (pytester.path / "cassettes/test_it/test_one.json").read_text("utf-8")
    assert "Alice" not in text
    assert '"user": "' not in text.replace('"role": "user"', "")
    run(tests.format(user=2), conftest=conftest).assert_outcomes(passed=1)


def test_a_call_that_goes_round_the_cassette_fails_the_test(run: Run) -> None:
    tests = """
from farebox.testing import _cassette_http

@pytest.mark.cassette
def test_one(fake_provider, monkeypatch):
    _cassette_http._uninstall()      # as an SDK does that sends with something else
    monkeypatch.setenv("OPENAI_BASE_URL", fake_provider.openai_base_url)
    ask()
"""
    ran = run(tests)
    ran.assert_outcomes(failed=1)
    ran.stdout.fnmatch_lines(["a call to openai (gpt-4.1-mini) went past the cassette and was sent: *"])


@pytest.fixture
def page() -> dict[str, list[str]]:
    """The blocks of its page, by their language."""
    found: dict[str, list[str]] = {}
    for language, text in re.findall(r"^```(\w+)\n(.*?)^```$", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        found.setdefault(language, []).append(text)
    return found


def test_the_tests_on_its_page_are_recorded_and_played(
    run: Run, provider: FakeProvider, page: dict[str, list[str]]
) -> None:
    conftest = next(block for block in page["py"] if block.startswith("# conftest.py"))
    tests = "\n".join(block for block in page["py"] if block != conftest)
    provider.answer(text="A fox jumps.")
    for options in ([RECORD], ["--farebox-block-live", "--farebox-strict-cassettes"]):
        run(tests, "--strict-markers", *options, conftest=conftest).assert_outcomes(passed=3)


def test_its_page_shows_the_table_and_the_file_as_they_are(
    run: Run, pytester: pytest.Pytester, provider: FakeProvider, page: dict[str, list[str]]
) -> None:
    provider.answer(text="A fox jumps.")
    run(page["py"][0], "--farebox-cassettes=new").assert_outcomes(passed=1)
    ran = run(page["py"][0])
    assert ran.ret == 0
    lines = [re.sub(r"\d{4}-\d\d-\d\d", "????-??-??", line) for line in page["text"][0].splitlines()]
    ran.stdout.fnmatch_lines(lines, consecutive=True)
    (file,) = pytester.path.rglob("cassettes/*/*.json")
    written = json.loads(file.read_text("utf-8"))["interactions"][0]
    shown = json.loads(page["json"][0])["interactions"][0]
    assert shown["request"] == written["request"]
    assert shown["response"]["headers"] == written["response"]["headers"]


def test_its_page_shows_what_a_request_that_differs_is_told(
    run: Run, provider: FakeProvider, page: dict[str, list[str]]
) -> None:
    tests = (
        page["py"][0]
        + """
def hello(text, **options):
    messages = [{"role": "user", "content": text}]
    OpenAI().chat.completions.create(model="gpt-4.1-mini", messages=messages, **options)

@pytest.mark.cassette
def test_hello():
    hello(HOW)
"""
    )
    run(tests.replace("HOW", '"Shorter, please: The quick brown fox jumps."'), RECORD)
    ran = run(tests.replace("HOW", '"Shorter, please: A quicker brown fox jumped.", temperature=0.5'))
    shown = page["text"][1].removeprefix("UnmatchedCall: ").replace("tests/cassettes/test_chat", "cassettes/test_it")
    said = "\n".join(line.removeprefix("E").strip() for line in ran.outlines)
    for line in shown.splitlines():
        assert line.strip() in said
