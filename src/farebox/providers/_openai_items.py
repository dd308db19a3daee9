"""What the items of a response's input put in front of the model.

Kinds and members of items: openai 3.54.0, `types/responses/response_input_item_param.py` (read 2026-11-22).
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Final

from farebox._call import Call
from farebox.providers._media import read_openai_part
from farebox.providers._reading import Part, Sizes, fields, listed, name_of, text_of
from farebox.providers._vision import Pictures, openai_image_tokens

#: Most input tokens of one content part, where it can't be read or bounded.  A picture has its own by model, and a file may
#: fill all that the model can read.
_MEDIA_TOKENS: Final = {
    "input_image": 0,
    "computer_screenshot": 0,
    "image": 0,  # drawn by code that ran at the provider
    "image_generation_call": 0,
    "input_audio": 128_000,
    "input_file": 0,
}
_FEATURES: Final = {"input_audio": "audio", "input_file": "files"}
_TEXT_KINDS: Final = frozenset(
    "input_text output_text refusal summary_text reasoning_text text logs encrypted_content".split()
)
_ITEM_KINDS: Final = frozenset(
    ("message reasoning function_call function_call_output custom_tool_call custom_tool_call_output computer_call "
     "computer_call_output web_search_call file_search_call code_interpreter_call image_generation_call local_shell_call "
     "local_shell_call_output shell_call shell_call_output apply_patch_call apply_patch_call_output mcp_list_tools mcp_call "
     "mcp_approval_request mcp_approval_response tool_search_call tool_search_output additional_tools compaction program "
     "program_output").split()
)  # fmt: skip

# Hidden text per item and per request, as around chat messages; and a system prompt that a server's template writes.
_TOKENS_PER_ITEM: Final = 16
_TOKENS_PER_REQUEST: Final = 64
_TOKENS_OF_TEMPLATE: Final = 512
#: Reasoning that the provider keeps and puts back by its id: a guess, as nobody says how long it is.
_KEPT_REASONING_TOKENS: Final = 8_192

#: Members of an item that hold content parts, which may be pictures; anything else in it is JSON of somebody's own.
_CONTENT: Final = frozenset(("content", "output", "outputs", "summary"))
_SYSTEM_ROLES: Final = ("system", "developer")
_PLAIN_ROLES: Final = ("user", "assistant", *_SYSTEM_ROLES)


class Input:
    """Adds up what a request shows the model, item by item."""

    # Class attributes: most requests are plain text and pay for few of these.
    features: frozenset[str] = frozenset()
    _fills_context = False
    _turns = 0
    _tokens_per_turn = 0
    _items = 0
    _system_bytes = 0
    _last_bytes = 0

    def __init__(self, model: str) -> None:
        self.sizes = Sizes(_MEDIA_TOKENS)
        #: Tools that items bring along.
        self.tools: list[Any] = []
        self._model = model

    def cannot_bound(self, name: str, *, fills_context: bool = True) -> None:
        """Take note of a part whose input has no proven bound, and whether it may be all that the model can read."""
        self.sizes.name_unbounded(name)
        self._fills_context = self._fills_context or fills_context

    def add_turns(self, turns: int, tokens_per_turn: int) -> None:
        """The model reads everything so many times more, and as many more tokens each time as a turn brings along."""
        self._turns, self._tokens_per_turn = turns, tokens_per_turn

    def add_item(self, item: Any) -> None:
        """Count a text, or an item of the input."""
        self._items += 1
        if isinstance(item, str):
            self._last_bytes = self.sizes.add_text(text_of(item))
            return
        found = item if type(item) is dict else fields(item)
        content = found.get("content")
        if type(content) is str and len(found) == 2 and found.get("role") in _PLAIN_ROLES:
            self._last_bytes = self.sizes.add_text(content)
        else:
            # What begins with "_" is a model's own affair, and in JSON a name like any other.
            shown = found if isinstance(item, Mapping) else {n: v for n, v in found.items() if not n.startswith("_")}
            self._last_bytes = self._add_members(text_of(found.get("type")), shown)
        if text_of(found.get("role")) in _SYSTEM_ROLES:
            self._system_bytes += self._last_bytes

    def _add_members(self, kind: str, found: Mapping[str, Any]) -> int:
        if self.sizes.read_part is None:
            self.sizes.read_part = partial(_read_part, self._model)
        if kind == "item_reference" or (not kind and "id" in found and "content" not in found):
            self.cannot_bound("item_reference")
        elif kind == "compaction_trigger":
            self.cannot_bound(kind)
        elif kind == "additional_tools":
            self.tools += listed(found.get("tools")) or ()
        elif kind and kind not in _ITEM_KINDS:
            self.cannot_bound("an item of an unknown type", fills_context=False)
        elif kind == "reasoning":
            self.features |= {"reasoning_history"}
            if not (found.get("encrypted_content") or found.get("content")):
                self.cannot_bound("reasoning (by id)", fills_context=False)
                self.sizes.extra_tokens += _KEPT_REASONING_TOKENS
        elif kind == "image_generation_call":
            self.sizes.add(found)
            found = {name: value for name, value in found.items() if name != "result"}
        self.sizes.extra_tokens += 4 * len(found)
        self.sizes.surplus += 8 * len(found)
        return sum(
            self.sizes.add_text(name_of(name))
            + self.sizes.add(value, as_part=name in _CONTENT, is_printed=kind not in ("", "message"))
            for name, value in found.items()
        )

    def add_instructions(self, instructions: Any) -> None:
        """Count what stands before the items."""
        if instructions is not None:
            self.sizes.extra_tokens += _TOKENS_PER_ITEM
            self._system_bytes += self.sizes.add(instructions)

    def add_template(self, prompt: Mapping[str, Any]) -> None:
        """Count the variables of a prompt template; what it says itself only the provider knows."""
        self.cannot_bound("prompt")
        self.sizes.read_part = partial(_read_part, self._model)
        for value in fields(prompt.get("variables")).values():
            self.sizes.add(value)

    def write_to(self, call: Call) -> None:
        """Write to the call what was counted."""
        sizes = self.sizes
        sizes.extra_tokens += _TOKENS_PER_REQUEST + _TOKENS_PER_ITEM * self._items
        if sizes.kinds:
            self._look_at_parts(call)
        call.text_bytes, call.dense_bytes = sizes.text_bytes, sizes.dense_bytes
        call.english_bytes = sizes.english_bytes
        extra, proven = sizes.extra_tokens, sizes.proven_tokens() + _TOKENS_OF_TEMPLATE
        if self._turns:
            call.turns = self._turns
            estimated = (sizes.text_bytes + sizes.dense_bytes + 1) // 2 + extra
            extra += self._turns * (estimated + self._tokens_per_turn)
            proven += self._turns * (proven + self._tokens_per_turn)
        call.extra_input_tokens, call.proven_input_tokens = extra, proven
        call.messages, call.last_message_bytes = self._items, self._last_bytes
        if self._system_bytes:
            call.system_bytes = self._system_bytes
        if sizes.unbounded:
            call.unbounded = sizes.unbounded
            call.fills_context = self._fills_context or "input_file" in sizes.unbounded
        if self.features:
            call.features = self.features
        if "12h" in sizes.cache_lifetimes:
            call.cache_write = "12h"
        if sizes.has_images or sizes.has_audio:
            call.has_images, call.has_audio = sizes.has_images, sizes.has_audio

    def _look_at_parts(self, call: Call) -> None:
        """What the kinds of parts ask of the model, and what its pictures take."""
        sizes = self.sizes
        if not sizes.kinds <= _TEXT_KINDS | _MEDIA_TOKENS.keys():
            self.cannot_bound("a part of an unknown type", fills_context=False)
        self.features |= {_FEATURES.get(kind, "images") for kind in sizes.kinds & _MEDIA_TOKENS.keys()}
        if sizes.pictures:
            sizes.has_images = True
            pictures = Pictures(tuple(sizes.pictures), openai_image_tokens)
            call.pictures = pictures
            sizes.extra_tokens += pictures.tokens(self._model)


def _read_part(model: str, kind: str, found: Mapping[str, Any], most: int) -> Part:
    """A part as `read_openai_part` knows it, whatever a picture is called here and wherever it is held."""
    if "image" not in kind and kind != "computer_screenshot":
        return read_openai_part(model, kind, found, most)
    held = found.get("result") if kind == "image_generation_call" else found.get("image_url") or found.get("url")
    if kind == "image_generation_call" and isinstance(held, str):
        held = f"data:image/png;base64,{held}"
    part = read_openai_part(model, "input_image", {"image_url": held, "detail": found.get("detail")}, most)
    return part._replace(unbounded="file_id") if held is None and found.get("file_id") else part
