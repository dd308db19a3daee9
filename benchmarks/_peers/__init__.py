"""The same work through each library that limits spending: `benchmarks/peers.py` runs `python -m _peers` in an environment
of its own for each.

What does the work is `work.py`; a module per library puts its own hard stop around it, as its documentation says.  Nothing
here needs farebox but the module that is named so.
"""

from __future__ import annotations

from typing import Any, Final

#: A model whose price five of the six ship; budget-guard-llm is told it.
MODEL: Final = "gpt-4o-mini"
INPUT_USD_PER_MILLION: Final = "0.15"
OUTPUT_USD_PER_MILLION: Final = "0.60"

#: What every call declares as its cap, and what the server answers: no call costs less than its cap allows.
OUTPUT_TOKENS: Final = 500
CHUNKS: Final = 50
_PROMPT_BYTES: Final = 4_096
_TEXT: Final = "The quick brown fox jumps over the lazy dog, runs from the farm, and comes back. " * 60


def words(number: int) -> dict[str, Any]:
    """The arguments of a call.  No two prompts are alike, and all are 4 kB: a detector of loops has nothing to find."""
    prompt = f"{number:08d} {_TEXT}"[:_PROMPT_BYTES]
    return {"model": MODEL, "messages": [{"role": "user", "content": prompt}], "max_tokens": OUTPUT_TOKENS}


def stream_words(number: int) -> dict[str, Any]:
    """The same for a stream that asks for its usage, so that a bare and a guarded one read the same chunks."""
    return {**words(number), "stream": True, "stream_options": {"include_usage": True}}
