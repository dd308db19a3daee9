"""OpenAI's responses, read off their bodies: what a request can cost, what it asks for, what an answer used."""

from __future__ import annotations

import copy
import json
from typing import Any

import openai.types.responses
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.responses import Response

from farebox._call import Call, Usage
from farebox.prices import ladders
from farebox.providers import find_provider
from farebox.testing._fake.responses import Responses as FakeResponses
from tests.strategies import bound_tokens, cuts, json_values, tokens

OPENAI = find_provider("openai")
PATH = "/responses"
MODEL = "gpt-5-mini"


def read(given_input: Any = "hi", **parameters: Any) -> Call:
    """The call of a body that is well-formed but for what is given; None leaves a parameter out."""
    body = {"model": MODEL, "input": given_input, **parameters}
    call = OPENAI.read_request(PATH, {name: value for name, value in body.items() if value is not None}, "")
    assert call is not None
    return call


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


# ── which requests are calls ─────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "path",
    ["/responses", "https://proxy.example/v1/responses", "/openai/v1/responses", "/openai/deployments/x/responses"],
)
def test_a_response_is_known_by_the_end_of_its_path(path: str) -> None:
    call = OPENAI.read_request(path, {"model": "m", "input": "hi"}, "api.example.com")
    assert call is not None
    assert (call.provider_name, call.operation_name, call.endpoint) == ("openai", "chat", "/responses")
    assert (call.request_model, call.server_address, call.messages) == ("m", "api.example.com", 1)


@pytest.mark.parametrize(
    "path",
    ["/responses/input_tokens", "/responses/resp_1", "/responses/resp_1/cancel", "/my-responses"],
)
def test_what_is_not_a_new_response_is_not_metered(path: str) -> None:
    assert OPENAI.read_request(path, {"model": "m", "input": "hi"}, "") is None


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"input": "hi"},
        {"model": "", "input": "hi"},
        {"model": 5, "input": "hi"},
        {"model": "m", "input": {}},
        {"model": "m", "input": 5},
    ],
    ids=repr,
)
def test_a_malformed_body_is_none_of_ours(body: dict[str, Any]) -> None:
    assert OPENAI.read_request(PATH, body, "") is None


@pytest.mark.parametrize(
    "more", [{"prompt": {"id": "p"}}, {"conversation": "c"}, {"previous_response_id": "r"}], ids=repr
)
def test_a_response_may_have_no_input_of_its_own(more: dict[str, Any]) -> None:
    assert read(None, **more).messages == 0


def test_a_template_that_names_the_model_is_no_known_model() -> None:
    """An unknown model is refused under a usd limit, where none would be passed by."""
    call = OPENAI.read_request(PATH, {"prompt": {"id": "pmpt_7"}}, "")
    assert call is not None
    assert call.request_model == "prompt:pmpt_7"


@pytest.mark.parametrize(
    ("path", "method", "found"),
    [
        ("/responses/resp_1", "GET", "resp_1"),
        ("/v1/responses/resp_1", "get", "resp_1"),
        ("/responses/resp_1/cancel", "POST", "resp_1"),
        ("/responses/resp_1", "POST", ""),
        ("/responses/resp_1", "DELETE", ""),
        ("/responses/resp_1/cancel", "GET", ""),
        ("/responses/resp_1/input_items", "GET", ""),
        ("/responses/input_tokens", "GET", ""),
        ("/responses/compact", "POST", ""),
        ("/responses", "POST", ""),
        ("/chat/completions/chatcmpl_1", "GET", ""),
    ],
)
def test_a_request_for_an_earlier_response_names_it(path: str, method: str, found: str) -> None:
    assert OPENAI.answers(path, method) == found  # type: ignore[attr-defined]


# ── caps, tiers and what else is said ────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("cap", "declared", "accepts"),
    [(None, None, True), (100, 100, True), ("100", 100, True), (100.0, 100, True), (16, 16, True)]
    + [(wrong, None, False) for wrong in (-1, True, "many", [5], {}, 1.5)],
)
def test_the_cap_is_max_output_tokens(cap: Any, declared: int | None, accepts: bool) -> None:
    call = read(max_output_tokens=cap)
    assert (call.declared_cap, call.accepts_cap, call.least_cap, call.choices) == (declared, accepts, 16, 1)


def test_a_response_is_rewritten_by_its_own_names() -> None:
    body = {"model": MODEL, "input": "hi", "stream": True}
    before = copy.deepcopy(body)
    call = OPENAI.read_request(PATH, body, "")
    assert call is not None
    assert call.is_stream
    assert OPENAI.rewrite(call, body) == {}
    call.sent_model, call.sent_cap = "gpt-5-nano", 500
    assert OPENAI.rewrite(call, body) == {"model": "gpt-5-nano", "max_output_tokens": 500}
    assert not call.adds_usage_chunk
    assert body == before


@pytest.mark.parametrize(
    ("tier", "read_as"), [(None, ""), ("auto", "auto"), ("flex", "flex"), ("priority", "priority"), (5, "")]
)
def test_the_tier_is_the_one_asked_for(tier: Any, read_as: str) -> None:
    assert read(service_tier=tier).tier == read_as


def test_a_compaction_is_a_call_without_a_cap_that_could_be_sent() -> None:
    body = {"model": "gpt-5", "input": "hi " * 40, "instructions": "x", "previous_response_id": "resp_1"}
    call = OPENAI.read_request("/responses/compact", body, "")
    assert call is not None
    assert (call.operation_name, call.request_model, call.previous_response_id) == ("chat", "gpt-5", "resp_1")
    assert (call.accepts_cap, call.declared_cap, call.is_continuable) == (False, None, False)
    assert OPENAI.rewrite(call, body) == {}
    OPENAI.read_answer(call, {"id": "cmp_1", "usage": answer()["usage"]})
    assert call.usage == BUCKETS


@pytest.mark.parametrize(("store", "is_continuable"), [(None, True), (True, True), (False, False)])
def test_a_response_that_is_stored_can_be_gone_on_from(store: Any, is_continuable: bool) -> None:
    assert read(store=store).is_continuable is is_continuable
    assert read(previous_response_id="resp_9").previous_response_id == "resp_9"


def test_long_lived_caches_are_seen_wherever_they_are_asked_for() -> None:
    mark = {"mode": "explicit", "ttl": "12h"}
    assert read().cache_write == "30m"
    assert read(prompt_cache_options={"ttl": "12h"}).cache_write == "12h"
    assert read([user({"type": "input_text", "text": "hi", "prompt_cache_breakpoint": mark})]).cache_write == "12h"


@pytest.mark.parametrize(("effort", "reasons"), [(None, False), ("none", False), ("low", True), ("max", True)])
def test_reasoning_is_what_the_effort_says(effort: Any, reasons: bool) -> None:
    assert read(reasoning={"effort": effort}).reasons is reasons


def function(name: str = "f") -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}}


@pytest.mark.parametrize(
    ("parameters", "features"),
    [
        ({}, ""),
        ({"tools": [function()]}, "tools"),
        ({"tools": [function()], "tool_choice": "required"}, "tools forced_tools"),
        ({"tools": [{"type": "custom", "name": "c"}], "tool_choice": "auto"}, "tools"),
        ({"tools": [{"type": "namespace", "name": "n", "tools": [function()]}]}, "tools"),
        ({"tools": [{"type": "web_search_preview_2025_03_11"}]}, "web_search"),
        ({"tools": [{"type": "web_search"}, {"type": "file_search"}]}, "web_search file_search"),
        ({"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}, "code_interpreter"),
        ({"tools": [{"type": "image_generation"}]}, "image_generation"),
        ({"tools": [{"type": "mcp", "server_label": "s"}]}, "mcp"),
        ({"tools": [{"type": "computer_use_preview"}]}, "computer_use"),
        ({"tools": [{"type": "computer"}]}, "computer_use"),
        ({"tools": [{"type": "local_shell"}]}, "shell"),
        ({"tools": [{"type": "apply_patch"}]}, "shell"),
        ({"tools": [{"type": "tool_search"}]}, "tool_search"),
        ({"reasoning": {"effort": "low"}}, "reasoning reasoning_effort"),
        ({"reasoning": {"effort": "minimal"}}, "reasoning reasoning_minimal"),
        ({"reasoning": {"effort": "none"}}, "reasoning_none"),
        ({"reasoning": {"summary": "auto"}}, "reasoning"),
        ({"text": {"format": {"type": "json_schema", "name": "n", "schema": {}}}}, "structured_output"),
        ({"text": {"format": {"type": "json_object"}, "verbosity": "low"}}, "json_mode verbosity"),
        ({"text": {"format": {"type": "text"}}}, ""),
        ({"temperature": 0.2}, "sampling"),
        ({"temperature": 1}, ""),
        ({"top_logprobs": 3}, "logprobs"),
        ({"input": [user({"type": "input_image", "image_url": "https://x"})]}, "images"),
        ({"input": [user({"type": "input_file", "file_id": "f"})]}, "files"),
        ({"input": [user({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}})]}, "audio"),
        ({"input": [{"type": "reasoning", "id": "rs_1", "summary": []}]}, "reasoning_history"),
    ],
    ids=repr,
)
def test_a_request_names_what_the_model_must_be_able_to_do(parameters: dict[str, Any], features: str) -> None:
    given_input = parameters.pop("input", "hi")
    found = read(given_input, **copy.deepcopy(parameters)).features
    assert found == set(features.split())
    assert found <= ladders.FEATURES


def test_a_tool_that_nobody_knows_is_covered_by_no_model() -> None:
    assert not read(tools=[{"type": "crystal_ball"}]).features <= ladders.FEATURES


# ── what goes in ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_instructions_and_system_messages_count_as_system() -> None:
    call = read(
        [{"role": "developer", "content": "d" * 30}, {"role": "user", "content": "u" * 50}], instructions="i" * 20
    )
    assert (call.messages, call.system_bytes, call.last_message_bytes, call.text_bytes) == (2, 50, 50, 100)


def test_arguments_and_outputs_of_functions_count_as_text() -> None:
    plain = read([])
    call = read(
        [
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "1" * 1_000},
            {"type": "function_call_output", "call_id": "c", "output": "2" * 500},
        ]
    )
    assert call.text_bytes - plain.text_bytes >= 1_500
    assert call.last_message_bytes >= 500
    assert bound_tokens(call) >= 1_500  # no prose: a token a byte


def test_pictures_in_an_output_are_no_text() -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * 100_000}
    for item in (
        {"type": "function_call_output", "call_id": "c", "output": [picture]},
        {"type": "computer_call_output", "call_id": "c", "output": {**picture, "type": "computer_screenshot"}},
        {"type": "image_generation_call", "id": "ig_1", "status": "completed", "result": "A" * 100_000},
        user(picture),
    ):
        call = read([item], model="gpt-4o-mini")
        assert call.has_images
        assert call.text_bytes < 1_000
        # 100,000 zeros are no picture: the most that gpt-4o-mini takes for one, 2,833 and 8 tiles of 5,667.
        assert 48_169 <= bound_tokens(call) < 49_500
        assert "images" in call.features


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ({"type": "input_image", "image_url": "https://example.com/cat.png"}, "image_url"),
        ({"type": "input_image", "file_id": "file_1"}, "file_id"),
        ({"type": "input_file", "file_url": "https://example.com/cat.pdf"}, "input_file"),
        ({"type": "input_file", "file_id": "file_1"}, "input_file"),
    ],
    ids=repr,
)
def test_what_is_only_named_has_its_own_maximum_and_no_proof(part: dict[str, Any], name: str) -> None:
    call = read([user(part)], model="gpt-4o-mini")
    assert call.unbounded == (name,)
    assert call.fills_context == (name == "input_file")
    assert bound_tokens(call) >= (48_169 if name != "input_file" else 0)


@pytest.mark.parametrize(
    ("parameters", "name"),
    [
        ({"conversation": "conv_1"}, "conversation"),
        ({"conversation": {"id": "conv_1"}}, "conversation"),
        ({"prompt": {"id": "pmpt_1", "variables": {"a": "b"}}}, "prompt"),
        ({"context_management": [{"type": "compaction"}]}, "context_management"),
        ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "item_reference"),
        ({"input": [{"id": "msg_1"}]}, "item_reference"),
        ({"input": [{"type": "compaction_trigger"}]}, "compaction_trigger"),
    ],
    ids=repr,
)
def test_what_only_the_provider_knows_may_be_all_that_the_model_can_read(parameters: dict[str, Any], name: str) -> None:
    call = read(parameters.pop("input", "hi"), **copy.deepcopy(parameters))
    assert call.unbounded == (name,)
    assert call.fills_context


def test_items_and_parts_of_an_unknown_type_have_no_proof() -> None:
    assert read([{"type": "hologram", "size": 3}]).unbounded == ("an item of an unknown type",)
    assert read([user({"type": "input_smell", "smell": "x"})]).unbounded == ("a part of an unknown type",)
    assert read([user({"type": "input_text", "text": "x"})]).unbounded == ()


@pytest.mark.parametrize(
    ("tool", "fills"),
    [
        ({"type": "web_search"}, False),
        ({"type": "file_search", "vector_store_ids": ["v"]}, False),
        ({"type": "code_interpreter"}, True),
        ({"type": "mcp", "server_label": "s"}, True),
        ({"type": "image_generation"}, True),
        ({"type": "shell", "environment": {"type": "container_auto"}}, True),
    ],
    ids=repr,
)
def test_tools_that_run_at_the_provider_have_no_proof_and_some_no_maximum(tool: dict[str, Any], fills: bool) -> None:
    unlimited = read(tools=[tool])
    limited = read(tools=[tool], max_tool_calls=2, max_output_tokens=100)
    forbidden = read(tools=[tool], max_tool_calls=0)
    name = str(tool["type"])
    assert unlimited.unbounded == limited.unbounded == forbidden.unbounded == (name,)
    assert (unlimited.fills_context, limited.fills_context, forbidden.fills_context) == (True, fills, False)
    searches = [call.most_web_searches for call in (unlimited, limited, forbidden)]
    assert searches == ([10, 2, 0] if name == "web_search" else [0, 0, 0])


def test_tools_that_an_item_brings_along_are_tools() -> None:
    more = {"type": "additional_tools", "role": "developer", "tools": [{"type": "web_search"}, function()]}
    call = read([{"role": "user", "content": "hi"}, more])
    assert (call.unbounded, call.fills_context, call.most_web_searches) == (("web_search",), True, 10)
    assert call.features == {"web_search", "tools"}
    limited = read([more], max_tool_calls=1, tools=[{"type": "file_search"}])
    assert (limited.unbounded, limited.fills_context) == (("file_search", "web_search"), False)


def test_each_use_of_a_hosted_tool_reads_everything_again() -> None:
    words: dict[str, Any] = {"tools": [{"type": "web_search"}], "max_output_tokens": 1_000}
    once = bound_tokens(read(max_tool_calls=0, **words))
    for uses in (1, 2, 5):
        assert bound_tokens(read(max_tool_calls=uses, **words)) >= once + uses * (once + 128_000 + 1_000)


@pytest.mark.parametrize(
    "tool",
    [function(), {"type": "shell"}, {"type": "local_shell"}, {"type": "computer"}, {"type": "apply_patch"}],
    ids=repr,
)
def test_tools_that_the_caller_runs_add_only_what_is_written(tool: dict[str, Any]) -> None:
    call = read(tools=[tool])
    assert call.unbounded == ()
    assert not call.fills_context
    assert call.tools_bytes >= len(json.dumps([tool]))
    assert bound_tokens(call) < 1_000


# The fake provider counts in its own way; here by the worst vocabulary there is, a token for each byte.

_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_items = st.one_of(
    st.builds(
        lambda role, text: {"role": role, "content": text}, st.sampled_from(["user", "assistant", "developer"]), _texts
    ),
    st.builds(lambda text: {"type": "message", **user({"type": "input_text", "text": text})}, _texts),
    st.builds(
        lambda args: {"type": "function_call", "call_id": "c", "name": "f", "arguments": json.dumps(args)}, json_values
    ),
    st.builds(lambda text: {"type": "function_call_output", "call_id": "c", "output": text}, _texts),
    st.builds(
        lambda text: {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": f"gAAA{text}"}, _texts
    ),
)


@given(
    st.lists(_items, max_size=6) | _texts,
    _texts,
    st.lists(st.builds(lambda schema: {**function(), "parameters": schema}, json_values), max_size=3),
    st.none() | json_values,
)
def test_no_vocabulary_passes_the_proven_bound(given_input: Any, instructions: str, tools: Any, schema: Any) -> None:
    body: dict[str, Any] = {"model": MODEL, "input": given_input, "instructions": instructions, "tools": tools}
    if schema is not None:
        body["text"] = {"format": {"type": "json_schema", "name": "n", "schema": schema}}
    call = OPENAI.read_request(PATH, body, "")
    assert call is not None
    asked = FakeResponses().read("/v1/responses", body, lambda text: len(text.encode()))
    assert asked.input_tokens <= call.proven_input_tokens
    assert call.unbounded == ()


@given(
    st.dictionaries(
        st.sampled_from(
            sorted({*openai.types.responses.response_create_params.ResponseCreateParamsBase.__annotations__})
        ),
        json_values,
    )
)
def test_no_body_raises(parameters: dict[str, Any]) -> None:
    before = copy.deepcopy(parameters)
    call = OPENAI.read_request(PATH, {"model": "m", **parameters}, "")
    if call is not None:
        OPENAI.rewrite(call, parameters)
        assert bound_tokens(call) >= 0
    assert parameters == before


# ── what came out ────────────────────────────────────────────────────────────────────────────────────────────────


def answer(status: str = "completed", **changes: Any) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1.0,
        "model": "gpt-5-mini-2025-08-07",
        "status": status,
        "service_tier": "default",
        "output": [],
        "usage": {
            "input_tokens": 100,
            "input_tokens_details": {"cached_tokens": 40, "cache_write_tokens": 20},
            "output_tokens": 50,
            "output_tokens_details": {"reasoning_tokens": 30},
            "total_tokens": 150,
        },
        **changes,
    }


BUCKETS = Usage(
    uncached_input_tokens=40,
    cache_read_tokens=40,
    cache_write_30m_tokens=20,
    visible_output_tokens=20,
    reasoning_tokens=30,
)


def answered(body: Any, **parameters: Any) -> Call:
    call = read(**parameters)
    OPENAI.read_answer(call, body)
    return call


@pytest.mark.parametrize("form", ["body", "model"])
def test_an_answer_is_read_into_its_buckets(form: str) -> None:
    body = answer()
    call = answered(body if form == "body" else Response.construct(**body))
    assert call.usage == BUCKETS
    assert (call.usage.input_tokens, call.usage.output_tokens) == (100, 50)
    assert (call.response_id, call.response_model, call.served_tier) == ("resp_1", "gpt-5-mini-2025-08-07", "default")
    assert (call.is_cut, call.is_pending, call.doubt) == (False, False, "")


def usage(**changes: Any) -> dict[str, Any]:
    found: dict[str, Any] = answer()["usage"]
    return answer(usage={**found, **changes})


def test_cache_writes_are_told_apart_by_their_lifetime() -> None:
    details = {"cached_tokens": 0, "cache_write_tokens": 60}
    split = {**details, "cache_write_tokens_details": {"ttl_30m_tokens": 20, "ttl_12h_tokens": 40}}
    found = answered(usage(input_tokens_details=split)).usage
    assert found is not None
    assert (found.cache_write_30m_tokens, found.cache_write_12h_tokens) == (20, 40)
    found = answered(usage(input_tokens_details=details), prompt_cache_options={"ttl": "12h"}).usage
    assert found is not None
    assert (found.cache_write_30m_tokens, found.cache_write_12h_tokens) == (0, 60)


def test_parts_that_are_more_than_the_whole_count_at_the_full_rate() -> None:
    found = answered(
        usage(input_tokens_details={"cached_tokens": 101}, output_tokens_details={"reasoning_tokens": 51})
    ).usage
    assert found == Usage(uncached_input_tokens=100, visible_output_tokens=50)


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({"input_tokens": None}, "usage.input_tokens is NoneType"),
        ({"input_tokens": 0}, "usage.input_tokens is 0"),
        ({"output_tokens": -1}, "usage.output_tokens is out of range"),
        ({"output_tokens": "50"}, "usage.output_tokens is str"),
        ({"output_tokens_details": {"reasoning_tokens": 1.5}}, "usage.reasoning_tokens is float"),
    ],
    ids=repr,
)
def test_a_usage_that_cannot_be_believed_says_why(changes: dict[str, Any], doubt: str) -> None:
    call = answered(usage(**changes))
    assert (call.usage, call.doubt) == (None, doubt)


@pytest.mark.parametrize(
    ("status", "reason", "is_cut"),
    [
        ("incomplete", "max_output_tokens", True),
        ("incomplete", "content_filter", False),
        ("completed", "max_output_tokens", False),
    ],
)
def test_an_answer_is_cut_where_its_cap_ended_it(status: str, reason: str, is_cut: bool) -> None:
    assert answered(answer(status, incomplete_details={"reason": reason})).is_cut is is_cut


@pytest.mark.parametrize(
    ("status", "is_pending"),
    [("queued", True), ("in_progress", True), ("cancelled", False), ("failed", False), ("completed", False)],
)
def test_an_answer_without_usage_is_pending_while_it_is_being_made(status: str, is_pending: bool) -> None:
    call = answered(answer(status, usage=None, background=True))
    assert (call.is_pending, call.usage, call.response_id, call.doubt) == (is_pending, None, "resp_1", "")
    OPENAI.read_answer(call, answer())
    assert (call.is_pending, call.usage) == (False, BUCKETS)


def searched(*actions: str) -> list[dict[str, Any]]:
    return [
        {"type": "web_search_call", "id": f"ws_{n}", "action": {"type": action}} for n, action in enumerate(actions)
    ]


@pytest.mark.parametrize(
    ("changes", "searches"),
    [
        ({}, 0),
        ({"tool_usage": {"web_search": {"num_requests": 3}}}, 3),
        ({"tool_usage": {"web_search": {"num_requests": 1}}, "output": searched("search", "search")}, 1),
        ({"output": searched("search", "open_page", "search", "find_in_page")}, 2),
        ({"tool_usage": {"web_search": {"num_requests": -1}}, "output": searched("search")}, 1),
    ],
    ids=repr,
)
def test_searches_are_counted_as_the_answer_says_or_by_its_items(changes: dict[str, Any], searches: int) -> None:
    found = answered(answer(**changes)).usage
    assert found is not None
    assert found.web_searches == searches


def test_what_an_image_model_used_is_added() -> None:
    drawn = {
        "input_tokens": 30,
        "input_tokens_details": {"image_tokens": 20, "text_tokens": 10},
        "output_tokens": 1_056,
    }
    found = answered(answer(tool_usage={"image_gen": drawn}))
    assert found.usage == BUCKETS
    used = Usage(uncached_input_tokens=10, input_image_tokens=20, output_image_tokens=1_056)
    assert found.others == (("gpt-image-2.5-sunburst", used),)
    drawn["cached_tokens_details"] = {"cached_image_tokens": 15, "cached_text_tokens": 90}
    drawn["output_tokens_details"] = {"text_tokens": 56}
    ((_, used),) = answered(answer(tool_usage={"image_gen": drawn})).others
    assert (used.cache_read_image_tokens, used.input_image_tokens, used.cache_read_tokens) == (15, 5, 10)
    assert (used.output_image_tokens, used.visible_output_tokens, used.input_tokens) == (1_000, 56, 30)
    nothing = {"input_tokens": 0, "output_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
    assert answered(answer(tool_usage={"image_gen": nothing})).usage == BUCKETS
    call = answered(answer(tool_usage={"image_gen": {**drawn, "output_tokens": "many"}}))
    assert (call.usage, call.doubt) == (None, "tool_usage.image_gen: usage.output_tokens is str")


# ── streams ──────────────────────────────────────────────────────────────────────────────────────────────────────


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": kind, "sequence_number": 0, **fields}


BEGUN = event("response.created", response=answer("in_progress", usage=None))


def streamed(events: list[Any], **parameters: Any) -> Call:
    call = read(stream=True, **parameters)
    reader = OPENAI.stream_reader(call)
    assert not any(reader.see(one) for one in events)
    reader.finish()
    return call


@pytest.mark.parametrize("end", ["completed", "incomplete", "failed"])
def test_the_last_event_of_a_stream_has_its_usage(end: str) -> None:
    last = answer(end, incomplete_details={"reason": "max_output_tokens"})
    call = streamed([BEGUN, event("response.output_text.delta", delta="hi"), event(f"response.{end}", response=last)])
    whole = answered(last)
    assert (call.usage, call.is_cut, call.response_id) == (whole.usage, whole.is_cut, whole.response_id)
    assert call.usage == BUCKETS


def test_events_may_be_models_of_the_sdk() -> None:
    ended = openai.types.responses.ResponseCompletedEvent.construct(
        type="response.completed", response=Response.construct(**answer()), sequence_number=3
    )
    begun = openai.types.responses.ResponseCreatedEvent.construct(
        type="response.created", response=Response.construct(**BEGUN["response"]), sequence_number=0
    )
    assert streamed([begun, ended]).usage == BUCKETS


def test_a_stream_that_ends_without_its_last_event_is_doubted() -> None:
    call = streamed([BEGUN, event("response.output_text.delta", delta="hi")])
    assert (call.usage, call.response_id, call.is_pending) == (None, "resp_1", False)
    assert call.doubt == "the stream ended before its answer"
    assert streamed([]).doubt == ""


def left(events: list[Any]) -> Call:
    call = read(stream=True)
    OPENAI.stream_reader(call).abandon(events)
    return call


@given(st.data())
def test_whatever_was_made_counts_as_received(data: st.DataObject) -> None:
    kinds = ["output_text", "refusal", "function_call_arguments", "reasoning_summary_text", "reasoning_text", "code"]
    text = data.draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
    pieces = data.draw(cuts(text))
    deltas = [event(f"response.{data.draw(st.sampled_from(kinds))}.delta", delta=piece) for piece in pieces]
    call = left([BEGUN, *deltas])
    assert len(text.encode()) // 2 <= call.received_tokens <= len(text.encode()) + 1
    assert (call.usage, call.response_id) == (None, "resp_1")


def test_a_stream_left_after_its_end_has_its_usage() -> None:
    assert left([BEGUN, event("response.completed", response=answer())]).usage == BUCKETS


@pytest.mark.parametrize("leave", [left, streamed])
def test_a_stream_of_an_answer_in_the_background_is_pending_when_it_is_left(leave: Any) -> None:
    """The provider goes on making it, so what was received says nothing of what it will cost."""
    begun = event("response.created", response=answer("queued", usage=None, background=True))
    call = leave([begun, event("response.output_text.delta", delta="hello")])
    assert (call.is_pending, call.received_tokens, call.response_id) == (True, 0, "resp_1")


@given(
    st.lists(
        json_values | st.dictionaries(st.sampled_from(["type", "response", "delta", "usage"]), json_values), max_size=5
    )
)
def test_no_answer_and_no_event_raises(bodies: list[Any]) -> None:
    streamed(bodies)
    left([one for one in bodies if isinstance(one, dict)])
    for body in bodies:
        answered(body)


@given(tokens, tokens, tokens, tokens)
def test_buckets_add_up_to_what_was_told(whole_in: int, cached: int, whole_out: int, reasoning: int) -> None:
    found = answered(
        usage(
            input_tokens=whole_in,
            input_tokens_details={"cached_tokens": cached},
            output_tokens=whole_out,
            output_tokens_details={"reasoning_tokens": reasoning},
        )
    ).usage
    if whole_in:
        assert found is not None
        assert (found.input_tokens, found.output_tokens) == (whole_in, whole_out)
    else:
        assert found is None
