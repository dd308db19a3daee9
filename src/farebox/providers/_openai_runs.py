"""OpenAI's wire format: runs of assistants on threads, deprecated and billed as long as a server has them.

A run is one call, from its beginning through what its tools are answered to the status that it ends with: only then does it
say what it used, of all its turns together.  Field names: openai 3.57.0, `types/beta/threads/run.py`,
`run_create_params.py`, `types/beta/assistant_stream_event.py` (read 2026-11-30).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from farebox._call import Call, Usage
from farebox.providers._openai_tools import PRESUMED_CALLS
from farebox.providers._openai_usage import CHAT, read_cap, read_head, read_usage
from farebox.providers._reading import fields, listed, text_of, whole_number

#: As it is found, by the end of a path; of a thread that is there already, by `is_run`.
PATH: Final = "/threads/runs"
_PATH: Final = re.compile(r"/threads/[^/]+/runs$")
_EARLIER: Final = re.compile(r"/threads/[^/]+/runs/([^/]+)(/cancel|/submit_tool_outputs)?$")

#: The API refuses less: what the generated tests of its SDKs send as the least there is (openai-node,
#: `tests/api-resources/beta/threads/threads.test.ts`, read 2026-11-30).
_LEAST_CAP: Final = 256
#: What is between the beginning and the end of a run.
_UNFINISHED: Final = ("queued", "in_progress", "requires_action", "cancelling")
#: Ends that a run may come to before it has begun.
_STOPPED: Final = ("cancelled", "expired", "failed", "incomplete")
#: A session of a thread's container is paid like twenty minutes of a container of one gigabyte
#: (https://developers.openai.com/api/docs/pricing, read 2026-11-21).
_CONTAINER: Final = {"container_gigabyte_minutes": 20}


def is_run(path: str) -> bool:
    """Whether a POST to this path begins a run on a thread."""
    return _PATH.search(path) is not None


def earlier_run(path: str, method: str) -> str:
    """The id of the run that a request asks after, goes on with or stops; "" for any other request."""
    found = _EARLIER.search(path)
    return found[1] if found is not None and method.upper() == ("POST" if found[2] else "GET") else ""


class Runs:
    """`POST /threads/runs` and `/threads/{id}/runs`.

    What a run reads is on the server: its thread, its assistant's instructions, files and what its tools answer.  So it is
    held for `max_prompt_tokens`, which is of all its turns, or for as many whole contexts as turns are taken for granted.
    """

    def read_request(self, provider_name: str, body: Mapping[str, Any], server_address: str) -> Call | None:
        assistant = text_of(body.get("assistant_id"))
        if not assistant:
            return None
        # The assistant names the model: nobody here knows which, so the call has no price but one of its own.
        model = text_of(body.get("model")) or f"assistant:{assistant[:200]}"
        call = Call(provider_name, "chat", PATH, model, server_address)
        call.least_cap, call.cache_write = _LEAST_CAP, "30m"
        read_cap(call, body.get("max_completion_tokens"))
        most = whole_number(body.get("max_prompt_tokens"))
        tools = listed(body.get("tools"))
        if most is not None:
            call.extra_input_tokens = call.proven_input_tokens = most + max(16, most // 100)
            call.unbounded = ("max_prompt_tokens (a best effort)",)
        else:
            call.fills_context, call.unbounded = True, ("thread",)
            call.turns = 0 if tools == [] else PRESUMED_CALLS
        if tools is None or _runs_code(tools):
            call.most_units = _CONTAINER
        if tools != []:
            call.features = frozenset(("tools",))
        thread = fields(body.get("thread"))
        call.messages = len(listed(thread.get("messages") or body.get("additional_messages")) or ())
        call.is_stream = bool(body.get("stream"))
        call.reasons = body.get("reasoning_effort") not in (None, "none")
        return call

    def rewrite(self, call: Call, body: Mapping[str, Any]) -> dict[str, Any]:
        changes: dict[str, Any] = {"model": call.sent_model} if call.sent_model else {}
        if call.sent_cap is not None:
            changes["max_completion_tokens"] = call.sent_cap
        return changes

    def read_answer(self, call: Call, answer: Any) -> None:
        found = fields(answer)
        read_head(call, found)
        call.is_cut = fields(found.get("incomplete_details")).get("reason") == "max_completion_tokens"
        call.is_pending = found.get("status") in _UNFINISHED and bool(call.response_id)
        if call.is_pending:
            return
        used = fields(found.get("usage"))
        if found.get("status") in _STOPPED and all(used.get(name) == 0 for name in CHAT[:2]):
            call.usage = Usage()  # it was stopped before it began
            return
        call.usage = read_usage(call, found.get("usage"), CHAT)
        if call.usage is not None and _runs_code(listed(found.get("tools")) or ()):
            call.usage = call.usage._replace(**_CONTAINER)  # whether it did, and anew, its steps say

    def stream_reader(self, call: Call) -> _EventReader:
        return _EventReader(call)


def _runs_code(tools: Any) -> bool:
    return any(fields(tool).get("type") == "code_interpreter" for tool in tools)


class _EventReader:
    """Keeps the last run that the events bring along.  Who leaves does not stop it: it is asked after."""

    __slots__ = ("_call", "_run")

    def __init__(self, call: Call) -> None:
        self._call = call
        self._run: Any = None

    def see(self, event: Any) -> bool:
        found = fields(event)
        said = found.get("data", event)  # as the SDK has it, or as it came
        if fields(said).get("object") == "thread.run":
            self._run = said
        return False

    def finish(self) -> None:
        if self._run is None:
            self._call.doubt = "the stream ended before its answer"
        else:
            SURFACE.read_answer(self._call, self._run)

    def abandon(self, chunks: list[Any]) -> None:
        for chunk in chunks:
            self.see(chunk)
        if self._run is not None:
            self.finish()


SURFACE: Final = Runs()
