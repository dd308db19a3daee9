"""What the tools of a response add to its input and its fees: those that run at the provider loop inside one request.

What their use costs: a copy of https://developers.openai.com/api/docs/pricing, `api/docs/pricing.md` of
https://github.com/llms-txt-archive/openai-platform (commit a30a622, read 2026-11-29).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

import attrs

from farebox._call import Call, Part, Usage
from farebox.providers._openai_items import Input
from farebox.providers._openai_pictures import most_output_tokens
from farebox.providers._reading import UnreadableUsage, count, fields, listed, text_of, whole_number

_TOKENS_PER_TOOL: Final = 32
#: Hidden text around any list of tools.
_TOKENS_FOR_TOOLS: Final = 256
#: Hidden instructions of a tool of OpenAI's own: nothing is published, some hundreds to some thousands were seen.
_TOKENS_PER_HOSTED_TOOL: Final = 4_096

#: Uses of hosted tools that are taken for granted where the request does not limit them: no maximum is documented.
PRESUMED_CALLS: Final = 10
#: More than a context window has room for.
_MOST_CALLS: Final = 1_000

#: What one use puts in front of the model at most; None: nobody says.  A web search has a context window of 128,000 tokens
#: (a copy of https://developers.openai.com/api/docs/guides/tools-web-search, its limitations).  A file search returns up to
#: 50 chunks of up to 4,096 tokens (openai 3.54.0, `types/responses/file_search_tool_param.py`,
#: `types/static_file_chunking_strategy.py`).  All read 2026-11-22.
_RESULT_TOKENS: Final[dict[str, int | None]] = {
    "web_search": 128_000,
    "file_search": 50 * 4_096,
    "code_interpreter": None,
    "image_generation": None,
    "mcp": None,
    "shell": None,
    "programmatic_tool_calling": None,
}

#: A container of its own is made for a request.  Twenty minutes of it have a price, and some are paid by the minute, for at
#: least five (same page): nobody says which, so it is twenty.
_CONTAINER_MINUTES: Final = 20
_GIGABYTES: Final = {"1g": 1, "4g": 4, "16g": 16, "64g": 64}
#: What draws where a tool does not say is gpt-image-2.6-sunburst (openai 3.57.0, `types/responses/tool_param.py`).  The price
#: list lacks it; the model before it has the same prices (a copy of
#: https://developers.openai.com/de-DE/api/docs/models/gpt-image-2.6-sunburst; both read 2026-11-29).
_DRAWS: Final = "gpt-image-2.5-sunburst"
#: What it reads at most for a picture: the model writes a prompt of 32,000 characters at most (openai 3.57.0,
#: `types/image_generate_params.py`), and pictures go in with it.  Not verified, chosen not to be too low.
_TOKENS_TO_DRAW: Final = 16_384
#: A search with the tool of before costs so much more where the model does not reason: 25 and not 10 a thousand (same page).
_MORE_FOR_PREVIEW_NANOS: Final = 15_000_000
_REASON: Final = ("o1", "o3", "o4", "gpt-5", "gpt-6")
#: For these a search counts as so many tokens of input, whatever was found (same page).
_FIXED_CONTENT: Final = ("gpt-4o-mini", "gpt-4.1-mini")
_FIXED_CONTENT_TOKENS: Final = 8_000

#: Which of them, or of the tools that the caller runs, a `type` means; it may be followed by a date or "_preview".
_KINDS: Final = (
    "web_search", "file_search", "code_interpreter", "image_generation", "mcp", "shell", "programmatic_tool_calling",
    "function", "custom", "namespace", "local_shell", "apply_patch", "computer", "tool_search",
)  # fmt: skip

#: What a model must be able to do to be given a tool of that kind, where it is not called as the kind is.
_FEATURES: Final = {
    "function": "tools",
    "custom": "tools",
    "namespace": "tools",
    "local_shell": "shell",
    "apply_patch": "shell",
    "computer": "computer_use",
}


@attrs.frozen
class Tools:
    """The tools of one request.

    Attributes:
        kinds: What each is, by `_KINDS`, or its own `type` if it is none of them.
        hosted: Those of the kinds that the provider runs.
        most_calls: How often these may be used in all; None where the request does not say.
        draws: The tools that draw.
        gigabyte_minutes: Of the containers that are made for the request.
        is_preview: Whether a search is made with the tool of before.
    """

    kinds: tuple[str, ...]
    hosted: tuple[str, ...]
    most_calls: int | None
    draws: tuple[Mapping[str, Any], ...] = ()
    gigabyte_minutes: int = 0
    is_preview: bool = False

    @classmethod
    def of(cls, tools: Iterable[Any], most_calls: Any) -> Tools | None:
        """Read the tools and `max_tool_calls` of a request; None where there is no tool."""
        found = [fields(tool) for tool in tools]
        if not found:
            return None
        kinds = tuple(_kind(text_of(tool.get("type"))) for tool in found)
        hosted = tuple(
            kind
            for kind, tool in zip(kinds, found, strict=True)
            if kind not in _FEATURES and not _is_callers(kind, tool)
        )
        return cls(
            kinds,
            tuple(dict.fromkeys(hosted)),
            whole_number(most_calls),
            tuple(tool for kind, tool in zip(kinds, found, strict=True) if kind == "image_generation"),
            sum(map(_gigabytes, found)) * _CONTAINER_MINUTES,
            any(text_of(tool.get("type")).startswith("web_search_preview") for tool in found),
        )

    def add_to(self, read: Input, call: Call) -> None:
        """Add what the tools can cost to what the request shows the model.

        After each use of a hosted tool the model reads everything once more, its own output and the results too.
        """
        sizes = read.sizes
        sizes.extra_tokens += _TOKENS_FOR_TOOLS + _TOKENS_PER_TOOL * len(self.kinds)
        sizes.extra_tokens += _TOKENS_PER_HOSTED_TOOL * len(self.hosted)
        read.features |= {_FEATURES.get(kind, kind) for kind in self.kinds}
        calls: int = PRESUMED_CALLS if self.most_calls is None else min(self.most_calls, _MOST_CALLS)
        units: dict[str, int] = {}
        if "web_search" in self.hosted:
            call.most_web_searches = calls
            if self.is_preview and not call.request_model.startswith(_REASON):
                units["fees_nanos"] = calls * _MORE_FOR_PREVIEW_NANOS
        if "file_search" in self.hosted:
            units["file_searches"] = calls
        if self.gigabyte_minutes and calls:
            units["container_gigabyte_minutes"] = self.gigabyte_minutes
        if self.draws and calls:
            sizes.has_images = True
            model = text_of(self.draws[0].get("model")) or _DRAWS
            tokens = max(most_output_tokens(model, tool) for tool in self.draws)
            call.parts = (Part(model, calls * _TOKENS_TO_DRAW, calls * tokens, calls, _TOKENS_TO_DRAW),)
        if units:
            call.most_units = units
        known = [0]
        for kind in self.hosted:
            found = _RESULT_TOKENS.get(kind)
            # None can be proven, as nobody says what is hidden around it; some may fill all that the model can read.
            read.cannot_bound(kind, fills_context=self.most_calls is None or (found is None and calls > 0))
            known.append(found or 0)
        if self.hosted and self.most_calls is not None:
            read.add_turns(calls, max(known) + (call.declared_cap or 0))


def _kind(type_name: str) -> str:
    return next((kind for kind in _KINDS if type_name == kind or type_name.startswith(kind + "_")), type_name)


def _is_callers(kind: str, tool: Any) -> bool:
    """Whether a tool of a kind that the provider may run is run by the caller: so it says."""
    if kind == "shell":
        return fields(tool.get("environment")).get("type") in (None, "local")
    # What a tool search finds is among the tools that are counted anyway, or is sent by the caller.
    return kind == "tool_search"


def _gigabytes(tool: Mapping[str, Any]) -> int:
    """Memory of a container that is made for this request; one of its own that a request names was paid when it was made."""
    held = fields(tool.get("container") or tool.get("environment"))
    if held.get("type") not in ("auto", "container_auto"):
        return 0
    return _GIGABYTES.get(text_of(held.get("memory_limit")), 1)


def with_tools(call: Call, usage: Usage, found: Mapping[str, Any]) -> Usage | None:
    """The usage, and what the tools that ran at the provider cost besides; None, and `call.doubt`, where that can't be read.

    What an image model used is not in the totals, and is charged at its own price.
    """
    is_template = "prompt" in call.unbounded  # its tools are named by the answer alone
    if not (call.most_units or call.parts or call.most_web_searches or is_template or found.get("tool_usage")):
        return usage
    items = [fields(item) for item in listed(found.get("output")) or ()]
    kinds = [text_of(item.get("type")) for item in items]
    searches, most = usage.web_searches, call.most_units
    if is_template and (told := Tools.of(listed(found.get("tools")) or (), None)) is not None:
        most = {"container_gigabyte_minutes": told.gigabyte_minutes, **most}
        if told.is_preview and not (call.response_model or call.model).startswith(_REASON):
            most["fees_nanos"] = 0
    containers = {text_of(item.get("container_id")) for item in items if item.get("type") == "code_interpreter_call"}
    ran = bool(containers) or "shell_call" in kinds
    usage = usage._replace(
        file_searches=kinds.count("file_search_call"),
        container_gigabyte_minutes=most.get("container_gigabyte_minutes", 0) if ran else 0,
        fees_nanos=searches * _MORE_FOR_PREVIEW_NANOS if "fees_nanos" in most else 0,
    )
    if searches and call.model.startswith(_FIXED_CONTENT) and "fees_nanos" not in most:
        missing = searches * _FIXED_CONTENT_TOKENS - usage.input_tokens
        usage = usage._replace(uncached_input_tokens=usage.uncached_input_tokens + max(0, missing))
    drawn = fields(fields(found.get("tool_usage")).get("image_gen"))
    if not drawn:
        return usage
    try:
        used = image_usage(drawn)
    except UnreadableUsage as reason:
        call.doubt = f"tool_usage.image_gen: {reason}"
        return None
    if any(used):
        call.others = ((call.parts[0].model if call.parts else _DRAWS, used),)
    return usage


def image_usage(found: Mapping[str, Any]) -> Usage:
    """What an image model says that it used.

    Raises:
        UnreadableUsage: a count that can't be believed.
    """
    into, out, cached = (
        fields(found.get(name)) for name in ("input_tokens_details", "output_tokens_details", "cached_tokens_details")
    )
    whole, written = count(found, "input_tokens"), count(found, "output_tokens")
    images = min(whole, count(into, "image_tokens"))
    text = whole - images
    cached_images = min(images, count(cached, "cached_image_tokens"))
    cached_text = min(text, count(cached, "cached_text_tokens"))
    said = min(written, count(out, "text_tokens"))
    return Usage(
        uncached_input_tokens=text - cached_text,
        cache_read_tokens=cached_text,
        input_image_tokens=images - cached_images,
        cache_read_image_tokens=cached_images,
        visible_output_tokens=said,
        output_image_tokens=written - said,
    )
