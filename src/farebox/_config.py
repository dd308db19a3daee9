"""What this process has been told: its ledger, its prices, its own tags, the useful minimum of an answer."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from types import MappingProxyType, TracebackType
from typing import Any, Final, Never

import attrs

from farebox._call import EMPTY_TAGS
from farebox._money import UsdLike
from farebox._needs import USEFUL_TOKENS, Needs
from farebox._tally import coarsen, fold
from farebox.ledgers import Ledger, open_ledger
from farebox.prices import RateCard, read_prices

PRICES_VARIABLE: Final = "FAREBOX_PRICES"


@attrs.frozen
class State:
    """One consistent set of answers; replaced whole, so a call in flight keeps the one it began with."""

    ledger: Ledger
    #: Where scope budgets are kept: always in this process's memory.
    scope_ledger: Ledger
    card: RateCard
    needs: Needs
    tags: Mapping[str, str] = EMPTY_TAGS
    useful_output_tokens: int = USEFUL_TOKENS


_lock = threading.RLock()
_state: State | None = None


def state() -> State:
    """The set in force, made on first use.

    Raises:
        ValueError: `FAREBOX_PRICES` is malformed; the message names the place.
    """
    return _state or _first_state()


def _first_state() -> State:
    global _state
    with _lock:
        if _state is None:
            memory = _open("memory://")
            _state = State(memory, memory, _card_with_prices_of(os.environ.get(PRICES_VARIABLE)), Needs())
        return _state


def _open(url: str) -> Ledger:
    return open_ledger(url, fold=fold, coarsen=coarsen)


def _card_with_prices_of(text: str | None) -> RateCard:
    return RateCard(read_prices(text) if text else ())


class Configuration:
    """What `configure()` returns: `undo()` restores what was there before; also a context manager."""

    def __init__(self, before: State) -> None:
        self._before: State | None = before

    def undo(self) -> None:
        """Restore; a second time does nothing."""
        global _state
        with _lock:
            if self._before is not None:
                _state, self._before = self._before, None

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
        ledger: A URL; `"memory://"` starts an empty one.  Calls in flight settle where they began.
        tags: Labels of every call of this process; those of a scope win over them.
        prices: Own prices, as in `FAREBOX_PRICES`: the path of a TOML file, or inline JSON.  They replace earlier ones.
        useful_output_tokens: The least cap worth sending where farebox chooses it (64); below it a call is refused.

    Returns:
        A handle that restores what was there before.

    Raises:
        ValueError: an unknown option or ledger, a malformed price.
    """
    global _state
    if unknown:
        word, value = next(iter(dict[str, Any](unknown).items()))
        raise ValueError(
            f"{word}={value!r} is no option of configure(); choose from ledger, tags, prices, useful_output_tokens"
        )
    changes: dict[str, Any] = {}
    if ledger is not None:
        opened = _open(ledger)
        changes |= {"ledger": opened, "scope_ledger": opened, "needs": Needs()}
    if tags is not None:
        changes["tags"] = MappingProxyType({name: str(value) for name, value in tags.items() if value is not None})
    if prices is not None:
        changes["card"] = _card_with_prices_of(prices)
    if useful_output_tokens is not None:
        if type(useful_output_tokens) is not int or useful_output_tokens < 1:
            raise ValueError(f"useful_output_tokens={useful_output_tokens!r} is no cap; give a whole number from 1 up")
        changes["useful_output_tokens"] = useful_output_tokens
    with _lock:
        before = state()
        _state = attrs.evolve(before, **changes)
    return Configuration(before)


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
