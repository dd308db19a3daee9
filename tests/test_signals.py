"""The bus: enforcement first and for good, then everybody else in order, fenced off where the money is."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import farebox
from farebox import signals
from farebox._call import Call
from farebox.signals import Channel
from tests.strategies import MODEL, admit, finish, new_call, paid, price_the_model


@pytest.fixture
def open_channel() -> Channel:
    return Channel("Its receivers may stop what is sent.", fenced=False)


@pytest.fixture
def fenced() -> Channel:
    return Channel("Its receivers only listen.", fenced=True)


class Heard(list[Any]):
    """Makes receivers, and notes in which order they are called."""

    def receiver(self, name: Any, *, answer: Any = None) -> Any:
        def receive(sender: Any, **fields: Any) -> Any:
            self.append(name)
            return answer

        return receive


@given(st.lists(st.sampled_from(["any", "openai", "anthropic"]), max_size=8))
def test_receivers_run_in_the_order_in_which_they_were_connected(senders: list[str]) -> None:
    channel, heard, kept = Channel("", fenced=False), Heard(), []
    for number, sender in enumerate(senders):
        kept.append(heard.receiver(number))
        if sender == "any":
            channel.connect(kept[-1])
        else:
            channel.connect(kept[-1], sender=sender)
    channel.send("openai")
    assert heard == [number for number, sender in enumerate(senders) if sender in ("any", "openai")]


def test_a_receiver_that_is_connected_again_keeps_its_place_and_is_called_once(open_channel: Channel) -> None:
    heard = Heard()
    first, second = heard.receiver("first"), heard.receiver("second")
    open_channel.connect(first)
    open_channel.connect(second)
    open_channel.connect(first)
    open_channel.send("openai")
    assert heard == ["first", "second"]


def test_a_receiver_that_is_also_connected_to_one_sender_keeps_its_place(open_channel: Channel) -> None:
    heard = Heard()
    first, second = heard.receiver("first"), heard.receiver("second")
    open_channel.connect(first)
    open_channel.connect(second)
    open_channel.connect(first, sender="openai")
    open_channel.send("openai")
    assert heard == ["first", "second"]


def test_a_receiver_that_left_and_came_back_is_last(open_channel: Channel) -> None:
    heard = Heard()
    first, second = heard.receiver("first"), heard.receiver("second")
    open_channel.connect(first)
    open_channel.connect(second)
    open_channel.disconnect(first)
    open_channel.connect(first)
    open_channel.send("openai")
    assert heard == ["second", "first"]


def test_answers_come_back_with_their_receivers_in_order(open_channel: Channel) -> None:
    heard = Heard()
    one, two = heard.receiver(1, answer="one"), heard.receiver(2, answer="two")
    open_channel.connect(one)
    open_channel.connect(two)
    assert open_channel.send("openai") == [(one, "one"), (two, "two")]
    assert asyncio.run(open_channel.send_async("openai")) == [(one, "one"), (two, "two")]


def test_receivers_are_held_weakly_unless_asked_otherwise(open_channel: Channel) -> None:
    heard = Heard()
    open_channel.connect(lambda sender: heard.append("dropped"))
    open_channel.connect(lambda sender: heard.append("kept"), weak=False)
    gc.collect()
    open_channel.send("openai")
    assert heard == ["kept"]


def test_connected_to_lasts_as_long_as_its_block(open_channel: Channel) -> None:
    heard = Heard()
    with open_channel.connected_to(heard.receiver("inside"), sender="openai"):
        open_channel.send("openai")
        open_channel.send("anthropic")
    open_channel.send("openai")
    assert heard == ["inside"]


def test_a_muted_channel_calls_enforcement_and_nobody_else(open_channel: Channel) -> None:
    heard = Heard()
    listener = heard.receiver("listener")
    open_channel.enforce_with(heard.receiver("enforcement"))
    open_channel.connect(listener)
    with open_channel.muted():
        assert open_channel.send("openai") == []
        asyncio.run(open_channel.send_async("openai"))
    open_channel.send("openai")
    assert heard == ["enforcement", "enforcement", "enforcement", "listener"]


def test_enforcement_is_first_and_can_be_neither_disconnected_nor_cleared(open_channel: Channel) -> None:
    heard = Heard()
    enforcement, listener = heard.receiver("enforcement"), heard.receiver("listener")
    open_channel.connect(listener)
    open_channel.enforce_with(enforcement)
    open_channel.disconnect(enforcement)
    open_channel.send("openai")
    open_channel._clear_state()
    open_channel.send("openai")
    assert heard == ["enforcement", "listener", "enforcement"]


def test_what_enforcement_raises_reaches_the_sender_before_anybody_hears_of_the_call(fenced: Channel) -> None:
    heard = Heard()
    listener = heard.receiver("listener")

    def refuse(sender: Any) -> None:
        raise LookupError("refused")

    fenced.enforce_with(refuse)
    fenced.connect(listener)
    with pytest.raises(LookupError, match="refused"):
        fenced.send("openai")
    with pytest.raises(LookupError, match="refused"):
        asyncio.run(fenced.send_async("openai"))
    assert heard == []
    assert fenced.faults == 0


# Who may stop a call, and who may not.


def test_a_veto_stops_the_receivers_behind_it(open_channel: Channel) -> None:
    heard = Heard()

    def veto(sender: Any) -> None:
        raise PermissionError("not on a Sunday")

    before, after = heard.receiver("before"), heard.receiver("after")
    for receiver in (before, veto, after):
        open_channel.connect(receiver)
    with pytest.raises(PermissionError, match="not on a Sunday"):
        open_channel.send("openai")
    with pytest.raises(PermissionError, match="not on a Sunday"):
        asyncio.run(open_channel.send_async("openai"))
    assert heard == ["before", "before"]


def test_a_vetoed_call_gives_back_what_was_held_for_it() -> None:
    price_the_model()

    def veto(provider_name: str, call: Call) -> None:
        assert b.reserved_calls == 1  # enforcement ran first
        raise PermissionError

    with farebox.budget("b", calls=1) as b:
        call = new_call()
        with signals.pre_call.connected_to(veto), pytest.raises(PermissionError):
            admit(call)
        finish(call, outcome="vetoed")
        assert (b.reserved_calls, b.spent_calls) == (0, 0)
    assert farebox.calls()[0].outcome == "vetoed"


def test_a_fenced_channel_counts_every_fault_and_logs_each_receiver_once(
    fenced: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()

    def broken(sender: Any) -> None:
        raise RuntimeError("SECRET PROMPT")

    def broken_too(sender: Any) -> None:
        raise ValueError("SECRET KEY")

    after = heard.receiver("after")
    for receiver in (broken, broken_too, after):
        fenced.connect(receiver)
    with caplog.at_level(logging.DEBUG, logger="farebox"):
        fenced.send("openai")
        asyncio.run(fenced.send_async("openai"))
    assert heard == ["after", "after"]
    assert fenced.faults == 4
    assert len(caplog.records) == 2
    assert "broken raised RuntimeError" in caplog.records[0].getMessage()
    assert "broken_too raised ValueError" in caplog.records[1].getMessage()
    assert "SECRET" not in caplog.text


class Sink:
    def hear(self, sender: Any) -> None:
        raise RuntimeError


def test_every_broken_sink_is_logged_after_other_ones(fenced: Channel, caplog: pytest.LogCaptureFixture) -> None:
    sinks = [Sink() for _ in range(200)]
    for sink in sinks:
        fenced.connect(sink.hear)
        fenced.send("openai")
        fenced.disconnect(sink.hear)
    assert len(caplog.records) == 200


def test_a_broken_sink_is_logged_once_whatever_happens_between(
    fenced: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    sink, others = Sink(), []
    fenced.connect(sink.hear)
    for _ in range(3):
        fenced.send("openai")
        others.append(sink.hear)
    assert len(caplog.records) == 1


def test_an_interrupt_passes_the_fence(fenced: Channel) -> None:
    def interrupted(sender: Any) -> None:
        raise KeyboardInterrupt

    fenced.connect(interrupted)
    with pytest.raises(KeyboardInterrupt):
        fenced.send("openai")


def test_a_broken_listener_loses_neither_the_answer_nor_the_money() -> None:
    price_the_model()

    def broken(provider_name: str, call: Call) -> None:
        assert call.cost_usd_nanos == 1_000_000  # paid before anybody hears of it
        raise RuntimeError

    faults = signals.post_call.faults
    with signals.post_call.connected_to(broken), farebox.budget("b", usd=1) as b:
        paid(1_000)
        assert str(b.spent_usd) == "0.001"
        assert b.reserved_calls == 0
    assert signals.post_call.faults == faults + 1


# Coroutines among the receivers.


def test_async_receivers_are_awaited_one_after_the_other(open_channel: Channel) -> None:
    heard = Heard()

    async def slow(sender: Any) -> str:
        heard.append("slow starts")
        await asyncio.sleep(0)
        heard.append("slow ends")
        return "slow"

    plain = heard.receiver("plain", answer="plain")
    open_channel.connect(slow)
    open_channel.connect(plain)
    assert [answer for _, answer in asyncio.run(open_channel.send_async("openai"))] == ["slow", "plain"]
    assert heard == ["slow starts", "slow ends", "plain"]


def test_enforcement_that_waits_is_awaited_before_the_first_receiver(open_channel: Channel) -> None:
    heard = Heard()

    async def wait() -> None:
        await asyncio.sleep(0)
        heard.append("waited")

    listener = heard.receiver("listener")
    open_channel.enforce_with(lambda sender: wait())
    open_channel.connect(listener)
    asyncio.run(open_channel.send_async("openai"))
    assert heard == ["waited", "listener"]


def test_a_sync_send_runs_a_coroutine_that_never_suspends(open_channel: Channel) -> None:
    async def quick(sender: Any) -> str:
        return "quick"

    open_channel.connect(quick)
    assert open_channel.send("openai") == [(quick, "quick")]


def test_a_coroutine_that_suspends_in_a_sync_send_is_a_type_error_that_names_it(open_channel: Channel) -> None:
    closed = []

    async def asks_a_database(sender: Any) -> None:
        try:
            await asyncio.sleep(0)
        finally:
            closed.append(True)

    open_channel.connect(asks_a_database)
    with pytest.raises(TypeError, match="asks_a_database awaits, but this call is synchronous"):
        open_channel.send("openai")
    assert closed == [True]


def test_a_coroutine_that_raises_is_fenced_like_any_receiver(fenced: Channel) -> None:
    async def broken(sender: Any) -> None:
        raise RuntimeError

    fenced.connect(broken)
    assert fenced.send("openai") == []
    assert asyncio.run(fenced.send_async("openai")) == []
    assert fenced.faults == 2


# What is sent.


@pytest.fixture
def heard_signals() -> Iterator[list[tuple[str, str]]]:
    heard: list[tuple[str, str]] = []
    with (
        signals.pre_call.connected_to(lambda sender, call: heard.append(("pre_call", sender))),
        signals.post_call.connected_to(lambda sender, call: heard.append(("post_call", sender))),
        signals.decision.connected_to(lambda sender, decision: heard.append((decision.did, sender))),
    ):
        yield heard


def test_a_call_is_heard_before_and_after_with_its_provider_as_the_sender(heard_signals: list[tuple[str, str]]) -> None:
    price_the_model()
    paid(10)
    paid(10, provider_name="anthropic")
    assert heard_signals == [
        *(("pre_call", "openai"), ("post_call", "openai")),
        *(("pre_call", "anthropic"), ("post_call", "anthropic")),
    ]


def test_a_refused_call_is_heard_as_a_decision_only(heard_signals: list[tuple[str, str]]) -> None:
    with farebox.budget("b", calls=0), pytest.raises(farebox.BudgetExceeded):
        admit(new_call())
    assert heard_signals == [("stop", "b")]


def test_calls_that_a_finalizer_left_are_settled_by_the_next_one() -> None:
    price_the_model()
    with farebox.budget("b", calls=2) as b:
        left = admit(new_call())
        left.outcome = "dropped"
        signals.settle_late(left)
        assert left.cost_usd_nanos is None
        paid(1)
        assert left.cost_usd_nanos == 2_000 * 116  # its bound: a cap of 100 and 16 more
        assert b.spent_calls == 2


@given(st.permutations(["first", "second", "third"]))
def test_the_order_does_not_depend_on_what_was_disconnected(order: list[str]) -> None:
    channel, heard = Channel("", fenced=False), Heard()
    receivers = {name: heard.receiver(name) for name in ("first", "second", "third")}
    for receiver in receivers.values():
        channel.connect(receiver)
    for gone, name in itertools.pairwise(order):
        heard.clear()
        channel.disconnect(receivers.pop(gone))
        channel.send(MODEL)
        assert heard == list(receivers)
        assert name in receivers
