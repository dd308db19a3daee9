"""Google's endpoints that cost nothing; any other that is not metered may be billed."""

from __future__ import annotations

import re
from typing import Final

#: What costs nothing (https://ai.google.dev/gemini-api/docs/pricing, a copy, read 2026-11-29): to count, to keep files, to ask
#: after what is being made and to stop it; not what a cache holds, what a store is made of, or what a batch is asked.
_FREE: Final = re.compile(
    r""".*(?: :countTokens | :computeTokens | :cancel | /cancel | :fetchPredictOperation | /files | /files:register
    | /auth_tokens | /fileSearchStores )""",
    re.VERBOSE,
)


def is_free(path: str) -> bool:
    """Whether a POST to this path costs nothing, by what the vendor publishes."""
    return _FREE.fullmatch(path) is not None
