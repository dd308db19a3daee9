"""What a program is told by a file and by the environment: where it is looked for, what wins, and what errors say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, time
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import farebox
from farebox import _config
from farebox._settings import Settings, read_settings, shown
from farebox._settings_file import line_of
from farebox.ledgers import NO_LIMIT

Write = Callable[..., Path]

ORG = 'name = "org"\nusd = 100\nper = "day"\n'


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a file below the test's own folder, which no farebox.toml lies above."""

    def write(text: str | bytes, name: str = "farebox.toml") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


def read(folder: Path, **environ: str) -> Settings:
    return read_settings(environ, folder)


def refused(folder: Path, **environ: str) -> str:
    """What the error says, its first line."""
    with pytest.raises(ValueError, match=r".") as caught:
        read(folder, **environ)
    assert type(caught.value) is ValueError
    assert caught.value.__cause__ is None
    return str(caught.value).partition("\n")[0]


# What a file says.


def test_nothing_said_is_nothing_set(tmp_path: Path) -> None:
    assert read(tmp_path) == Settings()


def test_every_word_of_a_file_is_read(write: Write, tmp_path: Path) -> None:
    write('["my-llm"]\n', "prices.toml")
    path = write(
        'ledger = "redis://cache:6379/0"\ntags = { app = "shop", "team" = "Süd" }\nprices = "prices.toml"\n'
        'useful_output_tokens = 100\non_ledger_error = "open"\nkeep = "90d"\n[[budgets]]\n' + ORG
    )
    settings = read(tmp_path)
    assert settings.ledger == "redis://cache:6379/0"
    assert settings.tags == {"app": "shop", "team": "Süd"}
    assert settings.prices == str(tmp_path / "prices.toml")
    assert settings.useful_output_tokens == 100
    assert settings.on_ledger_error == "open"
    assert settings.keep == "90d"
    assert [budget.name for budget in settings.budgets] == ["org"]
    assert settings.source == path


def test_a_budget_of_a_file_takes_the_words_that_one_of_a_program_does(write: Write, tmp_path: Path) -> None:
    write("""
[[budgets]]
name = "org"
usd = "99.50"
per = "day"
tz = "Asia/Tokyo"
patience = 2.5
output_cap = 1000
input_bound = "bytes"
on_unpriced = "dearest"
where = { model = "claude-opus-*" }
on_exceed = "wait"
timeout = 1.5

[[budgets]]
name = "plan"
usd = { day = 5, month = 50 }
tokens = { month = 1e6 }
each = ["tenant", "user_id"]
each_missing = "shared"
on_exceed = "downgrade"
downgrade = ["gpt-5", "gpt-5-mini"]
[budgets.at]
"0.1" = "warn"
".8" = "downgrade"

[[budgets]]
usd = 1
per = "call"
""")
    org, plan, per_call = read(tmp_path).budgets
    assert (org.name, org.limit_usd_nanos, org.limit_tokens) == ("org", 99_500_000_000, NO_LIMIT)
    assert (org.terms[0].period, org.zone_name, org.patience_seconds) == ("day", "Asia/Tokyo", 2.5)
    assert (org.output_cap, org.proves_input, org.on_unpriced) == (1000, True, "dearest")
    assert (dict(org.where), org.mode.name) == ({"model": "claude-opus-*"}, "wait")
    assert [(term.period, term.limit_usd_nanos, term.limit_tokens) for term in plan.terms] == [
        ("day", 5_000_000_000, NO_LIMIT),
        ("month", 50_000_000_000, 1_000_000),
    ]
    assert (plan.each, plan.each_missing) == (("tenant", "user_id"), "shared")
    assert [(rung.exact_share, rung.mode and rung.mode.name) for rung in plan.rungs] == [
        (Decimal("0.1"), "warn"),
        (Decimal("0.8"), "downgrade"),
    ]
    assert per_call.is_per_call


@given(nanos=st.integers(1, 9_000_000_000 * 10**9))
def test_an_amount_is_read_as_it_is_written(nanos: int) -> None:
    whole, part = divmod(nanos, 10**9)
    with (
        folder_with(f'[[budgets]]\nname = "org"\nper = "day"\nusd = {whole}.{part:09d}\n') as folder,
        localcontext() as c,
    ):
        c.prec = 3  # the decimal context belongs to the program
        assert read(folder).budgets[0].limit_usd_nanos == nanos


def test_a_float_that_no_binary_float_can_hold_is_exact(write: Write, tmp_path: Path) -> None:
    write('[[budgets]]\nname = "org"\nper = "day"\nusd = 4503599627.370497001\n')
    assert read(tmp_path).budgets[0].limit_usd_nanos == 4_503_599_627_370_497_001


@pytest.mark.parametrize(
    ("ledger", "read_as"),
    [
        ("sqlite:///farebox.db", "sqlite:///{folder}/farebox.db"),
        ("sqlite:///data/farebox.db?timeout=5", "sqlite:///{folder}/data/farebox.db?timeout=5"),
        ("sqlite:///../farebox.db", "sqlite:///{folder}/../farebox.db"),
        ("sqlite:////var/lib/farebox.db", "sqlite:////var/lib/farebox.db"),
        ("sqlite:///C:/farebox.db", "sqlite:///C:/farebox.db"),
        ("sqlite:///:memory:", "sqlite:///:memory:"),
        ("memory://", "memory://"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
    ],
)
def test_a_relative_path_of_a_file_is_relative_to_that_file(
    write: Write, tmp_path: Path, ledger: str, read_as: str
) -> None:
    write(f'ledger = "{ledger}"\nprices = "rates/prices.toml"\n')
    write("", "rates/prices.toml")
    (tmp_path / "deep" / "below").mkdir(parents=True)
    settings = read(tmp_path / "deep" / "below")
    assert settings.ledger == read_as.format(folder=tmp_path)
    assert settings.prices == str(tmp_path / "rates" / "prices.toml")


def test_a_relative_path_survives_a_folder_of_any_name(write: Write, tmp_path: Path) -> None:
    write('ledger = "sqlite:///my%20farebox.db"\n', "50% of what? ü/farebox.toml")
    settings = read(tmp_path / "50% of what? ü")
    assert settings.ledger == f"sqlite:///{tmp_path}/50%25 of what%3F ü/my%20farebox.db"  # the ledger decodes it


def test_prices_of_a_file_may_be_written_in_it_as_json(write: Write, tmp_path: Path) -> None:
    prices = '{"my-llm": {"input_per_million": 1, "output_per_million": 2}}'
    write(f"prices = '{prices}'\n")
    assert read(tmp_path).prices == prices


def test_a_file_that_an_editor_began_with_a_mark_or_ended_lines_its_own_way_is_read(
    write: Write, tmp_path: Path
) -> None:
    write(b'\xef\xbb\xbfkeep = "90d"\r\n[[budgets]]\r\n' + ORG.replace("\n", "\r\n").encode())
    settings = read(tmp_path)
    assert (settings.keep, len(settings.budgets)) == ("90d", 1)


# Where it is looked for.


def test_the_nearest_file_is_read_and_no_other(write: Write, tmp_path: Path) -> None:
    write('keep = "1d"\nledger = "memory://"\n')
    near = write('keep = "2d"\n', "app/farebox.toml")
    (tmp_path / "app" / "src").mkdir()
    settings = read(tmp_path / "app" / "src")
    assert (settings.keep, settings.ledger, settings.source) == ("2d", None, near)


def test_farebox_toml_wins_over_pyproject_toml_beside_it_and_not_over_a_nearer_one(
    write: Write, tmp_path: Path
) -> None:
    write('[tool.farebox]\nkeep = "1d"\n', "pyproject.toml")
    write('keep = "2d"\n')
    near = write('[tool.farebox]\nkeep = "3d"\n', "app/pyproject.toml")
    assert read(tmp_path).keep == "2d"
    assert (read(tmp_path / "app").keep, read(tmp_path / "app").source) == ("3d", near)


@pytest.mark.parametrize(
    "text",
    [
        "",
        '[project]\nname = "shop"\n',
        '[project]\ndependencies = ["farebox"]\n',
        '[tool.other]\nfarebox = "no"\n',
        'tool = "farebox"\n',
        '[project]\ndependencies = [\n  "farebox==1.0",\n]\n',
        "this is [ no TOML",
    ],
)
def test_a_pyproject_toml_that_is_not_about_farebox_is_passed_by(write: Write, tmp_path: Path, text: str) -> None:
    write('keep = "1d"\n')
    write(text, "app/pyproject.toml")
    assert read(tmp_path / "app").keep == "1d"


def test_budgets_of_a_pyproject_toml_are_read(write: Write, tmp_path: Path) -> None:
    write("[tool.farebox]\nkeep = '1d'\n[[tool.farebox.budgets]]\n" + ORG, "pyproject.toml")
    assert [budget.name for budget in read(tmp_path).budgets] == ["org"]


def test_the_environment_names_the_file_from_the_working_directory(write: Write, tmp_path: Path) -> None:
    write('keep = "1d"\n')
    named = write('keep = "2d"\n', "conf/prod.toml")
    assert read(tmp_path, FAREBOX_CONFIG="conf/prod.toml").source == named
    assert read(tmp_path / "conf", FAREBOX_CONFIG=str(named)).keep == "2d"
    project = write('[tool.farebox]\nkeep = "3d"\n', "conf/pyproject.toml")
    assert read(tmp_path, FAREBOX_CONFIG=str(project)).keep == "3d"


@pytest.mark.parametrize("said", ["", "  "])
def test_empty_text_for_the_file_means_none_at_all(write: Write, tmp_path: Path, said: str) -> None:
    write('keep = "1d"\n')
    assert read(tmp_path, FAREBOX_CONFIG=said) == Settings()
    assert read(tmp_path, FAREBOX_CONFIG=said, FAREBOX_KEEP="2d").keep == "2d"


def test_a_folder_may_be_relative(write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write('ledger = "sqlite:///farebox.db"\n')
    (tmp_path / "app").mkdir()
    monkeypatch.chdir(tmp_path / "app")
    assert read(Path()).source == path
    assert read(Path()).ledger == f"sqlite:///{tmp_path}/farebox.db"


def test_a_working_directory_that_is_gone_holds_no_file(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('keep = "1d"\n')
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert read(Path()) == Settings()
    assert read(Path(), FAREBOX_CONFIG=str(path)).keep == "1d"


@pytest.mark.parametrize(
    "text",
    [
        "[tool.farebox]\nkeep = '1d'",
        "[ tool . 'farebox' ]\nkeep = '1d'",
        '[tool]\n"farebox" = { keep = "1d" }',
        "[tool]\nfarebox.keep = '1d'",
        "tool.farebox.keep = '1d'",
        'tool = { other = [1], farebox = { keep = "1d" } }',
    ],
)
def test_the_table_of_a_pyproject_toml_is_found_however_it_is_spelt(write: Write, tmp_path: Path, text: str) -> None:
    write(text, "pyproject.toml")
    assert read(tmp_path).keep == "1d"


# The environment.


def test_the_environment_wins_word_by_word(write: Write, tmp_path: Path) -> None:
    path = write('ledger = "memory://"\ntags = { app = "shop", team = "search" }\nkeep = "1d"\n[[budgets]]\n' + ORG)
    settings = read(tmp_path, FAREBOX_TAGS="app=till", FAREBOX_LEDGER="sqlite:///farebox.db")
    assert settings.ledger == "sqlite:///farebox.db"  # relative to the working directory
    assert settings.tags == {"app": "till"}
    assert (settings.keep, len(settings.budgets), settings.source) == ("1d", 1, path)


def test_every_variable_is_read_and_others_are_left_to_others(tmp_path: Path) -> None:
    settings = read(
        tmp_path,
        FAREBOX_LEDGER="redis://cache",
        FAREBOX_TAGS=" team = search ,app=a%2Cb%3Dc=d,empty=,,",
        FAREBOX_PRICES="rates.toml",
        FAREBOX_USEFUL_OUTPUT_TOKENS="100",
        FAREBOX_ON_LEDGER_ERROR="open",
        FAREBOX_KEEP="12h",
        FAREBOX_STORM="long",
        FAREBOX_BUDGETS="5",
    )
    assert settings == Settings(
        ledger="redis://cache",
        tags={"team": "search", "app": "a,b=c=d", "empty": ""},
        prices="rates.toml",
        useful_output_tokens=100,
        on_ledger_error="open",
        keep="12h",
    )


def test_an_empty_variable_says_nothing(write: Write, tmp_path: Path) -> None:
    write('keep = "1d"\ntags = { app = "shop" }\n')
    settings = read(tmp_path, FAREBOX_KEEP="", FAREBOX_TAGS=" ")
    assert (settings.keep, settings.tags) == ("1d", {"app": "shop"})


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        ("FAREBOX_LEDGER", "farebox.db", "'farebox.db' is no URL; write FAREBOX_LEDGER=sqlite:///farebox.db"),
        ("FAREBOX_TAGS", "shop", "'shop' has no = in 'shop', or a comma that stands for itself and is written %2C"),
        ("FAREBOX_TAGS", "a=1,b,c=2", "'a=1,b,c=2' has no = in 'b'"),
        ("FAREBOX_TAGS", "a=1,a=2", "'a=1,a=2' names the tag 'a' twice; write FAREBOX_TAGS=team=search,app=shop"),
        ("FAREBOX_TAGS", "=1", "'=1' has a tag without a name"),
        ("FAREBOX_TAGS", "model=x", "'model=x' can't be set: model='x' can't be a tag: reports group by model anyway"),
        ("FAREBOX_USEFUL_OUTPUT_TOKENS", "0", "'0' is no cap, which is a whole number from 1 up; write"),
        ("FAREBOX_USEFUL_OUTPUT_TOKENS", "many", "'many' is no cap"),
        ("FAREBOX_USEFUL_OUTPUT_TOKENS", "9" * 5_000, f"'{'9' * 99}... is no cap"),
        (
            "FAREBOX_ON_LEDGER_ERROR",
            "close",
            "'close' is unknown; choose from 'closed', 'open'; write FAREBOX_ON_LEDGER_ERROR=closed",
        ),
        ("FAREBOX_KEEP", "90", "'90' is no span, which is a number and s, m, h, d or w; write FAREBOX_KEEP=90d"),
    ],
)
def test_a_variable_that_can_not_be_read_is_named(tmp_path: Path, variable: str, text: str, said: str) -> None:
    assert refused(tmp_path, **{variable: text}).startswith(f"{variable}={said}")


# What errors say.

WRONG = [
    ('a = 1\nkeep = "90d\n', " is no valid TOML: Illegal character '\\n' (at line 2, column 12)"),
    ("keep = " + "[" * 5_000, " is no TOML that can be read: its values are nested too deeply"),
    (
        'ledger = "memory://"\n\nledgre = "memory://"\n',
        ", line 3: ledgre='memory://' is no setting; choose from ledger, tags, prices, useful_output_tokens, on_ledger_",
    ),
    ("# the books\nledger = 5\n", ', line 2: ledger=5 is a whole number; write ledger = "sqlite:///farebox.db"'),
    ('ledger = "farebox.db"', ", line 1: ledger='farebox.db' is no URL; write ledger = \"sqlite:///farebox.db\""),
    ('ledger = ""', ", line 1: ledger='' says nothing; write ledger ="),
    ('tags = "app=shop"', ", line 1: tags='app=shop' is a string; write tags = { app = \"shop\" }"),
    (
        "[tags]\napp = 5",
        ", line 1: tags={'app': 5} has a whole number for the tag 'app', which takes a string; write tags = ",
    ),
    ('tags.model = "x"', ", line 1: tags={'model': 'x'} can't be set: model='x' can't be a tag"),
    ('prices = "prices.toml"', ", line 1: prices='prices.toml' is not there: '"),
    ("prices = {}", ', line 1: prices={} is a table; write prices = "prices.toml"'),
    ("useful_output_tokens = 0.5", ", line 1: useful_output_tokens=0.5 is no cap"),
    ("useful_output_tokens = true", ", line 1: useful_output_tokens=True is no cap, which is a whole number from 1 up"),
    ("on_ledger_error = []", ", line 1: on_ledger_error=[] is unknown; choose from 'closed', 'open'"),
    ("keep = 90", ', line 1: keep=90 is no span, which is a number and s, m, h, d or w; write keep = "90d"'),
    (
        '[budgets]\nname = "org"',
        ", line 1: budgets={'name': 'org'} is a table; write [[budgets]] above the words of each",
    ),
    ("budgets = [\n  5,\n]", ": budgets holds 5, a whole number; write [[budgets]] above the words of each budget"),
    (
        f"[[budgets]]\n{ORG}[[budgets]]\nusd = 1 # again\n\n{ORG.replace('usd = 100', '')}",
        ", line 8: budget 'org' is there twice, first on line 2; give each a name of its own",
    ),
]

WRONG_BUDGETS = [
    ('name = "org"', ", line 4: budget 'org': it has no limit; write usd = 100, tokens = 1000000 or calls = 1000"),
    (
        'name = "org"\nusd = 1',
        ", line 4: budget 'org': it has no period, and in a file no scope to be the limit of; write per = \"day\"",
    ),
    (
        'usd = 1\nper = "day"',
        ", line 4: budget number 2: it has no name, which its account is kept under; write name = \"org\"",
    ),
    (ORG + "usdd = 1", ", line 8: budget 'org': usdd=1 is no option of a budget with on_exceed='block'; choose from name,"),
    (
        ORG + "timeout = 1",
        ", line 8: budget 'org': timeout=1 is no option of a budget with on_exceed='block', but of 'wait'; choose from",
    ),
    (
        ORG + 'keep = "1d"',
        ", line 8: budget 'org': keep is no word of a budget but of the file; write it above the first table",
    ),
    (ORG.replace("100", "-1"), ", line 6: budget 'org': usd=-1 is negative; an amount is 0 or more"),
    (ORG.replace("100", "nan"), ", line 6: budget 'org': usd=NaN is not finite"),
    (ORG.replace("100", "1e999"), ", line 6: budget 'org': usd=Infinity is not finite"),
    (ORG.replace("usd = 100", "tokens = 1e99999"), ", line 6: budget 'org': tokens=Infinity is not finite"),
    (ORG.replace("100", "true"), ", line 6: budget 'org': usd=True is a bool; pass a number or a string"),
    (ORG.replace("usd = 100", "tokens = 1.5"), ", line 6: budget 'org': tokens=1.5 is not whole; write tokens=2"),
    (
        'name = "org"\nusd = { fortnight = 5 }',
        ", line 6: budget 'org': usd={'fortnight': ...} names no period; choose from 'call', 'minute', 'hour', 'day', ",
    ),
    (ORG.replace("day", "year"), ", line 7: budget 'org': per='year' names no period; choose from 'call', 'minute',"),
    (ORG + 'tz = "Asia/Tokio"', ", line 8: budget 'org': tz='Asia/Tokio' is no time zone; similar: 'Asia/Tokyo'"),
    (ORG + "patience = -1.5", ", line 8: budget 'org': patience=-1.5 seconds is no time to wait"),
    (
        ORG + 'on_exceed = "blok"',
        ", line 8: budget 'org': on_exceed='blok' is no mode; choose from 'block', 'break', 'clamp', 'downgrade', ",
    ),
    (
        ORG + "on_exceed = 5",
        ", line 8: budget 'org': on_exceed=5 is no name of a mode; choose from 'block', 'break', 'clamp', 'downgrade', ",
    ),
    (ORG + "name2.a = 1", ", line 8: budget 'org': name2={'a': 1} is no option of a budget"),
    (ORG.replace('"org"', "5"), ", line 5: budget 5: name=5 is a int; a budget's name is a string"),
    (ORG + 'at = "0.8"', ", line 8: budget 'org': at='0.8' is a string; write at = { \"0.8\" = \"warn\" }"),
    (ORG + 'at.0.8 = "warn"', ", line 8: budget 'org': at={'0': {'8': 'warn'}} has a table for the rung '0', which takes"),
    (ORG + '[budgets.at]\n"80%" = "warn"', ", line 8: budget 'org': at={'80%': 'warn'} has a rung '80%', which is no share"),
    (ORG + 'at = { "0.8" = "warn", ".80" = "block" }', ", line 8: budget 'org': at={'0.8': 'warn', '.80': 'block'} has the rung"),
    (ORG + 'at = { "1.8" = "warn" }', ", line 8: budget 'org': at={1.8: ...} is no rung; it is a share of the limit"),
    (ORG + 'at = { "0.8" = "wran" }', ", line 8: budget 'org': at={0.8: ...}='wran' is no mode; choose from 'block'"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), WRONG, ids=range(len(WRONG)))
def test_what_a_file_can_not_say_is_refused_with_its_line(write: Write, tmp_path: Path, text: str, said: str) -> None:
    path = write(text)
    assert refused(tmp_path).startswith(f"{path}{said}")


@pytest.mark.parametrize(("text", "said"), WRONG_BUDGETS, ids=range(len(WRONG_BUDGETS)))
def test_what_a_budget_can_not_say_is_refused_with_its_line(write: Write, tmp_path: Path, text: str, said: str) -> None:
    first = '[[budgets]]\nname = "first"\ncalls = { ever = 5 }\n'
    path = write(f"{first}[[budgets]]\n{text}\n[[budgets]]\n{ORG.replace('org', 'last')}")
    assert refused(tmp_path).startswith(f"{path}{said}")


def test_errors_of_a_pyproject_toml_count_its_lines_and_name_its_tables(write: Write, tmp_path: Path) -> None:
    path = write('[project]\nkeep = 5\n[tool.farebox]\nkeep = "90"\n', "pyproject.toml")
    assert refused(tmp_path).startswith(f"{path}, line 4: keep='90' is no span")
    write('[project]\nname = "farebox"\n[tool.farebox]\nbudgets = 5\n', "pyproject.toml")
    assert refused(tmp_path) == (
        f"{path}, line 4: budgets=5 is a whole number; write [[tool.farebox.budgets]] above the words of each budget"
    )
    write("[tool]\nfarebox = 5\n", "pyproject.toml")
    assert refused(tmp_path).startswith(f"{path}, line 2: tool.farebox is no table; write [tool.farebox]")
    write("[tool.farebox", "pyproject.toml")
    assert refused(tmp_path).startswith(f"{path} is no valid TOML: ")


def test_a_file_that_was_named_must_be_there_and_hold_settings(write: Write, tmp_path: Path) -> None:
    write('keep = "1d"\n')
    assert refused(tmp_path, FAREBOX_CONFIG="prod.toml") == (
        "FAREBOX_CONFIG='prod.toml' can't be read: No such file or directory"
    )
    assert refused(tmp_path, FAREBOX_CONFIG=".") == "FAREBOX_CONFIG='.' can't be read: Is a directory"
    assert refused(tmp_path, FAREBOX_CONFIG="a\0b").startswith("FAREBOX_CONFIG='a\\x00b' can't be read: ")
    write("", "pyproject.toml")
    assert refused(tmp_path, FAREBOX_CONFIG="pyproject.toml").startswith(
        "FAREBOX_CONFIG='pyproject.toml' has no table [tool.farebox]; write one"
    )


def test_a_file_that_may_not_be_read_is_an_error_and_not_passed_by() -> None:
    with folder_with('keep = "1d"\n') as folder:
        path = folder / "farebox.toml"
        folder.chmod(0o755)
        path.chmod(0o000)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65_534)  # root may read everything
        try:
            assert refused(folder) == f"{path} can't be read: Permission denied"
        finally:
            os.seteuid(user)


def test_a_file_that_is_not_utf_8_is_refused_with_its_line(write: Write, tmp_path: Path) -> None:
    path = write(b'keep = "90d"\n\n# K\xe4se\n')
    assert refused(tmp_path) == f"{path}, line 3: byte 0xe4 is not UTF-8; save the file as UTF-8"
    write('keep = "90d"\n'.encode("utf-16"))
    assert refused(tmp_path).startswith(f"{path}, line 1: byte 0xff is not UTF-8")


def test_a_huge_file_is_refused_unread(write: Write, tmp_path: Path) -> None:
    path = write('keep = "90d"\n' + "#" * (1_000_000 - 13))
    assert read(tmp_path).keep == "90d"
    write('keep = "90d"\n' + "#" * (1_000_000 - 12))
    assert refused(tmp_path).startswith(f"{path} is larger than the 1000000 bytes that settings may take")


def test_a_long_value_is_cut_in_an_error(write: Write, tmp_path: Path) -> None:
    write(f'keep = "{"x" * 10_000}"\n')
    assert len(refused(tmp_path)) < 400
    write(f"keep = 0x{'f' * 10_000}\n")
    assert "keep=a number too long to show is no span" in refused(tmp_path)


# Passwords.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://user:s3cret@cache:6379/0", "redis://user:***@cache:6379/0"),
        ("redis://:s3cret@cache", "redis://:***@cache"),
        ("redis://user:s3@cret/s3cret@cache", "redis://user:***@cache"),
        ("redis://cache:6379/0?password=s3cret&db=1", "redis://cache:6379/0?password=***&db=1"),
        ("redis:user:s3cret@cache", "redis:***@cache"),
        ("redis://cache:6379/0", "redis://cache:6379/0"),
        ("sqlite:///farebox.db", "sqlite:///farebox.db"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, said: str) -> None:
    assert shown(url) == said


@pytest.mark.parametrize(
    "text",
    [
        'ledger = "redis:user:s3cret@cache"',
        'ledger = ["redis://user:s3cret@cache"]',
        'ledgre = "redis://user:s3cret@cache"',
        '[[budgets]]\nledger = "redis://user:s3cret@cache"',
        'budgets = ["redis://user:s3cret@cache"]',
        'ledger = "redis://user:s3cret@cache',
    ],
)
def test_no_error_shows_a_password(write: Write, tmp_path: Path, text: str) -> None:
    write(text)
    assert "s3cret" not in refused(tmp_path)
    assert "s3cret" not in refused(tmp_path, FAREBOX_CONFIG="", FAREBOX_LEDGER="redis:user:s3cret@cache")


def test_settings_do_not_show_a_password(tmp_path: Path) -> None:
    settings = read(tmp_path, FAREBOX_LEDGER="redis://user:s3cret@cache")
    assert settings.ledger == "redis://user:s3cret@cache"
    assert "ledger='redis://user:***@cache'" in repr(settings)
    assert "ledger=None" in repr(read(tmp_path))


# Lines.

DOCUMENT = '''\
# [[budgets]]
keep = """
[[budgets]]
usd = 5
"""
tags.app = "shop"
[[budgets]]
name = "a"
usd = { day = 5 } # month
each = [
  "tenant", # usd = 5
]
[budgets.at]

"0.8" = "warn"
[[budgets]]
  "name"='b'
where.model = "x"

[tool.farebox]
keep = "1d"
[[tool.farebox.budgets]]
'''


@pytest.mark.parametrize(
    ("place", "line"),
    [
        (("keep",), 2),
        (("tags",), 6),
        (("tags", "app"), 6),
        (("budgets",), 7),
        (("budgets", 0), 7),
        (("budgets", 0, "name"), 8),
        (("budgets", 0, "usd", "day"), 9),
        (("budgets", 0, "each"), 10),
        (("budgets", 0, "each", 0), None),  # somewhere in three lines
        (("budgets", 0, "at"), 13),
        (("budgets", 0, "at", "0.8"), 15),
        (("budgets", 1), 16),
        (("budgets", 1, "name"), 17),
        (("budgets", 1, "where", "model"), 18),
        (("budgets", 1, "usd"), None),
        (("budgets", 2), None),
        (("tool", "farebox", "keep"), 21),
        (("tool", "farebox", "budgets", 0), 22),
    ],
)
def test_a_line_is_said_only_where_it_is_sure(place: tuple[str | int, ...], line: int | None) -> None:
    assert line_of(DOCUMENT, place) == line
    assert line_of(DOCUMENT.replace("\n", "\r\n"), place) == line


# Laws.


#: A whole number of more digits than Python writes in decimal.
HUGE = object()


def in_toml(value: Any) -> str:
    """A value as TOML has it, on one line."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case float():
            return repr(value)
        case int():
            return str(value)
        case list():
            return f"[{', '.join(map(in_toml, value))}]"
        case dict():
            return "{" + ", ".join(f"{in_toml(key)} = {in_toml(one)}" for key, one in value.items()) + "}"
        case _ if value is HUGE:
            return f"0x{'f' * 10_000}"
        case _:
            return value.isoformat()  # type: ignore[no-any-return]


def read_or_why_not(folder: Path) -> Settings | str:
    try:
        return read(folder)
    except ValueError as error:
        return str(error)


@contextmanager
def folder_with(text: str, name: str = "farebox.toml") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / name).write_text(text, "utf-8", newline="")
        yield Path(folder)


values: st.SearchStrategy[Any] = st.recursive(
    st.booleans()
    | st.integers()
    | st.just(HUGE)
    | st.floats()
    | st.text(max_size=12)
    | st.dates(date(1, 1, 1))
    | st.just(time(7, 30))
    | st.sampled_from(["org", "day", "month", "UTC", "block", "warn", "wait", "tenant", "gpt-5", "shared", "bytes", "0.5"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["day", "call", "0.8", "model", "gpt-5", "x"]) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)  # fmt: skip

BUDGET_WORDS = (
    "name usd tokens calls per tz each each_missing where on_exceed patience output_cap input_bound on_unpriced at "
    "downgrade timeout default self mode_options"
).split()

budgets = st.fixed_dictionaries(
    {
        "name": st.sampled_from("abc"),
        "usd": st.integers(0, 9) | values,
        "per": st.sampled_from(["day", "call", "ever"]),
    },
    optional={word: values for word in BUDGET_WORDS if word not in ("name", "usd", "per")},
) | st.dictionaries(st.sampled_from(BUDGET_WORDS) | st.text(max_size=3), values)

documents = st.fixed_dictionaries(
    {},
    optional={
        "ledger": values | st.just("sqlite:///a.db"),
        "tags": values | st.dictionaries(st.text(max_size=5), st.text(max_size=5)),
        "prices": values,
        "useful_output_tokens": values | st.integers(1, 99),
        "on_ledger_error": values | st.just("open"),
        "keep": values | st.just("9d"),
        "budgets": values | st.lists(budgets, max_size=3),
        "other": values,
    },
)


@given(words=documents)
@example(words={"budgets": [{"name": "a", "tokens": HUGE, "per": "day"}]})
@example(words={"budgets": [{"name": "a", "usd": 1, "per": "day", "mode_options": {"timeout": 1}}]})
def test_any_words_give_settings_or_an_error_that_names_the_file(words: dict[str, Any]) -> None:
    text = "".join(f"{word} = {in_toml(value)}\n" for word, value in words.items())
    with folder_with(text) as folder:
        said = read_or_why_not(folder)
        if isinstance(said, Settings):
            assert len(said.budgets) == len(words.get("budgets", []))
            assert all(budget.is_standing for budget in said.budgets)
        else:
            assert said.partition("\n")[0].startswith(str(folder / "farebox.toml"))


@given(st.lists(st.sampled_from(DOCUMENT.split("\n")), max_size=12).map("\n".join) | st.text(max_size=60))
def test_any_text_gives_settings_or_an_error_that_names_the_file(text: str) -> None:
    with folder_with(text) as folder:
        said = read_or_why_not(folder)
        assert isinstance(said, Settings) or said.startswith(str(folder / "farebox.toml"))


@given(
    budgets=st.lists(
        st.lists(st.sampled_from(["# usd = 5", "", "[[budgets]] # 2", "b = [\n]", 's = """\n[[budgets]]\n"""', "d.e = 1", "c = { f = 1 }"]),
                 unique=True, max_size=7),
        max_size=4,
    )
)  # fmt: skip
def test_a_line_that_is_said_is_the_right_one(budgets: list[list[str]]) -> None:
    lines: list[str] = []
    written: dict[tuple[str | int, ...], int] = {}
    index = -1
    for statements in budgets:
        for statement in ["[[budgets]]", *statements]:
            if statement.startswith("[["):
                index += 1
                written["budgets", index] = len(lines) + 1
            elif " = " in statement and not statement.startswith("#"):
                key = statement.partition(" ")[0].partition(".")[0]
                written["budgets", index, key] = len(lines) + 1
            lines += statement.split("\n")
    text = "\n".join(lines)
    assert {place: line_of(text, place) for place in written} == written
    assert line_of(text, ("budgets", index + 1)) is None


@given(
    tags=st.dictionaries(st.text("ab=,% ü", min_size=1, max_size=4).filter(str.strip), st.text("ab=,% ü", max_size=4))
)
def test_tags_of_the_environment_hold_any_text_once_it_is_encoded(tags: dict[str, str]) -> None:
    from urllib.parse import quote

    text = ",".join(f"{quote(name)}={quote(value)}" for name, value in tags.items())
    settings = read_settings({"FAREBOX_CONFIG": "", "FAREBOX_TAGS": text}, Path())
    assert (settings.tags or {}) == tags


# What it costs who has no such file.


def test_without_a_file_no_parser_is_loaded(tmp_path: Path) -> None:
    script = (
        "import sys, farebox\n"
        "assert 'farebox._settings' not in sys.modules\n"
        "from pathlib import Path\n"
        "from farebox._settings import read_settings\n"
        "read_settings({'FAREBOX_LEDGER': 'memory://'}, Path())\n"
        "print('tomllib' in sys.modules)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


@pytest.mark.parametrize("in_file", [True, False])
def test_a_ledger_that_can_not_be_opened_is_an_error_that_says_where_it_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_file: bool
) -> None:
    (tmp_path / "no.db").write_text("this is no database", "utf-8")
    file = tmp_path / "farebox.toml"
    file.write_text('keep = "1d"\n' + ('ledger = "sqlite:///no.db"\n' if in_file else ""), "utf-8")
    monkeypatch.setenv("FAREBOX_CONFIG", str(file))
    if not in_file:
        monkeypatch.setenv("FAREBOX_LEDGER", f"sqlite:///{tmp_path}/no.db")
    _config._layers.clear()
    monkeypatch.setattr(_config, "_base", None)
    monkeypatch.setattr(_config, "_state", None)
    monkeypatch.setattr(_config, "_unopened", None)
    where = f"{file}, line 2: " if in_file else "FAREBOX_LEDGER: "
    with pytest.raises(ValueError, match="^" + re.escape(where) + ".*is a file that is no database"):
        farebox.status()
