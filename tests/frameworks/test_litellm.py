"""LiteLLM over the OpenAI SDK: counted once.  What it sends by HTTP of its own, farebox does not see."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

import farebox
from farebox import budget, track
from farebox.testing import FakeProvider
from tests.frameworks.oracle import MODEL, books_equal_bill, need, stopped

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it would fetch one when it is imported
need("litellm", "openai")

import litellm  # noqa: E402

WORDS: dict[str, Any] = {
    "model": f"openai/{MODEL}",
    "messages": [{"role": "user", "content": "Why?"}],
    "max_tokens": 500,
}


async def streamed(**options: Any) -> str:
    parts = await litellm.acompletion(**WORDS, stream=True, **options)
    return "".join([part.choices[0].delta.content or "" async for part in parts])


WAYS: dict[str, Callable[..., str]] = {
    "sync": lambda **options: litellm.completion(**WORDS, **options).choices[0].message.content,
    "async": lambda **options: asyncio.run(litellm.acompletion(**WORDS, **options)).choices[0].message.content,
    "stream": lambda **options: "".join(
        part.choices[0].delta.content or "" for part in litellm.completion(**WORDS, stream=True, **options)
    ),
    "async stream": lambda **options: asyncio.run(streamed(**options)),
}


@pytest.fixture(autouse=True)
def at_the_fake_provider(provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litellm, "api_base", provider.openai_base_url)
    litellm.in_memory_llm_clients_cache.flush_cache()


@pytest.mark.surface("litellm over the openai SDK", kind="{way}", proves=["exact", "unbroken"])
@pytest.mark.parametrize("way", WAYS)
def test_a_call_is_counted_once_and_answers_as_ever(provider: FakeProvider, way: str) -> None:
    provider.answer(text="Because it is so.")
    with track(feature="lite"), budget("half", usd=0.5) as half:
        assert WAYS[way]() == "Because it is so."
    assert half.spent_usd == provider.bill.usd
    books_equal_bill(provider, 1, feature="lite")


@pytest.mark.surface("litellm over the openai SDK", kind="{way}", proves="refused")
@pytest.mark.parametrize("way", WAYS)
def test_an_exhausted_budget_sends_nothing_however_often_it_is_tried(
    provider: FakeProvider, tight: Any, way: str
) -> None:
    """litellm makes an error of its own of all that is raised; the stop is what it was raised from."""
    with stopped():
        WAYS[way](num_retries=2)
    assert not provider.requests
    assert farebox.report().total.calls == 0
