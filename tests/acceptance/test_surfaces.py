"""What holds for every method of an SDK that is metered, whichever way it is called: the rows of docs/coverage.md."""

from __future__ import annotations

import contextlib
import copy
import importlib
import inspect
import io
import json
import wave
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import openai
import pydantic
import pytest

import farebox
from farebox import BudgetExceeded, budget, instrument, report, track
from farebox.testing import FakeProvider, Price
from tests.acceptance.asked import KINDS, All, Program, Steps, ask
from tests.acceptance.rides import (
    ANTHROPIC,
    CAP,
    GOOGLE,
    MESSAGES,
    NO_CERTIFICATES,
    OPENAI,
    WITH_GOOGLE,
    Ride,
    led,
    needs,
    nothing_is_left,
)

#: The SDK says so of endpoints whose end is announced: they are billed until then.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

#: The names of the packages.
SDKS = {OPENAI: "openai", ANTHROPIC: "anthropic", GOOGLE: "google-genai"}
SAID = "Because it is so. " * 4


class Verdict(pydantic.BaseModel):
    sure: bool


@attrs.frozen
class Surface:
    """A method of an SDK: what programs do with it, the answer that they get, and how they come by a client."""

    name: str
    whole: Program | None = None
    streamed: Program | None = None
    answer: dict[str, Any] = attrs.field(factory=lambda: {"text": SAID})
    ride: Ride = OPENAI
    opened: Callable[[FakeProvider, bool], Any] | None = None
    #: What is sent before the call that costs something.
    before: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.name

    def client(self, provider: FakeProvider, is_async: bool) -> Any:
        if self.opened is not None:
            return self.opened(provider, is_async)
        return self.ride.async_client(provider) if is_async else self.ride.client(provider)


# ── what programs do ─────────────────────────────────────────────────────────────────────────────────────────────


def method(client: Any, path: str) -> Any:
    """A method of an SDK; the test is skipped where this version of it has none."""
    *owners, name = path.split(".")
    for owner in owners:
        client = needs(client, owner)
    return needs(client, name)


def called(path: str, **words: Any) -> Program:
    """A method that is called once, and leaves alone what it is given."""

    def steps(client: Any) -> Steps:
        given, function = copy.deepcopy(words), method(client, path)
        if path.endswith("classify_chat") and "input" not in inspect.signature(function).parameters:
            pytest.skip("this mistralai has another name for what it classifies")
        answer = yield function(**given)
        assert given == words
        return answer

    return steps


def read(path: str, **words: Any) -> Program:
    """A method whose answer is read as a stream."""

    def steps(client: Any) -> Steps:
        return (yield All(method(client, path)(**copy.deepcopy(words))))

    return steps


def both(path: str, ride: Ride = OPENAI, **words: Any) -> Surface:
    """A surface that streams when it is told to."""
    return Surface(f"{SDKS[ride]} {path}", called(path, **words), read(path, **words, stream=True), ride=ride)


def plain(path: str, ride: Ride = OPENAI, *, says: str = SAID, **words: Any) -> Surface:
    return Surface(f"{SDKS[ride]} {path}", called(path, **words), answer={"text": says}, ride=ride)


def helper(path: str, ride: Ride = OPENAI, **words: Any) -> Surface:
    return Surface(f"{SDKS[ride]} {path}", None, read(path, **words), ride=ride)


def filmed(path: str, **words: Any) -> Surface:
    """A video, which is asked after until it is made."""

    def steps(client: Any) -> Steps:
        video = yield method(client, path)(**words)
        while video.status != "completed":
            video = yield client.videos.retrieve(video.id)
        return video

    return Surface(f"openai {path}", steps, answer={})


def openai_batch(client: Any) -> Steps:
    body = {"model": OPENAI.model, "messages": MESSAGES, "max_tokens": CAP}
    rows = [{"custom_id": str(row), "method": "POST", "url": "/v1/chat/completions", "body": body} for row in range(3)]
    content = "\n".join(map(json.dumps, rows)).encode()
    file = yield client.files.create(file=("rows.jsonl", content), purpose="batch")
    batch = yield client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    while batch.status != "completed":
        batch = yield client.batches.retrieve(batch.id)
    return [batch, (yield client.files.content(batch.output_file_id))]


def anthropic_batch(path: str) -> Program:
    def steps(client: Any) -> Steps:
        params = {"model": ANTHROPIC.model, "messages": MESSAGES, "max_tokens": CAP}
        batches = method(client, path)
        batch = yield batches.create(requests=[{"custom_id": str(row), "params": params} for row in range(3)])
        while batch.processing_status != "ended":
            batch = yield batches.retrieve(batch.id)
        return (yield All(batches.results(batch.id)))

    return steps


def run_of_an_assistant(path: str, **words: Any) -> Surface:
    """A run in the background, which is asked after until it has ended."""

    def steps(client: Any) -> Steps:
        run = yield method(client, path)(**words)
        while run.status in ("queued", "in_progress"):
            run = yield client.beta.threads.runs.retrieve(run.id, thread_id=run.thread_id)
        return run

    return Surface(f"openai {path}", steps, read(path, **words, stream=True))


def chat_with_gemini(client: Any) -> Steps:
    chat = client.chats.create(model=GOOGLE.model, config=GEMINI["config"])
    return [(yield chat.send_message("Why?")), (yield chat.send_message("And why that?"))]


def streamed_chat_with_gemini(client: Any) -> Steps:
    chat = client.chats.create(model=GOOGLE.model, config=GEMINI["config"])
    return [(yield All(chat.send_message_stream("Why?"))), (yield All(chat.send_message_stream("And why that?")))]


class Twins:
    """Mistral's client as an async one: of each method the one that ends in `_async`."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, f"{name}_async", None) or Twins(getattr(self._owner, name))

    async def __aenter__(self) -> Twins:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._owner.sdk_configuration.async_client.aclose()


def mistral(provider: FakeProvider, is_async: bool) -> Any:
    pytest.importorskip("mistralai", reason="mistralai is not installed")
    from tests.acceptance import test_mistral

    if is_async:
        with test_mistral.opened(provider) as client:
            return Twins(client)
    return test_mistral.opened(provider)


def of_mistral(path: str, says: str = SAID, **words: Any) -> Surface:
    use = read if path.endswith("stream") else called
    program = use(path, **words)
    whole, streamed = (None, program) if use is read else (program, None)
    return Surface(f"mistralai {path}", whole, streamed, {"text": says}, opened=mistral)


def cohere(provider: FakeProvider, is_async: bool) -> Any:
    sdk = pytest.importorskip("cohere", reason="cohere is not installed")
    httpx = importlib.import_module("httpx")
    http = (httpx.AsyncClient if is_async else httpx.Client)(verify=NO_CERTIFICATES)
    kind = sdk.AsyncClient if is_async else sdk.Client
    return kind("fake", base_url=provider.cohere_base_url, httpx_client=http, timeout=20)


def of_cohere(path: str, **words: Any) -> Surface:
    program = (read if path.endswith("stream") else called)(path, **words)
    whole, streamed = (None, program) if path.endswith("stream") else (program, None)
    return Surface(f"cohere {path}", whole, streamed, opened=cohere)


def elsewhere(sdk: str, path: str, **options: Any) -> Callable[[FakeProvider, bool], Any]:
    """Makes clients of another address, whose requests find the provider all the same; `path` is how theirs begin."""

    def opened(provider: FakeProvider, is_async: bool) -> Any:
        transport = led(provider, is_async, path=lambda asked: asked.replace(path, "/v1"))
        http_client = (openai.DefaultAsyncHttpxClient if is_async else openai.DefaultHttpxClient)(transport=transport)
        return getattr(openai, f"Async{sdk}" if is_async else sdk)(
            api_key="fake", max_retries=0, http_client=http_client, **options
        )

    return opened


AZURE = {"azure_endpoint": "https://shop.openai.azure.com", "api_version": "2024-10-21"}
CHAT = {"messages": MESSAGES, "max_tokens": CAP}
INPUT = {"model": OPENAI.model, "input": "Why?", "max_output_tokens": CAP}
GEMINI = {"model": GOOGLE.model, "contents": "Why?", "config": {"max_output_tokens": CAP}}
GEMINI_RAW = {**GEMINI, "config": {"max_output_tokens": CAP, "should_return_http_response": True}}
INTERACTION = {"model": GOOGLE.model, "input": "Why?", "generation_config": {"max_output_tokens": CAP}}
CLAUDE = {"model": ANTHROPIC.model, **CHAT}
PICTURE = {"model": "gpt-image-1", "prompt": "a cat on a mat", "quality": "low"}
TOOLS = [
    {"type": "web_search"},
    {"type": "file_search", "vector_store_ids": ["vs_1"]},
    {"type": "code_interpreter", "container": {"type": "auto", "memory_limit": "4g"}},
    {"type": "image_generation", "model": "gpt-image-1", "quality": "low", "size": "1024x1024"},
]
USED = {"output_tokens": 50, "web_searches": 1, "file_searches": 2, "pictures": 1, "runs_code": True}


def recording() -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(8_000)
        written.writeframes(bytes(160_000))
    return file.getvalue()


SOUND = ("a.wav", recording())

#: Models that no list has a price of.
PRICED = ("llama-9", "mistral-moderation-2411", "ft:classifier:ours")
RUN = {
    "assistant_id": "asst_1",
    "model": OPENAI.model,
    "max_completion_tokens": 400,
    "max_prompt_tokens": 2_000,
    "tools": [],
}
QUESTION = {"type": "predicate", "text": "Is it so?"}
SMALL = {"model": "mistral-small-2603", **CHAT}
CODE = {"model": "codestral-2508", "prompt": "def half(x):", "suffix": "return y", "max_tokens": 50}
DOCUMENT = {"type": "document_url", "document_url": "https://example.com/a.pdf"}
RECORDING = {"file_name": "a.wav", "content": SOUND[1]}
COHERE = {"model": "command-r-08-2024", "max_tokens": CAP}
COHERE_EMBED = {"model": "embed-v4.0", "texts": ["one"], "input_type": "search_query", "embedding_types": ["float"]}

SURFACES = [
    both("chat.completions.create", model=OPENAI.model, **CHAT),
    both("beta.chat.completions.create", model=OPENAI.model, **CHAT),
    plain("chat.completions.parse", says='{"sure": true}', model=OPENAI.model, response_format=Verdict, **CHAT),
    helper("chat.completions.stream", model=OPENAI.model, **CHAT),
    both("responses.create", **INPUT),
    both("beta.responses.create", **INPUT),
    plain("responses.parse", says='{"sure": true}', text_format=Verdict, **INPUT),
    helper("responses.stream", **INPUT),
    plain("responses.compact", model=OPENAI.model, input="Why?"),
    plain("beta.responses.compact", model=OPENAI.model, input="Why?"),
    attrs.evolve(
        both("responses.create", model="gpt-4.1", input="Why?", tools=TOOLS, max_tool_calls=4, max_output_tokens=CAP),
        name="openai responses.create, with tools that run there",
        answer=USED,
    ),
    both("completions.create", model="gpt-3.5-turbo-instruct", prompt="Why?", max_tokens=CAP),
    plain("embeddings.create", model="text-embedding-3-small", input="Why?"),
    both("images.generate", **PICTURE),
    both("images.edit", image=b"a picture", **PICTURE),
    plain("images.create_variation", model="dall-e-2", image=b"a picture", size="256x256"),
    plain("audio.speech.create", model="tts-1", input="Why?", voice="alloy"),
    both("audio.transcriptions.create", model="gpt-4o-transcribe", file=SOUND),
    plain("audio.translations.create", model="whisper-1", file=SOUND),
    plain("containers.create", name="c"),
    filmed("videos.create", model="sora-2", prompt="a cat"),
    filmed("videos.create_and_poll", model="sora-2", prompt="a cat", poll_interval_ms=1),
    filmed("videos.edit", prompt="a cat", video=b"a video"),
    filmed("videos.extend", prompt="a cat", seconds="4", video=b"a video"),
    filmed("videos.remix", prompt="a cat", video_id="video_1"),
    Surface("openai batches.create", openai_batch, before=frozenset({"/v1/files"})),
    attrs.evolve(
        both("chat.completions.create", model="gpt-4o", **CHAT),
        name="openai chat.completions.create of AzureOpenAI",
        opened=elsewhere("AzureOpenAI", "/openai/deployments/gpt-4o", **AZURE),
    ),
    attrs.evolve(
        both("chat.completions.create", model="llama-9", **CHAT),
        name="openai chat.completions.create at another server, by base_url=",
        opened=elsewhere("OpenAI", "/openai/v1", base_url="https://api.groq.com/openai/v1"),
    ),
    *(
        surface
        for beta in ("", "beta.")
        for surface in (
            both(f"{beta}messages.create", ANTHROPIC, **CLAUDE),
            helper(f"{beta}messages.stream", ANTHROPIC, **CLAUDE),
            plain(f"{beta}messages.parse", ANTHROPIC, says='{"sure": true}', output_format=Verdict, **CLAUDE),
            Surface(
                f"anthropic {beta}messages.batches.create", anthropic_batch(f"{beta}messages.batches"), ride=ANTHROPIC
            ),
        )
    ),
    run_of_an_assistant("beta.threads.runs.create", thread_id="thread_1", **RUN),
    run_of_an_assistant("beta.threads.create_and_run", thread={"messages": MESSAGES}, **RUN),
    plain("decisions.create", model="gpt-4.1", input="Why?", questions=[QUESTION]),
    of_mistral("chat.complete", **SMALL),
    of_mistral("chat.stream", **SMALL),
    of_mistral("chat.parse", '{"sure": true}', response_format=Verdict, **SMALL),
    of_mistral("chat.parse_stream", '{"sure": true}', response_format=Verdict, **SMALL),
    of_mistral("fim.complete", **CODE),
    of_mistral("fim.stream", **CODE),
    of_mistral("embeddings.create", model="mistral-embed", inputs=["one", "two"]),
    of_mistral("classifiers.moderate", model="mistral-moderation-2411", inputs=["one", "two"]),
    of_mistral("classifiers.moderate_chat", model="mistral-moderation-2411", inputs=MESSAGES),
    of_mistral("classifiers.classify", model="ft:classifier:ours", inputs=["one", "two"]),
    of_mistral("classifiers.classify_chat", model="ft:classifier:ours", input={"messages": MESSAGES}),
    of_mistral("ocr.process", model="mistral-ocr-4-1", document=DOCUMENT, pages=[0, 1]),
    of_mistral("audio.transcriptions.complete", model="voxtral-mini-2602", file=RECORDING),
    of_mistral("audio.transcriptions.stream", model="voxtral-mini-2602", file=RECORDING),
    of_cohere("chat", **COHERE, message="Why?"),
    of_cohere("chat_stream", **COHERE, message="Why?"),
    of_cohere("generate", **COHERE, prompt="Why?"),
    of_cohere("generate_stream", **COHERE, prompt="Why?"),
    of_cohere("v2.chat", **COHERE, messages=MESSAGES),
    of_cohere("v2.chat_stream", **COHERE, messages=MESSAGES),
    *(
        surface
        for version in ("", "v2.")
        for surface in (
            of_cohere(f"{version}embed", **COHERE_EMBED),
            of_cohere(f"{version}rerank", model="rerank-v3.5", query="Why?", documents=["one", "two"]),
        )
    ),
    plain("models.generate_content", GOOGLE, **GEMINI),
    attrs.evolve(
        plain("models.generate_content", GOOGLE, **GEMINI_RAW), name="google-genai models.generate_content, raw"
    ),
    helper("models.generate_content_stream", GOOGLE, **GEMINI),
    Surface("google-genai chats.send_message", chat_with_gemini, ride=GOOGLE),
    Surface("google-genai chats.send_message_stream", None, streamed_chat_with_gemini, ride=GOOGLE),
    plain("models.embed_content", GOOGLE, model="gemini-embedding-001", contents=["one", "two"]),
    both("interactions.create", GOOGLE, **INTERACTION),
]
WAYS = [
    pytest.param(surface, kind, id=f"{surface.name}, {kind}", marks=WITH_GOOGLE if surface.ride is GOOGLE else ())
    for surface in SURFACES
    for kind in KINDS
    if (surface.streamed if "stream" in kind else surface.whole) is not None
]


# ── what holds ───────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def opened() -> Iterator[Callable[[Surface], FakeProvider]]:
    """Starts providers that answer alike: what one says differs in nothing from what the next one says."""
    with contextlib.ExitStack() as stack:

        def start(surface: Surface) -> FakeProvider:
            prices = dict.fromkeys(PRICED, Price(input=1, output=2))
            provider = stack.enter_context(FakeProvider(prices=prices, clock=lambda: 1_800_000_000.0))
            provider.answer(**surface.answer)
            return provider

        for model in PRICED:
            farebox.set_price(model, input_per_million=1, output_per_million=2)
        yield start


def run(surface: Surface, kind: str, provider: FakeProvider) -> Any:
    program = surface.streamed if "stream" in kind else surface.whole
    assert program is not None
    return ask(program, lambda is_async: surface.client(provider, is_async), kind)


def bodies(provider: FakeProvider) -> list[Any]:
    """What was sent, but for the word that asks a stream for its usage."""
    bodies = [request.body or {} for request in provider.requests]
    return [{name: value for name, value in body.items() if name != "stream_options"} for body in bodies]


@pytest.mark.surface("{surface}", kind="{kind}", proves=["exact", "unbroken"])
@pytest.mark.parametrize(("surface", "kind"), WAYS)
def test_a_call_is_recorded_to_the_digit_and_answers_as_ever(surface: Surface, kind: str, opened: Any) -> None:
    bare = opened(surface)
    without = run(surface, kind, bare)
    provider = opened(surface)
    with instrument(), track(feature="x"), budget(usd=50) as paid:
        assert run(surface, kind, provider) == without
    assert bodies(provider) == bodies(bare)
    assert paid.spent_usd == provider.bill.usd > 0
    for call in farebox.calls():
        assert (call.outcome, call.doubt, call.tags) == ("completed", "", {"feature": "x"})
        assert call.cost_source in ("list", "manual")
    total = report().total
    drawn = sum(line.count("tokens to draw") + line.count("tokens drawn") for line in provider.bill.lines)
    assert (total.calls, total.input_tokens + total.output_tokens) == (
        provider.bill.calls,
        provider.bill.tokens + drawn,
    )
    nothing_is_left()


@pytest.mark.surface("{surface}", kind="{kind}", proves="refused")
@pytest.mark.parametrize(("surface", "kind"), WAYS)
def test_an_exhausted_budget_sends_nothing(surface: Surface, kind: str, opened: Any) -> None:
    provider = opened(surface)
    with instrument(), budget(usd="0.000000001"), pytest.raises(BudgetExceeded):
        run(surface, kind, provider)
    assert {request.path for request in provider.requests} == surface.before
    assert report().total.refused_calls == 1
    nothing_is_left()


FREE = [
    plain("moderations.create", input="Why?"),
    plain("responses.input_tokens.count", model=OPENAI.model, input="Why?"),
    *(
        plain(f"{beta}messages.count_tokens", ANTHROPIC, model=ANTHROPIC.model, messages=MESSAGES)
        for beta in ("", "beta.")
    ),
]


@pytest.mark.surface("{surface}", kind="{kind}", proves=["free", "unbroken"])
@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("surface", FREE, ids=str)
def test_what_is_free_is_sent_however_little_is_left(surface: Surface, kind: str, opened: Any) -> None:
    provider = opened(surface)
    provider.serve("/v1/moderations", {"id": "modr-1", "model": "omni-moderation", "results": []})
    without = run(surface, kind, provider)
    with instrument(), budget(usd=0, tokens=0, calls=0):
        assert run(surface, kind, provider) == without
    assert (len(provider.requests), provider.bill.calls, len(farebox.calls())) == (2, 0, 0)
