"""A client of each SDK for the running `provider`, closed again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from anthropic import Anthropic
from openai import OpenAI

from farebox.testing import FakeProvider


@pytest.fixture
def openai_client(provider: FakeProvider) -> Iterator[OpenAI]:
    with OpenAI(base_url=provider.openai_base_url, api_key="sk-secret", max_retries=0) as client:
        yield client


@pytest.fixture
def anthropic_client(provider: FakeProvider) -> Iterator[Anthropic]:
    with Anthropic(base_url=provider.anthropic_base_url, api_key="sk-secret", max_retries=0) as client:
        yield client
