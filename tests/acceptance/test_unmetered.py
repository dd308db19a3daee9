"""What may be billed and nobody here can read: noticed, counted, warned about, and refused under a limit that it could pass."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, _instrument, _speak, budget, report, signals
from farebox.errors import UnmeteredCall, UnmeteredWarning
from farebox.testing import FakeProvider
from tests.acceptance.rides import ALL_RIDES, ANTHROPIC, MESSAGES, OPENAI, Ride, attempt, nothing_is_left, only_record

pytestmark = pytest.mark.usefixtures("metered")

#: A path that no SDK has: as good as one that it will get tomorrow.
NEW = {"openai": "/dreams/generations", "anthropic": "/v1/dreams/generations"}


@pytest.fixture(autouse=True)
def unwarned() -> Iterator[None]:
    _speak._warned_unmetered.clear()
    yield
    _speak._warned_unmetered.clear()


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider() as provider:
        for path in ("/v1/dreams/generations", "/v1/files", "/v1/moderations", "/v1/fine_tuning/jobs"):
            provider.serve(path, {"id": "thing-1", "object": "thing"})
        yield provider


def dream(ride: Ride, client: Any, **words: Any) -> Any:
    return client.post(NEW[ride.name], cast_to=object, body={"model": "dream-1", "prompt": "sheep", **words})


@pytest.mark.parametrize("limit", [{"usd": 1}, {"tokens": 10_000}, {"usd": 0}])
def test_under_a_limit_that_it_could_pass_it_is_refused_and_the_line_to_write_is_named(
    ride: Ride, provider: Any, client: Any, limit: Any
) -> None:
    with (
        budget("b", **limit) as b,
        pytest.raises(UnmeteredCall, match=r'budget\(.b., on_unmetered="warn"\)') as refused,
    ):
        dream(ride, client)
    assert not provider.requests
    assert (refused.value.endpoint, refused.value.budget) == ("/v1/dreams/generations", "b")
    assert [decision.did for decision in b.decisions] == ["stop"]
    assert (only_record().outcome, only_record().error_class) == ("refused", "UnmeteredCall")
    assert (report().total.refused_calls, report().total.unmetered_calls) == (1, 0)
    nothing_is_left()


def test_without_a_limit_it_is_sent_untouched_warned_about_once_and_its_cost_is_unknown(
    ride: Ride, provider: Any, client: Any
) -> None:
    with pytest.warns(UnmeteredWarning, match="POST /v1/dreams/generations") as warned:
        answers = [dream(ride, client)["id"] for _ in range(3)]
    assert answers == ["thing-1"] * 3
    assert len(warned) == 1
    assert warned[0].filename == __file__
    assert [request.body for request in provider.requests] == [{"model": "dream-1", "prompt": "sheep"}] * 3
    total = report(where={"operation": "unmetered", "model": "dream-1"}).total
    assert (total.calls, total.unmetered_calls, total.unpriced_calls, total.usd) == (3, 3, 3, 0)
    assert {record.usd for record in farebox.calls()} == {None}
    assert "3 unmetered calls" in str(report())
    nothing_is_left()


@pytest.mark.parametrize(("word", "warnings_given"), [("warn", 1), ("allow", 0)])
def test_a_budget_that_allows_it_counts_it_and_says_so(
    ride: Ride, provider: Any, client: Any, word: Any, warnings_given: int
) -> None:
    heard = []
    with signals.decision.connected_to(lambda name, decision: heard.append(decision.did)):
        with warnings.catch_warnings(record=True) as warned, budget(usd=1, on_unmetered=word) as b:
            warnings.simplefilter("always")
            dream(ride, client)
    assert (b.spent_calls, b.spent_usd, len(warned)) == (1, 0, warnings_given)
    assert heard == ["unmetered"]
    nothing_is_left()


def test_of_nested_budgets_the_strictest_is_heard_and_one_that_cannot_stop_is_not(
    ride: Ride, provider: Any, client: Any
) -> None:
    with budget("outer", usd=1), budget(usd=1, on_unmetered="allow"), pytest.raises(UnmeteredCall, match="outer"):
        dream(ride, client)
    with budget(usd=1, on_exceed="warn"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dream(ride, client)
    assert len(provider.requests) == 1


def test_a_limit_of_calls_counts_it_as_one(ride: Ride, provider: Any, client: Any) -> None:
    with budget(calls=2) as b, pytest.warns(UnmeteredWarning):
        ended = [attempt(lambda: dream(ride, client)) for _ in range(3)]
    assert [isinstance(end, BudgetExceeded) for end in ended] == [False, False, True]
    assert (b.spent_calls, len(provider.requests)) == (2, 2)


def test_a_receiver_may_veto_it_like_any_call(ride: Ride, provider: Any, client: Any) -> None:
    def veto(sender: str, call: Any) -> None:
        assert call.is_unmetered
        raise PermissionError("not here")

    with signals.pre_call.connected_to(veto), pytest.warns(UnmeteredWarning), pytest.raises(PermissionError):
        dream(ride, client)
    assert not provider.requests


def test_async_and_streams_and_raw_answers_are_noticed_too(ride: Ride, provider: Any, open_client: Any) -> None:
    async def main() -> None:
        async with ride.async_client(provider) as client:
            with budget(usd=1), pytest.raises(UnmeteredCall):
                await client.post(NEW[ride.name], cast_to=object, body={})
            await client.post(NEW[ride.name], cast_to=object, body={})

    with pytest.warns(UnmeteredWarning):
        asyncio.run(main())
    assert [record.outcome for record in farebox.calls()] == ["refused", "completed"]


def test_what_fails_counts_as_nothing(ride: Ride, provider: Any, client: Any) -> None:
    provider.fail(500)
    with budget(usd=1, on_unmetered="allow") as b, pytest.raises(Exception, match="told to fail"):
        dream(ride, client)
    assert (b.spent_calls, report().total.unmetered_calls) == (0, 0)
    report().assert_under(usd=1)
    assert only_record().outcome == "failed"


def test_what_is_free_passes_in_a_budget_of_nothing(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(usd=0, tokens=0, calls=0):
        client.files.create(file=b"{}", purpose="batch")
        client.moderations.create(input="hello")
        client.responses.input_tokens.count(model="gpt-4o-mini", input="hello")
        open_client(ANTHROPIC).messages.count_tokens(model=ANTHROPIC.model, messages=[{"role": "user", "content": "a"}])
    assert len(provider.requests) == 4
    assert not farebox.calls()


def test_a_resource_of_the_sdk_that_bills_later_is_noticed(provider: Any, open_client: Any) -> None:
    with budget(usd=1), pytest.raises(UnmeteredCall, match="/v1/fine_tuning/jobs"):
        open_client(OPENAI).fine_tuning.jobs.create(model="gpt-4o-mini", training_file="file-1")
    assert not provider.requests


def test_a_malformed_body_of_a_known_endpoint_is_the_servers_to_refuse(ride: Ride, provider: Any, client: Any) -> None:
    with budget(usd=1), pytest.raises(Exception, match="400"):
        client.post(
            "/chat/completions" if ride is OPENAI else "/v1/messages", cast_to=object, body={"model": ride.model}
        )
    assert len(provider.requests) == 1
    assert not farebox.calls()


@pytest.mark.parametrize("is_async", [False, True])
def test_a_generator_in_a_body_that_nobody_can_read_arrives_all_the_same(
    ride: Ride, provider: Any, client: Any, is_async: bool
) -> None:
    """A body without a model is malformed: it has been looked through by then, and a generator is read once."""
    path = "/chat/completions" if ride is OPENAI else "/v1/messages"

    def body() -> dict[str, Any]:
        return {"messages": (message for message in MESSAGES), "metadata": {"words": iter(("a", "b"))}}

    async def main() -> None:
        async with ride.async_client(provider) as one:
            await one.post(path, cast_to=object, body=body())

    with pytest.raises(Exception, match="400"):
        asyncio.run(main()) if is_async else client.post(path, cast_to=object, body=body())
    assert [request.body for request in provider.requests] == [
        {"messages": MESSAGES, "metadata": {"words": ["a", "b"]}}
    ]


class ReaderBug(Exception):
    pass


@pytest.fixture(params=ALL_RIDES, ids=str)
def any_ride(request: pytest.FixtureRequest) -> Ride:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=["read_request", "read_plain", "metering"])
def broken(request: pytest.FixtureRequest, any_ride: Ride, monkeypatch: pytest.MonkeyPatch) -> None:
    """The provider of the ride's SDK raises on whatever it is asked about a request."""

    def raises(*given: Any) -> Any:
        raise ReaderBug("with the user's text in it")

    seam: Any = _instrument._seam(any_ride.name)
    monkeypatch.setattr(seam.provider, "read_request", raises)
    if request.param == "metering":
        monkeypatch.setattr(seam.provider, "metering", raises)
    if hasattr(seam, "read_plain"):
        monkeypatch.setattr(seam, "read_plain", raises if request.param == "read_plain" else None)
    monkeypatch.setattr(seam, "_unread", set())


@pytest.mark.usefixtures("broken")
@pytest.mark.parametrize("limit", [{"usd": 1}, {"tokens": 10_000}])
def test_what_a_provider_fails_to_read_is_refused_under_a_limit_that_it_could_pass(
    any_ride: Ride, open_client: Any, provider: Any, limit: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with budget("b", **limit), pytest.raises(UnmeteredCall):
        any_ride.ask(open_client(any_ride))
    assert not provider.requests
    assert only_record().outcome == "refused"
    assert "could not be read (ReaderBug)" in caplog.text
    assert "user's text" not in caplog.text
    nothing_is_left()


@pytest.mark.usefixtures("broken")
def test_what_a_provider_fails_to_read_is_sent_untouched_where_nothing_limits_it_and_is_in_the_report(
    any_ride: Ride, open_client: Any, provider: Any
) -> None:
    with pytest.warns(UnmeteredWarning), budget(calls=1) as b:
        any_ride.ask(open_client(any_ride))
    assert len(provider.requests) == 1
    assert b.spent_calls == 1
    record = only_record()
    assert (record.outcome, record.usd) == ("completed", None)
    assert "ReaderBug" in record.doubt
    assert report().total.unmetered_calls == 1
    nothing_is_left()


def test_assert_under_fails_on_it_unless_it_is_allowed(ride: Ride, provider: Any, client: Any) -> None:
    with pytest.warns(UnmeteredWarning):
        dream(ride, client)
    for limit in ({"usd": 1}, {"tokens": 1_000}):
        with pytest.raises(AssertionError, match="1 calls could not be metered"):
            report().assert_under(**limit)
        report().assert_under(**limit, allow_unmetered=True)
    report().assert_under(calls=1)


def test_ids_in_a_path_do_not_make_an_endpoint_of_their_own(provider: Any, open_client: Any) -> None:
    client = open_client(OPENAI)
    with budget(calls=5), pytest.warns(UnmeteredWarning) as warned:
        ended = [
            attempt(lambda path=f"/evals/eval_abcdef{number}/runs": client.post(path, cast_to=object, body={}))  # type: ignore[misc]
            for number in (1, 2)
        ]
    assert all("404" in str(end) for end in ended)
    assert len(warned) == 1
    assert {record.endpoint for record in farebox.calls()} == {"/v1/evals/{id}/runs"}


def test_a_word_that_is_no_choice_is_refused() -> None:
    with pytest.raises(ValueError, match="on_unmetered='ignore' is unknown; choose from 'refuse', 'warn', 'allow'"):
        budget(usd=1, on_unmetered="ignore")  # type: ignore[arg-type]


def test_a_websocket_that_nobody_reads_is_noticed_when_it_is_opened(provider: Any, open_client: Any) -> None:
    opens = getattr(getattr(open_client(OPENAI), "realtime", None), "translations", None)
    if not hasattr(opens, "connect"):
        pytest.skip("this openai opens no websocket of translations")
    words = {"model": "gpt-realtime-translate"}
    with (
        budget("b", usd=1),
        pytest.raises(UnmeteredCall, match="websocket /realtime/translations of openai may be billed"),
    ):
        opens.connect(**words).__enter__()
    with budget("b", usd=1), pytest.raises(UnmeteredCall):
        opens.connect(**words).enter()
    assert not provider.requests
    with budget(usd=1, on_unmetered="allow"), pytest.raises(Exception):  # noqa: B017, PT011, none is served here
        opens.connect(**words).__enter__()
    assert [record.outcome for record in farebox.calls()] == ["refused", "refused", "failed"]
    farebox.uninstrument()
    with budget(usd=1), pytest.raises(Exception) as without:  # noqa: PT011
        opens.connect(**words).__enter__()
    assert not isinstance(without.value, UnmeteredCall)
    nothing_is_left()
