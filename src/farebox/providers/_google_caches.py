"""Google's wire format: explicit caches, which cost their input once and what they keep for as long as they keep it.

A cache is charged for the whole time that it is made for; one that is deleted before gives nothing back.  To let it live longer
costs what the longer time adds, of a cache that was made through a metered client of this process.
That the input is charged as any other: https://docs.cloud.google.com/vertex-ai/generative-ai/docs/context-cache/
context-cache-overview (a copy, read 2026-11-30); the pages of the Gemini API do not say, and it is held and charged there too.
Field names: google-genai 3.6.1, `caches.py`; https://ai.google.dev/api/caching (a copy, read 2026-11-30).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, Final, NamedTuple

from farebox._call import Call, Usage, to_micros
from farebox.providers._batches import remember
from farebox.providers._google_parts import pick
from farebox.providers._reading import fields, listed, text_of, whole_number
from farebox.providers._unmetered import unseen_call

CACHES: Final = "cachedContents"
_NAME: Final = re.compile(r"(cachedContents/[^/:]{1,180})$")
_NEW: Final = re.compile(r"/cachedContents$")
_MODEL: Final = re.compile(r"([^/]+)$")
_MICROS: Final = 1_000_000
#: "If not set, the TTL defaults to 1 hour" (https://ai.google.dev/gemini-api/docs/caching, a copy, read 2026-11-30).
_USUAL: Final = 3_600 * _MICROS
#: A century: there is no longest time.
_LONGEST: Final = 100 * 366 * 86_400 * _MICROS
#: By how much a clock of theirs may differ from ours.
_SKEW: Final = 60 * _MICROS
_DURATION: Final = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,9})?)s")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_UNSEEN: Final = "this cache was not made through a metered client of this process: nobody here knows how much it holds"

_TOOLS: Final = frozenset(("web_search", "web_fetch", "file_search", "code_interpreter", "mcp"))


class _Cache(NamedTuple):
    model: str
    tokens: int
    #: Tools that run at Google, by the features that they need: who asks with the cache has them, and does not say so.
    tools: frozenset[str]
    #: Epoch microseconds, by its provider's clock.
    paid_until: int


_caches: dict[str, _Cache] = {}


def cache_in(name: str) -> str:
    """The name of a cache without whose it is, which is spelt by number or by name; "" where there is none."""
    found = _NAME.search(name)
    return found[1] if found is not None else ""


def tools_in_cache(name: str) -> frozenset[str]:
    """The features of the tools of a cache that run at Google; none of one that nobody here has made."""
    known = _caches.get(cache_in(name))
    return frozenset() if known is None else known.tools


def read_cache_request(
    provider_name: str,
    path: str,
    body: Mapping[str, Any],
    server_address: str,
    read: Callable[[str, Mapping[str, Any]], Call | None],
) -> Call | None:
    """The call that a request to make a cache, or to let one live longer, makes; `read` reads what it is to hold."""
    name = cache_in(path)
    if name:
        return _read_update(provider_name, name, path, body, server_address)
    model = _MODEL.search(text_of(body.get("model")))
    if _NEW.search(path) is None or model is None:
        return None
    call = read(model[1], {**body, "contents": listed(body.get("contents")) or [{}]})
    if call is None:
        return None
    call.operation_name, call.endpoint = "cache", CACHES
    call.choices, call.accepts_cap, call.declared_cap = 0, False, None
    call.is_continuable = True
    call.most_web_searches, call.fills_context = 0, False  # no tool runs before somebody asks
    tokens = (call.text_bytes + call.dense_bytes + 1) // 2 + call.extra_input_tokens
    lasts = _asked_micros(body, to_micros(call.started_at_seconds))
    call.most_units = {"cache_token_hours": _token_hours(tokens, lasts)}
    return call


def _read_update(provider_name: str, name: str, path: str, body: Mapping[str, Any], server_address: str) -> Call:
    known = _caches.get(name)
    if known is None:
        return unseen_call(provider_name, path, server_address, _UNSEEN)
    call = Call(
        provider_name=provider_name,
        operation_name="cache",
        endpoint=CACHES,
        server_address=server_address,
        request_model=known.model,
    )
    call.choices, call.accepts_cap, call.messages = 0, False, 1
    call.cache_write, call.response_id = "none", name
    now = to_micros(call.started_at_seconds)
    added = now + _asked_micros(body, now) + _SKEW - known.paid_until
    call.most_units = {"cache_token_hours": _token_hours(known.tokens, added)}
    return call


def read_cache(call: Call, found: Mapping[str, Any]) -> None:
    """What a cache holds and until when, as it says itself when it is made and when its time is changed."""
    known = _caches.get(call.response_id)
    name, end = cache_in(text_of(found.get("name"))), _instant(found.get("expireTime"))
    if end is None:
        call.doubt = "the cache does not say how long it is kept"
    elif call.response_id:
        if known is not None:
            call.usage = Usage(cache_token_hours=_token_hours(known.tokens, end - known.paid_until))
            remember(_caches, call.response_id, known._replace(paid_until=max(end, known.paid_until)))
    else:
        start = _instant(found.get("createTime"))
        tokens = whole_number(fields(found.get("usageMetadata")).get("totalTokenCount"))
        if not name or not tokens or start is None:
            call.doubt = "the cache does not say how much it holds, or since when"
            return
        call.response_id = name
        remember(_caches, name, _Cache(call.request_model, tokens, call.features & _TOOLS, end))
        hours = _token_hours(tokens, end - start)
        if call.has_audio:
            call.doubt = "the cache does not say which of its tokens are of sound"
            call.usage = Usage(input_audio_tokens=tokens, cache_token_hours=hours)
        else:
            call.usage = Usage(uncached_input_tokens=tokens, cache_token_hours=hours)


def _asked_micros(body: Mapping[str, Any], now: int) -> int:
    """How long a request asks a cache to be kept from now on, in microseconds; at its longest where nobody can tell."""
    told, lasts = pick(body, "expireTime"), body.get("ttl")
    end, found = _instant(told), _DURATION.fullmatch(text_of(lasts))
    if end is not None:
        return min(max(0, end - now + _SKEW), _LONGEST)
    if found is not None:
        return min(math.ceil(Fraction(found[1]) * _MICROS), _LONGEST)
    return _USUAL if told is None and lasts is None else _LONGEST


def _instant(value: Any) -> int | None:
    """Epoch microseconds of a time as Google writes it."""
    try:
        found = datetime.fromisoformat(text_of(value))
    except ValueError:
        return None
    return (found.replace(tzinfo=found.tzinfo or UTC) - _EPOCH) // timedelta(microseconds=1)


def _token_hours(tokens: int, micros: int) -> int:
    """Tokens times hours, rounded up to a whole one."""
    return -(-tokens * max(0, micros) // (3_600 * _MICROS))
