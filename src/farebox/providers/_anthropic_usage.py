"""What Anthropic says a message used: the buckets of one model, and what other models did for it.

Field names: anthropic 2.14.0, `types/usage.py`, `types/beta/beta_usage.py`, `types/beta/beta_iterations_usage.py` and the
entries it names (read 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._anthropic_plain import DEAR_REGIONS
from farebox.providers._reading import COUNTS, UnreadableUsage, count, fields, listed, text_of

#: Fields of a usage that is more than input and output.
_OUT_OF_THE_ORDINARY: Final = ("output_tokens_details", "server_tool_use", "iterations")
_INPUT_BUCKETS: Final = ("uncached_input_tokens", "cache_read_tokens", "cache_write_5m_tokens", "cache_write_1h_tokens")


def read_head(call: Call, found: Mapping[str, Any], usage: Mapping[str, Any]) -> None:
    """Id, model and tier of an answer, as it says them."""
    response_id, model = found.get("id"), found.get("model")
    if type(response_id) is str:
        call.response_id = response_id[:200]
    if type(model) is str:
        call.response_model = model[:200]
    served = "fast" if usage.get("speed") == "fast" else usage.get("service_tier")
    if type(served) is str:
        geo = usage.get("inference_geo")
        if call.tier.endswith("regional") and (geo != "global" or call.provider_name != "anthropic"):
            geo = DEAR_REGIONS[0]  # as it was asked for: the answer names no other, or not what the cloud bills
        call.served_tier = served[:40] if geo is None else with_region(served[:40], geo)


def with_region(tier: str, geo: Any) -> str:
    """A tier as the prices know it: inference kept in one region costs more."""
    return "+".join(filter(None, (tier, "regional" if geo in DEAR_REGIONS else "")))


def read_usage(call: Call, usage: Mapping[str, Any]) -> Usage | None:
    """Disjoint buckets of a Usage, whose `input_tokens` leaves out everything cached.

    What other models used goes to `call.others`.
    """
    read, output = usage.get("input_tokens"), usage.get("output_tokens")
    written, cached = usage.get("cache_creation_input_tokens"), usage.get("cache_read_input_tokens")
    if (
        type(read) is int
        and type(output) is int
        and read
        and read in COUNTS
        and output in COUNTS
        and (written is None or (written == 0 and type(written) is int))
        and (cached is None or (cached == 0 and type(cached) is int))
        and not any(map(usage.get, _OUT_OF_THE_ORDINARY))
    ):
        return Usage(uncached_input_tokens=read, visible_output_tokens=output)
    try:
        buckets = _read_buckets(call, usage)
        _add_iterations(call, buckets, [fields(turn) for turn in listed(usage.get("iterations")) or ()])
        if not any(buckets[name] for name in _INPUT_BUCKETS):
            raise UnreadableUsage("usage.input_tokens is 0")
        server = usage.get("server_tool_use")
        return Usage(
            web_searches=count(fields(server), "web_search_requests") if server is not None else 0,
            **buckets,
        )
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return None


def _add_iterations(call: Call, buckets: dict[str, int], turns: list[Mapping[str, Any]]) -> None:
    """Add what the totals leave out: to the buckets what the same model used, to the call what others did.

    A compaction is the model's own work and in no total; an advisor is another model, and in no total either
    (https://platform.claude.com/docs/en/agents-and-tools/tool-use/advisor-tool, a copy, read 2026-11-22).  Where a fallback
    answered, the answer names that model and the totals are charged at its rates; whether they hold what the models before
    it used, which declined, nobody says, and mostly that is not billed: it is charged, so that nothing is too low
    (https://platform.claude.com/docs/en/build-with-claude/refusals-and-fallback, a copy, read 2026-11-29).
    """
    others: list[tuple[str, Usage]] = []
    served = next((text_of(turn.get("model")) for turn in turns if turn.get("type") == "fallback_message"), "")
    for turn in turns:
        kind, model = turn.get("type"), text_of(turn.get("model")) or call.model
        if kind == "compaction":
            for name, tokens in _read_buckets(call, turn).items():
                buckets[name] += tokens
        elif kind == "advisor_message" or (kind == "message" and served and model != served):
            others.append((model, Usage(**_read_buckets(call, turn))))
    if others:
        call.others, call.is_plain = tuple(others), False


def _read_buckets(call: Call, usage: Mapping[str, Any]) -> dict[str, int]:
    """Cache writes without their split by lifetime count as the longest that the request asked for, the dearest."""
    written = count(usage, "cache_creation_input_tokens")
    split = fields(usage.get("cache_creation")) if written else {}
    written_5m = count(split, "ephemeral_5m_input_tokens") if split else written if call.cache_write == "5m" else 0
    output, details = count(usage, "output_tokens", required=True), usage.get("output_tokens_details")
    thinking = count(fields(details), "thinking_tokens") if details is not None else 0
    return {
        "uncached_input_tokens": count(usage, "input_tokens", required=True),
        "cache_read_tokens": count(usage, "cache_read_input_tokens"),
        "cache_write_5m_tokens": min(written_5m, written),
        "cache_write_1h_tokens": max(0, written - written_5m),
        "visible_output_tokens": max(0, output - thinking),
        "reasoning_tokens": min(thinking, output),
    }
