"""What a program is told from outside: by `farebox.toml` or `[tool.farebox]`, and by the environment, which wins word by word."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, cast, get_args

import attrs

from farebox._budget import Budget
from farebox._budget_words import OPTIONS, UNITS, OnLedgerError
from farebox._call import read_tags
from farebox._settings_file import SettingsFile, find_file
from farebox.on_exceed import mode_names

#: The words of a file, and what an error advises to write.
_EXAMPLES: Final[dict[str, Any]] = {
    "ledger": "sqlite:///farebox.db",
    "tags": {"app": "shop"},
    "prices": "prices.toml",
    "useful_output_tokens": 64,
    "on_ledger_error": "closed",
    "keep": "90d",
    "deployments": {"prod-chat": "gpt-4o"},
    "budgets": None,
}

#: The words of the environment, by variable, and what an error advises to write.
_VARIABLES: Final = {
    "FAREBOX_LEDGER": ("ledger", "sqlite:///farebox.db"),
    "FAREBOX_TAGS": ("tags", "team=search,app=shop"),
    "FAREBOX_PRICES": ("prices", "prices.toml"),
    "FAREBOX_USEFUL_OUTPUT_TOKENS": ("useful_output_tokens", "64"),
    "FAREBOX_ON_LEDGER_ERROR": ("on_ledger_error", "closed"),
    "FAREBOX_KEEP": ("keep", "90d"),
}

_KINDS: Final[dict[type, str]] = {
    str: "string",
    int: "whole number",
    Decimal: "float",
    bool: "boolean",
    list: "list",
    dict: "table",
}

_SPAN: Final = re.compile(r"[0-9]{1,6}[smhdw]")
_CAP: Final = re.compile(r"[0-9]{1,18}")
_SHARE: Final = re.compile(r"[0-9]{0,2}\.?[0-9]{1,12}")
_MOST_SHOWN: Final = 100


def shown(url: str) -> str:
    """A URL as it may be shown: without its password, wherever in it somebody wrote one."""
    without = re.sub(r"(?s):(?!//).*@", ":***@", url, count=1)
    return re.sub(r"(?i)(password=)[^&\s]*", r"\1***", without)


def _shown_or_none(url: str | None) -> str:
    return repr(None if url is None else shown(url))


@attrs.frozen(kw_only=True)
class Settings:
    """What was said outside of the program; None and empty: nothing.

    Attributes:
        ledger: A URL.  A relative SQLite path of a file is relative to that file, one of the environment to the working directory.
        prices: A path or inline JSON, as `read_prices` takes it; relative as above.
        keep: How long single rows are kept: a number and s, m, h, d or w.
        source: The file that was read.
        ledger_said_at: Where `ledger` stands: a file and its line, or a variable.
    """

    ledger: str | None = attrs.field(default=None, repr=_shown_or_none)
    tags: Mapping[str, str] | None = None
    prices: str | None = None
    useful_output_tokens: int | None = None
    on_ledger_error: OnLedgerError | None = None
    budgets: tuple[Budget, ...] = ()
    keep: str | None = None
    deployments: Mapping[str, str] | None = None
    source: Path | None = None
    ledger_said_at: str = attrs.field(default="", eq=False)


def read_settings(environ: Mapping[str, str], folder: Path) -> Settings:
    """Read the environment, and the file that it names or the nearest one of `folder` and those it lies in.

    Args:
        environ: `FAREBOX_CONFIG` names the file, empty text says that there is none; `FAREBOX_LEDGER`, `_TAGS`, `_PRICES`,
            `_USEFUL_OUTPUT_TOKENS`, `_ON_LEDGER_ERROR` and `_KEEP` win over what it says, and empty text says nothing.
        folder: The working directory.

    Raises:
        ValueError: a file or a word that can't be read; the message names the file and the line, or the variable.
    """
    file = find_file(environ, folder)
    said: dict[str, _InFile | _InEnvironment] = {}
    if file is not None:
        for word, value in file.words.items():
            said[word] = _InFile(word, value, file)
            if word not in _EXAMPLES:
                raise file.wrong((word,), f"{said[word]} is no setting; choose from {', '.join(_EXAMPLES)}")
    budgets = said.get("budgets")
    for variable, (word, _) in _VARIABLES.items():
        if text := environ.get(variable, "").strip():
            said[word] = _InEnvironment(variable, text)
    return Settings(
        ledger=_ledger(said.get("ledger")),
        tags=_tags(said.get("tags")),
        prices=_prices(said.get("prices")),
        useful_output_tokens=_useful_output_tokens(said.get("useful_output_tokens")),
        on_ledger_error=_on_ledger_error(said.get("on_ledger_error")),
        budgets=_read_budgets(budgets) if isinstance(budgets, _InFile) else (),
        keep=_keep(said.get("keep")),
        deployments=_deployments(said.get("deployments")),
        source=None if file is None else file.path,
        ledger_said_at="" if (ledger := said.get("ledger")) is None else ledger.where(),
    )


@attrs.frozen
class _InFile:
    """A word of a file, with its value."""

    word: str
    value: Any
    file: SettingsFile

    def __str__(self) -> str:
        return f"{self.word}={_show(self.value)}"

    def wrong(self, problem: str) -> ValueError:
        advice = f"{self.word} = {_as_toml(_EXAMPLES[self.word])}"
        return self.file.wrong((self.word,), f"{self} {problem}; write {advice}")

    def where(self) -> str:
        line = self.file.line((self.word,))
        return f"{self.file.path}{'' if line is None else f', line {line}'}"


@attrs.frozen
class _InEnvironment:
    """A variable, with its text."""

    variable: str
    value: str

    def __str__(self) -> str:
        return f"{self.variable}={_show(self.value)}"

    def wrong(self, problem: str) -> ValueError:
        return ValueError(f"{self} {problem}; write {self.variable}={_VARIABLES[self.variable][1]}")

    def where(self) -> str:
        return self.variable


_Said = _InFile | _InEnvironment


# The single words.


def _text(said: _Said) -> str:
    if not isinstance(said.value, str):
        raise said.wrong(f"is a {_kind(said.value)}")
    if not said.value.strip():
        raise said.wrong("says nothing")
    return said.value


def _ledger(said: _Said | None) -> str | None:
    if said is None:
        return None
    url = _text(said)
    scheme, separator, path = url.partition("://")
    if not separator or not scheme:
        raise said.wrong("is no URL")
    # Three slashes and a path that does not begin with one, as SQLAlchemy writes it; neither `:memory:` nor `C:/`.
    relative = path.removeprefix("/")
    if isinstance(said, _InEnvironment) or scheme != "sqlite" or relative == path or not relative:
        return url
    if relative.startswith(("/", ":", "?")) or relative[1:2] == ":":
        return url
    folder = said.file.path.parent.as_posix().replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{folder}/{relative}"


def _tags(said: _Said | None) -> Mapping[str, str] | None:
    if said is None:
        return None
    tags = _tags_of_text(said) if isinstance(said, _InEnvironment) else said.value
    if not isinstance(tags, dict):
        raise said.wrong(f"is a {_kind(tags)}")
    for name, value in tags.items():
        if not name.strip():
            raise said.wrong("has a tag without a name")
        if not isinstance(value, str):
            raise said.wrong(f"has a {_kind(value)} for the tag {name!r}, which takes a string")
    try:
        return read_tags(tags)
    except ValueError as error:
        raise said.wrong(f"can't be set: {error}") from None


def _tags_of_text(said: _InEnvironment) -> dict[str, str]:
    from urllib.parse import unquote

    tags: dict[str, str] = {}
    for part in said.value.split(","):
        if not part.strip():
            continue
        name, separator, value = (unquote(piece.strip()) for piece in part.partition("="))
        if not separator:
            raise said.wrong(f"has no = in {part!r}, or a comma that stands for itself and is written %2C")
        if name in tags:
            raise said.wrong(f"names the tag {name!r} twice")
        tags[name] = value
    return tags


def _prices(said: _Said | None) -> str | None:
    if said is None:
        return None
    prices = _text(said)
    if isinstance(said, _InEnvironment) or prices.lstrip().startswith("{"):
        return prices
    path = said.file.path.parent / prices
    if not os.path.exists(path):
        raise said.wrong(f"is not there: {_show(str(path))}")
    return str(path)


def _useful_output_tokens(said: _Said | None) -> int | None:
    if said is None:
        return None
    tokens = said.value
    if isinstance(said, _InEnvironment) and _CAP.fullmatch(said.value):
        tokens = int(said.value)
    if type(tokens) is not int or tokens < 1:
        raise said.wrong("is no cap, which is a whole number from 1 up")
    return tokens


def _on_ledger_error(said: _Said | None) -> OnLedgerError | None:
    if said is None:
        return None
    choices = get_args(OnLedgerError)
    if said.value not in choices:
        raise said.wrong(f"is unknown; choose from {', '.join(map(repr, choices))}")
    return cast(OnLedgerError, said.value)


def _keep(said: _Said | None) -> str | None:
    if said is None:
        return None
    if not isinstance(said.value, str) or not _SPAN.fullmatch(said.value):
        raise said.wrong("is no span, which is a number and s, m, h, d or w")
    return said.value


def _deployments(said: _Said | None) -> Mapping[str, str] | None:
    if said is None:
        return None
    if not isinstance(said.value, dict):
        raise said.wrong(f"is a {_kind(said.value)}")
    for name, model in said.value.items():
        if not isinstance(model, str):
            raise said.wrong(f"has a {_kind(model)} for {name!r}, which takes the name of a model")
    return dict(said.value)


# Budgets.


def _read_budgets(said: _InFile) -> tuple[Budget, ...]:
    file, header = said.file, f"[[{said.file.header('budgets')}]]"
    if not isinstance(said.value, list):
        raise file.wrong(
            ("budgets",), f"{said} is a {_kind(said.value)}; write {header} above the words of each budget"
        )
    budgets: list[Budget] = []
    for index, words in enumerate(said.value):
        if not isinstance(words, dict):
            raise file.wrong(
                ("budgets", index),
                f"budgets holds {_show(words)}, a {_kind(words)}; write {header} above the words of each budget",
            )
        budget = _read_budget(file, index, words)
        for earlier, other in enumerate(budgets):
            if other.name == budget.name:
                line = file.line(("budgets", earlier, "name"))
                raise file.wrong(
                    ("budgets", index, "name"),
                    f"budget {_show(budget.name)} is there twice{'' if line is None else f', first on line {line}'}; "
                    "give each a name of its own, or one several limits: usd = { day = 5, month = 50 }",
                )
        budgets.append(budget)
    return tuple(budgets)


def _read_budget(file: SettingsFile, index: int, words: Mapping[str, Any]) -> Budget:
    who = f"budget {_show(words['name'])}" if "name" in words else f"budget number {index + 1}"

    def wrong(word: str, problem: str) -> ValueError:
        place = ("budgets", index, word) if word in words else ("budgets", index)
        return file.wrong(place, f"{who}: {problem}")

    for word in words:
        if word in _EXAMPLES:
            raise wrong(word, f"{word} is no word of a budget but of the file; write it above the first table")
    limits = [words[unit] for unit in UNITS if unit in words]
    if not limits:
        raise wrong("", "it has no limit; write usd = 100, tokens = 1000000 or calls = 1000")
    periods = [words["per"]] if "per" in words else []
    periods += [period for limit in limits if isinstance(limit, dict) for period in limit]
    if not periods:
        raise wrong("", 'it has no period, and in a file no scope to be the limit of; write per = "day"')
    if "name" not in words and any(period != "call" for period in periods):
        raise wrong("", 'it has no name, which its account is kept under; write name = "org"')

    # Limits stay exact; every other number is what a program would have written.
    said = {word: value if word in UNITS else _plain(value) for word, value in words.items()}
    said.setdefault("name", None)
    if "on_exceed" in said and not isinstance(said["on_exceed"], str):
        raise wrong("on_exceed", f"on_exceed={_show(said['on_exceed'])} is no name of a mode; {_mode_choices()}")
    if "at" in said:
        try:
            said["at"] = _read_rungs(said["at"])
        except ValueError as error:
            raise wrong("at", f"at={_show(said['at'])} {error}") from None
    mode_options = {word: said.pop(word) for word in words if word not in OPTIONS}
    try:
        return Budget.of(**said, mode_options=mode_options)
    except (TypeError, ValueError) as error:
        # Each such message begins with the word that it is about.
        about = re.match(r"\w+", str(error))
        raise wrong(about[0] if about else "", str(error)) from None


def _read_rungs(at: Any) -> dict[Decimal, str]:
    """Shares of the limit, which are keys and so text in TOML, and the mode that each names."""
    advice = 'write at = { "0.8" = "warn" }'
    if not isinstance(at, dict):
        raise ValueError(f"is a {_kind(at)}; {advice}")
    rungs: dict[Decimal, str] = {}
    for text, mode in at.items():
        if not _SHARE.fullmatch(text):
            raise ValueError(f"has a rung {text!r}, which is no share of the limit; {advice}")
        if not isinstance(mode, str):
            raise ValueError(f"has a {_kind(mode)} for the rung {text!r}, which takes the name of a mode; {advice}")
        if Decimal(text) in rungs:
            raise ValueError(f"has the rung {text!r} twice; {advice}")
        rungs[Decimal(text)] = mode
    return rungs


def _mode_choices() -> str:
    return f"choose from {', '.join(map(repr, mode_names()))}"


def _plain(value: Any) -> Any:
    """A value of TOML as a program would have written it."""
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return value


# How values are shown.


def _kind(value: object) -> str:
    return _KINDS.get(type(value), type(value).__name__)


def _show(value: object) -> str:
    """A value for messages: on one line, no longer than that, and without a password."""
    try:
        text = shown(repr(_plain(value)))
    except ValueError:  # a whole number of more digits than Python writes
        return "a number too long to show"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _as_toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_as_toml(one)}" for key, one in value.items()) + " }"
    return f'"{value}"' if isinstance(value, str) else str(value)
