"""Google's interactions.  Source of the fields: `_gaos/types/interactions` of the google-genai SDK 3.6."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs

from farebox.testing._fake.dialect import IMAGE_TOKENS, MESSAGE_TOKENS, Ask, Count, Event, Fault, Reply, count_json
from farebox.testing._fake.google import Google

_PLACE = r"^/v1[a-z0-9]*/(?:projects/[^/]+/locations/[^/]+/)?"
PATH = re.compile(_PLACE + "interactions$")
DECISIONS = re.compile(_PLACE + "decisions$")
MOST_SEARCHES = 10


class Interactions(Google):
    """An interaction with a model, or with an agent that says of which model it may use how much."""

    free_paths: tuple[str, ...] = ()

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and PATH.match(path) is not None

    def response_id(self, number: int) -> str:
        return f"interaction_fake_{number:06d}"

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        limits = body.get("agent_config") or {}
        model, asked = limits.get("model", body.get("model")), body.get("input")
        if not isinstance(model, str) or not asked:
            raise Fault(400, "model and input are required")
        config = body.get("generation_config") or {}
        cap = config.get("max_output_tokens")
        if cap is not None and not isinstance(cap, int):
            raise Fault(400, "Invalid value at 'generation_config.max_output_tokens'")
        tools = body.get("tools") or []
        tokens = MESSAGE_TOKENS + _count(asked, count) + sum(count_json(tool, count) for tool in tools)
        tokens += MESSAGE_TOKENS + _count(body.get("system_instruction") or "", count)
        ask = Ask(
            model=model, stream=body.get("stream") is True, cap=cap, choices=1, wants_usage=True, input_tokens=tokens
        )
        searching = any(tool.get("type") == "google_search" for tool in tools)
        if body.get("agent"):
            cap = max(0, int(limits["max_total_tokens"]) - tokens)
            searching = searching or "tools" not in body
        return attrs.evolve(
            ask,
            cap=cap,
            form=body.get("agent") or "",
            most_searches=MOST_SEARCHES if searching else 0,
            is_stored=body.get("store") is not False,
            previous_id=body.get("previous_interaction_id") or "",
        )

    def usage(self, reply: Reply, output_tokens: int) -> dict[str, Any]:
        thought = min(reply.reasoning_tokens, output_tokens)
        usage: dict[str, Any] = {
            "total_input_tokens": reply.input_tokens,
            "total_output_tokens": output_tokens - thought,
            "total_thought_tokens": thought,
            "total_cached_tokens": reply.cached_tokens,
            "total_tool_use_tokens": 0,
            "total_tokens": reply.input_tokens + output_tokens,
            "input_tokens_by_modality": [{"modality": "text", "tokens": reply.input_tokens}],
        }
        if reply.searches:
            usage["grounding_tool_count"] = [{"type": "google_search", "count": reply.searches}]
        return usage

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        said = {"type": "model_output", "content": [{"type": "text", "text": reply.text}]}
        cut = "budget_exceeded" if ask.form else "incomplete"
        return {
            **_head(ask, reply),
            "status": cut if reply.cut else "completed",
            "steps": [said],
            "usage": self.usage(reply, reply.output_tokens),
        }

    def events(self, ask: Ask, reply: Reply) -> Iterator[Event]:
        yield _event("interaction.created", interaction={**_head(ask, reply), "status": "in_progress"})
        yield _event("step.start", index=0, step={"type": "model_output", "content": []})
        for piece in reply.pieces:
            payload = {"event_type": "step.delta", "index": 0, "delta": {"type": "text", "text": piece.text}}
            yield Event(payload, "step.delta", tokens=piece.tokens, is_content=True)
        yield _event("step.stop", index=0)
        ended = {**self.answer(ask, reply), "steps": []}
        yield _event("interaction.completed", interaction=ended)

    def error_event(self, fault: Fault, request_id: str) -> Event:
        return _event("error", error={"code": str(fault.status), "message": fault.message})


class InteractionDecisions(Interactions):
    """Questions about one input, each of which is answered by a choice."""

    def serves(self, method: str, path: str) -> bool:
        return method == "POST" and DECISIONS.match(path) is not None

    def read(self, path: str, body: dict[str, Any], count: Count) -> Ask:
        questions = body.get("questions")
        if not isinstance(questions, dict) or not questions:
            raise Fault(400, "questions are required")
        ask = super().read(path, body, count)
        tokens = ask.input_tokens + sum(count_json(question, count) for question in questions.values())
        return attrs.evolve(ask, input_tokens=tokens, makes=4 * len(questions), form=",".join(questions))

    def answer(self, ask: Ask, reply: Reply) -> dict[str, Any]:
        answers = {name: {"type": "noul", "noul": 0.9, "confidence": 0.9} for name in ask.form.split(",")}
        return {"answers": answers, "usage": self.usage(reply, reply.output_tokens)}


def _head(ask: Ask, reply: Reply) -> dict[str, Any]:
    who = {"agent": ask.form} if ask.form else {"model": reply.model}
    return {"id": reply.response_id, "object": "interaction", **who}


def _event(name: str, **fields: Any) -> Event:
    return Event({"event_type": name, **fields}, name)


def _count(value: Any, count: Count) -> int:
    """Tokens of an input: a text, a content, or steps of them."""
    if isinstance(value, str):
        return count(value)
    if isinstance(value, list):
        return sum(_count(one, count) for one in value)
    if isinstance(value, dict) and value.get("type") in ("image", "audio", "video", "document"):
        return IMAGE_TOKENS
    if isinstance(value, dict) and isinstance(value.get("text"), str):
        return count(value["text"])
    if isinstance(value, dict) and "content" in value:
        return MESSAGE_TOKENS + _count(value["content"], count)
    return count_json(value, count)
