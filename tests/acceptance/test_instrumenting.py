"""instrument() is one switch: turned on twice it counts once, turned off it takes back its own, and no receiver breaks it."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import anthropic
import openai
import pytest

import farebox
from farebox import BudgetExceeded, _instrument, _threads, budget, instrument, report, signals, uninstrument
from farebox.errors import IncompatibleSDK
from tests.acceptance.rides import (
    ANTHROPIC,
    HTTPX,
    OPENAI,
    Ride,
    attempt,
    bound_of,
    nothing_is_left,
    only_record,
    outcomes,
    stormproof,
)
from tests.acceptance.test_waiting import wait_for

TOO_LITTLE = "0.000001"


@pytest.fixture(autouse=True)
def measured(fresh: None) -> None:
    for ride in (OPENAI, ANTHROPIC):
        bound_of(ride)


def is_metered(ride: Ride, client: Any) -> bool:
    with budget(usd=TOO_LITTLE):
        return isinstance(attempt(lambda: ride.ask(client)), BudgetExceeded)


def is_async_metered(ride: Ride, provider: Any) -> bool:
    async def main() -> bool:
        async with ride.async_client(provider) as client:
            with budget(usd=TOO_LITTLE):
                try:
                    await ride.ask(client)
                except BudgetExceeded:
                    return True
                return False

    return asyncio.run(main())


def base_of(client: Any) -> Any:
    return next(cls for cls in type(client).__mro__ if "request" in vars(cls))


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """The SDKs' base classes are, after the test, what they were before it."""
    bases = [
        (base, name, vars(base)[name])
        for cls in (openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic, anthropic.AsyncAnthropic)
        for base in cls.__mro__
        for name in ("request", "_build_request", "_sleep_for_retry", "_prepare_url")
        if name in vars(base)
    ]
    yield
    uninstrument()
    for seam in _instrument._seams.values():
        for client in list(seam.clients):
            uninstrument(client)  # copies of an instrumented client are instrumented too
    left = [(base.__name__, name) for base, name, was in bases if vars(base)[name] is not was]
    for base, name, was in bases:
        setattr(base, name, was)
    _forget_kept_patches()
    assert not left


pytestmark = pytest.mark.usefixtures("as_it_was")


def test_twice_counts_once_and_each_handle_takes_back_its_own(ride: Ride, provider: Any, client: Any) -> None:
    first, second = instrument(), instrument()
    with budget(usd=1) as paid:
        ride.ask(client)
    assert paid.spent_usd == provider.bill.usd
    assert report().total.calls == paid.spent_calls == 1
    first.undo()
    first.undo()
    assert is_metered(ride, client)
    second.undo()
    assert not is_metered(ride, client)


def test_uninstrument_takes_back_every_handle(ride: Ride, client: Any) -> None:
    handles = [instrument() for _ in range(3)]
    uninstrument()
    try:
        assert not is_metered(ride, client)
    finally:
        for handle in handles:
            handle.undo()


def test_the_global_switch_and_that_of_a_client_count_once(ride: Ride, provider: Any, client: Any) -> None:
    assert instrument(client) is client
    instrument(client)
    with instrument(), budget(usd=1) as paid:
        ride.ask(client)
        list(ride.stream(client.with_options(timeout=9)))
    assert paid.spent_usd == provider.bill.usd
    assert report().total.calls == 2
    assert is_metered(ride, client)
    uninstrument(client)
    uninstrument(client)
    assert not is_metered(ride, client)


def test_one_instrumented_client_meters_only_itself_and_its_copies(
    ride: Ride, provider: Any, client: Any, open_client: Any
) -> None:
    other = open_client(ride)
    instrument(client)
    try:
        copies = [client.copy(), client.with_options(timeout=3), client.with_options(timeout=3).copy().with_options()]
        assert all(is_metered(ride, copy) for copy in [client, *copies])
        assert not is_metered(ride, other)
        assert type(client) is type(other)
        with budget(usd=1) as paid:
            before = provider.bill.usd
            ride.ask(copies[2])
        assert paid.spent_usd == provider.bill.usd - before
    finally:
        uninstrument(client)


USERS_ARE_MISCOUNTED = "_instrument.uninstrument: a copy gives back a use of the seam that only its original took"


def test_taking_back_a_copy_leaves_its_original_metered(ride: Ride, client: Any) -> None:
    instrument(client)
    uninstrument(client.with_options(timeout=3))
    try:
        assert is_metered(ride, client)
    finally:
        uninstrument(client)


def test_taking_back_an_original_leaves_a_copy_that_was_instrumented_itself(ride: Ride, client: Any) -> None:
    instrument(client)
    copy = instrument(client.with_options(timeout=3))
    uninstrument(client)
    try:
        assert is_metered(ride, copy)
        assert not is_metered(ride, client)
    finally:
        uninstrument(copy)


def test_one_instrumented_client_carries_the_scope_into_threads(ride: Ride, provider: Any, client: Any) -> None:
    import threading

    answers: list[Any] = []
    instrument(client)
    try:
        with budget(usd=TOO_LITTLE):
            thread = threading.Thread(target=lambda: answers.append(attempt(lambda: ride.ask(client))))
            thread.start()
            thread.join()
    finally:
        uninstrument(client)
    assert isinstance(answers[0], BudgetExceeded)


@pytest.mark.parametrize("threads", [True, False])
def test_threads_false_leaves_threads_alone(client: Any, ride: Ride, threads: bool) -> None:
    import threading

    answers: list[Any] = []
    with instrument(threads=threads), budget(usd=TOO_LITTLE):
        thread = threading.Thread(target=lambda: answers.append(attempt(lambda: ride.ask(client))))
        thread.start()
        thread.join()
    assert isinstance(answers[0], BudgetExceeded) is threads


def test_only_one_sdk(provider: Any, open_client: Any) -> None:
    clients = {ride.name: (ride, open_client(ride)) for ride in (OPENAI, ANTHROPIC)}
    for only in ("openai", ["anthropic"]):
        with instrument(only=only):
            metered = {name for name, (ride, client) in clients.items() if is_metered(ride, client)}
        assert metered == ({only} if isinstance(only, str) else set(only))


def test_clients_made_before_are_metered_and_those_used_after_are_not(ride: Ride, provider: Any, client: Any) -> None:
    with instrument():
        assert is_metered(ride, client)
        assert is_async_metered(ride, provider)
    assert not is_metered(ride, client)
    assert not is_async_metered(ride, provider)


def test_subclasses_are_metered(provider: Any) -> None:
    class Mine(openai.OpenAI):
        def request(self, *args: Any, **kwargs: Any) -> Any:
            return super().request(*args, **kwargs)

    class Yours(anthropic.Anthropic):
        pass

    with instrument():
        with Mine(base_url=provider.openai_base_url, api_key="fake") as mine:
            assert is_metered(OPENAI, mine)
            with budget(usd=1) as paid:
                OPENAI.ask(mine)
            assert paid.spent_calls == 1
        with Yours(base_url=provider.anthropic_base_url, api_key="fake") as yours:
            assert is_metered(ANTHROPIC, yours)


class ToTheFakeProvider(HTTPX.HTTPTransport):
    """Azure has a path for each deployment; the fake provider has one path."""

    def handle_request(self, request: Any) -> Any:
        assert "/deployments/" in request.url.path
        request.url = request.url.copy_with(path="/v1/chat/completions", query=None)
        return super().handle_request(request)


def test_azure_is_metered(provider: Any) -> None:
    with openai.AzureOpenAI(
        azure_endpoint=provider.anthropic_base_url,
        api_key="fake",
        api_version="2024-10-21",
        max_retries=0,
        http_client=HTTPX.Client(transport=ToTheFakeProvider()),
    ) as client:
        with instrument(), stormproof(provider):
            assert is_metered(OPENAI, client)
            with budget(usd=1) as paid:
                OPENAI.ask(client)
                list(OPENAI.stream(client))
    assert paid.spent_usd == provider.bill.usd > 0
    assert paid.spent_calls == 2


# ── with other tools ─────────────────────────────────────────────────────────────────────────────────────────────


def wrap_over(base: Any, seen: list[str]) -> Any:
    ours = base.request

    @functools.wraps(ours)
    def others(*args: Any, **kwargs: Any) -> Any:
        seen.append("other tool")
        return ours(*args, **kwargs)

    base.request = others
    return ours


def test_under_another_tool_ours_passes_through_after_undo(ride: Ride, provider: Any, client: Any) -> None:
    base, seen = base_of(client), []
    was = vars(base)["request"]
    handle = instrument()
    wrap_over(base, seen)
    assert is_metered(ride, client)
    handle.undo()
    assert not is_metered(ride, client)
    assert seen == ["other tool"] * 2
    with instrument(), budget(usd=1) as paid:
        before = provider.bill.usd
        ride.ask(client)
    assert paid.spent_usd == provider.bill.usd - before
    assert paid.spent_calls == 1
    base.request = was


def _forget_kept_patches() -> None:
    for seam in _instrument._seams.values():
        seam._patched.clear()


def test_after_another_tool_kept_ours_the_async_clients_are_metered_again(
    ride: Ride, provider: Any, client: Any
) -> None:
    base = base_of(client)
    was = vars(base)["request"]
    handle = instrument()
    wrap_over(base, [])
    handle.undo()
    try:
        with instrument():
            assert is_metered(ride, client)
            assert is_async_metered(ride, provider)
    finally:
        base.request = was


def test_after_another_tool_kept_ours_a_timeout_is_charged_again(ride: Ride, provider: Any, client: Any) -> None:
    base = base_of(client)
    was = vars(base)["request"]
    handle = instrument()
    wrap_over(base, [])
    handle.undo()
    provider.hang()
    try:
        with instrument(), stormproof(provider), budget(usd=1):
            attempt(lambda: ride.ask(client, timeout=0.1))
    finally:
        base.request = was


@pytest.mark.parametrize("tells", [True, False])
def test_a_tool_that_sends_each_request_where_it_likes_still_does(
    ride: Ride, client: Any, monkeypatch: pytest.MonkeyPatch, tells: bool
) -> None:
    base = next(cls for cls in type(client).__mro__ if "_prepare_url" in vars(cls))
    plain, there = vars(base)["_prepare_url"], iter(range(9))

    def elsewhere(client: Any, url: str) -> Any:
        return HTTPX.URL(f"http://server-{next(there)}.test{plain(client, url).path}")

    monkeypatch.setattr(base, "_prepare_url", functools.wraps(plain)(elsewhere) if tells else elsewhere)
    with instrument():
        assert [client._prepare_url("/asked").host for _ in range(3)] == [f"server-{n}.test" for n in range(3)]


def test_a_tool_that_was_there_before_is_there_after(ride: Ride, provider: Any, client: Any) -> None:
    base, seen = base_of(client), []
    was = wrap_over(base, seen)
    try:
        with instrument():
            assert is_metered(ride, client)
            with budget(usd=1):
                ride.ask(client)
        ride.ask(client)
        assert seen == ["other tool"] * 2
    finally:
        base.request = was


PROGRAM = """
    import sys
    {before}
    import farebox
    assert "openai" not in sys.modules or {imported}
    handle = farebox.instrument()
    assert ("openai" in sys.modules) is {imported}
    {after}
    import openai, anthropic
    from farebox import budget, BudgetExceeded
    {{late}}
    words = {words!r}
    for client, model, api in (
        (openai.OpenAI(base_url={openai_url!r}, api_key="fake"), "gpt-4o-mini", lambda c: c.chat.completions),
        (anthropic.Anthropic(base_url={anthropic_url!r}, api_key="fake"), "claude-haiku-4-5", lambda c: c.messages),
    ):
        with budget(usd="0.000001"):
            try:
                api(client).create(**{{**words, "model": model}})
            except BudgetExceeded:
                print("stopped")
    print(len(farebox.calls()))
"""


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("import openai, anthropic", ""),
        ("", "import openai, anthropic"),
        ("", "from openai import OpenAI; import anthropic.types"),
        ("", "import importlib; importlib.import_module('openai.types'); importlib.import_module('anthropic')"),
    ],
)
def test_sdks_imported_before_or_after_are_metered(provider: Any, before: str, after: str) -> None:
    program = textwrap.dedent(PROGRAM).format(
        before=before,
        after=after,
        imported=bool(before),
        words=OPENAI.words(),
        openai_url=provider.openai_base_url,
        anthropic_url=provider.anthropic_base_url,
    )
    program = program.replace("{late}", "")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("stopped\nstopped\n2\n", "")
    assert not provider.requests


# ── an SDK that changed ──────────────────────────────────────────────────────────────────────────────────────────


def _missing_sleep(monkeypatch: pytest.MonkeyPatch, base: Any) -> None:
    monkeypatch.delattr(next(cls for cls in base.__mro__ if "_sleep_for_retry" in vars(cls)), "_sleep_for_retry")


def _other_request(monkeypatch: pytest.MonkeyPatch, base: Any) -> None:
    monkeypatch.setattr(base, "request", lambda self, options: None)


def _build_without_options(monkeypatch: pytest.MonkeyPatch, base: Any) -> None:
    owner = next(cls for cls in base.__mro__ if "_build_request" in vars(cls))
    monkeypatch.setattr(owner, "_build_request", lambda self, what: None)


@pytest.mark.parametrize("change", [_missing_sleep, _other_request, _build_without_options])
@pytest.mark.parametrize("kind", ["", "Async"])
def test_an_sdk_that_changed_is_refused_and_left_as_it_is(
    ride: Ride, change: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sdk = {"openai": openai, "anthropic": anthropic}[ride.name]
    name = {"openai": "OpenAI", "anthropic": "Anthropic"}[ride.name]
    base = next(cls for cls in getattr(sdk, kind + name).__mro__ if "request" in vars(cls))
    bases = [
        cls
        for module in (openai, anthropic)
        for client in ("OpenAI", "AsyncOpenAI", "Anthropic", "AsyncAnthropic")
        if hasattr(module, client)
        for cls in getattr(module, client).__mro__
    ]
    change(monkeypatch, base)
    before = [dict(vars(cls)) for cls in bases]
    with pytest.raises(IncompatibleSDK, match=f"{ride.name} .*nothing was"):
        instrument(only=ride.name)
    assert [dict(vars(cls)) for cls in bases] == before
    monkeypatch.undo()
    with instrument(only=ride.name):
        pass


@pytest.mark.parametrize(
    "changed",
    [
        "openai",
        "anthropic",
    ],
)
def test_when_one_sdk_changed_the_other_is_left_as_it_is(changed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    bases = {
        name: next(base for base in cls.__mro__ if "request" in vars(base))
        for name, cls in (("openai", openai.OpenAI), ("anthropic", anthropic.Anthropic))
    }
    was = {name: base.request for name, base in bases.items()}
    _missing_sleep(monkeypatch, bases[changed])
    with pytest.raises(IncompatibleSDK):
        instrument()
    monkeypatch.undo()
    left = {name: base.request is was[name] for name, base in bases.items()}
    with instrument():
        pass  # undoing it unwraps what was left
    assert left == {"openai": True, "anthropic": True}


# ── receivers ────────────────────────────────────────────────────────────────────────────────────────────────────


class Veto(Exception):
    pass


@pytest.mark.parametrize("kind", ["sync", "async", "stream"])
def test_a_veto_gives_the_hold_back_and_sends_nothing(ride: Ride, provider: Any, kind: str) -> None:
    def no(_: str, call: Any) -> None:
        assert call.bound_usd_nanos > 0
        raise Veto("not on a Sunday")

    async def ask_async() -> None:
        async with ride.async_client(provider) as client:
            await ride.ask(client)

    def ask() -> None:
        if kind == "async":
            asyncio.run(ask_async())
        else:
            with ride.client(provider, max_retries=3) as client:
                ride.ask(client, **({"stream": True} if kind == "stream" else {}))

    with instrument(), stormproof(provider), budget(usd=1) as paid, signals.pre_call.connected_to(no):
        with pytest.raises(Veto):
            ask()
    assert paid.spent_usd == paid.spent_calls == 0
    assert not provider.requests
    assert outcomes() == ["vetoed"]
    assert report().total.refused_calls == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError, GeneratorExit])
def test_a_veto_of_any_kind_gives_the_hold_back(ride: Ride, provider: Any, client: Any, error: Any) -> None:
    def no(_: str, call: Any) -> None:
        raise error

    with instrument(), stormproof(provider), budget(usd=1), signals.pre_call.connected_to(no):
        with pytest.raises(error):
            ride.ask(client)
    assert not provider.requests


def test_async_receivers_are_awaited_by_async_calls(ride: Ride, provider: Any) -> None:
    heard: list[str] = []

    async def listen(_: str, call: Any) -> None:
        await asyncio.sleep(0)
        heard.append(f"listened to {call.outcome}")

    async def no(_: str, call: Any) -> None:
        await asyncio.sleep(0)
        raise Veto("no")

    async def main() -> None:
        async with ride.async_client(provider) as client:
            with signals.pre_call.connected_to(listen):
                await ride.ask(client)
                with signals.pre_call.connected_to(no), pytest.raises(Veto):
                    await ride.ask(client)

    with instrument(), stormproof(provider), budget(usd=1):
        asyncio.run(main())
    assert heard == ["listened to open"] * 2
    assert sorted(outcomes()) == ["completed", "vetoed"]


def test_an_async_receiver_that_waits_vetoes_a_sync_call(ride: Ride, provider: Any, client: Any) -> None:
    async def waits(_: str, call: Any) -> None:
        await asyncio.sleep(0)

    async def does_not(_: str, call: Any) -> None:
        pass

    with instrument(), stormproof(provider), budget(usd=1):
        with signals.pre_call.connected_to(does_not):
            ride.ask(client)
        with signals.pre_call.connected_to(waits), pytest.raises(TypeError, match="waits"):
            ride.ask(client)
    assert outcomes() == ["completed", "vetoed"]


def test_a_call_cancelled_in_a_receiver_gives_its_hold_back(ride: Ride, provider: Any) -> None:
    async def hangs(_: str, call: Any) -> None:
        await asyncio.sleep(60)

    async def main() -> None:
        async with ride.async_client(provider) as client:
            task = asyncio.create_task(ride.ask(client))
            while not report().total.reserved_usd:  # noqa: ASYNC110, there is no event to wait for
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    with instrument(), stormproof(provider), budget(usd=1), signals.pre_call.connected_to(hangs):
        asyncio.run(main())
    assert not provider.requests


def test_failing_post_call_receivers_never_lose_an_answer(
    ride: Ride, provider: Any, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[Any] = []

    def fails(_: str, call: Any) -> None:
        raise KeyError("secret of the program")

    async def waits(_: str, call: Any) -> None:
        await asyncio.sleep(0)

    def hears(_: str, call: Any) -> None:
        heard.append((call.outcome, call.cost_usd))

    faults = signals.post_call.faults
    with instrument(), stormproof(provider), budget(usd=1) as paid, caplog.at_level(logging.ERROR, "farebox"):
        with signals.post_call.connected_to(fails), signals.post_call.connected_to(waits):
            with signals.post_call.connected_to(hears):
                for _ in range(3):
                    assert ride.ask(client).id
                assert list(ride.stream(client))
    assert signals.post_call.faults == faults + 8
    assert heard == [("completed", line.usd) for line in provider.bill.lines]
    assert paid.spent_usd == provider.bill.usd
    assert len(caplog.records) == 2
    assert "secret" not in caplog.text


def test_enforcement_can_be_neither_muted_nor_dropped(ride: Ride, provider: Any, client: Any) -> None:
    with instrument():
        with signals.pre_call.muted():
            assert is_metered(ride, client)
        with signals.post_call.muted(), budget(usd=1) as paid:
            ride.ask(client)
        assert paid.spent_usd == provider.bill.usd
        signals.pre_call._clear_state()
        assert is_metered(ride, client)


def test_a_receiver_may_call_an_llm_itself(ride: Ride, provider: Any, client: Any) -> None:
    depth = 0

    def judge(_: str, call: Any) -> None:
        nonlocal depth
        depth += 1
        if depth < 3:
            ride.ask(client)

    with instrument(), stormproof(provider), budget(usd=1) as paid, signals.post_call.connected_to(judge):
        ride.ask(client)
    assert paid.spent_calls == 3
    assert paid.spent_usd == provider.bill.usd


def test_undoing_while_a_stream_is_open_loses_nothing(ride: Ride, provider: Any, client: Any) -> None:
    handle = instrument()
    with stormproof(provider), budget(usd=1) as paid:
        stream = ride.stream(client)
        next(iter(stream))
        handle.undo()
        list(stream)
    assert paid.spent_usd == provider.bill.usd == only_record().usd
    nothing_is_left()


def test_nothing_metered_no_scope_needed(ride: Ride, provider: Any, client: Any) -> None:
    with instrument(), stormproof(provider):
        ride.ask(client)
        list(ride.stream(client))
    assert report().total.usd == provider.bill.usd
    assert farebox.current() is None


def test_a_client_that_is_dropped_gives_back_its_hold_on_threads(ride: Ride, provider: Any) -> None:
    was = _threads._users
    with ride.client(provider) as dropped:
        instrument(dropped)
    del dropped
    gc.collect()
    with ride.client(provider) as other:
        uninstrument(instrument(other))
    left = _threads._users - was
    for _ in range(left):
        _threads.stop_carrying()
    assert not left


# ── clients that nobody has taken back ───────────────────────────────────────────────────────────────────────────


def test_a_client_that_was_collected_leaves_nothing_behind_once_all_is_undone(ride: Ride, provider: Any) -> None:
    with ride.client(provider) as client:
        instrument(client)
        assert _threads._users == 1
        del client
    gc.collect()
    uninstrument()
    assert _threads._users == 0
    assert not [seam for seam in _instrument._seams.values() if seam._patched]


# ── what was under way before ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("is_stream", [False, True])
def test_what_was_under_way_before_goes_on_unseen(ride: Ride, provider: Any, client: Any, is_stream: bool) -> None:
    provider.hold()

    def ask() -> Any:
        answer = ride.ask(client, stream=is_stream)
        return list(answer) if is_stream else answer

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(ask)
        wait_for(lambda: provider.in_flight == 1)
        with instrument(), budget(usd=0) as paid:
            provider.release()
            assert asked.result(timeout=20)
            assert paid.spent_usd == 0 < provider.bill.usd
            with pytest.raises(BudgetExceeded):
                ask()
    assert outcomes() == ["refused"]


def test_a_stream_that_was_open_before_goes_on_unseen(ride: Ride, provider: Any, client: Any) -> None:
    with ride.stream(client) as stream:
        next(iter(stream))
        with instrument(), budget(usd=0) as paid:
            assert list(stream)
            assert paid.spent_usd == 0 < provider.bill.usd
    assert not farebox.calls()
