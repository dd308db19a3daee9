"""What the tests of frameworks share: every client instrumented, and SDKs that find the fake provider by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import farebox
from farebox.testing import FakeProvider


@pytest.fixture(autouse=True)
def metered(fresh: None, provider: FakeProvider, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("OPENAI_BASE_URL", provider.openai_base_url)
    monkeypatch.setenv("OPENAI_API_BASE", provider.openai_base_url)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", provider.anthropic_base_url)
    monkeypatch.setenv("OPENAI_API_KEY", "fake")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "fake")
    with farebox.instrument():
        yield


@pytest.fixture
def tight() -> Iterator[farebox.budget]:
    """A budget that no call fits."""
    with farebox.budget("tight", usd="0.000001") as frame:
        yield frame
