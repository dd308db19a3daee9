"""What the storms share: three SDKs behind one face, and the oracle that every one of them is held against.

A `Ride` is an SDK with a model of fixed price.  `stormproof` samples, all through a storm, that what the books say is never
below what the provider has billed, and that the bill stays within the limit; and looks afterwards that nothing is left over.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import importlib.util
import inspect
import os
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import openai
import pytest

import farebox
from farebox import _config
from farebox.testing import FakeProvider

MESSAGES = [{"role": "user", "content": "hello there, how are you?"}]
CAP = 100
#: What the openai package is built on: httpx2 since its version 3, httpx before.
HTTPX: Any = importlib.import_module(openai.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])


#: What carries the requests of the clients, where it is not what the SDKs come with: a row of the environments says so.
OVER: Final = os.environ.get("TESTED_OVER", "")

#: All is on loopback and in the clear: to load the certificates of the system takes 40 ms a client.
NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def led(provider: FakeProvider, is_async: bool = False, *, sdk: Any = openai, path: Callable[[str], str] = str) -> Any:
    """A transport that leads every request to the provider, whatever address it was for; `path` says which is its path there."""
    httpx: Any = importlib.import_module(sdk.DefaultHttpxClient.__mro__[1].__module__.partition(".")[0])
    base: Any = httpx.AsyncHTTPTransport if is_async else httpx.HTTPTransport
    here = httpx.URL(provider.anthropic_base_url)

    def turned(request: Any) -> Any:
        request.url = request.url.copy_with(scheme="http", host=here.host, port=here.port, path=path(request.url.path))
        request.headers["host"] = f"{here.host}:{here.port}"
        return request

    class Led(base):  # type: ignore[misc]
        def handle_request(self, request: Any) -> Any:
            return super().handle_request(turned(request))

        async def handle_async_request(self, request: Any) -> Any:
            return await super().handle_async_request(turned(request))

    return Led(verify=NO_CERTIFICATES)


def needs(owner: Any, name: str, parameter: str = "") -> Any:
    """`owner.name`; the test is skipped where this version of the SDK has none, or none that takes `parameter`."""
    found = getattr(owner, name, None)
    if found is None or (parameter and parameter not in inspect.signature(found).parameters):
        sdk = type(owner).__module__.partition(".")[0].replace("google", "google.genai")
        lacks = f"{type(owner).__name__}.{name}" + (f"({parameter}=)" if parameter else "")
        pytest.skip(f"{sdk} {importlib.import_module(sdk).__version__} has no {lacks}")
    return found


def sdk_class(name: str) -> str:
    return {"openai": "OpenAI", "anthropic": "Anthropic"}[name]


@attrs.frozen
class Ride:
    """One SDK: `client` or `async_client` makes clients, `ask` and `stream` call through either kind."""

    name: str
    model: str
    usd_nanos_per_output_token: int

    def __str__(self) -> str:
        return self.name

    def client(self, provider: FakeProvider, **options: Any) -> Any:
        return self._made("", provider, options)

    def async_client(self, provider: FakeProvider, **options: Any) -> Any:
        return self._made("Async", provider, options)

    def here(self, provider: FakeProvider) -> str:
        """The address that the fake provider has; to farebox it is a server of nobody's it knows."""
        return provider.openai_base_url if self.name == "openai" else provider.anthropic_base_url

    def _made(self, prefix: str, provider: FakeProvider, options: dict[str, Any]) -> Any:
        """A client of the vendor's own address, whose requests are led to the provider; or of the `base_url` given."""
        import anthropic

        sdk = openai if self.name == "openai" else anthropic
        options = {"api_key": "fake", "max_retries": 0, "timeout": 20.0, **options}
        is_led = "base_url" not in options and OVER != "aiohttp"
        if not is_led or "http_client" in options:
            options = {"base_url": self.here(provider), **options}
        if "http_client" in options:
            return getattr(sdk, prefix + sdk_class(self.name))(**options)
        if prefix and OVER == "aiohttp":
            http_client = sdk.DefaultAioHttpClient(timeout=options["timeout"])
        else:
            transport = sdk.DefaultAsyncHttpxClient if prefix else sdk.DefaultHttpxClient
            way = {"transport": led(provider, bool(prefix), sdk=sdk)} if is_led else {"verify": NO_CERTIFICATES}
            http_client = transport(timeout=options["timeout"], **way)
        return getattr(sdk, prefix + sdk_class(self.name))(http_client=http_client, **options)

    def api(self, client: Any) -> Any:
        """Where `create` and the helpers are."""
        return client.chat.completions if self.name == "openai" else client.messages

    def words(self, **changes: Any) -> dict[str, Any]:
        return {"model": self.model, "messages": MESSAGES, "max_tokens": CAP, **changes}

    def ask(self, client: Any, **changes: Any) -> Any:
        return self.api(client).create(**self.words(**changes))

    def stream(self, client: Any, **changes: Any) -> Any:
        return self.ask(client, stream=True, **changes)

    def helper(self, client: Any, **changes: Any) -> Any:
        """The SDK's own stream helper: a manager to enter."""
        return self.api(client).stream(**self.words(**changes))

    def raw(self, client: Any, **changes: Any) -> Any:
        return self.api(client).with_raw_response.create(**self.words(**changes))

    def streaming_response(self, client: Any, **changes: Any) -> Any:
        return self.api(client).with_streaming_response.create(**self.words(**changes))


def _closable(kind: Any) -> Any:
    """Google's client, which before 1.44 or so can't be entered and closed."""
    if hasattr(kind, "__enter__"):
        return kind
    http: Any = importlib.import_module("google.genai.client")

    async def aclose(aio: Any, *_: object) -> None:
        await aio._api_client._async_httpx_client.aclose()

    async def same(aio: Any) -> Any:
        return aio

    http.AsyncClient.__aenter__, http.AsyncClient.__aexit__ = same, aclose
    kind.__enter__ = lambda client: client
    kind.__exit__ = lambda client, *_: client._api_client._httpx_client.close()
    return kind


class GoogleRide(Ride):
    """Google's SDK: other words, one client for sync and async, and streams that are sent when they are first read.

    It has no helpers and no raw responses, so it rides where the storms are about money and not about surfaces.
    """

    def _made(self, prefix: str, provider: FakeProvider, options: dict[str, Any]) -> Any:
        from google import genai

        options = {"max_retries": 0, "timeout": 20.0, **options}
        http_options: dict[str, Any] = {
            "base_url": options.get("base_url", provider.google_base_url),
            "timeout": int(options["timeout"] * 1000),
            "client_args": {"verify": NO_CERTIFICATES},
            "async_client_args": {"verify": NO_CERTIFICATES},
        }
        if options["max_retries"]:
            http_options["retry_options"] = {
                "attempts": options["max_retries"] + 1,
                "initial_delay": 0.001,
                "max_delay": 0.001,
                "http_status_codes": [408, 409, 429, 500, 502, 503, 504],
            }
        client = _closable(genai.Client)(api_key="fake", http_options=http_options)
        if prefix:
            client.aio.__dict__["kept"] = client  # it closes what both send through when it is gone
        return client.aio if prefix else client

    def words(self, **changes: Any) -> dict[str, Any]:
        said = changes.pop("messages", MESSAGES)
        contents = [{"role": "user", "parts": [{"text": one["content"]}]} for one in said]
        cap = changes.pop("max_tokens", CAP)
        config = changes if cap is None else {"max_output_tokens": cap, **changes}
        return {"model": changes.pop("model", self.model), "contents": contents, "config": config}

    def ask(self, client: Any, **changes: Any) -> Any:
        if changes.pop("stream", False):
            return self.stream(client, **changes)
        return client.models.generate_content(**self.words(**changes))

    def stream(self, client: Any, **changes: Any) -> Any:
        return client.models.generate_content_stream(**self.words(**changes))


OPENAI = Ride("openai", "gpt-4o-mini", 600)
ANTHROPIC = Ride("anthropic", "claude-haiku-4-5", 5_000)
GOOGLE = GoogleRide("google", "gemini-2.5-flash-lite", 400)
RIDES = [OPENAI, ANTHROPIC]
#: Google's, where it is installed; what is only about it is skipped elsewhere, with this reason.
HAS_GOOGLE = importlib.util.find_spec("google") is not None and importlib.util.find_spec("google.genai") is not None
WITH_GOOGLE = pytest.mark.skipif(not HAS_GOOGLE, reason="google-genai is not installed")
#: For the storms in which a third SDK, with other plumbing, proves something new.
ALL_RIDES = [*RIDES, GOOGLE] if HAS_GOOGLE else RIDES


@attrs.frozen
class Bound:
    """What one call of `words()` holds."""

    usd_nanos: int
    tokens: int

    def usd(self, calls: int) -> str:
        return f"{farebox_usd(self.usd_nanos * calls):f}"


def farebox_usd(nanos: int) -> Any:
    from decimal import Decimal

    return Decimal(nanos).scaleb(-9)


@functools.cache
def bound_of(ride: Ride, cap: int = CAP, is_stream: bool = False) -> Bound:
    """Measured once a ride, apart from every storm; never below the cap at the provider's own price."""
    with FakeProvider() as provider, farebox.configure(ledger="memory://"), farebox.instrument():
        with ride.client(provider) as client, farebox.budget(usd=1_000):
            answer = ride.ask(client, max_tokens=cap, stream=is_stream)
            if is_stream:
                list(answer)
        (record,) = farebox.calls()
    nanos = int(record.bound_usd.scaleb(9))
    assert nanos >= cap * ride.usd_nanos_per_output_token
    return Bound(nanos, record.bound_tokens)


@contextlib.contextmanager
def stormproof(provider: FakeProvider, limit_usd: Any = None, *, least_samples: int = 1) -> Iterator[None]:
    """Sample the two halves of the promise while the storm lasts, then see that it left nothing behind."""
    over = threading.Event()
    faults: list[str] = []
    samples = 0

    def look() -> None:
        nonlocal samples
        bill = provider.bill  # before the books: both only grow, but for holds that settle at no less than the bill
        total = farebox.report().total
        samples += 1
        if total.usd + total.reserved_usd < bill.usd:
            faults.append(f"billed {bill.usd}, but spent {total.usd} and reserved {total.reserved_usd}")
        if limit_usd is not None and bill.usd > farebox_usd(0) + _decimal(limit_usd):
            faults.append(f"billed {bill.usd} of {limit_usd}")

    def watch() -> None:
        while not over.wait(0.005):
            look()

    watcher = threading.Thread(target=watch, name="stormproof")
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    look()
    assert samples >= least_samples
    assert not faults, faults[:3]
    nothing_is_left()


def _decimal(value: Any) -> Any:
    from decimal import Decimal

    return Decimal(str(value))


#: A record that stands for as many calls as it has messages.
BATCHED = ("batch", "completed")


def nothing_is_left() -> None:
    """No hold, no waiter, and each call in the report exactly once."""
    total = farebox.report().total
    assert total.reserved_usd == 0
    assert total.reserved_tokens == 0
    line = _config.state().ledger._book.line  # type: ignore[attr-defined]
    assert not line.tickets
    assert not line.queues
    records = farebox.calls()
    assert len({record.call_id for record in records}) == len(records)
    assert not [record for record in records if record.outcome == "open"]
    of_batches = sum(record.messages - 1 for record in records if (record.operation_name, record.outcome) == BATCHED)
    assert total.calls + total.refused_calls == len(records) + of_batches


def outcomes() -> list[str]:
    """How each call ended, oldest first."""
    return [record.outcome for record in farebox.calls()]


def only_record() -> Any:
    """The record of the only call."""
    (record,) = farebox.calls()
    return record


def is_charged_by_what_came(record: Any) -> bool:
    """Whether a stream that was closed early cost less than its bound."""
    return bool(record.usd < record.bound_usd)


def spent_at_least_the_bill(provider: FakeProvider) -> None:
    total = farebox.report().total
    assert total.usd + total.reserved_usd >= provider.bill.usd, provider.bill_table()


def run(main: Callable[[], Any]) -> Any:
    """`asyncio.run`, of a coroutine function."""
    return asyncio.run(main())


def google_errors() -> tuple[type[Exception], ...]:
    """What Google's SDK raises: its own error for a status, and that of its transport for what died."""
    if not HAS_GOOGLE:
        return ()
    errors: Any = importlib.import_module("google.genai.errors")
    transports = [sys.modules[name] for name in ("httpx", "httpx2") if name in sys.modules]
    aiohttp: Any = sys.modules.get("aiohttp")
    of_aiohttp = () if aiohttp is None else (aiohttp.ClientError, TimeoutError)
    return (errors.APIError, *(transport.HTTPError for transport in transports), *of_aiohttp)


def attempt(call: Callable[[], Any]) -> Any:
    """What a call answers, or the error it raises."""
    try:
        return call()
    except Exception as error:
        return error
