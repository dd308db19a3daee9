"""Batches: many requests sent as one call, bounded together and settled when their results are asked after."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from farebox._call import BATCH, Call, Part, Usage
from farebox.providers._uploads import Upload

#: What is added to a cap, as ledgers add it: the rows have no grant of their own.
_SLACK_TOKENS: Final = 16
#: Models that are told apart; the rows of one batch are of one or few.
_MOST_MODELS: Final = 64
#: The largest file of requests that is read (what OpenAI takes, `types/batch_create_params.py`), and files and results that
#: are remembered.
MOST_BYTES: Final = 200 * 2**20
_MOST_REMEMBERED: Final = 1_000
_PIECE: Final = 2**20
#: Why a batch can't be read.
UNSEEN_FILE: Final = "the file of this batch was not sent through a metered client of this process"


class Rows:
    """Adds up what the requests of a batch can use at most, by the model that they are for."""

    def __init__(self) -> None:
        self.count = 0
        self.unbounded: tuple[str, ...] = ()
        self._parts: dict[str, Part] = {}
        self._units: dict[str, int] = {}
        self._searches = 0
        self._has_images = self._has_audio = self._writes_long = False

    def add(self, row: Call | None) -> None:
        """One request, as the provider reads it; None for one that it does not know."""
        self.count += 1
        if row is None:
            self.unbounded = (*self.unbounded, "a request that nobody can read")[:8]
            return
        tokens = (row.text_bytes + row.dense_bytes + 1) // 2 + row.extra_input_tokens
        capped = 0 if row.declared_cap is None else row.declared_cap + max(_SLACK_TOKENS, row.declared_cap // 100 + 1)
        fills = row.fills_context or bool(row.previous_response_id)
        self._add_part(
            Part(
                row.request_model,
                tokens,
                capped * row.choices,
                1,
                tokens,
                uncapped=row.choices if row.declared_cap is None else 0,
                filled=(1 + row.turns) * fills,
            )
        )
        for part in row.parts:
            self._add_part(part._replace(model=part.model or row.request_model))
        for name, most in row.most_units.items():
            self._units[name] = self._units.get(name, 0) + most
        self._searches += row.most_web_searches
        self._has_images |= row.has_images
        self._has_audio |= row.has_audio
        self._writes_long |= row.cache_write in ("1h", "12h")
        self.unbounded = tuple(dict.fromkeys((*self.unbounded, *row.unbounded)))[:8]

    def _add_part(self, part: Part) -> None:
        # Beyond a number of models that no batch has, all count as one that nobody knows: as the dearest there is.
        name = part.model if part.model in self._parts or len(self._parts) < _MOST_MODELS else "more models"
        before = self._parts.get(name)
        if before is None:
            self._parts[name] = part._replace(model=name, longest_input=part.longest_input or part.input_tokens)
            return
        self._parts[name] = Part(
            name,
            before.input_tokens + part.input_tokens,
            before.output_tokens + part.output_tokens,
            before.requests + part.requests,
            max(before.longest_input, part.longest_input or part.input_tokens),
            before.reads + part.reads,
            before.uncapped + part.uncapped,
            before.filled + part.filled,
        )

    def call(self, provider_name: str, endpoint: str, server_address: str) -> Call:
        """The call that the batch is."""
        call = Call(
            provider_name=provider_name,
            operation_name=BATCH,
            endpoint=endpoint,
            server_address=server_address,
            request_model=next(iter(self._parts), ""),
        )
        call.choices, call.accepts_cap, call.tier = 0, False, "batch"
        call.parts, call.most_units, call.most_web_searches = tuple(self._parts.values()), self._units, self._searches
        call.has_images, call.has_audio, call.unbounded = self._has_images, self._has_audio, self.unbounded
        call.cache_write = "known" if self._writes_long else "30m"
        call.messages = self.count
        return call


def settle(call: Call, rows: Iterable[Call]) -> None:
    """Write to a batch what its rows used together; what one of them says nothing of leaves the whole as it was held."""
    used: list[Usage] = []
    for row in rows:
        if row.usage is None:
            call.doubt = row.doubt or "a result has no usage"
            return
        used.append(row.usage)
        call.others += row.others
        call.response_model = row.response_model
    call.usage = Usage(*map(sum, zip(*used, strict=True))) if used else Usage()


def row_of(call: Call, endpoint: str) -> Call:
    """A call to read the result of one row into."""
    row = Call(
        provider_name=call.provider_name,
        operation_name="chat",
        endpoint=endpoint,
        server_address=call.server_address,
        request_model=call.request_model,
    )
    row.most_units, row.most_web_searches, row.cache_write = call.most_units, call.most_web_searches, call.cache_write
    return row


def lines_of(file: Upload) -> Iterator[bytes]:
    """The lines of a file that hold something, up to its first `MOST_BYTES`."""
    rest, at, size = b"", 0, min(file.size or 0, MOST_BYTES)
    while at < size:
        piece = file.read(at, _PIECE)
        if not piece:
            break
        at += len(piece)
        *whole, rest = (rest + piece).split(b"\n")
        yield from filter(bytes.strip, whole)
    if rest.strip():
        yield rest


def remember(known: dict[str, Any], name: str, value: Any) -> None:
    """Keep what is known of a file or a batch, and forget the oldest of too many."""
    if len(known) >= _MOST_REMEMBERED:
        known.pop(next(iter(known)), None)
    known[name] = value


def is_row(found: Mapping[str, object]) -> bool:
    """Whether a line of a results file is one."""
    return isinstance(found.get("custom_id"), str)
