"""Batches, and an answer in the background: how a program submits one, and how it collects what came of it."""

from __future__ import annotations

import json
from typing import Any, ClassVar

from tests.acceptance.rides import ANTHROPIC, CAP, MESSAGES, OPENAI, Ride

#: What no ledger may hold.
TEXT = MESSAGES[0]["content"]
ROWS = 4


class Kind:
    """One way; `collect` says whether all has come."""

    ride: ClassVar[Ride] = OPENAI

    def client(self, provider: Any, **options: Any) -> Any:
        return self.ride.client(provider, **options)

    def submit(self, client: Any) -> str:
        raise NotImplementedError

    def collect(self, client: Any, batch_id: str) -> bool:
        raise NotImplementedError


class OpenAIBatch(Kind):
    def submit(self, client: Any) -> str:
        rows = [
            {"custom_id": f"row-{n}", "method": "POST", "url": "/v1/chat/completions", "body": OPENAI.words()}
            for n in range(ROWS)
        ]
        content = b"\n".join(json.dumps(row).encode() for row in rows)
        file = client.files.create(file=("rows.jsonl", content), purpose="batch")
        endpoint = "/v1/chat/completions"
        return str(client.batches.create(input_file_id=file.id, endpoint=endpoint, completion_window="24h").id)

    def collect(self, client: Any, batch_id: str) -> bool:
        batch = client.batches.retrieve(batch_id)
        if batch.status != "completed":
            return False
        assert len(client.files.content(batch.output_file_id).text.splitlines()) == ROWS
        return True


class AnthropicBatch(Kind):
    ride = ANTHROPIC

    def submit(self, client: Any) -> str:
        requests = [{"custom_id": f"row-{n}", "params": ANTHROPIC.words()} for n in range(ROWS)]
        return str(client.messages.batches.create(requests=requests).id)

    def collect(self, client: Any, batch_id: str) -> bool:
        if client.messages.batches.retrieve(batch_id).processing_status != "ended":
            return False
        assert len(list(client.messages.batches.results(batch_id))) == ROWS
        return True


class Background(Kind):
    """No batch, but as late."""

    def submit(self, client: Any) -> str:
        words = {"model": OPENAI.model, "input": TEXT, "max_output_tokens": CAP}
        return str(client.responses.create(**words, background=True).id)

    def collect(self, client: Any, batch_id: str) -> bool:
        return client.responses.retrieve(batch_id).status not in ("queued", "in_progress")


KINDS: dict[str, Kind] = {"openai": OpenAIBatch(), "anthropic": AnthropicBatch(), "background": Background()}
