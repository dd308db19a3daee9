"""Anthropic's wire format: sessions of managed agents that begin with a budget of their own.

The platform adds up the list prices of all that a session uses, and asks no model any more once they reach its budget.  So it
is held for that budget until it has been archived or has ended, and then costs what it says.  What is in flight when the budget
is reached still ends, which is debt.  A session without a budget, one that is begun by a deployment, and what raises a budget
can't be bounded.

Sources: https://platform.claude.com/docs/en/managed-agents/budgets; anthropic 2.14.0, `types/beta/session_create_params.py`,
`types/beta/beta_managed_agents_session.py`, `beta_managed_agents_session_usage.py`, `beta_monetary_amount.py` (read 2026-11-30).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._reading import fields, text_of
from farebox.providers._unmetered import unseen_call

PATH: Final = "/v1/sessions"
_NANOS_PER_CENT: Final = 10_000_000
_MOST_CENTS: Final = 100_000_000
_MOST_TOKENS: Final = 10**12
#: No token of Claude's is had for less: a tenth of the cheapest that are read from a cache (genai-prices 0.2.3, read 2026-11-30).
_MOST_TOKENS_PER_CENT: Final = 10_000_000
_ONE: Final = re.compile(r"/v1/sessions/([^/]+)(?:/(events|archive))?$")
_MOST_HELD: Final = 10_000

#: Sessions that are held for, the oldest first: what is said in them costs nothing besides.
_held: dict[str, None] = {}


def read_session(provider_name: str, path: str, body: Mapping[str, Any], server_address: str) -> Call | None:
    """The call that a session with a budget is; None for any other request."""
    if not path.endswith(PATH):
        if _ONE.search(path) is None or "budget" not in body:
            return None
        return unseen_call(provider_name, path, server_address, "the budget of a session is changed")
    budget = fields(body.get("budget"))
    cents = _cents(budget.get("max_list_cost"))
    if cents is None or budget.get("type") != "limit":
        return None
    agent = body.get("agent")
    name = agent if isinstance(agent, str) else text_of(fields(agent).get("id"))
    call = Call(provider_name, "invoke_agent", PATH, f"agent:{name[:200]}", server_address)
    call.fixed_usd_nanos = (cents + 1) * _NANOS_PER_CENT  # it is told in whole cents
    call.fixed_tokens = cents * _MOST_TOKENS_PER_CENT
    call.choices, call.accepts_cap, call.messages = 0, False, 1
    call.unbounded = ("what is in flight when a session reaches its budget",)
    return call


def earlier_session(path: str, method: str) -> str:
    """The id of the session that a request asks after or archives; "" for any other request."""
    found = _ONE.search(path)
    if found is None or method.upper() != {None: "GET", "archive": "POST"}.get(found[2]):
        return ""
    return found[1]


def is_held(path: str) -> bool:
    """Whether a request says something in a session that is held for."""
    found = _ONE.search(path)
    return found is not None and found[2] == "events" and found[1] in _held


def read_session_answer(call: Call, answer: Any) -> None:
    """A session as it stands: what it has cost counts once it can do no more."""
    found = fields(answer)
    call.response_id = text_of(found.get("id"))[:200] or call.response_id
    if not call.response_id:
        return
    if found.get("archived_at") is None and found.get("status") != "terminated":
        call.is_pending = True
        _held[call.response_id] = None
        if len(_held) > _MOST_HELD:
            del _held[next(iter(_held))]
        return
    _held.pop(call.response_id, None)
    used = fields(found.get("usage"))
    cents = _cents(used.get("list_cost"))
    if cents is None:
        call.doubt = "the session does not say what it cost"
        return
    written = fields(used.get("cache_creation"))
    call.usage = Usage(
        uncached_input_tokens=_count(used.get("input_tokens")),
        cache_read_tokens=_count(used.get("cache_read_input_tokens")),
        cache_write_5m_tokens=_count(written.get("ephemeral_5m_input_tokens")),
        cache_write_1h_tokens=_count(written.get("ephemeral_1h_input_tokens")),
        visible_output_tokens=_count(used.get("output_tokens")),
    )
    call.told_usd_nanos = (cents + 1 if cents or any(call.usage) else 0) * _NANOS_PER_CENT


def _count(tokens: Any) -> int:
    """Tokens of all requests of a session together, of which there may be more than any one takes; what is odd counts nothing."""
    return tokens if type(tokens) is int and 0 <= tokens <= _MOST_TOKENS else 0


def _cents(amount: Any) -> int | None:
    """An amount of USD as the API writes it, in whole cents; None for anything else."""
    found = fields(amount)
    cents = found.get("amount")
    if found.get("currency") != "USD" or not isinstance(cents, str) or not cents.isascii() or not cents.isdigit():
        return None
    return int(cents) if len(cents) < 12 and int(cents) <= _MOST_CENTS else None
