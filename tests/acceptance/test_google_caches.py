"""Explicit caches: their input and what they keep are held before they are made, and paid by what they say of themselves."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

pytest.importorskip("google.genai", reason="google-genai is not installed")

import farebox
from farebox import BudgetExceeded, budget, track
from farebox.errors import UnmeteredCall
from tests.acceptance.google_clients import run, vertex_client
from tests.acceptance.rides import GOOGLE, nothing_is_left, only_record

pytestmark = pytest.mark.usefixtures("metered")

FLASH, PRO = "gemini-2.5-flash", "gemini-2.5-pro"
TEXT = "hello there, how are you? " * 800
#: What a cache of a token-hour more than its bill costs at most.
ONE = Decimal("0.0000045")


@pytest.fixture(params=["developer", "vertex"])
def client(request: pytest.FixtureRequest, provider: Any) -> Iterator[Any]:
    with GOOGLE.client(provider) if request.param == "developer" else vertex_client(provider) as client:
        yield client


def make(client: Any, model: str = FLASH, **config: Any) -> Any:
    return client.caches.create(model=model, config={"contents": TEXT, **config})


def sync(client: Any, ask: Callable[[Any], Any]) -> Any:
    return ask(client)


SIDES = pytest.mark.parametrize(("kind", "do"), [("sync", sync), ("async", run)])


@pytest.mark.surface("google-genai caches.create", kind="{kind}", proves=["exact", "unbroken"])
@SIDES
@pytest.mark.parametrize("model", [FLASH, PRO])
def test_a_cache_is_paid_for_its_input_and_an_hour_of_what_it_keeps(
    model: str, kind: str, do: Any, provider: Any, client: Any
) -> None:
    with track(feature="docs"), budget(usd=1) as paid:
        cache = do(client, lambda client: make(client, model))
    tokens = Decimal(cache.usage_metadata.total_token_count)
    rate = Decimal("0.30") + 1 if model == FLASH else Decimal("1.25") + Decimal("4.50")
    record = only_record()
    assert record.usd == paid.spent_usd == provider.bill.usd == tokens * rate / 1_000_000
    assert (record.operation_name, record.cost_source, record.doubt) == ("cache", "list", "")
    assert (record.request_model, record.tags) == (model, {"feature": "docs"})
    assert record.usage is not None
    assert record.usage.cache_token_hours == record.usage.input_tokens == tokens
    assert record.usd <= record.bound_usd <= record.usd * 4
    nothing_is_left()


@pytest.mark.surface("google-genai caches.create", kind=["sync", "async"], proves="refused")
@pytest.mark.parametrize("do", [sync, run])
def test_a_cache_that_does_not_fit_is_not_made(do: Any, provider: Any, client: Any) -> None:
    # An hour of it would fit, a month of it does not.
    for mode in ("block", "downgrade", "clamp"):
        with budget(usd="0.5", on_exceed=mode), pytest.raises(BudgetExceeded):
            do(client, lambda client: make(client, ttl=f"{31 * 86_400}s"))
    assert not provider.requests


@pytest.mark.parametrize("asked", [{"ttl": 86_400}, {"ttl": "86400"}, {"ttl": {"seconds": 86_400}}, {"expireTime": 1}])
def test_a_time_that_nobody_can_read_is_held_as_the_longest(asked: Any, provider: Any, client: Any) -> None:
    with budget(usd=50), pytest.raises(BudgetExceeded):
        make(client, http_options={"extra_body": asked})
    assert not provider.requests


@pytest.mark.parametrize("seconds", [1, 300, 5_400, 86_400.5])
def test_what_a_cache_keeps_is_paid_for_the_time_that_was_asked_for(seconds: float, provider: Any, client: Any) -> None:
    with budget(usd=5) as paid:
        make(client, ttl=f"{seconds}s")
        assert Decimal(0) <= paid.spent_usd - provider.bill.usd <= ONE
    with budget(usd=5) as paid:
        before = provider.bill.usd
        make(client, expire_time=datetime.now(UTC) + timedelta(seconds=seconds))
        assert Decimal(0) <= paid.spent_usd - (provider.bill.usd - before) <= ONE
    assert all(call.usd <= call.bound_usd for call in farebox.calls())


@pytest.mark.surface("google-genai caches.update", kind="{kind}", proves=["exact", "unbroken", "refused"])
@SIDES
def test_a_longer_life_is_paid_by_what_it_adds(kind: str, do: Any, provider: Any, client: Any) -> None:
    made: list[Any] = []
    with budget(usd=5) as paid:
        made.append(do(client, lambda client: make(client, ttl="3600s")))
    (cache,) = made
    if kind == "async":
        client = vertex_client(provider) if client.vertexai else GOOGLE.client(provider)
    before = provider.bill.usd

    def keep(ttl: str) -> Any:
        return client.caches.update(name=cache.name, config={"ttl": ttl})

    with budget(usd="0.005"), pytest.raises(BudgetExceeded):
        keep(f"{86_400}s")
    assert provider.bill.calls == 1
    with budget(usd=5) as paid:
        keep("7200s")
        added = provider.bill.usd - before
        assert added > 0
        assert Decimal(0) <= paid.spent_usd - added <= ONE
        keep("60s")  # which gives nothing back, and costs nothing
        assert Decimal(0) <= paid.spent_usd - added <= ONE
    assert [call.outcome for call in farebox.calls()] == ["completed", "refused", "completed", "completed"]
    assert {call.operation_name for call in farebox.calls()} == {"cache"}
    nothing_is_left()


def test_a_cache_that_nobody_here_has_made_is_not_kept_longer_under_a_limit(provider: Any, client: Any) -> None:
    with budget(usd=5), pytest.raises(UnmeteredCall, match="not made through a metered client"):
        client.caches.update(name="cachedContents/1", config={"ttl": "60s"})
    assert not provider.requests


def test_what_is_asked_with_a_cache_is_held_by_its_tokens_and_paid_at_its_price(provider: Any, client: Any) -> None:
    with budget(usd=5):
        cache = make(client)
    tokens = cache.usage_metadata.total_token_count
    provider.answer(input_tokens=tokens + 10, cached_tokens=tokens, output_tokens=20)
    config: Any = {"cached_content": cache.name, "max_output_tokens": 20}
    before = provider.bill.usd
    with budget(usd="0.01") as paid:  # all that the model reads would take thirty times as much
        client.models.generate_content(model=FLASH, contents="hello", config=config)
    assert paid.spent_usd == provider.bill.usd - before
    assert farebox.calls()[-1].usage.cache_read_tokens == tokens


def test_the_tools_of_a_cache_are_held_by_who_asks_with_it(provider: Any, client: Any) -> None:
    search: Any = [{"google_search": {}}]
    with budget(usd=5):
        names = [make(client).name, make(client, tools=search).name]
        for name in names:
            config: Any = {"cached_content": name, "max_output_tokens": 20}
            client.models.generate_content(model=FLASH, contents="hello", config=config)
    bare, made, without, searching = (call.bound_usd for call in farebox.calls())
    assert made < bare + Decimal("0.035") * 3  # nothing is searched for yet
    # A search at 35 a thousand, and what it finds.
    assert searching >= without + Decimal("0.035") + 65_536 * Decimal("0.0000003")


def test_the_rest_of_what_one_does_with_caches_is_free(provider: Any, client: Any) -> None:
    with budget(usd=5):
        cache = make(client)
    with budget(usd=0, calls=0):
        assert client.caches.get(name=cache.name).usage_metadata == cache.usage_metadata
        client.caches.delete(name=cache.name)
    assert len(farebox.calls()) == 1


@pytest.mark.parametrize(
    "edit",
    [
        lambda found: {},
        lambda found: {**found, "expireTime": "soon"},
        lambda found: {**found, "createTime": None},
        lambda found: {**found, "usageMetadata": {"totalTokenCount": -5}},
    ],
)
def test_a_cache_that_says_nothing_of_itself_is_paid_as_it_was_held(edit: Any, provider: Any, client: Any) -> None:
    provider.odd(edit=edit)
    with budget(usd=5):
        try:
            make(client)
        except ValueError:
            assert edit({}).get("expireTime")  # the SDK's own: it is no time
    record = only_record()
    assert record.usd == record.bound_usd >= provider.bill.usd
    assert (record.cost_source, bool(record.doubt)) == ("estimated", True)


def test_a_storage_price_of_ones_own_is_held_and_paid(provider: Any, client: Any) -> None:
    farebox.set_price(FLASH, input_per_million=0.3, output_per_million=2.5, cache_storage_per_million_hours=2)
    with budget(usd=5) as paid:
        tokens = make(client).usage_metadata.total_token_count
    assert paid.spent_usd == Decimal(tokens) * Decimal("2.3") / 1_000_000
