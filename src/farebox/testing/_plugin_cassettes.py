"""The cassettes of a test run: which test has one, where its file is, and when it plays, records and is written.

A cassette is in place from a test's set-up to the end of its teardown, but not while a fixture that several tests share is
set up or torn down: which test that happens in is left to chance.  It is written once the test has passed.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import TracebackType
from typing import Any, Final, cast

import pytest

import farebox
from farebox import signals
from farebox._call import Call
from farebox.testing import _cassette_http as http
from farebox.testing._cassette import Cassette, CassetteError, Mode, UnmatchedCall, Words, shown_path
from farebox.testing._plugin_meter import Meter

MODES: Final = ("replay", "record", "new", "off")
MARK: Final = "@pytest.mark.cassette"

_WORDS: Final = ("ignore", "ignore_hosts", "redact", "strict")
_FOLDER: Final = "cassettes"
_LONGEST_NAME: Final = 120
#: Without a key an SDK makes no client.  By the name of the provider, as it stands in a cassette.
_KEYS: Final = {
    "openai": ("OPENAI_API_KEY",),
    "anthropic": ("ANTHROPIC_API_KEY",),
    "gcp.gemini": ("GEMINI_API_KEY", "GOOGLE_API_KEY"),
    "mistral_ai": ("MISTRAL_API_KEY",),
    "cohere": ("CO_API_KEY",),
}
#: Packages that stand between a program and its cassette.
_BELOW: Final = frozenset("openai anthropic google mistralai cohere httpx httpx2 contextlib functools farebox".split())
_NO_KEY: Final = "replayed-without-a-key"


def read_mode(said: str | None, ini: str) -> str:
    """What `--farebox-cassettes` or the ini file says.

    Raises:
        pytest.UsageError: another word.
    """
    mode = said or (ini or "replay")
    if mode not in MODES:
        raise pytest.UsageError(f"--farebox-cassettes={mode} is unknown; choose from {', '.join(MODES)}")
    return mode


def read_words(test: str, marks: list[pytest.Mark], wider: list[dict[str, Any]]) -> tuple[str | None, Words]:
    """The name and the words that the marks of a test say, the nearest first; `wider` is what hooks say.

    Raises:
        pytest.UsageError: a word or a value that a cassette can't have.
    """
    where = f"{test}: {MARK}"
    name: Any = None
    found: dict[str, Any] = {}
    for words in [*reversed(wider), *(mark.kwargs for mark in reversed(marks))]:
        for word, value in words.items():
            if word not in _WORDS:
                raise pytest.UsageError(f"{where} has no word {word}={value!r}; choose from {', '.join(_WORDS)}")
        found.update(words)
    for mark in reversed(marks):
        if len(mark.args) > 1:
            raise pytest.UsageError(f'{where}: one name is enough; write {MARK}("{mark.args[0]}")')
        if mark.args:
            name = mark.args[0]
    if name is not None and (not isinstance(name, str) or name != _file_name(name)):
        raise pytest.UsageError(
            f"{where}({name!r}): a name has letters, digits, spaces and any of ._-[]()=,+ and no folders; leave it away, "
            "and the file is called as the test is"
        )
    for word in ("ignore", "ignore_hosts"):
        if word in found:
            given = found[word]
            given = (given,) if isinstance(given, str) else tuple(given)
            if not all(isinstance(one, str) and one for one in given):
                raise pytest.UsageError(f'{where}: {word}={found[word]!r} is no list of names; write {word}=["user"]')
            found[word] = given
    if not callable(found.get("redact", str)):
        raise pytest.UsageError(f"{where}: redact={found['redact']!r} is no function of a text that returns a text")
    return name, Words(**found)


def _file_name(test: str) -> str:
    """A name for a file on any system, and another one for another test."""
    name = re.sub(r"[^\w .\-\[\]()=,+]", "-", test).strip(" .")
    if name == test and len(name.encode()) <= _LONGEST_NAME:
        return name
    told_apart = hashlib.sha256(test.encode()).hexdigest()[:8]
    return f"{name.encode()[:_LONGEST_NAME].decode(errors='ignore')}-{told_apart}"


def file_of(item: pytest.Item, name: str | None) -> Path:
    """Beside the test: `cassettes/<module>/<test>.json`."""
    path = item.path
    if name is None:
        cls = getattr(item, "cls", None)
        name = _file_name(item.name if cls is None else f"{cls.__qualname__}.{item.name}")
    return path.parent / _FOLDER / path.stem / f"{name}.json"


def hide_sdks(error: BaseException | None) -> bool:
    """Show an `UnmatchedCall`, also one that led to the error, as raised by the program's own code.

    What SDKs were doing is no news, and their arguments are what was asked.  Says whether the error itself is one.
    """
    seen: set[int] = set()
    one = error
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        if isinstance(one, UnmatchedCall):
            _hide_sdks(one)
        one = one.__cause__ or one.__context__
    return isinstance(error, UnmatchedCall)


def _hide_sdks(error: BaseException) -> None:
    kept = []
    entry = error.__traceback__
    while entry is not None:
        if str(entry.tb_frame.f_globals.get("__name__", "")).partition(".")[0] not in _BELOW:
            kept.append(entry)
        entry = entry.tb_next
    shown: TracebackType | None = None
    for entry in reversed(kept):
        shown = TracebackType(shown, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)
    if shown is not None:
        error.__traceback__ = shown


class Cassettes:
    """Those of one process of a run."""

    def __init__(self, mode: str, is_strict: bool, meter: Meter, refuses: Callable[[str], str]) -> None:
        self.mode = mode
        self._is_strict = is_strict
        self._meter = meter
        self._refuses = refuses
        #: Of the test that runs, and whether one of its misses has been raised.
        self._cassette: Cassette | None = None
        self._has_raised = False
        #: Those of wider fixtures, by what the fixture is called, while no fixture of that name is at work.
        self._of_shared: dict[str, http.Deck | None] = {}
        self._open = 0
        self._keys: list[str] = []
        #: The last call that began in this thread or task, and those that have not come by the cassette yet.
        self._call: ContextVar[Call | None] = ContextVar("farebox_cassette_call", default=None)
        self._begun: set[int] = set()

    @property
    def may_play_at_all(self) -> bool:
        return self.mode in ("replay", "new")

    @property
    def may_play(self) -> bool:
        """Whether a cassette answers calls now, so that the host they are meant for does not matter."""
        deck = http.current()
        return deck is not None and deck.cassette.mode != "record"

    # ── before the tests ─────────────────────────────────────────────────────────────────────────────────────────

    def read_marks(self, items: list[pytest.Item]) -> None:
        """Read the marks of these tests.

        Raises:
            pytest.UsageError: wrong words, or two tests that would write one file.
        """
        writers: dict[Path, str] = {}
        for item in items:
            path, _ = self._read(item)
            other = writers.setdefault(path, item.nodeid)
            if other != item.nodeid and self.mode in ("record", "new"):
                raise pytest.UsageError(
                    f"{other} and {item.nodeid} would both be recorded in {path}; leave the name away, or record one of "
                    "them: what they share can be played by both"
                )

    def _read(self, item: pytest.Item) -> tuple[Path, Words]:
        wider = [words for words in item.ihook.pytest_farebox_cassette(item=item) if words]
        name, words = read_words(item.nodeid, list(item.iter_markers("cassette")), wider)
        return file_of(item, name), words

    # ── around a test ────────────────────────────────────────────────────────────────────────────────────────────

    def is_asked_for(self, item: pytest.Item) -> bool:
        return self.mode != "off" and item.get_closest_marker("cassette") is not None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Before the fixtures, and within what other plugins put around a test: it may fail here."""
        if self.is_asked_for(item):
            self.begin(item)

    def begin(self, item: pytest.Item) -> Cassette:
        """Put the cassette of this test in, once."""
        if self._cassette is not None:
            return self._cassette
        path, words = self._read(item)
        if self.mode == "off":
            return Cassette(path, "record", words)  # nobody puts it in
        self._has_raised = False
        self._cassette = self._put_in(path, words)
        return self._cassette

    def _put_in(self, path: Path, words: Words) -> Cassette:
        try:
            cassette = Cassette(path, cast(Mode, self.mode), words)
            http.put_in(http.Deck(cassette, self))
        except CassetteError as error:
            pytest.fail(str(error), pytrace=False)
        self._open += 1
        if cassette.mode == "replay":
            self._lend_keys(cassette)
        signals.pre_call.connect(self._before_call)
        signals.post_call.connect(self._after_call)
        return cassette

    def _lend_keys(self, cassette: Cassette) -> None:
        for provider in cassette.providers if cassette.is_there else _KEYS:
            names = _KEYS.get(provider, ())
            if names and not any(os.environ.get(name) for name in names):
                os.environ[names[0]] = _NO_KEY
                self._keys.append(names[0])

    def _take_out(self, before: http.Deck | None) -> None:
        http.put_in(before)
        self._open -= 1
        if not self._open:
            signals.pre_call.disconnect(self._before_call)
            signals.post_call.disconnect(self._after_call)
            self._begun.clear()
            for name in self._keys:
                os.environ.pop(name, None)
            self._keys.clear()

    @contextmanager
    def lifted(self, name: str) -> Iterator[None]:
        """While a fixture that several tests share is set up: one that it opens stays its own."""
        before = http.put_in(None)
        try:
            yield
        finally:
            self._of_shared[name] = http.put_in(before)

    def lift(self, name: str) -> None:
        """That fixture is about to be torn down."""
        http.put_in(self._of_shared.pop(name, None))

    def put_back(self) -> None:
        """It has been."""
        http.put_in(None if self._cassette is None else http.Deck(self._cassette, self))

    def check(self, error: BaseException | None) -> None:
        """After a phase of the test: a request that had no answer fails it, whatever the program made of that.

        Raises:
            Failed: for one that nobody has raised yet.
        """
        __tracebackhide__ = True
        cassette = self._cassette
        if cassette is None or not cassette.misses or self._has_raised:
            return
        self._has_raised = True
        if error is None:
            pytest.fail(cassette.misses[0], pytrace=False)

    def missed(self) -> str:
        """What is said beside another error of the test."""
        return "" if self._cassette is None else "\n".join(self._cassette.misses)

    def end(self, has_passed: bool) -> dict[str, str]:
        """Take the cassette out, write it if the test has passed, and say what is to be said about it.

        Raises:
            Failed: not all of a strict one was played.
        """
        cassette, self._cassette = self._cassette, None
        if cassette is None:
            return {}
        self._take_out(None)
        if has_passed:
            return self._said_of(cassette)
        if not cassette.recorded:
            return {}
        return {"recorded": f"{cassette.shown_path}: nothing was recorded, as the test has not passed"}

    def _said_of(self, cassette: Cassette) -> dict[str, str]:
        where = cassette.shown_path
        if cassette.mode != "replay":
            recorded = cassette.save()
            return {"recorded": f"{where}: {_counted(recorded)} recorded"} if recorded else {}
        left = cassette.unplayed
        if not left:
            return {}
        more = f" and {len(left) - 1} more" if len(left) > 1 else ""
        said = f"{where}: {_counted(len(left))} not played: {left[0]}{more}"
        if cassette.words.strict or self._is_strict:
            pytest.fail(f"the cassette {said}\n  record it anew: --farebox-cassettes=record", pytrace=False)
        return {"unplayed": said}

    # ── for what several tests share ─────────────────────────────────────────────────────────────────────────────

    @contextmanager
    def opened(self, path: Path, **words: Any) -> Iterator[Cassette | None]:
        """A cassette around a block, in a file of its own; None under `off`.

        Raises:
            UnmatchedCall: at its end, for a request that had no answer, if the program has swallowed that.
        """
        if self.mode == "off":
            yield None
            return
        mark = pytest.mark.cassette(**words).mark
        before = http.current()
        cassette = self._put_in(path, read_words(shown_path(path), [mark], [])[1])
        try:
            with farebox.instrument():
                yield cassette
        finally:
            self._take_out(before)
        if cassette.misses:
            raise UnmatchedCall(cassette.misses[0])
        self._said_of(cassette)

    # ── what the cassette asks (`_cassette_http.Meter`) ──────────────────────────────────────────────────────────

    def _before_call(self, provider_name: str, *, call: Call) -> None:
        self._call.set(call)
        if http.current() is not None:
            self._begun.add(call.number)

    def _after_call(self, provider_name: str, *, call: Call) -> None:
        deck = http.current()
        went_past = call.number in self._begun and call.attempts and call.outcome in ("completed", "closed")
        if deck is None or deck.cassette.mode == "record" or not went_past:
            return
        deck.cassette.miss(
            f"a call to {provider_name} ({call.model}) went past the cassette and was sent: its SDK does not send it "
            "through httpx or httpx2"
        )

    def call_of(self, method: str, body: Any) -> Call | None:
        call = self._call.get()
        if call is None or call.outcome != "open" or method != "POST":
            return None
        model = body.get("model") if isinstance(body, dict) else None
        return call if model in (None, call.model, call.request_model) else None

    def note(self, call: Call | None, how: str) -> None:
        if call is not None:
            self._begun.discard(call.number)
            self._meter.note(call, how)

    def refuses(self, host: str) -> str:
        return self._refuses(host)


def _counted(requests: int) -> str:
    return "1 request was" if requests == 1 else f"{requests} requests were"
