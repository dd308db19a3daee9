"""Cassettes around real SDKs: recorded from a fake provider over HTTP, and played when it is gone."""

from __future__ import annotations

import asyncio
import base64
import gzip
import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anthropic
import openai
import pytest
from anthropic import Anthropic, AsyncAnthropic
from google import genai
from hypothesis import given, settings
from hypothesis import strategies as st
from openai import AsyncOpenAI, OpenAI

import farebox
from farebox.testing import FakeProvider
from farebox.testing._cassette import Cassette, UnmatchedCall
from farebox.testing._cassette_answer import Answer, read_answer
from farebox.testing._cassette_file import CassetteError, Interaction, load, save
from farebox.testing._cassette_request import Request, cleaned, read_body
from farebox.testing._plugin_cassettes import Cassettes, read_words
from farebox.testing._plugin_meter import Meter, Spend

#: Since version 3, and before.
HTTP: Any = vars(openai._base_client).get("httpx2") or vars(openai._base_client)["httpx"]
KEY = "sk-proj-abcdefghijklmnop1234567890"
GPT = "gpt-4.1-mini"
CLAUDE = "claude-haiku-4-5"
GEMINI = "gemini-2.5-flash"


class Player:
    """Opens one cassette in a mode, and keeps what its calls have spent."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.spend = Spend("nothing yet")

    @contextmanager
    def __call__(self, mode: str, **words: Any) -> Iterator[Cassette]:
        meter = Meter()
        self.spend = meter.spend = Spend(mode)
        meter.listen()
        try:
            with Cassettes(mode, False, meter, lambda host: "").opened(self.path, **words) as cassette:
                assert cassette is not None
                yield cassette
        finally:
            meter.stop()

    @property
    def text(self) -> str:
        return self.path.read_text("utf-8")

    @property
    def interactions(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(self.text)["interactions"]
        return found


@pytest.fixture
def tape(tmp_path: Path) -> Player:
    return Player(tmp_path / "tape.json")


def gpt(provider: FakeProvider, **options: Any) -> OpenAI:
    return OpenAI(base_url=provider.openai_base_url, api_key=KEY, **{"max_retries": 0, **options})


def ask(client: OpenAI, text: str = "Hello?", **options: Any) -> Any:
    return client.chat.completions.create(model=GPT, messages=[{"role": "user", "content": text}], **options)


# ── every surface ────────────────────────────────────────────────────────────────────────────────────────────────

MESSAGES: Any = [{"role": "user", "content": "Hello?"}]


def claude(provider: FakeProvider) -> Anthropic:
    return Anthropic(base_url=provider.anthropic_base_url, api_key=KEY, max_retries=0)


def chat(provider: FakeProvider) -> Any:
    return ask(gpt(provider)).model_dump()


def chat_stream(provider: FakeProvider) -> Any:
    return [chunk.model_dump() for chunk in ask(gpt(provider), stream=True)]


def chat_raw(provider: FakeProvider) -> Any:
    raw = gpt(provider).chat.completions.with_raw_response.create(model=GPT, messages=MESSAGES)
    return raw.status_code, raw.parse().model_dump(), json.loads(raw.content), raw.headers["content-type"]


def chat_streamed_response(provider: FakeProvider) -> Any:
    completions = gpt(provider).chat.completions.with_streaming_response
    with completions.create(model=GPT, messages=MESSAGES, stream=True) as response:
        return [json.loads(line[6:]) for line in response.iter_lines() if line.startswith("data: {")]


def responses(provider: FakeProvider) -> Any:
    return gpt(provider).responses.create(model=GPT, input="Hello?").model_dump()


def responses_stream(provider: FakeProvider) -> Any:
    return [event.model_dump() for event in gpt(provider).responses.create(model=GPT, input="Hello?", stream=True)]


def embeddings(provider: FakeProvider) -> Any:
    return gpt(provider).embeddings.create(model="text-embedding-3-small", input=["Hello?", "Who?"]).model_dump()


def message(provider: FakeProvider) -> Any:
    return claude(provider).messages.create(model=CLAUDE, max_tokens=100, messages=MESSAGES).model_dump()


def message_stream(provider: FakeProvider) -> Any:
    with claude(provider).messages.stream(model=CLAUDE, max_tokens=100, messages=MESSAGES) as stream:
        return [event.type for event in stream], stream.get_final_message().model_dump()


def async_chat(provider: FakeProvider) -> Any:
    async def run() -> Any:
        async with AsyncOpenAI(base_url=provider.openai_base_url, api_key=KEY, max_retries=0) as client:
            whole = await client.chat.completions.create(model=GPT, messages=MESSAGES)
            stream = await client.chat.completions.create(model=GPT, messages=MESSAGES, stream=True)
            return whole.model_dump(), [chunk.model_dump() async for chunk in stream]

    return asyncio.run(run())


def async_message(provider: FakeProvider) -> Any:
    async def run() -> Any:
        async with AsyncAnthropic(base_url=provider.anthropic_base_url, api_key=KEY, max_retries=0) as client:
            async with client.messages.stream(model=CLAUDE, max_tokens=100, messages=MESSAGES) as stream:
                return (await stream.get_final_message()).model_dump()

    return asyncio.run(run())


def google(provider: FakeProvider) -> Any:
    async def run(client: genai.Client) -> Any:
        async with client.aio as aio:
            return (await aio.models.generate_content(model=GEMINI, contents="Hello?")).model_dump_json()

    with genai.Client(api_key=KEY, http_options={"base_url": provider.google_base_url}) as client:
        whole = client.models.generate_content(model=GEMINI, contents="Hello?").model_dump_json()
        chunks = [
            chunk.model_dump_json(exclude={"sdk_http_response"})
            for chunk in client.models.generate_content_stream(model=GEMINI, contents="Hello?")
        ]
        return text_of(whole), chunks, text_of(asyncio.run(run(client)))


def mistral(provider: FakeProvider) -> Any:
    sdk = pytest.importorskip("mistralai.client", reason="mistralai is not installed")
    words: Any = {"model": "mistral-small-2603", "messages": MESSAGES}

    async def run() -> Any:
        async with sdk.Mistral(api_key=KEY, server_url=provider.mistral_base_url) as client:
            return (await client.chat.complete_async(**words)).model_dump()

    with sdk.Mistral(api_key=KEY, server_url=provider.mistral_base_url) as client:
        whole = client.chat.complete(**words).model_dump()
        return whole, [event.model_dump() for event in client.chat.stream(**words)], asyncio.run(run())


def cohere(provider: FakeProvider) -> Any:
    sdk = pytest.importorskip("cohere", reason="cohere is not installed")
    words: Any = {"model": "command-r-08-2024", "messages": MESSAGES}

    async def run() -> Any:
        async with sdk.AsyncClientV2(KEY, base_url=provider.cohere_base_url) as client:
            return (await client.chat(**words)).model_dump()

    with sdk.ClientV2(KEY, base_url=provider.cohere_base_url) as client:
        whole = client.chat(**words).model_dump()
        return whole, [event.model_dump() for event in client.chat_stream(**words)], asyncio.run(run())


def text_of(answer: str) -> Any:
    """All of an answer but the headers that came with it, of which a cassette keeps a few."""
    return {name: value for name, value in json.loads(answer).items() if name != "sdk_http_response"}


SURFACES = [
    chat,
    chat_stream,
    chat_raw,
    chat_streamed_response,
    responses,
    responses_stream,
    embeddings,
    message,
    message_stream,
    async_chat,
    async_message,
    google,
    mistral,
    cohere,
]


@pytest.mark.parametrize("surface", SURFACES, ids=lambda surface: surface.__name__)
def test_what_was_recorded_is_played_with_what_it_would_cost_when_the_provider_is_gone(
    tape: Player, surface: Callable[[FakeProvider], Any]
) -> None:
    with FakeProvider() as provider:
        with tape("record"):
            recorded = surface(provider)
        billed = provider.bill.usd
    assert billed > 0
    assert (tape.spend.report().total.usd, tape.spend.real_usd) == (billed, billed)

    with tape("replay") as cassette:  # nobody listens at that address any more
        assert surface(provider) == recorded
    assert (cassette.unplayed, cassette.played) == ([], len(tape.interactions))
    assert (tape.spend.report().total.usd, tape.spend.real_usd) == (billed, 0)
    assert tape.spend.replayed_calls == tape.spend.report().total.calls == len(tape.interactions)
    assert not any(call.outcome != "completed" or call.doubt for call in tape.spend.calls())


# ── what is kept ─────────────────────────────────────────────────────────────────────────────────────────────────


class Server(ThreadingHTTPServer):
    """Answers whatever `answer` says: a status, headers and a body for a path and a request's body."""

    daemon_threads = True

    def __init__(self, answer: Callable[[str, bytes], tuple[int, dict[str, str], bytes]]) -> None:
        self.seen: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                server.seen.append(self.path)
                status, headers, content = answer(self.path, body)
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


@contextmanager
def serving(answer: Callable[[str, bytes], tuple[int, dict[str, str], bytes]]) -> Iterator[Server]:
    with Server(answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


COMPLETION = {
    "id": "x",
    "object": "chat.completion",
    "created": 1,
    "model": GPT,
    "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Yes."}}],
    "usage": {"prompt_tokens": 1_000, "completion_tokens": 100, "total_tokens": 1_100},
}


def test_no_key_cookie_owner_or_host_is_kept_wherever_it_stands(tape: Player) -> None:
    quoted = {
        "error": {
            "message": f"Incorrect API key {KEY} or sk-proj-****7890 for org-1234567890ab, project number 4711",
            "code": "invalid_api_key",
        }
    }

    def answer(path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        headers = {
            "content-type": "application/json",
            "set-cookie": "__cf_bm=cookiecookiecookie; path=/",
            "openai-organization": "acme-owner",
            "x-request-id": "req_1",
        }
        return (
            (401 if b"refuse" in body else 200),
            headers,
            json.dumps(quoted if b"refuse" in body else COMPLETION).encode(),
        )

    def program(url: str) -> None:
        client = OpenAI(
            base_url=url,
            api_key=KEY,
            organization="org-acmeacmeacmeacme",
            project="proj_acmeacmeacmeacme",
            max_retries=0,
            default_query={"api-version": "2026-01-01", "sig": "signature-of-somebody", "subscription-key": "abcdef"},
            default_headers={"cookie": "session=cookiecookiecookie"},
        )
        tool = {"type": "mcp", "server_label": "x", "authorization": "mcp-token", "headers": {"X-Api-Key": "mcp-key"}}
        tool["headers"]["X-Own"] = "mcp-own"
        hidden = [{"domain": "a.example", "name": "PASS", "value": "domain-value"}]
        policy = {"type": "allowlist", "allowed_domains": ["a.example"], "domain_secrets": hidden}
        code = {"type": "code_interpreter", "container": {"type": "auto", "network_policy": policy}}
        ask(client, f"My key is {KEY}.", extra_body={"tools": [tool, code]})
        with pytest.raises(openai.AuthenticationError):
            ask(client, "refuse")

    with serving(answer) as server:
        with tape("record"):
            program(server.url)
        port = str(server.server_address[1])
    for secret in (
        KEY,
        "cookie",
        "acme",
        "127.0.0.1",
        port,
        "signature",
        "abcdef",
        "mcp-token",
        "mcp-key",
        "mcp-own",
        "domain-value",
        "4711",
        "7890",
    ):
        assert secret not in tape.text
    assert "org-1234567890ab" not in tape.text
    request = tape.interactions[0]["request"]
    assert (request["method"], request["path"], request["query"]) == (
        "POST",
        "/chat/completions",
        "api-version=2026-01-01",
    )
    assert tape.interactions[1]["response"]["headers"] == {"content-type": "application/json", "x-request-id": "req_1"}

    with tape("replay"):
        program("https://gateway.invalid/some/where/v1")  # another base URL is the same request


def test_a_cassette_is_a_file_that_people_can_read_and_compare(tape: Player, provider: FakeProvider) -> None:
    provider.answer(text="Yes.")
    with tape("record"):
        ask(gpt(provider), user="alice", temperature=0.5, max_completion_tokens=100)
        list(ask(gpt(provider), stream=True))
    first, second = tape.interactions
    assert first["request"] == {
        "provider": "openai",
        "method": "POST",
        "path": "/chat/completions",
        "json": {
            "max_completion_tokens": 100,
            "messages": [{"content": "Hello?", "role": "user"}],
            "model": GPT,
            "temperature": 0.5,
            "user": "alice",
        },
    }
    assert first["response"]["status"] == 200
    assert first["response"]["json"]["choices"][0]["message"]["content"] == "Yes."
    assert "stream_options" not in second["request"]["json"]  # farebox asked for the usage, not the program
    assert second["response"]["events"][-1] == "data: [DONE]\n\n"
    assert [set(event) for event in second["response"]["events"][:-1]] == [{"data"}] * (
        len(second["response"]["events"]) - 1
    )
    assert '    "messages": [{"content": "Hello?", "role": "user"}],\n' in tape.text


def test_bodies_that_are_compressed_binary_or_forms_come_back_as_they_were(tape: Player, tmp_path: Path) -> None:
    speech = bytes(range(256)) * 4
    upload = tmp_path / "rows.jsonl"
    upload.write_bytes(b'{"a": 1}\r\n\0')

    def answer(path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path.endswith("/speech"):
            return 200, {"content-type": "audio/mpeg"}, speech
        if path.endswith("/files"):
            file = {"id": "file-1", "object": "file", "bytes": 3, "created_at": 1, "filename": "f", "purpose": "batch"}
            return 200, {"content-type": "application/json"}, json.dumps(file).encode()
        packed = gzip.compress(json.dumps(COMPLETION).encode())
        return 200, {"content-type": "application/json", "content-encoding": "gzip"}, packed

    def program(url: str) -> list[Any]:
        client = OpenAI(base_url=url, api_key=KEY, max_retries=0)
        file = client.files.create(file=upload, purpose="batch")
        whole = ask(client).model_dump()
        sound = client.audio.speech.create(model="tts-1", voice="alloy", input="Hello!").read()
        with client.audio.speech.with_streaming_response.create(model="tts-1", voice="alloy", input="Hi!") as response:
            parts = b"".join(response.iter_bytes(100))
        return [file.model_dump(), whole, sound, parts]

    with serving(answer) as server, tape("record"):
        recorded = program(server.url)
    assert recorded[2:] == [speech, speech]
    with tape("replay"):
        assert program(server.url) == recorded
    form = tape.interactions[0]["request"]["parts"]
    assert [part["name"] for part in form] == ["purpose", "file"]
    assert tape.interactions[1]["response"]["json"]["usage"]["prompt_tokens"] == 1_000

    upload.write_bytes(b'{"a": 2}\r\n\0')
    with (
        pytest.raises(UnmatchedCall, match=r"body \(parts\)\[1\]\.sha256: was a text of 64 characters"),
        tape("replay"),
    ):
        program(server.url)


def test_a_file_in_a_request_is_kept_as_its_hash(tape: Player, provider: FakeProvider) -> None:
    image = base64.b64encode(bytes(range(256)) * 20).decode()
    content = [{"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image}"}}]
    messages: Any = [{"role": "user", "content": content}]
    for mode in ("record", "replay"):
        with tape(mode):
            gpt(provider).chat.completions.create(model=GPT, messages=messages, max_completion_tokens=10)
    assert image[:100] not in tape.text
    assert "data:image/png;base64,(sha256 " in tape.text


# ── what is the same request ─────────────────────────────────────────────────────────────────────────────────────


def test_a_request_that_differs_is_not_sent_and_said_by_its_fields_without_their_text(
    tape: Player, provider: FakeProvider
) -> None:
    with tape("record"):
        ask(gpt(provider), "Tell me of Anna Karenina.", temperature=0.5)
        ask(gpt(provider), "Something else altogether, and longer.", user="x", temperature=1)
    before = len(provider.requests)
    with pytest.raises(UnmatchedCall) as caught, tape("replay"):
        try:
            ask(gpt(provider, max_retries=5), "Tell me of Anna K.", temperature=0.7)
        except Exception:
            pytest.fail("an `except Exception` of the program swallows it")
    assert str(caught.value) == (
        f"POST /chat/completions ({GPT}) is not in the cassette {tape.path}, and nothing was sent; it differs from the "
        "nearest recorded one, number 1:\n"
        "  body.messages[0].content: was a text of 25 characters (cb91d2b9), is a text of 18 characters (7e3d8a57); "
        "they differ from character 18 on\n"
        "  body.temperature: was 0.5, is 0.7\n"
        "  where that is meant, record it anew: --farebox-cassettes=record (all of it) or =new (what is missing)"
    )
    assert len(provider.requests) == before
    (call,) = tape.spend.calls()
    assert (call.outcome, call.usd, call.attempts, call.error_class) == ("failed", 0, 1, "UnmatchedCall")


def test_a_miss_that_the_program_has_swallowed_is_raised_at_the_end(tape: Player, provider: FakeProvider) -> None:
    with pytest.raises(UnmatchedCall, match="there is no such file; record it with --farebox-cassettes=new"):
        with tape("replay"):
            with suppress(BaseException):
                ask(gpt(provider))
    assert provider.requests == []


def test_the_order_of_names_what_farebox_adds_and_what_is_ignored_do_not_matter(
    tape: Player, provider: FakeProvider
) -> None:
    messages: Any = [{"role": "user", "content": "Hello?", "name": "a"}]
    with tape("record", ignore=["user", "messages.*.name"]), farebox.budget(usd="0.02"):
        gpt(provider).chat.completions.create(model=GPT, messages=messages, user="1")
    assert provider.requests[0].body["max_tokens"] > 0  # a cap that farebox granted
    assert tape.interactions[0]["request"]["json"] == {
        "messages": [{"content": "Hello?", "role": "user"}],
        "model": GPT,
    }
    messages = [{"name": "b", "content": "Hello?", "role": "user"}]
    with tape("replay", ignore=["user", "messages.*.name"]), farebox.budget(usd="0.5", on_exceed="clamp"):
        gpt(provider).chat.completions.create(user="2", messages=messages, model=GPT)
    with pytest.raises(UnmatchedCall, match=r"body\.user: was not there, is a text of 1 characters"), tape("replay"):
        gpt(provider).chat.completions.create(user="2", messages=[{"role": "user", "content": "Hello?"}], model=GPT)


def test_a_cap_that_was_clamped_is_compared_as_it_was_declared(tape: Player, provider: FakeProvider) -> None:
    for mode, usd in (("record", "0.0005"), ("replay", "0.0006")):
        with tape(mode), farebox.budget(usd=usd, on_exceed="clamp") as b:
            ask(gpt(provider), max_completion_tokens=1_000)
            assert "rewrite" in [decision.did for decision in b.decisions]
    assert tape.interactions[0]["request"]["json"]["max_completion_tokens"] == 1_000
    with pytest.raises(UnmatchedCall, match=r"body\.max_completion_tokens: was 1000, is 999"), tape("replay"):
        ask(gpt(provider), max_completion_tokens=999)


def test_equal_requests_are_answered_in_order_and_each_answer_once(tape: Player, provider: FakeProvider) -> None:
    with tape("record"):
        for text in ("one", "two"):
            provider.answer(text=text)
            ask(gpt(provider))
    with pytest.raises(UnmatchedCall, match="it was recorded 2 times, and all of that has been played"), tape("replay"):
        assert [ask(gpt(provider)).choices[0].message.content for _ in range(2)] == ["one", "two"]
        ask(gpt(provider))


def test_new_sends_what_is_missing_and_keeps_the_rest(tape: Player, provider: FakeProvider) -> None:
    with tape("new"):
        first = ask(gpt(provider), "one").id
    with tape("new") as cassette:
        assert ask(gpt(provider), "one").id == first
        second = ask(gpt(provider), "two").id
        assert (cassette.played, cassette.recorded) == (1, 1)
    assert tape.spend.replayed_calls == 1
    assert 0 < tape.spend.real_usd < tape.spend.report().total.usd
    assert len(provider.requests) == 2
    with tape("replay"):
        assert [ask(gpt(provider), text).id for text in ("two", "one")] == [second, first]
    assert len(provider.requests) == 2


def test_a_recording_anew_is_what_was_done_this_time(tape: Player, provider: FakeProvider) -> None:
    with tape("record"):
        ask(gpt(provider), "one")
    with tape("record"):
        ask(gpt(provider), "two")
    assert [one["request"]["json"]["messages"][0]["content"] for one in tape.interactions] == ["two"]
    with tape("record"):
        pass
    assert not tape.path.exists()


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/x-www-form-urlencoded", "client_id=me&client_secret=HIDDENHIDDEN&grant_type=client_credentials"),
        ("application/x-www-form-urlencoded", "client_secret=HIDDENHIDDEN&x=1"),
        (
            "multipart/form-data; boundary=B",
            '--B\r\nContent-Disposition: form-data; name="api_key"\r\n\r\nHIDDEN\r\n--B--',
        ),
        ("application/json", '{"headers": [{"name": "X-Api-Key", "value": "HIDDEN"}]}'),
        ("application/json", '{"api_keys": ["HIDDEN"], "client_secret": {"value": "HIDDEN", "expires_at": 1}}'),
        ("application/json", '{"url": "https://me:HIDDEN@a.example/x?X-Amz-Security-Token=HIDDENHIDDEN"}'),
        ("application/json", '{"pem": "-----BEGIN RSA PRIVATE KEY-----\\nHIDDEN\\n-----END RSA PRIVATE KEY-----\\n"}'),
    ],
)
def test_secrets_of_forms_headers_and_addresses_are_not_kept(content_type: str, body: str) -> None:
    read = read_body(body.encode(), content_type)
    asked = cleaned(Request(method="POST", path="/x", body=read), (), ())
    assert "HIDDEN" in str(read)
    assert "HIDDEN" not in str(asked.body)


def test_texts_that_only_speak_of_secrets_are_kept() -> None:
    said = {
        "token": " the",
        "tokens": [1, 2],
        "content": "The password is in a secret place: see https://a.example/x?page=12345678",
    }
    assert cleaned(Request(method="POST", path="/x", body={"json": said}), (), ()).body == {"json": said}


def test_what_a_program_redacts_is_neither_kept_nor_compared(tape: Player, provider: FakeProvider) -> None:
    provider.answer(text="Dear Alice,")
    for mode, name in (("record", "Alice"), ("replay", "Alice")):
        with tape(mode, redact=lambda text: text.replace("Alice", "NAME")):
            ask(gpt(provider), f"Write to {name}!")
            list(ask(gpt(provider), f"Stream to {name}!", stream=True))
    assert "Alice" not in tape.text
    assert tape.text.count("NAME") >= 3


def test_hosts_that_are_ignored_and_transports_within_the_process_are_left_alone(
    tape: Player, provider: FakeProvider
) -> None:
    within = HTTP.Client(transport=HTTP.MockTransport(lambda request: HTTP.Response(200, json=COMPLETION)))
    with tape("replay", ignore_hosts=["127.0.0.*"]):
        ask(gpt(provider))
        ask(gpt(provider, http_client=within))
    assert len(provider.requests) == 1
    assert tape.spend.replayed_calls == 0


# ── storms ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_twenty_threads_get_the_answers_to_their_own_questions(tape: Player, provider: FakeProvider) -> None:
    client = gpt(provider)

    def ids() -> dict[str, str]:
        with ThreadPoolExecutor(20) as pool:
            questions = [f"question {n}" for n in range(20)]
            return dict(zip(questions, pool.map(lambda text: str(ask(client, text).id), questions), strict=True))

    with tape("record"):
        recorded = ids()
    assert len(set(recorded.values())) == 20
    with tape("replay"):
        assert ids() == recorded
    assert tape.spend.replayed_calls == 20
    assert len(provider.requests) == 20


def test_twenty_tasks_get_the_answers_to_their_own_questions(tape: Player, provider: FakeProvider) -> None:
    async def ids() -> list[str]:
        async with AsyncOpenAI(base_url=provider.openai_base_url, api_key=KEY, max_retries=0) as client:

            async def one(n: int) -> str:
                messages: Any = [{"role": "user", "content": f"question {n}"}]
                stream = await client.chat.completions.create(model=GPT, messages=messages, stream=True)
                return [chunk.id async for chunk in stream][-1]

            return await asyncio.gather(*(one(n) for n in range(20)))

    with tape("record"):
        recorded = asyncio.run(ids())
    assert len(set(recorded)) == 20
    with tape("replay"):
        assert asyncio.run(ids()) == recorded
    assert tape.spend.replayed_calls == 20


def test_requests_that_overlap_stand_in_the_file_in_an_order_of_their_own(tape: Player, provider: FakeProvider) -> None:
    def recorded(order: str) -> list[str]:
        with tape("record"):
            ask(gpt(provider), "z first")
            provider.hold()
            with ThreadPoolExecutor(3) as pool:
                for n, letter in enumerate(order, 1):
                    pool.submit(ask, gpt(provider), letter)
                    provider.wait_until_in_flight(n)
                provider.release()
            ask(gpt(provider), "a last")
        return [one["request"]["json"]["messages"][0]["content"] for one in tape.interactions]

    assert recorded("bca") == recorded("cab") == ["z first", "a", "b", "c", "a last"]


# ── what goes wrong ──────────────────────────────────────────────────────────────────────────────────────────────


def test_an_error_and_its_retry_are_played_as_they_were_without_the_pause(tape: Player, provider: FakeProvider) -> None:
    provider.fail(500, times=1)
    with tape("record"):
        recorded = ask(gpt(provider, max_retries=1)).id
    with tape("replay"):
        assert ask(gpt(provider, max_retries=1)).id == recorded
    (call,) = tape.spend.calls()
    assert (call.attempts, call.outcome, call.usd) == (2, "completed", provider.bill.usd)
    assert [one["response"]["status"] for one in tape.interactions] == [500, 200]
    answer = Answer(status=500).played_headers(), Answer(status=429, headers={"retry-after": "300"}).played_headers()
    assert answer == ({"retry-after-ms": "1"}, {"retry-after": "300"})  # after so long an SDK does not try again


@pytest.mark.parametrize("status", [400, 401, 404, 429, 503])
def test_a_refusal_is_played_as_the_same_error(tape: Player, provider: FakeProvider, status: int) -> None:
    provider.fail(status, times=1)
    said = []
    for mode in ("record", "replay"):
        with tape(mode), pytest.raises(openai.APIStatusError) as caught:
            ask(gpt(provider))
        said.append((type(caught.value), caught.value.status_code, caught.value.body, str(caught.value)))
        assert tape.spend.report().total.usd == 0
    assert said[0] == said[1]


def test_a_lost_connection_is_played_as_one_and_presumed_spent(tape: Player, provider: FakeProvider) -> None:
    provider.drop("arrival", times=1)
    spent = []
    for mode in ("record", "replay"):
        with tape(mode), pytest.raises(openai.APIConnectionError):
            ask(gpt(provider), max_completion_tokens=100)
        (call,) = tape.spend.calls()
        spent.append((call.outcome, call.usd))
    assert spent[0] == spent[1]
    assert spent[0][0] == "unknown"
    assert spent[0][1] > 0
    assert tape.interactions[0]["response"] == {"ended": "RemoteProtocolError"}


def test_a_stream_that_broke_off_breaks_off_again(tape: Player, provider: FakeProvider) -> None:
    provider.chunks(6)
    provider.drop("chunks", chunks=3, times=1)
    seen = []
    for mode in ("record", "replay"):
        texts: list[str] = []
        with tape(mode), pytest.raises((openai.APIConnectionError, HTTP.RemoteProtocolError)) as caught:
            texts.extend(chunk.id for chunk in ask(gpt(provider), stream=True, max_completion_tokens=100))
        (call,) = tape.spend.calls()
        seen.append((type(caught.value), texts, call.outcome, call.usd))
    assert seen[0] == seen[1]
    assert tape.interactions[0]["response"]["ended"] == "RemoteProtocolError"


def test_a_stream_that_was_left_is_kept_as_far_as_it_came_and_settles_as_one(
    tape: Player, provider: FakeProvider
) -> None:
    provider.answer(output_tokens=1_000)
    provider.chunks(50)
    provider.pace(0.01)

    def leave_after(chunks: int) -> None:
        stream = ask(gpt(provider), stream=True, max_completion_tokens=10_000)
        for _ in range(chunks):
            next(stream)
        stream.close()

    with tape("record"):
        leave_after(10)
    response = tape.interactions[0]["response"]
    assert response["ended"] == "closed"
    assert 10 <= len(response["events"]) < 50

    with tape("replay"):
        leave_after(10)
    (call,) = tape.spend.calls()
    # 9 or 10 chunks of 20 tokens of 4 bytes, which count as 20 to 80 tokens each, and a margin of 512; the bound is 10000.
    assert (call.outcome, tape.spend.replayed_calls) == ("closed", 1)
    assert 9 * 20 + 512 <= call.charged_output_tokens <= 10 * 80 + 512

    with pytest.raises(UnmatchedCall, match="ends here: when it was recorded, the program closed it there"):
        with tape("replay"):
            list(ask(gpt(provider), stream=True, max_completion_tokens=10_000))


def test_a_task_that_was_cancelled_is_kept_and_can_be_cancelled_again(tape: Player, provider: FakeProvider) -> None:
    async def give_up(when: Callable[[], Any]) -> None:
        async with AsyncOpenAI(base_url=provider.openai_base_url, api_key=KEY, max_retries=0) as client:
            task = asyncio.create_task(client.chat.completions.create(model=GPT, messages=MESSAGES))
            await when()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    provider.hold()
    with tape("record"):
        asyncio.run(give_up(lambda: asyncio.to_thread(provider.wait_until_in_flight, 1)))
    provider.release()
    assert tape.interactions[0]["response"] == {"ended": "cancelled"}

    async def until_played() -> None:
        while not cassette.played:  # noqa: ASYNC110 - who plays it knows of no event
            await asyncio.sleep(0)

    with tape("replay") as cassette:
        asyncio.run(give_up(until_played))
    assert tape.spend.calls()[0].outcome == "unknown"


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────

GOOD = {"farebox_cassette": 1, "interactions": []}
ASKED = {"method": "POST", "path": "/x"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (json.dumps(GOOD)[:-3], "can't be read: .*; record it anew"),
        ("[]", "is no cassette of farebox"),
        ('{"version": 1, "interactions": []}', "is no cassette of farebox"),
        (json.dumps({**GOOD, "farebox_cassette": 2}), "has the format 2, and this farebox reads 1: a newer farebox"),
        ('{"farebox_cassette": 1}', "is damaged: KeyError: 'interactions'"),
        (json.dumps({**GOOD, "interactions": [{"request": ASKED}]}), "is damaged: KeyError: 'response'"),
        (json.dumps({**GOOD, "interactions": [{"request": ASKED, "response": {}}]}), "is damaged: KeyError: 'status'"),
        (
            json.dumps({**GOOD, "interactions": [{"request": ASKED, "response": {"status": 200, "events": [1]}}]}),
            "is damaged: TypeError",
        ),
        (
            json.dumps({**GOOD, "interactions": [{"request": ASKED, "response": {"status": 200, "base64": "?"}}]}),
            "is damaged: Error",
        ),
        ("[" * 100_000, "can't be read"),
    ],
    ids=[
        "truncated",
        "no object",
        "another tool's",
        "newer",
        "no list",
        "no answer",
        "no status",
        "event",
        "base64",
        "deep",
    ],
)
def test_a_file_that_is_no_whole_cassette_is_one_clear_error(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content, "utf-8")
    with pytest.raises(CassetteError, match=said):
        load(path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=50)
@given(asked=JSON, said=JSON)
def test_what_is_written_is_what_is_read(asked: Any, said: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    made = [
        Interaction(
            request=Request(method="POST", path="/x", body={"json": asked}),
            answer=Answer(status=200, headers={"content-type": "application/json"}, body={"json": said}),
        )
    ]
    save(path, made)
    assert load(path) == made
    (played,) = made[0].answer.chunks()
    assert json.loads(played) == said


@settings(max_examples=50)
@given(
    events=st.lists(
        st.one_of(
            JSON.map(lambda value: f"data: {json.dumps(value)}\n\n"),
            st.tuples(st.from_regex(r"[a-z._]+", fullmatch=True), JSON).map(
                lambda pair: f"event: {pair[0]}\ndata: {json.dumps(pair[1], ensure_ascii=pair[0] < 'n')}\n\n"
            ),
            st.sampled_from(
                [": ping\n\n", "data: [DONE]\n\n", "data:{}\r\n\r\n", "id: 1\nretry: 5\ndata: a\ndata: b\n\n", "\n\n"]
            ),
        )
    ),
    rest=st.sampled_from(["", "data: {", "event: x\n"]),
)
def test_events_are_played_one_by_one_and_say_the_same(events: list[str], rest: str) -> None:
    sent = "".join([*events, rest]).encode("utf-8", "replace")
    answer = read_answer(200, {"content-type": "text/event-stream"}, sent, "", bytes, ())
    chunks = list(answer.chunks())

    def meant(content: bytes) -> list[Any]:
        found: list[Any] = []
        for line in re.split(r"\r\n|\r|\n", content.decode()):
            name, _, value = line.partition(":")
            try:
                found.append((name, json.loads(value)))
            except ValueError:
                found.append((name, value))
        return found

    assert meant(b"".join(chunks)) == meant(sent)
    assert all(chunk.count(b"\n\n") <= 1 for chunk in chunks)


@pytest.mark.parametrize(
    ("mark", "said"),
    [
        (pytest.mark.cassette(ignores=["x"]), r"has no word ignores=\['x'\]; choose from ignore, ignore_hosts, redact"),
        (pytest.mark.cassette("a", "b"), 'one name is enough; write @pytest.mark.cassette\\("a"\\)'),
        (pytest.mark.cassette("../a"), "a name has letters, digits"),
        (pytest.mark.cassette(3), "a name has letters, digits"),
        (pytest.mark.cassette(ignore=[3]), "ignore=.* is no list of names"),
        (pytest.mark.cassette(redact="x"), "redact='x' is no function"),
    ],
    ids=["word", "names", "folder", "number", "ignore", "redact"],
)
def test_wrong_words_of_a_mark_are_refused_by_name(mark: pytest.MarkDecorator, said: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"^test_it.py::test: {'@pytest.mark.cassette'}.*{said}"):
        read_words("test_it.py::test", [mark.mark], [])


def test_the_nearest_mark_wins_over_wider_ones_and_over_the_conftest() -> None:
    near, wide = pytest.mark.cassette("near", ignore="a"), pytest.mark.cassette("wide", ignore=["b"], strict=True)
    name, words = read_words("test", [near.mark, wide.mark], [{"ignore_hosts": ["x"], "strict": False}])
    assert (name, words.ignore, words.ignore_hosts, words.strict) == ("near", ("a",), ("x",), True)


def test_anthropic_errors_are_played_too(tape: Player, provider: FakeProvider) -> None:
    provider.fail(529, times=1)
    for mode in ("record", "replay"):
        with tape(mode), pytest.raises(anthropic.APIStatusError):
            claude(provider).messages.create(model=CLAUDE, max_tokens=10, messages=MESSAGES)
