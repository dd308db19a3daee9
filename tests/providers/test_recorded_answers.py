"""What real answers say they used: recorded by others at the vendors' own servers, their texts left out here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from farebox._call import Usage
from farebox.providers import find_provider

RECORDED: list[dict[str, Any]] = json.loads(
    (Path(__file__).parent / "data" / "recorded" / "answers.json").read_text("utf-8")
)


@pytest.mark.parametrize("found", RECORDED, ids=lambda found: found["name"])
def test_a_real_answer_is_read_into_its_buckets(found: dict[str, Any]) -> None:
    provider = find_provider(found["provider"])
    call = provider.read_request(found["path"], found["request"], "")
    assert call is not None
    provider.read_answer(call, found["answer"])
    assert call.usage == Usage(**found["buckets"])
    assert call.doubt == ""


def test_each_says_where_it_is_from() -> None:
    assert all("https://" in found["source"] and "read 20" in found["source"] for found in RECORDED)
    assert {found["provider"] for found in RECORDED} == {"openai", "anthropic", "google", "mistral", "cohere"}
