"""What this process has been told: its ledger, its standing budgets, its prices, its own tags."""

from __future__ import annotations

import atexit
import os
import threading
import weakref
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Final, Never, get_args

import attrs

from farebox import signals
from farebox._budget import Budget
from farebox._budget_words import OnLedgerError
from farebox._call import EMPTY_TAGS, Call, read_tags
from farebox._money import UsdLike
from farebox._needs import USEFUL_TOKENS, Needs, Site
from farebox._rows import FORM
from farebox._windows import read_span
from farebox.errors import LedgerUnavailable
from farebox.ledgers import Ledger, open_ledger
from farebox.prices import RateCard, read_prices
from farebox.prices.bounds import InputEstimate

if TYPE_CHECKING:
    from farebox._settings import Settings

_MOST_ANSWERS: Final = 10_000
_MOST_HOSTS: Final = 1_000
_UNDO_SECONDS: Final = 2.0

#: The tier of a request that names none, and the one that it is held at once its host has served a dear one.
UNNAMED_TIERS: Final = {"": "auto", "regional": "auto+regional"}
#: Tiers that an answer may name and that cost more than the standard one, if nobody has paid for them before.
DEAR_TIERS: Final = frozenset(
    tier + region
    for tier in ("priority", "fast", "ultrafast", "scale", "on_demand_priority")
    for region in ("", "+regional")
)


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
    #: Names that servers know models by, and the models that they are.
    deployments: Mapping[str, str] = EMPTY_TAGS
    #: Tokens of the answers that a later call can go on from, by id; the oldest are forgotten first.
    answers: dict[str, int] = attrs.field(factory=dict)
    #: Hosts that have served a dear tier to a request which named none: their project has another default than the usual one.
    dear_hosts: set[str] = attrs.field(factory=set)
    #: Whether somebody said where to keep money; the default forgets it with the process.
    is_ledger_chosen: bool = False
    #: Budgets over every call of the process.
    standing: tuple[Budget, ...] = ()
    #: What is remembered of accounts in `ledger`, by key; `_standing`'s.
    standing_notes: dict[str, Any] = attrs.field(factory=dict)
    #: What becomes of a call while the ledger does not answer: it is refused, or sent and charged later.
    on_ledger_error: OnLedgerError = "closed"

    def learn(self, site: Site, output_tokens: int, is_cut: bool) -> None:
        """Take note of one answer, here and for programs that start later."""
        self.ledger.learn(site.key, site.learn(output_tokens, is_cut))

    def remember_answer(self, response_id: str, tokens: int) -> None:
        """Keep how many tokens a call brings along that goes on from this answer."""
        self.answers[response_id] = tokens
        while len(self.answers) > _MOST_ANSWERS:
            self.answers.pop(next(iter(self.answers)), None)

    def remember_tier(self, call: Call) -> None:
        """Take note of a tier that was served: later calls to that host are held at the dearest, unless they name one."""
        if call.tier in UNNAMED_TIERS and len(self.dear_hosts) < _MOST_HOSTS:
            self.dear_hosts.add(call.server_address)


#: Whether calls of any client have ever been metered in this process.
was_instrumented = False

_lock = threading.RLock()
#: What the process began with, what each `configure()` has set since and not taken back, and the two together.
_base: State | None = None
_layers: list[tuple[weakref.ref[Configuration], dict[str, Any]]] = []
_state: State | None = None
#: The ledger that a file or the environment names, until it is opened: not before it is known that no code names another.
_unopened: Settings | None = None


def state() -> State:
    """The set in force, made on first use.

    Raises:
        ValueError: farebox.toml, `FAREBOX_PRICES` or another variable is malformed; the message names the place.
        LedgerUnavailable: the ledger they name can't be reached.
    """
    return _state or _first_state()


def _first_state() -> State:
    with _lock:
        _begin()
        _rebuild()
        assert _state is not None
        return _state


def _begin() -> None:
    """Read what files and the environment say, once."""
    global _base, _unopened
    if _base is not None:
        return
    from pathlib import Path

    from farebox._settings import read_settings

    settings = read_settings(os.environ, Path())
    memory = _open("memory://")
    begun = State(memory, memory, _card_with_prices_of(settings.prices), Needs(), InputEstimate())
    changes = _changes_of(
        tags=settings.tags,
        useful_output_tokens=settings.useful_output_tokens,
        on_ledger_error=settings.on_ledger_error,
        deployments=settings.deployments,
    )
    for budget in settings.budgets:
        budget.check_modes(begun.card)
    _base = attrs.evolve(begun, standing=settings.budgets, **changes)
    _unopened = settings if settings.ledger is not None else None


def _rebuild() -> None:
    """Lay what was set over what the process began with, and settle what nobody can take back any more."""
    global _base, _state, _unopened
    assert _base is not None
    while _layers and _layers[0][0]() is None:
        changes = _layers.pop(0)[1]
        _base = attrs.evolve(_base, **changes)
        if "ledger" in changes:
            _unopened = None
    if _unopened is not None and not any("ledger" in changes for _, changes in _layers):
        try:
            opened = _changes_of(ledger=_unopened.ledger, keep=_unopened.keep)
        except (ValueError, LedgerUnavailable) as error:
            raise type(error)(f"{_unopened.ledger_said_at}: {error}") from error
        _base, _unopened = attrs.evolve(_base, **opened), None
    made = _base
    for _, changes in _layers:
        made = attrs.evolve(made, **changes)
    made.card.name_deployments(made.deployments)
    for budget in made.standing:
        check_ledger(budget, made)
    _state = made


def _open(url: str, clock: Callable[[], float] | None = None) -> Ledger:
    ledger = open_ledger(url, form=FORM) if clock is None else open_ledger(url, form=FORM, clock=clock)
    # Exit handlers run last in, first out: what finalizers left is settled before the ledger writes all it has.
    atexit.unregister(signals.settle_late_calls)
    atexit.register(signals.settle_late_calls)
    return ledger


def _card_with_prices_of(text: str | None) -> RateCard:
    return RateCard(read_prices(text) if text else ())


class Configuration:
    """What `configure()` returns: `undo()` takes back what it set; also a context manager."""

    def undo(self) -> None:
        """Take back what this one set, in whatever order; a second time does nothing."""
        with _lock:
            mine = [changes for handle, changes in _layers if handle() is self]
            _layers[:] = [layer for layer in _layers if layer[0]() is not self]
            if mine:
                _rebuild()
        for changes in mine:
            if "ledger" in changes:
                changes["ledger"].flush(_UNDO_SECONDS)  # who looks into the store now finds what was settled
                changes["ledger"].retire()

    def __enter__(self) -> Configuration:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.undo()


def configure(
    *,
    ledger: str | None = None,
    budgets: Iterable[Any] | None = None,
    tags: Mapping[str, object] | None = None,
    prices: str | None = None,
    useful_output_tokens: int | None = None,
    on_ledger_error: OnLedgerError | None = None,
    keep: str | None = None,
    clock: Callable[[], float] | None = None,
    deployments: Mapping[str, str] | None = None,
    **unknown: Never,
) -> Configuration:
    """Set what is given, leave the rest.

    Args:
        ledger: Where money is kept, a URL: `"sqlite:///farebox.db"` for the processes of one machine, `"redis://host"` for
            many, `"memory://"` for this one; that starts an empty one.  Calls in flight settle where they began.
        budgets: Standing budgets over every call of this process, with or without a scope: `[budget("org", usd=100,
            per="day")]`.  They replace those set before.
        tags: Labels of every call of this process; those of a scope win over them.
        prices: Own prices, as in `FAREBOX_PRICES`: the path of a TOML file, or inline JSON.  They replace earlier ones.
        useful_output_tokens: The least cap worth sending where farebox chooses it (64); below it a call is refused.
        deployments: The models behind the names that a server knows them by, as Azure's deployments or a gateway's aliases:
            `{"prod-chat": "gpt-4o"}`.  Such a name is priced as that model.
        on_ledger_error: While the ledger does not answer, `"closed"` refuses calls with `LedgerUnavailable`, and `"open"`
            sends them and charges them once it answers again.
        keep: How long the ledger keeps the rows of single calls, such as `"90d"`; their sums are kept for ever.  Goes with
            `ledger`.
        clock: Epoch seconds for the windows of standing budgets, in tests: `farebox.testing.FixedClock()`.  Goes with `ledger`.

    Returns:
        A handle that restores what was there before.

    Raises:
        ValueError: an unknown option or ledger, a file that is no ledger or of a newer schema, a malformed price, a budget
            of a scope among `budgets`, two of one name, a standing budget and no ledger chosen to keep it in.
        TypeError: a word of the wrong type.
        LedgerUnavailable: the ledger can't be reached.
    """
    if unknown:
        word, value = next(iter(dict[str, Any](unknown).items()))
        raise ValueError(
            f"{word}={value!r} is no option of configure(); choose from ledger, budgets, tags, prices, "
            "useful_output_tokens, on_ledger_error, keep, clock, deployments"
        )
    with _lock:
        _begin()
        changes = _changes_of(
            ledger, budgets, tags, prices, useful_output_tokens, on_ledger_error, keep, clock, deployments
        )
        handle = Configuration()
        _layers.append((weakref.ref(handle), changes))
        try:
            _rebuild()
        except BaseException:
            _layers.pop()
            if "ledger" in changes:
                changes["ledger"].retire()
            raise
    return handle


def lay_ledger(url: str = "memory://") -> Configuration:
    """Lay a ledger over the one in force, for a test: what is kept there, and whether somebody chose it, is as before.

    A program that forgot to choose a ledger for its standing budgets so hears of it in tests too.  What is configured
    afterwards lies over this one.

    Args:
        url: As in `configure`.

    Returns:
        A handle that takes it away again, whatever was laid over it; also a context manager.

    Raises:
        ValueError, LedgerUnavailable: it can't be opened.
    """
    with _lock:
        _begin()
        assert _base is not None
        was_chosen = (
            _unopened is not None
            or _base.is_ledger_chosen
            or any(changes.get("is_ledger_chosen", False) for _, changes in _layers)
        )
        handle = configure(ledger=url)
        _layers[-1][1]["is_ledger_chosen"] = was_chosen
        _rebuild()
    return handle


def ledger_in_force() -> Ledger | None:
    """The ledger that calls go to now; None where that is not known yet: one that a file names is opened on first use."""
    with _lock:
        chosen: list[Ledger] = [changes["ledger"] for _, changes in _layers if "ledger" in changes]
        if chosen:
            return chosen[-1]
        return None if _base is None or _unopened is not None else _base.ledger


def forget() -> None:
    """Be as a process that begins: nothing is configured, and files and environment are read anew on first use.

    For tests.  Handles of what was configured take back nothing any more.
    """
    global _base, _state, _unopened
    with _lock:
        _layers.clear()
        _base = _state = _unopened = None


def _changes_of(
    ledger: str | None = None,
    budgets: Iterable[Any] | None = None,
    tags: Mapping[str, object] | None = None,
    prices: str | None = None,
    useful_output_tokens: int | None = None,
    on_ledger_error: OnLedgerError | None = None,
    keep: str | None = None,
    clock: Callable[[], float] | None = None,
    deployments: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Fields of a state, from the words of `configure`; the ledger is opened last, when all other words are right."""
    changes: dict[str, Any] = {}
    for word, text, example in (("ledger", ledger, "memory://"), ("prices", prices, "prices.toml")):
        if text is not None and not isinstance(text, str):
            raise TypeError(f"{word}={text!r} is a {type(text).__name__}; write {word}={example!r}")
    if budgets is not None:
        changes["standing"] = _read_budgets(budgets)
    if tags is not None:
        changes["tags"] = read_tags(tags)
    if deployments is not None:
        changes["deployments"] = _read_deployments(deployments)
    if prices is not None:
        changes["card"] = _card_with_prices_of(prices)
    if useful_output_tokens is not None:
        if type(useful_output_tokens) is not int or useful_output_tokens < 1:
            raise ValueError(f"useful_output_tokens={useful_output_tokens!r} is no cap; give a whole number from 1 up")
        changes["useful_output_tokens"] = useful_output_tokens
    if on_ledger_error is not None:
        if on_ledger_error not in get_args(OnLedgerError):
            raise ValueError(f"on_ledger_error={on_ledger_error!r} is unknown; choose 'closed' or 'open'")
        changes["on_ledger_error"] = on_ledger_error
    for word, given in (("keep", keep), ("clock", clock)):
        if given is not None and ledger is None:
            raise ValueError(f"{word}={given!r} is about a ledger; write configure(ledger=..., {word}=...)")
    if keep is not None and not isinstance(keep, str):
        raise TypeError(f"keep={keep!r} is a {type(keep).__name__}; write keep='90d'")
    keep_seconds = None if keep is None else read_span(keep, f"keep={keep!r}")
    if ledger is not None:
        opened = _open(ledger, clock)
        if keep_seconds is not None:
            opened.keep(keep_seconds)
        changes |= {
            "ledger": opened,
            "is_ledger_chosen": True,
            "standing_notes": {},
            "needs": Needs(opened.learnt()),
            "input_estimate": InputEstimate(),
            "answers": {},
            "dear_hosts": set(),
        }
    return changes


def _read_deployments(given: Any) -> Mapping[str, str]:
    """Names by names; TypeError for anything else."""
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for pair in given.items() for name in pair):
        raise TypeError(f"deployments={given!r} is no dict of names; write deployments={{'prod-chat': 'gpt-4o'}}")
    return MappingProxyType(dict(given))


def _read_budgets(given: Iterable[Any]) -> tuple[Budget, ...]:
    """The budgets behind what `budget(...)` made.

    Raises:
        ValueError: one of a scope, or two of one name.
        TypeError: something else.
    """
    found: list[Budget] = []
    for one in [given] if hasattr(given, "budget_made") else given:
        made = one if isinstance(one, Budget) else getattr(one, "budget_made", None)
        if not isinstance(made, Budget):
            raise TypeError(
                f"budgets=[{one!r}] is a {type(one).__name__}; write budgets=[budget('org', usd=100, per='day')]"
            )
        if not made.is_standing:
            raise ValueError(
                f"budget {made.name!r} is one of a scope; among budgets= it needs a period, such as "
                f"budget({made.name!r}, ..., per='day')"
            )
        if made.name in {other.name for other in found}:
            raise ValueError(
                f"two budgets are named {made.name!r}, and would share accounts; give one of them another name"
            )
        found.append(made)
    return tuple(found)


def check_ledger(budget: Budget, made: State) -> None:
    """ValueError where there is no ledger that a standing budget could outlive its process or scope in."""
    if made.is_ledger_chosen or budget.is_per_call:
        return
    period = next(term.period for term in budget.terms if term.period != "call")
    raise ValueError(
        f"budget {budget.name!r} is per {period} and kept in a ledger, and none was chosen; write "
        'configure(ledger="sqlite:///farebox.db"), or ledger="memory://" to keep it in this process only'
    )


def set_price(
    model: str,
    *,
    input_per_million: UsdLike | None = None,
    output_per_million: UsdLike | None = None,
    cache_read_per_million: UsdLike | None = None,
    cache_write_per_million: UsdLike | None = None,
    cache_storage_per_million_hours: UsdLike | None = None,
    per_image: UsdLike | None = None,
    per_million_characters: UsdLike | None = None,
    per_audio_minute: UsdLike | None = None,
    per_video_second: UsdLike | None = None,
    per_page: UsdLike | None = None,
    per_search: UsdLike | None = None,
    provider: str | None = None,
) -> None:
    """Price a model in USD, over everything else; 0 says that it is free.

    A trailing `*` covers every model that starts so: `set_price("my-llm-*", ...)`.

    Args:
        input_per_million, output_per_million: Per million tokens.  Both, unless the model is paid by one of the units
            below; its tokens then cost nothing.
        cache_read_per_million, cache_write_per_million: Of tokens read from a prompt cache and written to it.
        cache_storage_per_million_hours: Of what a cache of one's own keeps, per million tokens and hour.
        per_image, per_million_characters, per_audio_minute, per_video_second, per_page, per_search: Of pictures made, of
            text read aloud, of sound in or out, of video, of documents read, of searches through documents.
        provider: Only for this provider.

    Raises:
        ValueError: no price at all, one of tokens without the other, or an amount that is negative or not finite.
    """
    state().card.set_price(
        model,
        input_per_million=input_per_million,
        output_per_million=output_per_million,
        cache_read_per_million=cache_read_per_million,
        cache_write_per_million=cache_write_per_million,
        cache_storage_per_million_hours=cache_storage_per_million_hours,
        per_image=per_image,
        per_million_characters=per_million_characters,
        per_audio_minute=per_audio_minute,
        per_video_second=per_video_second,
        per_page=per_page,
        per_search=per_search,
        provider=provider,
    )
