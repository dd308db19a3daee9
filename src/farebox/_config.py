"""What this process has been told: its ledger, its prices, its own tags, the useful minimum of an answer."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Final, Never

import attrs

from farebox._call import EMPTY_TAGS, read_tags
from farebox._money import UsdLike
from farebox._needs import USEFUL_TOKENS, Needs
from farebox._tally import coarsen, fold
from farebox.ledgers import Ledger, open_ledger
from farebox.prices import RateCard, read_prices
from farebox.prices.bounds import InputEstimate

_MOST_ANSWERS: Final = 10_000

PRICES_VARIABLE: Final = "FAREBOX_PRICES"


@attrs.frozen
class State:
    """One consistent set of answers; replaced whole, so a call in flight keeps the one it began with."""

    ledger: Ledger
    #: Where scope budgets are kept: always in this process's memory.
    scope_ledger: Ledger
    card: RateCard
    needs: Needs
    input_estimate: InputEstimate
    tags: Mapping[str, str] = EMPTY_TAGS
    useful_output_tokens: int = USEFUL_TOKENS
    #: Tokens of the answers that a later call can go on from, by id; the oldest are forgotten first.
    answers: dict[str, int] = attrs.field(factory=dict)

    def remember_answer(self, response_id: str, tokens: int) -> None:
        """Keep how many tokens a call brings along that goes on from this answer."""
        self.answers[response_id] = tokens
        while len(self.answers) > _MOST_ANSWERS:
            self.answers.pop(next(iter(self.answers)), None)


#: Whether calls of any client have ever been metered in this process.
was_instrumented = False

_lock = threading.RLock()
#: What the process began with, what each `configure()` has set since and not taken back, and the two together.
_base: State | None = None
_layers: list[tuple[weakref.ref[Configuration], dict[str, Any]]] = []
_state: State | None = None


def state() -> State:
    """The set in force, made on first use.

    Raises:
        ValueError: `FAREBOX_PRICES` is malformed; the message names the place.
    """
    return _state or _first_state()


def _first_state() -> State:
    global _base, _state
    with _lock:
        if _state is None:
            memory = _open("memory://")
            _base = _state = State(
                memory, memory, _card_with_prices_of(os.environ.get(PRICES_VARIABLE)), Needs(), InputEstimate()
            )
        return _state


def _open(url: str) -> Ledger:
    return open_ledger(url, fold=fold, coarsen=coarsen)


def _card_with_prices_of(text: str | None) -> RateCard:
    return RateCard(read_prices(text) if text else ())


class Configuration:
    """What `configure()` returns: `undo()` takes back what it set; also a context manager."""

    def undo(self) -> None:
        """Take back what this one set, in whatever order; a second time does nothing."""
        with _lock:
            _layers[:] = [layer for layer in _layers if layer[0]() is not self]
            _rebuild()

    def __enter__(self) -> Configuration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


def configure(
    *,
    ledger: str | None = None,
    tags: Mapping[str, object] | None = None,
    prices: str | None = None,
    useful_output_tokens: int | None = None,
    **unknown: Never,
) -> Configuration:
    """Set what is given, leave the rest.

    Args:
        ledger: A URL; `"memory://"` starts an empty one, that has learnt nothing of calls yet.  Calls in flight settle where they began.
        tags: Labels of every call of this process; those of a scope win over them.
        prices: Own prices, as in `FAREBOX_PRICES`: the path of a TOML file, or inline JSON.  They replace earlier ones.
        useful_output_tokens: The least cap worth sending where farebox chooses it (64); below it a call is refused.

    Returns:
        A handle that restores what was there before.

    Raises:
        ValueError: an unknown option or ledger, a malformed price.
        TypeError: a word of the wrong type.
    """
    if unknown:
        word, value = next(iter(dict[str, Any](unknown).items()))
        raise ValueError(
            f"{word}={value!r} is no option of configure(); choose from ledger, tags, prices, useful_output_tokens"
        )
    changes: dict[str, Any] = {}
    for word, text, example in (("ledger", ledger, "memory://"), ("prices", prices, "prices.toml")):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{word}={text!r} is a {type(text).__name__}; write {word}={example!r}")
    if ledger is not None:
        opened = _open(ledger)
        changes |= {"ledger": opened, "needs": Needs(), "input_estimate": InputEstimate(), "answers": {}}
    if tags is not None:
        changes["tags"] = read_tags(tags)
    if prices is not None:
        changes["card"] = _card_with_prices_of(prices)
    if useful_output_tokens is not None:
        if type(useful_output_tokens) is not int or useful_output_tokens < 1:
            raise ValueError(f"useful_output_tokens={useful_output_tokens!r} is no cap; give a whole number from 1 up")
        changes["useful_output_tokens"] = useful_output_tokens
    with _lock:
        state()
        handle = Configuration()
        _layers.append((weakref.ref(handle), changes))
        _rebuild()
    return handle


def _rebuild() -> None:
    """Lay what was set over what the process began with, and settle what nobody can take back any more."""
    global _base, _state
    assert _base is not None
    while _layers and _layers[0][0]() is None:
        _base = attrs.evolve(_base, **_layers.pop(0)[1])
    _state = _base
    for _, changes in _layers:
        _state = attrs.evolve(_state, **changes)


def set_price(
    model: str,
    *,
    input_per_million: UsdLike,
    output_per_million: UsdLike,
    cache_read_per_million: UsdLike | None = None,
    cache_write_per_million: UsdLike | None = None,
    provider: str | None = None,
) -> None:
    """Price a model in USD per million tokens, over everything else; 0 says that it is free.

    A trailing `*` covers every model that starts so: `set_price("my-llm-*", ...)`.
    """
    state().card.set_price(
        model,
        input_per_million=input_per_million,
        output_per_million=output_per_million,
        cache_read_per_million=cache_read_per_million,
        cache_write_per_million=cache_write_per_million,
        provider=provider,
    )
