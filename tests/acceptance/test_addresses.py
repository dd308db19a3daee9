"""The SDK gets an address it has made before, and never one that it would not make now."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

import farebox
from farebox.seams import _addresses
from farebox.testing import FakeProvider
from tests.acceptance.rides import ANTHROPIC, HTTPX, OPENAI, Ride, only_record

pytestmark = pytest.mark.usefixtures("metered")


@pytest.fixture
def other() -> Iterator[FakeProvider]:
    with FakeProvider() as other:
        yield other


def test_an_address_that_is_set_anew_is_the_one_that_is_asked(
    ride: Ride, provider: FakeProvider, other: FakeProvider, open_client: Any
) -> None:
    client = open_client(ride, base_url=ride.here(provider))
    ride.ask(client)
    ride.ask(client)
    client.base_url = ride.here(other)
    ride.ask(client)
    ride.ask(client.with_options(base_url=ride.here(provider)))
    ride.ask(client)
    assert (provider.bill.calls, other.bill.calls) == (3, 2)
    assert farebox.report().total.usd == provider.bill.usd + other.bill.usd


def test_the_functions_of_openai_itself_follow_what_is_set_on_the_module(
    provider: FakeProvider, other: FakeProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(openai, "api_key", "fake")
    monkeypatch.setattr(openai, "base_url", None)
    monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_base_url)
    module: Any = importlib.import_module("openai")
    module._reset_client()
    try:
        for there in (None, None, other, other, None, provider):
            module.base_url = there and f"{there.openai_base_url}/"
            module.chat.completions.create(**OPENAI.words())
    finally:
        module._reset_client()
    assert (provider.bill.calls, other.bill.calls) == (4, 2)


def test_a_class_that_works_its_address_out_is_asked_for_it_each_time(
    provider: FakeProvider, other: FakeProvider
) -> None:
    turns = [HTTPX.URL(each.openai_base_url + "/") for each in (provider, other)]

    class TakingTurns(openai.OpenAI):
        @property
        def base_url(self) -> Any:
            return turns[provider.bill.calls > other.bill.calls]

        @base_url.setter
        def base_url(self, url: Any) -> None: ...

    with TakingTurns(api_key="fake", max_retries=0) as client:
        for _ in range(6):
            OPENAI.ask(client)
    assert (provider.bill.calls, other.bill.calls) == (3, 3)


def test_a_class_that_works_out_what_the_sdk_would_store_is_asked_for_it_each_time(
    provider: FakeProvider, other: FakeProvider
) -> None:
    class Routed(openai.OpenAI):
        there = provider

        @property
        def _base_url(self) -> Any:  # type: ignore[override]
            return HTTPX.URL(self.there.openai_base_url + "/")

        @_base_url.setter
        def _base_url(self, url: Any) -> None: ...

    with Routed(api_key="fake", max_retries=0) as client:
        for there in (provider, provider, other, provider):
            client.there = there
            OPENAI.ask(client)
    assert (provider.bill.calls, other.bill.calls) == (3, 1)
    assert farebox.report().total.usd == provider.bill.usd + other.bill.usd


def test_an_address_that_is_set_while_one_is_made_of_the_last_is_not_kept_as_that(client: Any) -> None:
    class Left(HTTPX.URL):  # as by another thread, in the middle
        @property
        def raw_path(self) -> bytes:
            client.base_url = "http://else.test/"
            return super().raw_path

    here = Left("http://here.test/")
    for path in ("/some/where", "/some/where", "/else"):
        client._base_url = here
        client._prepare_url(path)
    client._base_url = here
    assert not _addresses.addresses(client).urls


def test_azure_still_chooses_between_its_two_addresses() -> None:
    with openai.AzureOpenAI(
        api_key="fake", api_version="1", azure_endpoint="http://here.test", azure_deployment="mine"
    ) as client:
        for _ in range(2):
            assert client._prepare_url("/chat/completions").path == "/openai/deployments/mine/chat/completions"
            assert client._prepare_url("/models").path == "/openai/models"


def test_a_program_that_asks_for_ever_new_paths_does_not_fill_the_memory(client: Any, ride: Ride) -> None:
    for i in range(1_000):
        assert client._prepare_url(f"/answers/{i}").path.endswith(f"/answers/{i}")
    ride.ask(client)
    known = _addresses.addresses(client)
    assert len(known.urls) < 100
    assert len(known.read) < 100
    only_record()


CLIENTS: dict[str, Any] = {
    "openai": openai.OpenAI(api_key="fake", base_url="http://here.test/v1?a=b"),
    "anthropic": anthropic.Anthropic(api_key="fake", base_url="http://here.test/at all/"),
}
PATHS = st.one_of(
    st.sampled_from(
        ["", "/", "//x", "v1/messages?beta=true", "http://else.test/y?z#part", "/a%2Fb", "/ü?q=ä", "mailto:x"]
    ),
    st.text(max_size=20),
)


@pytest.mark.parametrize("sdk", CLIENTS)
@given(paths=st.lists(PATHS, max_size=8))
def test_what_it_gets_is_what_it_would_have_made(sdk: str, paths: list[str]) -> None:
    client = CLIENTS[sdk]
    make = next(vars(cls)["_prepare_url"] for cls in type(client).__mro__ if "_prepare_url" in vars(cls)).__wrapped__
    for path in paths + paths:
        try:
            made = make(client, path)
        except Exception as error:
            with pytest.raises(type(error)):
                client._prepare_url(path)
        else:
            assert client._prepare_url(path) == made


@pytest.mark.parametrize("ride", [OPENAI, ANTHROPIC], ids=str)
def test_a_second_request_parses_no_address_of_ours(ride: Ride, provider: FakeProvider, client: Any) -> None:
    first = client._prepare_url("/some/where")
    assert client._prepare_url("/some/where") is first
