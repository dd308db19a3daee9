"""Clients of Vertex AI against the fake provider, and the async side of a client."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import google.auth.credentials
from google import genai

from tests.acceptance.rides import NO_CERTIFICATES

#: With a key of nobody's: `_access_token` gives it without asking Google.
NOBODY = google.auth.credentials.AnonymousCredentials()


def vertex_client(provider: Any) -> genai.Client:
    """A client of Vertex AI that asks nobody for its token; close it after use."""
    options: Any = {
        "base_url": provider.google_base_url,
        "client_args": {"verify": NO_CERTIFICATES},
        "async_client_args": {"verify": NO_CERTIFICATES},
    }
    client = genai.Client(vertexai=True, project="p", location="us-central1", credentials=NOBODY, http_options=options)

    async def token() -> str:
        return "fake"

    client._api_client.__dict__.update(_access_token=lambda: "fake", _async_access_token=token)
    return client


def run(client: Any, ask: Callable[[Any], Any]) -> Any:
    """What `ask` makes of the async side of a client, which is closed in the loop that it was used in."""

    async def main() -> Any:
        async with client.aio as aio:
            return await ask(aio)

    return asyncio.run(main())
