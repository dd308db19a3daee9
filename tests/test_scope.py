"""Where a budget or a track applies: around a block, a function of any kind, and nobody else."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import inspect
import weakref
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from decimal import Decimal
from typing import Any

import pytest

import farebox
from farebox import _config, budget, carry, current, tag, track
from farebox._call import Usage
from farebox.ledgers import Balance
from tests.strategies import MODEL, admit, finish, new_call, paid, price_the_model

SCOPES: list[Callable[[], Any]] = [lambda: budget("b", calls=5), lambda: track(feature="f")]
EACH_SCOPE = pytest.mark.parametrize("make", SCOPES, ids=["budget", "track"])


def is_inside(scope: object) -> bool:
    frame = current()
    while frame is not None:
        if frame.origin is scope:
            return True
        frame = frame.parent
    return False


# A block.


@EACH_SCOPE
def test_a_block_is_inside_and_what_follows_is_not(make: Any) -> None:
    scope = make()
    with scope as frame:
        assert current() is frame
        assert is_inside(scope)
    assert current() is None


@EACH_SCOPE
def test_an_async_block_is_inside_and_what_follows_is_not(make: Any) -> None:
    async def main() -> None:
        scope = make()
        async with scope as frame:
            await asyncio.sleep(0)
            assert current() is frame
        assert current() is None

    asyncio.run(main())


@EACH_SCOPE
def test_an_error_leaves_a_block_as_it_was_raised(make: Any) -> None:
    with pytest.raises(KeyError, match="it"), make():
        raise KeyError("it")
    assert current() is None


def test_one_object_entered_twice_makes_two_frames_with_a_limit_each() -> None:
    shared = budget("b", calls=1)
    with shared as outer:
        with shared as inner:
            assert inner is not outer
            assert inner.parent is outer
            paid(1)
            assert (inner.spent_calls, outer.spent_calls) == (1, 1)
        assert current() is outer
        with shared as third:
            assert third.spent_calls == 0
            with pytest.raises(farebox.BudgetExceeded) as caught:  # the outer frame has none left
                admit(new_call())
            assert caught.value.scope == "b > b"


def test_blocks_left_in_the_wrong_order_leave_nothing_behind() -> None:
    one, other = budget("one", calls=1), track(feature="f")
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert current() is None
    other.__exit__(None, None, None)
    assert current() is None


def test_leaving_what_was_never_entered_does_nothing() -> None:
    with track(feature="f") as frame:
        budget("b", calls=1).__exit__(None, None, None)
        assert current() is frame


def test_a_block_may_be_left_in_another_context() -> None:
    scope = track(feature="f")
    scope.__enter__()
    frame = current()
    elsewhere = contextvars.Context()
    elsewhere.run(scope.__exit__, None, None, None)
    assert elsewhere.run(current) is None
    assert current() is frame
    scope.__exit__(None, None, None)
    assert current() is None


def test_tasks_that_enter_the_same_object_at_once_do_not_see_each_other() -> None:
    shared = budget("b", calls=1)

    async def work() -> int:
        with shared as b:
            await asyncio.sleep(0)
            assert current() is b
            paid(1)
            await asyncio.sleep(0)
            return b.spent_calls

    async def main() -> list[int]:
        return await asyncio.gather(*(work() for _ in range(50)))

    assert asyncio.run(main()) == [1] * 50


# Functions of four kinds.


@EACH_SCOPE
def test_a_function_runs_inside_and_returns_what_it_returns(make: Any) -> None:
    scope = make()

    @scope
    def answer(question: str, *, depth: int = 1) -> tuple[str, int]:
        assert is_inside(scope)
        return question, depth

    assert answer("why", depth=3) == ("why", 3)
    assert current() is None


@EACH_SCOPE
def test_a_coroutine_runs_inside_and_returns_what_it_returns(make: Any) -> None:
    scope = make()

    @scope
    async def answer(question: str) -> str:
        await asyncio.sleep(0)
        assert is_inside(scope)
        return question

    async def main() -> None:
        coroutine = answer("why")
        assert current() is None  # not before it is awaited
        assert await coroutine == "why"
        assert current() is None

    asyncio.run(main())


@EACH_SCOPE
def test_a_generator_runs_inside_and_its_consumer_does_not(make: Any) -> None:
    scope = make()

    @scope
    def count(until: int) -> Generator[int, str, str]:
        sent = []
        try:
            for number in range(until):
                assert is_inside(scope)
                sent.append((yield number))
        finally:
            assert is_inside(scope)
        return ",".join(map(str, sent))

    generator = count(3)
    assert current() is None
    assert next(generator) == 0
    assert current() is None
    assert generator.send("a") == 1
    with track(other="consumer") as frame:
        assert generator.send("b") == 2
        assert current() is frame
    with pytest.raises(StopIteration) as stopped:
        generator.send("c")
    assert stopped.value.value == "a,b,c"
    assert current() is None


@EACH_SCOPE
def test_an_async_generator_runs_inside_and_its_consumer_does_not(make: Any) -> None:
    scope = make()

    @scope
    async def count(until: int) -> Any:
        for number in range(until):
            await asyncio.sleep(0)
            assert is_inside(scope)
            sent = yield number
            assert sent in (None, "a")

    async def main() -> None:
        seen = []
        async for number in count(3):
            assert current() is None
            seen.append(number)
        assert seen == [0, 1, 2]
        generator = count(2)
        assert await anext(generator) == 0
        assert await generator.asend("a") == 1
        with pytest.raises(StopAsyncIteration):
            await anext(generator)
        assert current() is None

    asyncio.run(main())


KINDS: dict[str, Callable[..., Any]] = {
    "plain": inspect.isfunction,
    "coroutine": inspect.iscoroutinefunction,
    "generator": inspect.isfunction,  # which takes its scope when it is called, and so is none that starts later
    "async generator": inspect.isfunction,
}


def plain(x: int) -> int:
    """Says x."""
    return x


async def coroutine(x: int) -> int:
    """Says x."""
    return x


def generator(x: int) -> Iterator[int]:
    """Says x."""
    yield x


async def async_generator(x: int) -> AsyncIterator[int]:
    """Says x."""
    yield x


@pytest.mark.parametrize(
    "function", [plain, coroutine, generator, async_generator], ids=lambda function: function.__name__
)
@pytest.mark.parametrize("make", [*SCOPES, lambda: carry], ids=["budget", "track", "carry"])
def test_a_decorated_function_is_of_the_same_kind_with_the_same_name(function: Any, make: Any) -> None:
    decorated = make()(function)
    assert decorated is not function
    assert (decorated.__name__, decorated.__doc__, decorated.__module__) == (function.__name__, "Says x.", __name__)
    assert decorated.__wrapped__ is function
    assert inspect.signature(decorated) == inspect.signature(function)
    assert [kind(decorated) for kind in KINDS.values()] == [kind(function) for kind in KINDS.values()]


@EACH_SCOPE
def test_an_error_in_a_function_of_any_kind_leaves_nothing_behind(make: Any) -> None:
    @make()
    def plain_fails() -> None:
        raise KeyError("it")

    @make()
    async def coroutine_fails() -> None:
        raise KeyError("it")

    @make()
    def generator_fails() -> Iterator[int]:
        yield 1
        raise KeyError("it")

    @make()
    async def async_generator_fails() -> AsyncIterator[int]:
        yield 1
        raise KeyError("it")

    async def main() -> None:
        with pytest.raises(KeyError):
            await coroutine_fails()
        assert current() is None
        with pytest.raises(KeyError):
            async for _ in async_generator_fails():
                assert current() is None
        assert current() is None

    with pytest.raises(KeyError):
        plain_fails()
    with pytest.raises(KeyError):
        list(generator_fails())
    asyncio.run(main())
    assert current() is None


def test_an_error_thrown_into_a_generator_arrives_inside_and_may_be_answered() -> None:
    scope = track(feature="f")

    @scope
    def stubborn() -> Generator[str, None, None]:
        try:
            yield "first"
        except LookupError as error:
            assert is_inside(scope)
            yield f"caught {error}"

    generator = stubborn()
    next(generator)
    assert generator.throw(LookupError("it")) == "caught it"
    assert current() is None
    with pytest.raises(ValueError, match="not caught"):
        generator.throw(ValueError("not caught"))
    with pytest.raises(StopIteration):
        next(generator)


def test_an_error_thrown_into_an_async_generator_arrives_inside_and_may_be_answered() -> None:
    scope = track(feature="f")

    @scope
    async def stubborn() -> Any:
        try:
            yield "first"
        except LookupError as error:
            assert is_inside(scope)
            await asyncio.sleep(0)
            yield f"caught {error}"

    async def main() -> None:
        generator = stubborn()
        await anext(generator)
        assert await generator.athrow(LookupError("it")) == "caught it"
        assert current() is None
        with pytest.raises(ValueError, match="not caught"):
            await generator.athrow(ValueError("not caught"))

    asyncio.run(main())


def test_a_generator_that_is_closed_cleans_up_inside() -> None:
    scope, cleaned = track(feature="f"), []

    @scope
    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            cleaned.append(is_inside(scope))

    closed, dropped, unused = endless(), endless(), endless()
    next(closed)
    next(dropped)
    closed.close()  # type: ignore[attr-defined]
    unused.close()  # type: ignore[attr-defined]
    del dropped
    gc.collect()
    assert cleaned == [True, True]
    assert current() is None


def test_an_async_generator_that_is_closed_elsewhere_cleans_up_inside() -> None:
    scope, cleaned = track(feature="f"), []

    @scope
    async def endless() -> Any:
        try:
            while True:
                yield 1
        finally:
            await asyncio.sleep(0)
            cleaned.append(is_inside(scope))

    async def main() -> None:
        generator = endless()
        await anext(generator)

        async def close() -> None:
            with track(other="task") as frame:
                await generator.aclose()
                assert current() is frame

        await asyncio.create_task(close())
        assert current() is None

    asyncio.run(main())
    assert cleaned == [True]


def test_a_generator_that_ignores_its_end_is_told_so() -> None:
    @track(feature="f")
    def deaf() -> Iterator[int]:
        try:
            yield 1
        except GeneratorExit:
            yield 2

    generator = deaf()
    next(generator)
    with pytest.raises(RuntimeError, match="ignored GeneratorExit"):
        generator.close()  # type: ignore[attr-defined]
    assert current() is None


def test_a_block_held_open_over_a_yield_stays_inside_its_generator() -> None:
    @budget("b", calls=5)
    def steps() -> Iterator[dict[str, str]]:
        with track(step="one"):
            yield dict(current().tags)  # type: ignore[union-attr]
            yield dict(current().tags)  # type: ignore[union-attr]
        tag(step="two")
        yield dict(current().tags)  # type: ignore[union-attr]
        yield dict(current().tags)  # type: ignore[union-attr]

    seen = []
    with track(feature="f") as frame:
        for tags in steps():
            assert current() is frame
            assert current().tags == {"feature": "f"}  # type: ignore[union-attr]
            seen.append(tags)
    assert [tags["step"] for tags in seen] == ["one", "one", "two", "two"]
    assert all(tags["feature"] == "f" for tags in seen)


def test_calls_of_two_generators_in_turn_are_charged_to_their_own() -> None:
    price_the_model()
    frames: dict[str, Any] = {}

    def steps(name: str) -> Iterator[None]:
        frames[name] = current()
        for _ in range(3):
            paid(1)
            yield

    one, two = (budget(name, calls=5)(steps)(name) for name in ("one", "two"))
    for _ in range(3):
        next(one)
        next(two)
        paid(1)  # the consumer's own
    assert [frames[name].spent_calls for name in ("one", "two")] == [3, 3]
    assert farebox.report().total.calls == 9


def test_each_invocation_has_its_own_full_limit() -> None:
    @budget("b", calls=1)
    def once() -> int:
        paid(1)
        return current().spent_calls  # type: ignore[union-attr]

    assert [once(), once(), once()] == [1, 1, 1]


def test_a_recursive_invocation_is_held_against_every_one_around_it() -> None:
    @budget("b", calls=2)
    def down(levels: int) -> None:
        paid(1)
        if levels:
            down(levels - 1)

    down(1)
    with pytest.raises(farebox.BudgetExceeded) as caught:
        down(2)
    assert caught.value.scope == "b > b > b"
    assert current() is None


def test_a_method_and_a_partial_can_be_decorated() -> None:
    class Agent:
        @budget("b", calls=1)
        def ask(self, question: str) -> tuple[Agent, str, str]:
            return self, question, current().path  # type: ignore[union-attr]

    agent = Agent()
    assert agent.ask("why") == (agent, "why", "b")
    assert budget("p", calls=1)(functools.partial(plain, 5))() == 5


@pytest.mark.parametrize("thing", [None, 5, "name", [], object()])
@EACH_SCOPE
def test_what_is_no_function_cannot_be_decorated(make: Any, thing: Any) -> None:
    with pytest.raises(TypeError, match=rf"(budget|track)\(\.\.\.\) decorates a function, not {type(thing).__name__}"):
        make()(thing)


class CallableAgent:
    async def __call__(self) -> object:
        return current()


def behind_a_plain_decorator() -> Any:
    async def answer() -> object:
        return current()

    @functools.wraps(answer)
    def logged(*args: Any) -> Any:
        return answer(*args)

    return logged


@pytest.mark.parametrize(
    "make", [CallableAgent, behind_a_plain_decorator], ids=["async __call__", "wrapped by a plain decorator"]
)
def test_a_coroutine_that_does_not_look_like_one_runs_inside(make: Any) -> None:
    decorated: Any = budget("b", calls=1)(make())
    assert asyncio.run(decorated()) is not None


# Tags.


def test_inner_tags_win_and_outer_ones_come_back() -> None:
    with track(feature="search", user_id="alice"):
        with track(user_id="bob", step=2) as inner:
            assert inner.tags == {"feature": "search", "user_id": "bob", "step": "2"}
        assert current().tags == {"feature": "search", "user_id": "alice"}  # type: ignore[union-attr]


def test_tags_are_text_and_short_and_none_sets_no_label() -> None:
    with track(number=5, long="x" * 1_000, nothing=None, truth=True) as frame:
        assert frame.tags == {"number": "5", "long": "x" * 256, "truth": "True"}
        with pytest.raises(TypeError):
            frame.tags["new"] = "x"  # type: ignore[index]


def test_none_takes_no_outer_label_away() -> None:
    with track(user_id="alice"), track(user_id=None) as frame:
        assert frame.tags == {"user_id": "alice"}


def test_a_call_has_the_tags_of_its_scope_over_those_of_the_process() -> None:
    farebox.configure(tags={"app": "shop", "feature": "none", "skipped": None})
    with track(feature="search"), budget("b", calls=5):
        paid(1)
    paid(1)
    inside, outside = farebox.calls()
    assert inside.tags == {"app": "shop", "feature": "search"}
    assert outside.tags == {"app": "shop", "feature": "none"}
    assert (inside.scope, outside.scope) == ("b", "")


def test_tag_labels_the_rest_of_the_context() -> None:
    def handle() -> dict[str, str]:
        tag(user_id="alice")
        tag(tenant="acme")
        with track(feature="f"):
            tag(user_id="bob")
            paid(1)
        paid(1)
        return dict(current().tags)  # type: ignore[union-attr]

    assert contextvars.copy_context().run(handle) == {"user_id": "alice", "tenant": "acme"}
    assert current() is None
    assert [dict(call.tags) for call in farebox.calls()] == [
        {"user_id": "bob", "tenant": "acme", "feature": "f"},
        {"user_id": "alice", "tenant": "acme"},
    ]


def test_a_tag_stays_below_the_budget_around_it() -> None:
    with budget("b", calls=1) as b:
        tag(user_id="alice")
        paid(1)
        assert b.spent_calls == 1
        assert current().spent_calls == 1  # type: ignore[union-attr]
    assert current() is None


def test_tagging_again_and_again_keeps_no_chain_of_frames() -> None:
    for number in range(100):
        tag(user_id=number)
    frame, depth = current(), 0
    while frame is not None:
        frame, depth = frame.parent, depth + 1
    assert depth <= 2


# carry() and current().


def test_carry_binds_a_function_to_the_scope_of_now() -> None:
    with budget("b", calls=5) as b:
        bound = carry(lambda: current())
    assert current() is None
    assert bound() is b
    with track(feature="elsewhere") as frame:
        assert bound() is b
        assert current() is frame


def test_carry_outside_of_any_scope_binds_to_none() -> None:
    bound = carry(lambda: current())
    with budget("b", calls=1):
        assert bound() is None


def test_carry_binds_coroutines_generators_and_async_generators() -> None:
    async def ask() -> object:
        await asyncio.sleep(0)
        return current()

    def count() -> Iterator[object]:
        yield current()
        yield current()

    async def acount() -> Any:
        yield current()
        await asyncio.sleep(0)
        yield current()

    with budget("b", calls=5) as b:
        ask, count, acount = carry(ask), carry(count), carry(acount)  # type: ignore[assignment]

    async def main() -> None:
        with track(feature="elsewhere") as frame:
            assert await ask() is b
            assert current() is frame
            for found in count():
                assert found is b
                assert current() is frame
            async for found in acount():
                assert found is b
                assert current() is frame

    asyncio.run(main())


def test_carry_restores_the_scope_after_an_error() -> None:
    def fail() -> None:
        raise KeyError("it")

    with budget("b", calls=1):
        bound = carry(fail)
    with pytest.raises(KeyError):
        bound()
    assert current() is None


# The numbers of a frame.


def test_a_frame_shows_what_was_spent_held_and_is_left() -> None:
    price_the_model()
    with budget("b", usd="0.01", tokens=5_000, calls=20) as b:
        assert b.remaining_usd == Decimal("0.01")
        paid(1_000, 500)  # 1,000 x 1,000 + 500 x 2,000 nanodollars
        call = admit(new_call(cap=84))  # 100 tokens at 2,000
        assert b.spent_usd == Decimal("0.002")
        assert b.reserved_usd == Decimal("0.0002")
        assert b.remaining_usd == Decimal("0.0078")
        assert (b.spent_tokens, b.reserved_tokens) == (1_500, 100)
        assert (b.spent_calls, b.reserved_calls) == (1, 1)
        assert b.debt_usd == 0
        assert b.decisions == []
        finish(call, usage=Usage(visible_output_tokens=10))
    assert b.spent_usd == Decimal("0.00202")
    assert (b.reserved_usd, b.reserved_tokens, b.reserved_calls) == (0, 0, 0)


def test_remaining_is_none_without_a_usd_limit_and_never_negative() -> None:
    price_the_model()
    with budget("b", calls=5) as b:
        assert b.remaining_usd is None
    with budget("b", usd="0.001") as b:
        farebox.record(model=MODEL, provider="openai", usd="0.005")
        assert b.remaining_usd == 0
        assert b.debt_usd == Decimal("0.004")


def test_a_track_shows_the_numbers_of_the_budget_around_it() -> None:
    price_the_model()
    with budget("outer", usd=1), track(feature="f") as t:
        paid(1_000)
        assert (t.spent_usd, t.spent_calls) == (Decimal("0.001"), 1)
        with budget("inner", calls=5):
            paid(1)
        assert t.spent_calls == 2
        assert t.path == "outer"
    with track(feature="f") as t:
        paid(1_000)
        assert (t.spent_usd, t.remaining_usd, t.spent_calls, t.decisions, t.path) == (0, None, 0, [], "")


def test_a_frame_that_was_left_still_counts_what_was_started_in_it() -> None:
    price_the_model()
    with budget("b", usd=1) as b:
        call = admit(new_call())
    finish(call, usage=Usage(uncached_input_tokens=1_000))
    assert b.spent_usd == Decimal("0.001")


def test_a_frame_keeps_its_thousand_newest_decisions() -> None:
    with budget("b", calls=0) as b:
        for _ in range(1_005):
            with pytest.raises(farebox.BudgetExceeded):
                admit(new_call())
        assert len(b.decisions) == 1_000
        assert b.decisions[-1].did == "stop"


@pytest.mark.parametrize("attribute", ["spent_usd", "remaining_usd", "decisions", "tags", "path"])
def test_the_numbers_of_a_frame_cannot_be_written(attribute: str) -> None:
    with track(feature="f") as frame:
        if attribute not in ("tags", "path"):
            with pytest.raises(AttributeError):
                setattr(frame, attribute, 5)


# What is left of a frame.


def test_a_frame_that_nobody_keeps_is_freed_and_so_is_its_account() -> None:
    price_the_model()
    ledger = _config.state().scope_ledger
    with budget("b", usd=1) as b:
        paid(1_000)
        account = b.account
    frame = weakref.ref(b)
    assert ledger.balance(account).spent_usd_nanos == 1_000_000
    del b
    gc.collect()
    assert frame() is None
    assert ledger.balance(account) == Balance()


def test_a_frame_that_nobody_keeps_is_freed_without_the_collector() -> None:
    gc.disable()
    try:
        with budget("b", calls=1) as b:
            frame = weakref.ref(b)
        del b
        assert frame() is None
    finally:
        gc.enable()


def test_a_frame_lives_as_long_as_a_call_that_was_started_in_it() -> None:
    price_the_model()
    with budget("b", usd=1) as b:
        call = admit(new_call())
    frame, account = weakref.ref(b), b.account
    del b
    assert frame() is not None
    gc.collect()
    assert frame() is not None
    finish(call, usage=Usage(uncached_input_tokens=1))
    gc.collect()
    assert frame() is None
    assert _config.state().scope_ledger.balance(account) == Balance()


@pytest.mark.parametrize("kind", ["plain", "generator", "coroutine"])
def test_a_decorated_function_keeps_no_frame(kind: str) -> None:
    frames: list[weakref.ref[Any]] = []

    def note() -> None:
        frames.append(weakref.ref(current()))  # type: ignore[arg-type]

    @budget("b", calls=1)
    def plainly() -> None:
        note()

    @budget("b", calls=1)
    def stepwise() -> Iterator[int]:
        note()
        yield 1

    @budget("b", calls=1)
    async def later() -> None:
        note()

    if kind == "plain":
        plainly()
    elif kind == "generator":
        list(stepwise())
    else:
        asyncio.run(later())
    gc.collect()
    assert [frame() for frame in frames] == [None]


def test_ten_thousand_scopes_leave_nothing_in_the_ledger() -> None:
    ledger: Any = _config.state().scope_ledger
    before = len(ledger._book.entries)
    shared = budget("b", calls=1)
    for _ in range(10_000):
        with shared:
            pass
    gc.collect()
    farebox.report()
    assert len(ledger._book.entries) == before


@EACH_SCOPE
def test_a_scope_shows_what_it_is(make: Any) -> None:
    assert repr(make()) in ("<budget 'b' on_exceed='block'>", "<track {'feature': 'f'}>")
