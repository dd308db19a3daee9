"""A provider of somebody else, installed as a package of its own: the file that docs/how-to/add-a-provider.md shows.

It meters a real SDK that farebox does not know, over real HTTP, against a server that keeps its own bill.
"""

from __future__ import annotations

import asyncio
import importlib
import json
import re
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import BudgetExceeded, _coverage, _instrument, budget, errors, instrument
from farebox.providers import find_provider
from farebox.testing import FakeProvider, Price
from farebox.types import Usage
from tests.acceptance.rides import is_charged_by_what_came

SDK = pytest.importorskip("llama_api_client", reason="llama-api-client is not installed")
PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "add-a-provider.md"
MODEL = "Llama-4-Maverick-17B-128E-Instruct-FP8"
MESSAGES = [{"role": "user", "content": "hello there, how are you?"}]
USD_IN, USD_OUT = 1, 4  # nanodollars a token, hundreds: 0.10 and 0.40 USD per million


def block(pattern: str) -> str:
    found = re.search(pattern, PAGE.read_text("utf-8"), re.DOTALL)
    assert found, f"{PAGE.name} has no block {pattern}"
    return found[1]


FILE = block(r"```py\n(# farebox_llama\.py\n.*?)```")
GROQ_FILE = block(r"```py\n(# farebox_groq\.py\n.*?)```")
POINTS = tomllib.loads(block(r"```toml\n(.*?)```"))["project"]["entry-points"]["farebox.providers"]


@pytest.fixture(scope="module", autouse=True)
def installed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The package `farebox-llama`, with both files of the page."""
    site = tmp_path_factory.mktemp("site")
    (site / "farebox_llama.py").write_text(FILE, "utf-8")
    (site / "farebox_groq.py").write_text(GROQ_FILE, "utf-8")
    info = site / "farebox_llama-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: farebox-llama\nVersion: 1.0\n", "utf-8")
    points = {**POINTS, "groq": "farebox_groq:Groq"}
    lines = "".join(f"{name} = {target}\n" for name, target in points.items())
    (info / "entry_points.txt").write_text(f"[farebox.providers]\n{lines}", "utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        importlib.invalidate_caches()
        yield
    for name in ("llama", "groq"):
        sys.modules.pop(f"farebox_{name}", None)
        _instrument._seams.pop(name, None)


class Llama(ThreadingHTTPServer):
    """Answers as Meta's API does, in events if asked to, and keeps a bill."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LlamaHandler)
        self.bodies: list[dict[str, Any]] = []
        self.billed_nanos = 0
        self.output_tokens = 40
        self.change: Callable[[dict[str, Any]], dict[str, Any]] = lambda answer: answer
        #: Of a stream: how long it takes to make an event.
        self.pace_seconds = 0.0


class LlamaHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Llama

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        llama, body = self.server, json.loads(self.rfile.read(int(self.headers["content-length"])))
        llama.bodies.append(body)
        read = 20 + len(json.dumps(body["messages"])) // 5
        written = min(llama.output_tokens, body.get("max_completion_tokens", 10**9))
        reason = "length" if written < llama.output_tokens else "stop"
        llama.billed_nanos += 100 * (USD_IN * read + USD_OUT * written)
        metrics = [
            {"metric": name, "value": value, "unit": "tokens"}
            for name, value in (
                ("num_completion_tokens", written),
                ("num_prompt_tokens", read),
                ("num_total_tokens", read + written),
            )
        ]
        if body.get("stream"):
            self.send_events(written, reason, metrics)
            return
        said = {"type": "text", "text": "word " * written}
        message = {"role": "assistant", "content": said, "stop_reason": reason}
        payload = json.dumps(llama.change({"id": "l1", "completion_message": message, "metrics": metrics})).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def send_events(self, written: int, reason: str, metrics: list[Any]) -> None:
        def event(kind: str, text: str, **more: Any) -> dict[str, Any]:
            return {"id": "l2", "event": {"event_type": kind, "delta": {"type": "text", "text": text}, **more}}

        events = [
            event("start", ""),
            *(event("progress", "word ") for _ in range(written)),
            event("complete", "", stop_reason=reason),
            event("metrics", "", metrics=metrics),
        ]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for said in events:
                time.sleep(self.server.pace_seconds)
                self.wfile.write(f"data: {json.dumps(self.server.change(said))}\n\n".encode())
                self.wfile.flush()
        except OSError:
            pass  # the reader has left


@pytest.fixture
def llama() -> Iterator[Llama]:
    with Llama() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        farebox.set_price(MODEL, input_per_million="0.1", output_per_million="0.4", provider="llama")
        yield server
        server.shutdown()
        thread.join()


def options(llama: Llama) -> dict[str, Any]:
    return {"api_key": "fake", "base_url": f"http://127.0.0.1:{llama.server_port}/v1", "max_retries": 0, "timeout": 10}


def words(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "messages": MESSAGES, "max_completion_tokens": 100, **changes}


def ask(llama: Llama, **changes: Any) -> Any:
    with SDK.LlamaAPIClient(**options(llama)) as client:
        return client.chat.completions.create(**words(**changes))


def read_stream(llama: Llama, **changes: Any) -> Any:
    with SDK.LlamaAPIClient(**options(llama)) as client:
        return list(client.chat.completions.create(**words(stream=True, **changes)))


def ask_async(llama: Llama, **changes: Any) -> Any:
    async def asked() -> Any:
        async with SDK.AsyncLlamaAPIClient(**options(llama)) as client:
            return await client.chat.completions.create(**words(**changes))

    return asyncio.run(asked())


def read_async_stream(llama: Llama, **changes: Any) -> Any:
    async def read() -> Any:
        async with SDK.AsyncLlamaAPIClient(**options(llama)) as client:
            return [part async for part in await client.chat.completions.create(**words(stream=True, **changes))]

    return asyncio.run(read())


WAYS = [ask, read_stream, ask_async, read_async_stream]
KINDS = dict(zip(WAYS, ("sync", "stream", "async", "async stream"), strict=True))
SHOWN = [
    pytest.param(
        send,
        marks=pytest.mark.surface(
            "llama-api-client, by a provider of somebody else's",
            kind=kind,
            proves=["exact", "refused", "unbroken"],
            of="llama-api-client",
        ),
    )
    for send, kind in KINDS.items()
]


def usd(nanos: int) -> Decimal:
    return Decimal(nanos).scaleb(-9)


@pytest.mark.parametrize("file", [FILE, GROQ_FILE])
def test_the_file_is_shorter_than_sixty_lines_and_imports_public_names_only(file: str) -> None:
    assert len(file.splitlines()) < 60
    assert not re.search(r"import.*\b_|from [\w.]*\._", file)


@pytest.mark.parametrize("send", SHOWN)
def test_each_call_costs_what_is_on_the_bill_and_none_is_sent_that_does_not_fit(
    llama: Llama, send: Callable[..., Any]
) -> None:
    without = send(llama)
    llama.bodies.clear()
    llama.billed_nanos = 0
    with instrument(), budget("llama", usd="0.0003") as b:
        with pytest.raises(BudgetExceeded) as refused:
            while True:
                assert send(llama) == without
                assert b.spent_usd == usd(llama.billed_nanos)
        sent = len(llama.bodies)
        with pytest.raises(BudgetExceeded):
            send(llama)
    assert refused.value.kind == "exhausted"
    assert 3 < sent == len(llama.bodies) == b.spent_calls
    assert b.debt_usd == 0
    (row,) = farebox.report(by=["provider", "model"])
    assert (row.tags["provider"], row.tags["model"], row.usd) == ("llama", MODEL, usd(llama.billed_nanos))


@pytest.mark.parametrize("send", WAYS)
def test_a_cap_is_sent_where_none_was_asked_for(llama: Llama, send: Callable[..., Any]) -> None:
    llama.output_tokens = 100_000
    with instrument(), pytest.warns(errors.CutAnswerWarning), budget("llama", usd="0.0004") as b:
        send(llama, max_completion_tokens=SDK.NOT_GIVEN)
    assert 0 < llama.bodies[0]["max_completion_tokens"] < 1_000
    assert b.spent_usd == usd(llama.billed_nanos)


def with_metrics(change: Callable[[list[Any]], None]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def changed(answer: dict[str, Any]) -> dict[str, Any]:
        change(answer.get("metrics") or answer.get("event", {}).get("metrics") or [])
        return answer

    return changed


@pytest.mark.parametrize("value", [-3, 0, 1e30, "many", None, ...])
@pytest.mark.parametrize("send", [ask, read_stream])
def test_a_usage_that_says_nothing_or_nonsense_is_charged_at_the_bound(
    llama: Llama, send: Callable[..., Any], value: Any
) -> None:
    llama.change = with_metrics(
        lambda metrics: metrics.clear() if value is ... else [metric.update(value=value) for metric in metrics]
    )
    with instrument(), budget("llama", usd=1) as b:
        send(llama)
    (call,) = farebox.calls()
    assert (call.cost_source, call.usd) == ("estimated", call.bound_usd)
    assert b.spent_usd >= usd(llama.billed_nanos)


@pytest.mark.parametrize("told", [Usage(10**30), Usage(5, fees_nanos=10**25), Usage(visible_output_tokens=10**19)])
@pytest.mark.parametrize("believes", ["read_usage", "read_answer"])
def test_a_count_that_no_ledger_keeps_is_charged_at_the_bound_and_breaks_no_call(
    llama: Llama, told: Any, believes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a provider that believes whatever an answer says, by the base class or without it."""

    def read_answer(_: Any, call: Any, answer: Any) -> None:
        call.usage = told

    with instrument():
        provider = type(find_provider("llama"))
        monkeypatch.setattr(provider, believes, read_answer if believes == "read_answer" else lambda *_: told)
        with budget("llama", usd=1) as b:
            ask(llama)
            ask(llama)
    assert [call.usd == call.bound_usd for call in farebox.calls()] == [True, True]
    assert b.spent_usd == sum(call.bound_usd for call in farebox.calls()) >= usd(llama.billed_nanos)


@pytest.mark.parametrize("last", ["complete", "metrics"])
def test_a_stream_that_breaks_off_before_its_end_is_charged_at_the_bound(llama: Llama, last: str) -> None:
    """Whether the word that it ended is missing, or its usage."""
    llama.change = lambda said: {} if said.get("event", {}).get("event_type") == last else said
    with instrument(), budget("llama", usd=1):
        read_stream(llama)
    (call,) = farebox.calls()
    assert (call.cost_source, call.usd) == ("estimated", call.bound_usd)


def test_a_stream_that_is_left_early_costs_what_had_come_and_less_than_its_bound(llama: Llama) -> None:
    llama.output_tokens, llama.pace_seconds = 4_000, 0.005
    with instrument(), budget("llama", usd=1) as b, SDK.LlamaAPIClient(**options(llama)) as client:
        with client.chat.completions.create(**words(stream=True, max_completion_tokens=5_000)) as stream:
            for _, _ in zip(range(15), stream, strict=False):
                pass
    (call,) = farebox.calls()
    assert (call.outcome, call.cost_source) == ("closed", "estimated")
    assert usd(100 * (USD_IN * call.charged_input_tokens + USD_OUT * 14)) <= b.spent_usd
    assert is_charged_by_what_came(call)


def test_a_stream_that_ended_before_it_was_left_is_recorded_exactly(llama: Llama) -> None:
    with instrument(), budget("llama", usd=1) as b, SDK.LlamaAPIClient(**options(llama)) as client:
        with client.chat.completions.create(**words(stream=True)) as stream:
            for chunk in stream:
                if chunk.event.event_type == "metrics":
                    break
    assert b.spent_usd == usd(llama.billed_nanos)


def test_what_else_the_sdk_sends_is_noticed_and_refused_under_a_limit(llama: Llama) -> None:
    with instrument(), budget("llama", usd=1), SDK.LlamaAPIClient(**options(llama)) as client:
        with pytest.raises(errors.UnmeteredCall, match="/v1/moderations"):
            client.moderations.create(messages=MESSAGES)
    assert llama.bodies == []


def test_a_picture_may_fill_all_that_the_model_can_read(llama: Llama) -> None:
    picture = {"type": "image_url", "image_url": {"url": "https://example.com/cat.png"}}
    with instrument(), budget("llama", usd=1, input_bound="bytes"), pytest.raises(errors.UnboundedCall):
        ask(llama, messages=[{"role": "user", "content": [picture]}])
    with instrument(), budget("llama", usd=1):
        ask(llama, messages=[{"role": "user", "content": [picture]}])
    assert farebox.calls()[-1].bound_tokens > 100_000


def test_a_client_of_it_is_instrumented_alone_and_it_stands_among_the_choices_and_in_the_coverage(llama: Llama) -> None:
    with SDK.LlamaAPIClient(**options(llama)) as client:
        instrument(client, budgets=[budget("client", calls=1)])
        client.chat.completions.create(**words())
        with pytest.raises(BudgetExceeded):
            client.with_options(timeout=5).chat.completions.create(**words())
        farebox.uninstrument(client)
    with pytest.raises(ValueError, match="'llama'"):
        instrument(only=["lama"])
    found = _coverage._surfaces("llama", find_provider("llama"), SDK.__version__)
    rows = {row.surface: row.metering for row in found}
    assert rows["chat.completions.create"] == "metered"
    assert set(rows.values()) == {"metered", "unmetered"}


# ── a vendor in OpenAI's format, through an SDK of its own ───────────────────────────────────────────────────────────

GROQ = "llama-3.3-70b-versatile"


@pytest.fixture
def provider() -> Iterator[FakeProvider]:
    with FakeProvider(prices={GROQ: Price(input="0.59", output="0.79")}) as provider:
        farebox.set_price(GROQ, input_per_million="0.59", output_per_million="0.79", provider="groq")
        yield provider


@pytest.fixture
def groq(provider: FakeProvider) -> Iterator[Any]:
    """A client of Groq's SDK, whose requests the fake provider answers under the path that it knows."""
    sdk = pytest.importorskip("groq", reason="groq is not installed")
    httpx: Any = importlib.import_module("httpx")
    real = httpx.URL(provider.openai_base_url)

    class Led(httpx.HTTPTransport):  # type: ignore[misc,name-defined]
        def handle_request(self, request: Any) -> Any:
            path = request.url.path.removeprefix("/openai")
            request.url = request.url.copy_with(scheme="http", host=real.host, port=real.port, path=path)
            request.headers["host"] = f"{real.host}:{real.port}"
            return super().handle_request(request)

    with httpx.Client(transport=Led(verify=False), trust_env=False) as http_client:
        yield sdk.Groq(api_key="fake", max_retries=0, http_client=http_client)


@pytest.mark.surface(
    "groq, by a provider of somebody else's",
    kind=["sync", "stream"],
    proves=["exact", "refused", "unbroken"],
    of="groq",
)
@pytest.mark.parametrize("tells", ["in a chunk of its own", "in x_groq"])
def test_a_provider_that_derives_from_openais_meters_another_sdk(tells: str, provider: FakeProvider, groq: Any) -> None:
    """Groq's streams say their usage in `x_groq` of the last chunk, also where it was not asked for."""

    def ask(**words: Any) -> None:
        words = {"model": GROQ, "messages": MESSAGES, "max_tokens": 100, **words}
        answer = groq.chat.completions.create(**words)
        parts = (
            [part.choices[0].delta.content for part in answer]
            if "stream" in words
            else [answer.choices[0].message.content]
        )
        assert "".join(part or "" for part in parts) == "abc " * 60

    used = {"prompt_tokens": 20, "completion_tokens": 60, "total_tokens": 80}

    def moved(said: dict[str, Any]) -> dict[str, Any]:
        if said["object"] != "chat.completion.chunk":
            return said
        has_ended = any(choice["finish_reason"] for choice in said["choices"])
        return {**said, "usage": None, "x_groq": {"id": "req_1", "usage": used if has_ended else None}}

    if tells == "in x_groq":
        provider.odd(edit=moved, times=None)
    provider.answer(output_tokens=60, input_tokens=20)
    with instrument(), budget("groq", usd="0.0005") as b:
        with pytest.raises(BudgetExceeded):
            while True:
                ask()
                ask(stream=True)
                assert b.spent_usd == provider.bill.usd
    assert len(provider.requests) == b.spent_calls > 3
    assert {record.provider_name for record in farebox.calls()} == {"groq"}
