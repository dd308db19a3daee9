"""Anthropic's endpoints that cost nothing; any other that is not metered may be billed."""

from __future__ import annotations

import re
from typing import Final

#: What costs nothing (https://platform.claude.com/docs/en/about-claude/pricing, read 2026-11-21): to count, and to keep, change
#: and stop things.  Not what an agent does or dreams, nor what has it begin: a session, an event in one, a deployment that is
#: made, changed or run.  These go on for as many turns as the agent likes, and no request says how many; a session that begins
#: with a budget of its own is read (`_anthropic_sessions`).
_FREE: Final = re.compile(
    r""".*/v1/(?: messages/(?:count_tokens|batches/[^/]+/cancel) | files
    | (?:skills|vaults|user_profiles|tunnels|memory_stores|agents|environments)(?:/.+)? | (?:organizations|compliance)/.+
    | sessions/(?:[^/]+(?:/(?:archive|resources(?:/[^/]+)?|threads/[^/]+/archive))?)
    | deployments/[^/]+/(?:archive|pause|unpause) | dreams/[^/]+/(?:archive|cancel) )""",
    re.VERBOSE,
)


def is_free(path: str) -> bool:
    """Whether a POST to this path costs nothing, by what the vendor publishes."""
    return _FREE.fullmatch(path) is not None
