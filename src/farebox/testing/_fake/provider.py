"""The face of the fake provider."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

from farebox.testing._fake import lanes
from farebox.testing._fake.answer import Answer, Tokenizer, count_tokens
from farebox.testing._fake.bill import Bill, Till
from farebox.testing._fake.dialect import Fault
from farebox.testing._fake.exchange import Exchange, StreamBilling
from farebox.testing._fake.gate import Gate
from farebox.testing._fake.lanes import Lanes
from farebox.testing._fake.odd import UNCHANGED, Body, Odd, StreamUsage
from farebox.testing._fake.other import Other
from farebox.testing._fake.prices import PRICES, Price
from farebox.testing._fake.request import Request, RequestLog
from farebox.testing._fake.script import Drop, DropAfter, Fail, Hang, Script
from farebox.testing._fake.server import Connection, Incoming, Server
from farebox.testing._fake.websocket import WebSocket, wants_websocket


class FakeProvider:
    """A local server that speaks the formats of OpenAI, Anthropic, Google, Mistral and Cohere and keeps its own bill.

    OpenAI's chat completions, responses (also in the background, asked after later, and over a websocket), old completions
    and embeddings; Anthropic's messages; Google's generateContent, embeddings, interactions, pictures, videos, batches and
    caches, which all count tokens for free; Mistral's chat completions, text filled in, embeddings, moderation, documents
    and transcriptions; Cohere's chat, generation, embeddings and reranking.

    >>> with FakeProvider() as provider:
    ...     provider.answer(output_tokens=20)
    ...     # OpenAI(base_url=provider.openai_base_url, api_key="fake").chat.completions.create(...)
    ...     provider.bill.calls
    0

    The bill is written before any byte of an answer is sent. What goes wrong inside the provider, or in a function it
    was given, is raised by `stop()`. Every behaviour takes `times` (the next so many requests; None: from now on) and
    `model` (only requests for it; a pattern such as "claude-*"). Requests take their behaviours when they arrive, in
    the order they arrive; a request that is refused as malformed takes none.

    Args:
        prices: Added to, or put over, the built-in ones, by model. A model without a price is answered 404.
        tokenizer: Counts the tokens of a text; the default is a token per four bytes, rounded up.
        stream_billing: "whole" charges a stream in full before it starts; "generated" charges each chunk before it is
            sent, and stops when the client has gone. A paced stream is always charged as it is generated.
        clock: Gives the epoch seconds of the records; nothing waits by it.
    """

    def __init__(
        self,
        *,
        prices: Mapping[str, Price] | None = None,
        tokenizer: Tokenizer = count_tokens,
        stream_billing: StreamBilling = "whole",
        clock: Callable[[], float] = time.time,
    ) -> None:
        if stream_billing not in ("whole", "generated"):
            raise ValueError(f"stream_billing={stream_billing!r}; it is 'whole' or 'generated'")
        self._script = Script()
        self._gate = Gate()
        self._till = Till()
        self._log = RequestLog()
        self._stopping = threading.Event()
        exchange = Exchange(
            script=self._script,
            gate=self._gate,
            till=self._till,
            log=self._log,
            prices={**PRICES, **(prices or {})},
            tokenizer=tokenizer,
            clock=clock,
            stream_billing=stream_billing,
            stopping=self._stopping,
        )
        self._shelf = exchange.shelf
        self._desk = exchange.desk
        self._exchange = exchange
        self._server = Server(self._serve, self._stopping)

    # --- running ---------------------------------------------------------------------------------------------------

    def _serve(self, incoming: Incoming, connection: Connection) -> None:
        if wants_websocket(incoming) and incoming.path == lanes.PATH:
            Lanes(self._exchange, WebSocket(incoming, connection), connection).converse()
        else:
            self._exchange.serve(incoming, connection)

    def start(self) -> FakeProvider:
        """Listen on a free loopback port. A provider runs once."""
        if self._server.port:
            raise RuntimeError("this provider was started before; make a new one")
        self._server.start()
        return self

    def stop(self) -> None:
        """Let go of everything held or hanging, close all connections, and raise what went wrong inside."""
        self._close()
        errors, self._server.errors = self._server.errors, []
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise ExceptionGroup("the fake provider broke", errors)

    def _close(self) -> None:
        self._stopping.set()
        self._gate.release()
        self._server.stop()

    def __enter__(self) -> FakeProvider:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.stop()
            return
        self._close()
        for inside in self._server.errors:  # most likely the cause of `error`, which must not be hidden
            error.add_note(f"the fake provider broke: {inside!r}")

    async def __aenter__(self) -> FakeProvider:
        return self.start()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)

    @property
    def openai_base_url(self) -> str:
        """For `OpenAI(base_url=...)`."""
        return f"{self.anthropic_base_url}/v1"

    @property
    def anthropic_base_url(self) -> str:
        """For `Anthropic(base_url=...)`."""
        if not self._server.port:
            raise RuntimeError("this provider is not running; use it in a `with`, or call start()")
        return f"http://127.0.0.1:{self._server.port}"

    @property
    def google_base_url(self) -> str:
        """For `genai.Client(http_options={"base_url": ...})`."""
        return self.anthropic_base_url

    @property
    def cohere_base_url(self) -> str:
        """For `cohere.ClientV2(base_url=...)`."""
        return f"{self.anthropic_base_url}/cohere"

    @property
    def mistral_base_url(self) -> str:
        """For `Mistral(server_url=...)`."""
        return f"{self.anthropic_base_url}/mistral"

    # --- what it answers -------------------------------------------------------------------------------------------

    def answer(
        self,
        answer: Answer | Callable[[Request], Answer] | None = None,
        *,
        times: int | None = None,
        model: str | None = None,
        output_tokens: int | None = None,
        reasoning_tokens: int = 0,
        cached_tokens: int = 0,
        cache_write_tokens: int = 0,
        cache_write_1h_tokens: int = 0,
        text: str | None = None,
        input_tokens: int | None = None,
        overrun_tokens: int = 0,
        served_model: str | None = None,
        function: str = "",
        web_searches: int = 0,
        file_searches: int = 0,
        pictures: int = 0,
        runs_code: bool = False,
        fails: bool = False,
    ) -> None:
        """What the model wants to say from now on, or to the next `times` requests; see `Answer` for the fields.

        Give an `Answer`, a function from the `Request` to one (called in the request's own thread), or the fields.
        """
        fields: dict[str, Any] = {
            "output_tokens": output_tokens,
            "reasoning_tokens": reasoning_tokens,
            "cached_tokens": cached_tokens,
            "cache_write_tokens": cache_write_tokens,
            "cache_write_1h_tokens": cache_write_1h_tokens,
            "text": text,
            "input_tokens": input_tokens,
            "overrun_tokens": overrun_tokens,
            "served_model": served_model,
            "function": function,
            "web_searches": web_searches,
            "file_searches": file_searches,
            "pictures": pictures,
            "runs_code": runs_code,
            "fails": fails,
        }
        if answer is not None and any(fields.values()):
            raise ValueError("give an answer or its fields, not both")
        self._script.answers.add(answer or Answer(**fields), times, model)

    def serve(self, path: str, payload: Any) -> None:
        """Answer every request to `path`, such as "/v1/files", with this JSON from now on, whatever it holds, for free."""
        self._exchange.others.insert(0, Other(path, payload))

    def refuse(self, field: str, status: int = 400, message: str | None = None) -> None:
        """Refuse every request whose body has this field, as servers do that do not know it, and charge nothing."""
        said = f"Unsupported parameter: '{field}' is not supported." if message is None else message
        self._exchange.refused[field] = Fault(status, said, param=field)

    def chunks(self, count: int, *, times: int | None = None, model: str | None = None) -> None:
        """Split streams into `count` chunks of text, as far as there are tokens; otherwise one per eight tokens."""
        if count < 1:
            raise ValueError(f"count={count}; a stream has 1 chunk or more")
        self._script.chunks.add(count, times, model)

    def background(self, looks: int, *, batches_tell_usage: bool = True) -> None:
        """Answers made in the background, and batches, are from now on found unfinished by the first `looks` requests.

        `batches_tell_usage` False: what a batch used together is only in its results.

        They are charged in full when they are asked for.
        """
        if looks < 0:
            raise ValueError(f"looks={looks}; it is 0 or more")
        self._shelf.looks = looks
        self._desk.tells_usage = batches_tell_usage

    def fail(
        self,
        status: int = 500,
        *,
        times: int | None = 1,
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
        message: str = "The fake provider was told to fail.",
    ) -> None:
        """Answer with an error status and charge nothing; `headers={"retry-after-ms": "1"}` has SDKs retry at once."""
        self._script.fails.add(Fail(status, message, dict(headers or {})), times, model)

    def delay(self, seconds: float, *, times: int | None = None, model: str | None = None) -> None:
        """Wait before charging and answering. A request whose client leaves meanwhile is charged all the same."""
        self._script.delays.add(seconds, times, model)

    def pace(self, seconds_per_chunk: float, *, times: int | None = None, model: str | None = None) -> None:
        """Wait between the chunks of a stream, charge as they are generated, and stop when the client has gone."""
        self._script.paces.add(seconds_per_chunk, times, model)

    def drop(
        self, after: DropAfter = "billing", *, chunks: int = 3, times: int | None = 1, model: str | None = None
    ) -> None:
        """Close the connection: on "arrival" (not charged), after "billing", or after so many "chunks" of a stream.

        A plain answer that is dropped after "chunks" ends in the middle of its body.
        """
        if after not in ("arrival", "billing", "chunks"):
            raise ValueError(f"after={after!r}; it is 'arrival', 'billing' or 'chunks'")
        self._script.drops.add(Drop(after, chunks), times, model)

    def hang(self, seconds: float | None = None, *, times: int | None = 1, model: str | None = None) -> None:
        """Charge, and answer only after `seconds`; None: never."""
        self._script.hangs.add(Hang(seconds), times, model)

    def odd(
        self,
        *,
        body: Body | None = None,
        content_type: str | None = None,
        usage: Any = UNCHANGED,
        edit: Callable[[dict[str, Any]], Any] | None = None,
        stream_usage: StreamUsage | None = None,
        unknown_events: bool = False,
        error_after: int | None = None,
        times: int | None = 1,
        model: str | None = None,
    ) -> None:
        """Charge as always, and send something odd with status 200.

        Args:
            body: Bytes or text in place of the body, or a function of its bytes: `lambda body: body[:40]` cuts it.
            content_type: In place of the usual one.
            usage: In place of the usage: any JSON value, `ABSENT` for none, or a function of the usage. In a stream of
                messages both `message_start` and `message_delta` carry one.
            edit: A function of the payload; in a stream of that of every event, None dropping it.
            stream_usage: Chat streams only. "each": on every chunk, the output counted so far, asked for or not;
                "never": although asked for; "with_choice": in a chunk that has a choice; "trailing": then one more
                chunk without.
            unknown_events: A stream with an event of an unknown type after each event.
            error_after: An error event in place of the rest of a stream, after so many chunks.
        """
        if stream_usage not in (None, "each", "never", "with_choice", "trailing"):
            raise ValueError(f"stream_usage={stream_usage!r}; it is 'each', 'never', 'with_choice' or 'trailing'")
        odd = Odd(
            body=body,
            content_type=content_type,
            usage=usage,
            edit=edit,
            stream_usage=stream_usage,
            unknown_events=unknown_events,
            error_after=error_after,
        )
        self._script.odds.add(odd, times, model)

    def reset(self) -> None:
        """Forget every behaviour and open the gate; the bill, the requests and the answers kept stay."""
        self._script.clear()
        self._shelf.looks = 0
        self._gate.release()

    # --- in flight -------------------------------------------------------------------------------------------------

    def hold(self, *, after_chunks: int | None = None) -> None:
        """Let requests arrive and wait before they are charged; with `after_chunks` streams wait after so many chunks.

        `after_chunks=0` waits after the headers.
        """
        self._gate.hold(after_chunks)

    def release(self, count: int | None = None) -> None:
        """Let the `count` earliest held requests go on; None: all, and stop holding."""
        self._gate.release(count)

    @property
    def in_flight(self) -> int:
        """Requests that have arrived and are not done with."""
        return self._gate.in_flight

    def wait_until_in_flight(self, count: int, timeout: float = 5.0) -> None:
        """Wait until at least `count` requests are in flight. TimeoutError after `timeout` seconds."""
        if not self._gate.wait_until(count, timeout):
            raise TimeoutError(f"{self.in_flight} requests in flight after {timeout} seconds, not {count}")

    def wait_until_idle(self, timeout: float = 5.0) -> None:
        """Wait until no request is in flight: all are answered, or given up as their clients left."""
        if not self._gate.wait_until(None, timeout):
            raise TimeoutError(f"{self.in_flight} requests still in flight after {timeout} seconds")

    # --- what it saw and charged -----------------------------------------------------------------------------------

    @property
    def bill(self) -> Bill:
        """What was charged up to now."""
        return self._till.bill()

    def bill_table(self) -> str:
        """The bill for people."""
        return self.bill.table()

    @property
    def requests(self) -> list[Request]:
        """Every HTTP request up to now, in the order of arrival, also those that failed."""
        return self._log.all()
