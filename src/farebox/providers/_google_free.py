"""Google's endpoints that cost nothing; any other that is not metered may be billed."""

from __future__ import annotations

import re
from typing import Final

#: What costs nothing (https://ai.google.dev/gemini-api/docs/pricing, a copy, read 2026-11-29): to count, to keep files, to ask
#: after what is being made and to stop it, to name who is told of it.
#:
#: Not among them, since the request says neither what they will cost nor when they have:
#:   what is made of a file that nobody here reads   stores to search in, whose index is charged by its tokens
#:   what goes on by itself                          triggers and their runs, tuning and the checks of its rewards
#:   what lies where nobody here can read            batches of Vertex AI
#:   what no page has a price of                     agents and environments that are kept, voices
_FREE: Final = re.compile(
    r""".*(?: :countTokens | :computeTokens | :cancel | /cancel | :fetchPredictOperation | /files | /files:register
    | /auth_tokens | /fileSearchStores
    | /credentials | /webhooks | /webhooks/[^/]+:(?:ping|rotateSigningSecret) )""",
    re.VERBOSE,
)


def is_free(path: str) -> bool:
    """Whether a POST to this path costs nothing, by what the vendor publishes."""
    return _FREE.fullmatch(path) is not None
