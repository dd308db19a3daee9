"""What the tools of a response can add to its input and its fees: those that run at the provider loop inside one request."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import attrs

from farebox._call import Call
from farebox.providers._openai_items import Input
from farebox.providers._reading import fields, text_of, whole_number

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
    """

    kinds: tuple[str, ...]
    hosted: tuple[str, ...]
    most_calls: int | None

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
        return cls(kinds, tuple(dict.fromkeys(hosted)), whole_number(most_calls))

    def add_to(self, read: Input, call: Call) -> None:
        """Add what the tools can cost to what the request shows the model.

        After each use of a hosted tool the model reads everything once more, its own output and the results too.
        """
        sizes = read.sizes
        sizes.extra_tokens += _TOKENS_FOR_TOOLS + _TOKENS_PER_TOOL * len(self.kinds)
        sizes.extra_tokens += _TOKENS_PER_HOSTED_TOOL * len(self.hosted)
        read.features |= {_FEATURES.get(kind, kind) for kind in self.kinds}
        calls = PRESUMED_CALLS if self.most_calls is None else min(self.most_calls, _MOST_CALLS)
        if "web_search" in self.hosted:
            call.most_web_searches = calls
        if "image_generation" in self.hosted:
            sizes.has_images = True
        known = [0]
        for kind in self.hosted:
            tokens = _RESULT_TOKENS.get(kind)
            # None can be proven, as nobody says what is hidden around it; some may fill all that the model can read.
            read.cannot_bound(kind, fills_context=self.most_calls is None or (tokens is None and calls > 0))
            known.append(tokens or 0)
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
