"""A proxy between the program and the provider: `proxy=` of the HTTP client, or `HTTP_PROXY`."""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest

from farebox import BudgetExceeded, budget
from tests.acceptance.live_server import encrypted
from tests.acceptance.rides import (
    NO_CERTIFICATES,
    OVER,
    Ride,
    bound_of,
    is_charged_by_what_came,
    nothing_is_left,
    only_record,
    outcomes,
    spent_at_least_the_bill,
    stormproof,
)
from tests.acceptance.test_retries import ERRORS
from tests.acceptance.test_stream_endings import long

pytestmark = pytest.mark.usefixtures("metered")

#: Long enough for `long` to be left in the middle.
CAP = 2_000


class Proxy:
    """Forwards requests in the clear and opens tunnels, whatever they are for, to one provider; or answers itself.

    `refuses` is the status it answers a request or a tunnel with; `forwards_first` has the provider answer before; `hangs_up`
    closes the connection in its place.
    """

    def __init__(self, provider_port: int) -> None:
        self.provider_port = provider_port
        self.asked: list[str] = []
        self.refuses = 0
        self.forwards_first = self.hangs_up = False
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._socket, *self._open):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: Any) -> None:
        provider = socket.create_connection(("127.0.0.1", self.provider_port))
        self._open.append(provider)
        with suppress(OSError), client, provider:
            head, body = self._read(client)
            method, target, rest = head.split(" ", 2)
            self.asked.append(f"{method} {target}")
            is_tunnel = method == "CONNECT"
            path = urlsplit(target).path
            rest = rest.replace("HTTP/1.1", "HTTP/1.1\r\nConnection: close", 1)
            forwarded = f"{method} {path} {rest}".encode() + body
            if self.hangs_up or self.refuses:
                if self.forwards_first:
                    provider.sendall(forwarded)
                    provider.recv(65_536)
                if self.refuses:
                    client.sendall(
                        f"HTTP/1.1 {self.refuses} No\r\nContent-Length: 3\r\nConnection: close\r\n\r\nno\n".encode()
                    )
                return
            if is_tunnel:
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                client = encrypted(ssl.PROTOCOL_TLS_SERVER).wrap_socket(client, server_side=True)
                self._open.append(client)
            else:
                provider.sendall(forwarded)
            threading.Thread(target=self._pump, args=(client, provider), daemon=True).start()
            self._pump(provider, client)

    def _read(self, client: Any) -> tuple[str, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            more = client.recv(65_536)
            if not more:
                raise OSError
            data += more
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.decode().lower().split("\r\n")
        length = next((int(line.partition(":")[2]) for line in lines if line.startswith("content-length:")), 0)
        while len(body) < length:
            body += client.recv(65_536)
        return head.decode() + "\r\n\r\n", body

    def _pump(self, source: Any, sink: Any) -> None:
        with suppress(OSError):
            while data := source.recv(65_536):
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(provider: Any) -> Iterator[Proxy]:
    with Proxy(urlsplit(provider.openai_base_url).port or 0) as proxy:
        yield proxy


@pytest.fixture(params=["forward", "tunnel", "environment"])
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["sync", "async"])
def ask(request: pytest.FixtureRequest, made: Any, ride: Ride) -> Callable[..., Any]:
    """Makes a client, asks through it and has the answer read by `read`, sync or async."""

    async def ask_async(options: dict[str, Any], words: dict[str, Any], most: int) -> None:
        async with made("async", **options) as client:
            answer = await ride.ask(client, **words)
            if "stream" in words:
                chunks = aiter(answer)
                with suppress(StopAsyncIteration):
                    for _ in range(most):
                        await anext(chunks)
                await answer.close()

    def ask(max_retries: int = 0, most: int = 100_000, **words: Any) -> None:
        options = {"max_retries": max_retries}
        if request.param == "async":
            asyncio.run(ask_async(options, words, most))
            return
        with made("sync", **options) as client:
            answer = ride.ask(client, **words)
            if "stream" in words:
                for _, _ in zip(range(most), answer, strict=False):
                    pass
                answer.close()

    return ask


@pytest.fixture
def made(ride: Ride, provider: Any, proxy: Proxy, way: str, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    for name in ("NO_PROXY", "no_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.delenv(name, raising=False)
    if way == "environment":
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
    sdk = openai if ride.name == "openai" else anthropic
    url = urlsplit(provider.openai_base_url if ride.name == "openai" else provider.anthropic_base_url)
    options: dict[str, Any] = {"base_url": f"https://api.test{url.path}"} if way == "tunnel" else {}

    def make(kind: str, **changes: Any) -> Any:
        of_async = sdk.DefaultAioHttpClient if OVER == "aiohttp" else sdk.DefaultAsyncHttpxClient
        http = of_async if kind == "async" else sdk.DefaultHttpxClient
        verify = encrypted(ssl.PROTOCOL_TLS_CLIENT) if way == "tunnel" else NO_CERTIFICATES
        http_client = http(verify=verify) if way == "environment" else http(verify=verify, proxy=proxy.url)
        client = ride.async_client if kind == "async" else ride.client
        return client(provider, http_client=http_client, **options, **changes)

    return make


@pytest.fixture(autouse=True)
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    for client in (openai.OpenAI, openai.AsyncOpenAI, anthropic.Anthropic, anthropic.AsyncAnthropic):
        monkeypatch.setattr(client, "_calculate_retry_timeout", lambda *_args, **_kwargs: 0.001)


def test_calls_and_streams_are_charged_their_bill(provider: Any, proxy: Proxy, ask: Any, way: str) -> None:
    with stormproof(provider), budget(usd=1) as paid:
        ask()
        ask(stream=True)
    assert outcomes() == ["completed"] * 2
    assert paid.spent_usd == provider.bill.usd
    assert [asked.split(" ")[0] for asked in proxy.asked] == ["CONNECT" if way == "tunnel" else "POST"] * 2


def test_a_stream_that_is_closed_early_is_charged_by_what_came(provider: Any, ask: Any) -> None:
    long(provider)
    with budget(usd=1):
        ask(stream=True, max_tokens=CAP, most=10)
        provider.wait_until_idle(timeout=20)
        spent_at_least_the_bill(provider)
    assert only_record().outcome == "closed"
    assert is_charged_by_what_came(only_record())
    nothing_is_left()


@pytest.mark.parametrize("max_retries", [0, 2])
def test_a_proxy_that_is_not_there_costs_nothing(
    ride: Ride, provider: Any, proxy: Proxy, ask: Any, max_retries: int
) -> None:
    proxy.__exit__()
    with budget(usd=bound_of(ride).usd(1)) as paid, pytest.raises(ERRORS) as raised:
        ask(max_retries=max_retries)
    assert not isinstance(raised.value, BudgetExceeded)
    assert outcomes() == ["failed"]
    assert only_record().attempts == max_retries + 1
    assert paid.spent_usd == provider.bill.usd == 0


@pytest.mark.parametrize("max_retries", [0, 2])
@pytest.mark.parametrize("status", [407, 502, 503])
def test_what_a_proxy_refuses_costs_nothing(
    ride: Ride, provider: Any, proxy: Proxy, ask: Any, status: int, max_retries: int
) -> None:
    proxy.refuses = status
    with budget(usd=bound_of(ride).usd(1)) as paid, pytest.raises(ERRORS):
        ask(max_retries=max_retries)
    assert outcomes() == ["failed"]
    assert paid.spent_usd == provider.bill.usd == 0
    assert only_record().attempts == len(proxy.asked)


def test_a_proxy_that_hangs_up_after_it_has_asked_is_presumed_spent(
    ride: Ride, provider: Any, proxy: Proxy, ask: Any, way: str
) -> None:
    if way == "tunnel":
        provider.drop("billing", times=1)
    else:
        proxy.hangs_up = proxy.forwards_first = True
    with stormproof(provider), budget(usd=1), pytest.raises(ERRORS):
        ask()
    assert only_record().outcome == "unknown"
    assert only_record().usd == only_record().bound_usd >= provider.bill.usd > 0
