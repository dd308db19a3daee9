"""What OpenAI's endpoints say of an answer in the same way: its head, its usage, and streams of choices.

Field names: openai 3.54.0, `types/completion_usage.py`, `types/responses/response_usage.py` (read 2026-11-22).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from farebox._call import Call, Usage
from farebox._usage import plain_usage
from farebox.providers._reading import MOST_TOKENS, Sizes, UnreadableUsage, count, fields, listed, texts, whole_number

_LAST_CHUNKS: Final = 3
OWN_HOST: Final = "api.openai.com"
#: Characters of an id or a name that are kept.
_LONGEST: Final = 200


def read_cap(call: Call, given: Any) -> None:
    """The declared output cap; one that nobody can read is left alone."""
    cap = whole_number(given)
    if given is not None:
        call.declared_cap, call.accepts_cap = cap, cap is not None


def read_tier(call: Call, body: Mapping[str, Any]) -> None:
    """The service tier asked for.  "auto" leaves it to the project's settings: the dearest that its model has."""
    tier = body.get("service_tier")
    call.tier = tier if isinstance(tier, str) else ""


def is_own_server(server_address: str) -> bool:
    """Whether OpenAI or Azure answers there, and not a compatible server of somebody else's."""
    return server_address.endswith((".openai.com", ".azure.com"))


def ask_for_usage(call: Call, body: Mapping[str, Any], changes: dict[str, Any]) -> None:
    """Have a stream of choices end with its usage; its chunk is hidden from a caller who did not ask for it."""
    if call.is_stream:
        options = fields(body.get("stream_options"))
        if not options.get("include_usage"):
            changes["stream_options"] = {**options, "include_usage": True}
            call.adds_usage_chunk = True


def in_region(server_address: str, tier: str) -> str:
    """A tier as the prices know it: a host of one region, such as eu.api.openai.com, costs more.

    Source: https://developers.openai.com/api/docs/pricing (read 2026-11-21); it is so of models
    since March 2026, and taken to be so of all.
    """
    if not server_address.endswith(".api.openai.com"):
        return tier
    return f"{tier}+regional" if tier else "regional"


def read_head(call: Call, found: Mapping[str, Any]) -> None:
    """Id, model and tier of an answer, as it says them."""
    response_id, model, tier = found.get("id"), found.get("model"), found.get("service_tier")
    if type(response_id) is str:
        call.response_id = response_id if len(response_id) <= _LONGEST else response_id[:_LONGEST]
    if type(model) is str:
        call.response_model = model if len(model) <= _LONGEST else model[:_LONGEST]
    if type(tier) is str:
        call.served_tier = in_region(call.server_address, tier[:40])


def read_plain_answer(call: Call, answer: Any) -> bool:
    """Read an answer of the SDK's own class that says what most do; False where it says more, or is anything else."""
    try:
        found = answer.__dict__
        (choice,) = found["choices"]
        used = found["usage"].__dict__
        tokens_in, tokens_out = used["prompt_tokens"], used["completion_tokens"]
        if type(tokens_in) is not int or type(tokens_out) is not int:
            return False
        if not 0 < tokens_in <= MOST_TOKENS or not 0 <= tokens_out <= MOST_TOKENS:
            return False
        for details in used["prompt_tokens_details"], used["completion_tokens_details"]:
            if details is not None and (details.__pydantic_extra__ or any(details.__dict__.values())):
                return False
        response_id, model, tier = found["id"], found["model"], found["service_tier"]
        if type(response_id) is not str or type(model) is not str or len(response_id) + len(model) > _LONGEST:
            return False
        call.is_cut = choice.__dict__["finish_reason"] == "length"
    except (AttributeError, KeyError, TypeError, ValueError):
        return False
    call.response_id, call.response_model = response_id, model
    if type(tier) is str:
        call.served_tier = tier if call.server_address == OWN_HOST else in_region(call.server_address, tier[:40])
    call.usage = plain_usage(tokens_in, tokens_out)
    return True


class Names(NamedTuple):
    """What an endpoint calls its input and output and their details; no output where it has none."""

    input: str
    output: str
    input_details: str
    output_details: str


CHAT: Final = Names("prompt_tokens", "completion_tokens", "prompt_tokens_details", "completion_tokens_details")
RESPONSES: Final = Names("input_tokens", "output_tokens", "input_tokens_details", "output_tokens_details")
EMBEDDINGS: Final = Names("prompt_tokens", "", "", "")


def read_usage(call: Call, usage: Any, names: Names, *, web_searches: int = 0) -> Usage | None:
    """Disjoint buckets of a usage whose details are parts of its totals; None, and `call.doubt`, where it can't be believed.

    Parts that add up to more than the whole cannot be believed: then the whole counts at the full rate.
    """
    if usage is None:
        return None
    found = fields(usage)
    whole_input, whole_output = found.get(names.input), found.get(names.output) if names.output else 0
    into, out = found.get(names.input_details), found.get(names.output_details)
    into, out = {} if into is None else fields(into), {} if out is None else fields(out)
    try:
        if (
            type(whole_input) is not int
            or type(whole_output) is not int
            or not 0 < whole_input <= MOST_TOKENS
            or not 0 <= whole_output <= MOST_TOKENS
        ):
            count(found, names.input, required=True)
            if names.output:
                count(found, names.output, required=True)
            raise UnreadableUsage(f"usage.{names.input} is 0")
        if not (any(into.values()) or any(out.values()) or web_searches):
            return plain_usage(whole_input, whole_output)
        cached, written = count(into, "cached_tokens"), count(into, "cache_write_tokens")
        long_lived = count(fields(into.get("cache_write_tokens_details")), "ttl_12h_tokens")
        audio, images = count(into, "audio_tokens"), count(into, "image_tokens")
        reasoning, spoken, drawn = (count(out, f"{kind}_tokens") for kind in ("reasoning", "audio", "image"))
    except UnreadableUsage as reason:
        call.doubt = str(reason)
        return None
    if call.cache_write == "12h" and not long_lived:
        long_lived = written  # no split: the dearest that the request asked for
    if cached + written + audio + images > whole_input or long_lived > written:
        cached = written = long_lived = 0
        audio, images = min(audio, whole_input), max(0, min(images, whole_input - audio))
    if reasoning + spoken + drawn > whole_output:
        reasoning, drawn = 0, min(drawn, whole_output)
        spoken = min(spoken, whole_output - drawn)
    return Usage(
        uncached_input_tokens=whole_input - cached - written - audio - images,
        cache_read_tokens=cached,
        cache_write_30m_tokens=written - long_lived,
        cache_write_12h_tokens=long_lived,
        input_audio_tokens=audio,
        input_image_tokens=images,
        visible_output_tokens=whole_output - reasoning - spoken - drawn,
        reasoning_tokens=reasoning,
        output_audio_tokens=spoken,
        output_image_tokens=drawn,
        web_searches=min(web_searches, MOST_TOKENS),
    )


def read_finish(call: Call, found: Mapping[str, Any]) -> None:
    """Whether one of the choices ended at its cap."""
    choices = found.get("choices")
    for choice in choices if type(choices) is list else ():
        ended = choice.get("finish_reason") if type(choice) is dict else getattr(choice, "finish_reason", None)
        if ended == "length":
            call.is_cut = True


class ChoicesReader:
    """Reads a stream of choices, and keeps the last usage: some servers send it once, some in every chunk, cumulative."""

    __slots__ = ("_call", "_hides", "_is_final", "_recent", "_usage")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._hides = call.adds_usage_chunk
        #: The last chunks: the end is among them, and a usage chunk may follow it.
        self._recent: deque[Any] = deque(maxlen=_LAST_CHUNKS)
        self._usage: Any = None
        self._is_final = False

    def see(self, chunk: Any) -> bool:
        try:
            usage, choices = chunk.usage, chunk.choices
        except AttributeError:
            found = fields(chunk)
            usage, choices = found.get("usage"), found.get("choices")
        if usage is not None:
            self._usage = usage
        if choices:
            self._is_final = False
            self._recent.append(chunk)
            if self._call.choices > 1:
                read_finish(self._call, fields(chunk))
            return False
        # Before the answer has ended a chunk without choices is a server's own matter; after it, it is the usage chunk.
        self._is_final = usage is not None
        return self._hides and (usage is not None or self._has_ended())

    def _has_ended(self) -> bool:
        """Whether a choice has said how it ended."""
        return any(
            fields(choice).get("finish_reason")
            for chunk in self._recent
            for choice in listed(fields(chunk).get("choices")) or ()
        )

    def finish(self) -> None:
        for chunk in self._recent:
            found = fields(chunk)
            read_head(self._call, found)
            read_finish(self._call, found)
        if self._call.server is not None:
            self._usage = self._call.server.usual(self._call, self._usage, self._recent)
        if self._usage is None:
            return
        if self._is_final or self._has_ended():
            self._call.usage = read_usage(self._call, self._usage, CHAT, web_searches=self._call.most_web_searches)
        else:
            self._call.doubt = "the stream ended before its answer"

    def abandon(self, chunks: list[Any]) -> None:
        pieces: list[str] = []
        for chunk in chunks:
            self.see(chunk)
            for choice in listed(fields(chunk).get("choices")) or ():
                pieces += self.said(choice)
        if self._is_final:
            self.finish()
        else:
            for chunk in self._recent:
                read_head(self._call, fields(chunk))
        sizes = Sizes({})
        sizes.add_joined(pieces)
        self._call.received_tokens = sizes.received_tokens()

    def said(self, choice: Any) -> Iterator[str]:
        """The text that a chunk brought."""
        return texts(fields(choice).get("text"))
