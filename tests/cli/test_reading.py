"""What the command answers from a ledger, and what it says where there is nothing to answer."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import farebox
from tests.cli.conftest import Command, Inside, buy, spend

Use = Callable[..., None]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "how-to" / "use-the-command.md"


def one_line(text: str) -> str:
    (line,) = text.splitlines()
    return line


def test_a_report_is_aligned_text_where_there_is_no_terminal(command: Command, ledger: Use) -> None:
    ledger()
    spend(2, feature="search")
    spend(feature="chat", model="gpt-4.1-mini")
    assert command("report", "--by", "feature,model").stdout == (
        "feature  model         calls  refused  tokens in  tokens out     usd  reserved usd\n"
        "search   gpt-4.1           2        0       2000        1000   0.012             0\n"
        "chat     gpt-4.1-mini      1        0       1000         500  0.0012             0\n"
        "total                      3        0       3000        1500  0.0132             0\n"
    )


def test_json_has_the_same_numbers_as_text_that_no_reader_rounds(command: Command, ledger: Use) -> None:
    ledger()
    spend(3, feature="search")
    found = json.loads(command("report", "--by", "feature", "--json").stdout)
    assert found["total"]["usd"] == "0.018"
    assert found["rows"][0]["tags"] == {"feature": "search"}
    assert found["rows"][0]["input_tokens"] == 3_000


def test_a_day_is_that_of_the_zone_asked_for(command: Command, ledger: Use) -> None:
    ledger()
    spend()
    ended = command("report", "--by", "day", "--tz", "Pacific/Kiritimati", "--json")
    # Of the call, which was made a moment ago: 14 hours ahead of UTC.
    (row,) = json.loads(ended.stdout)["rows"]
    started = farebox.calls()[0].started_at
    assert row["tags"]["day"] == f"{datetime.fromtimestamp(started.timestamp() + 14 * 3_600, UTC):%Y-%m-%d}"


def test_a_terminal_gets_a_table_and_no_color_where_nobody_wants_it(command: Command, ledger: Use) -> None:
    ledger()
    spend(feature="search")
    for environment, is_styled in (({"NO_COLOR": "1"}, True), ({"TERM": "dumb"}, False)):
        said = at_terminal(command, ["report", "--by", "feature"], environment)
        assert "search" in said
        assert "0.006" in said
        assert ("\x1b[3" in said) is False, said  # no color of letters in any of them
        assert ("─" in said or "━" in said or "-" in said) is True
        assert is_styled or "\x1b[" not in said


def at_terminal(command: Command, arguments: list[str], environment: dict[str, str]) -> str:
    """What a command writes to a terminal of 120 columns."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        Command.words(arguments),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=command.folder,
        env={**command.environment, "COLUMNS": "120", **environment},
    )
    os.close(theirs)
    said = b""
    try:
        while chunk := os.read(ours, 4_096):
            said += chunk
    except OSError:
        pass  # how a terminal says that its other end is closed
    os.close(ours)
    assert process.wait(30) == 0
    return said.decode()


def test_a_tag_moves_no_cursor(command: Command, ledger: Use) -> None:
    ledger()
    spend(feature="\x1b[2Jgone")
    assert "\\x1b[2Jgone" in command("report", "--by", "feature").stdout
    assert "\x1b[2J" not in at_terminal(command, ["tail"], {})


def test_budgets_say_what_is_spent_and_when_they_start_again(command: Command, ledger: Use) -> None:
    budgets = [
        farebox.budget("org", usd="0.05", per="ever"),
        farebox.budget("plan", calls=10, per="month", each="tenant"),
    ]
    ledger(budgets=budgets)
    buy("0.006", tenant="acme")
    lines = command("budgets").stdout.splitlines()
    assert lines[0].split()[:10] == "budget for per unit spent reserved remaining limit used debt".split()
    assert lines[1].split() == "org - ever usd 0.006 0 0.044 0.05 12% 0 -".split()
    assert lines[2].split()[:-1] == "plan tenant=acme month calls 1 0 9 10 10% 0".split()
    (row,) = json.loads(command("budgets", "plan", "--tag", "tenant=acme", "--json").stdout)
    assert row["resets_at"] == lines[2].split()[-1]
    assert command("statusline").stdout == "0.006 USD today, 1 calls | org 12% of 0.05 USD ever\n"


def test_tail_follows_calls_as_they_end(command: Command, ledger: Use) -> None:
    ledger()
    spend(2, feature="before")
    # A shell has what it starts in the background ignore an interrupt, and that is handed down to whatever is started there.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = command.start("tail", "-f", "-n", "1")
    signal.signal(signal.SIGINT, before)
    assert process.stdout is not None
    assert "feature=before" in process.stdout.readline()
    spend(feature="after")
    assert "0.006 USD  completed  feature=after" in process.stdout.readline()
    process.send_signal(signal.SIGINT)
    rest, said = process.communicate(timeout=30)
    assert (process.returncode, rest.strip(), said.strip()) == (130, "", "")


def test_export_writes_every_call(command: Command, ledger: Use) -> None:
    ledger()
    spend(3, feature="search")
    spend(feature="chat")
    rows = list(csv.DictReader(io.StringIO(command("export", "csv").stdout)))
    assert sum(Decimal(row["usd"]) for row in rows) == Decimal("0.024")
    lines = command("export", "jsonl", "--where", "feature=chat").stdout.splitlines()
    assert [json.loads(line)["tags"] for line in lines] == [{"feature": "chat"}]


def test_a_reader_that_goes_away_ends_it_without_a_word(command: Command, ledger: Use) -> None:
    ledger()
    spend(2_000)
    process = command.start("export", "csv")
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline().startswith("call_id,")
    process.stdout.close()
    assert process.wait(30) == 141
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full, which takes no byte")
@pytest.mark.parametrize("words", ["report", "export csv"])
def test_a_full_disk_ends_it_with_one_line(command: Command, ledger: Use, words: str) -> None:
    ledger()
    spend()
    with open("/dev/full", "w", encoding="utf-8") as full:
        process = command.start(*words.split(), stdout=full)
        _, said = process.communicate(timeout=30)
    assert (process.returncode, one_line(said)) == (2, "farebox: No space left on device")


def test_without_a_stdout_it_still_ends_well(command: Command, ledger: Use) -> None:
    ledger()
    spend()
    words = shlex.join(command.words(["report"]))
    ended = subprocess.run(
        ["sh", "-c", f"{words} >&- <&-"],
        env=command.environment,
        cwd=command.folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, "")


# ── what is not there, or can't be read ──────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "words", ["report", "budgets", "tail", "statusline", "explain --last", "top --once", "export csv"]
)
def test_without_a_ledger_a_line_says_how_to_get_one(inside: Inside, tmp_path: Path, words: str) -> None:
    code, out, said = inside(*words.split())
    assert (code, out) == (3, "")
    assert one_line(said).startswith(f"farebox: there is no ledger yet at {tmp_path}/data/farebox/farebox.db; ")
    assert not (tmp_path / "data").exists()


def test_an_empty_ledger_says_so(command: Command, inside: Inside, ledger: Use) -> None:
    ledger()
    said = f"no calls in the last 1d in sqlite:///{command.folder}/ledger.db\n"
    assert inside("report", "--since", "1d") == (0, said, "")
    assert "no standing budgets are known" in inside("budgets")[1]
    assert json.loads(inside("report", "--json")[1])["rows"] == []
    assert inside("tail") == (0, "", "")
    code, _, said = inside("explain", "--last")
    assert code == 3
    assert one_line(said).startswith("farebox: no call is kept in this ledger")


def test_a_tag_that_no_call_has_is_named_with_those_that_they_have(command: Command, ledger: Use) -> None:
    ledger()
    spend(feature="search")
    ended = command("report", "--by", "featur")
    assert ended.returncode == 3
    assert one_line(ended.stderr).startswith("farebox: no call has a tag 'featur'; choose from feature, or provider, ")
    assert command("report", "--where", "user=x").returncode == 3
    ended = command("report", "--where", "feature=chat")
    assert (ended.returncode, ended.stdout.startswith("no calls with feature=chat in ")) == (0, True)


def test_a_ledger_that_others_keep_locked_did_not_answer(command: Command, ledger: Use) -> None:
    ledger()
    command.environment["FAREBOX_LEDGER"] += "?timeout=0.2"
    holder = sqlite3.connect(command.folder / "ledger.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    ended = command("set-limit", "org", "--usd", "5")
    holder.execute("ROLLBACK")
    holder.close()
    assert ended.returncode == 4
    assert "database is locked" in one_line(ended.stderr)


@pytest.mark.parametrize(
    ("words", "code", "line"),
    [
        ("report --since 7", 2, "since='7' is no span"),
        ("report --tz Mars", 2, "'Mars' is no time zone; write one such as UTC or Asia/Tokyo"),
        ("report --where feature", 2, "'feature' is no pair"),
        ("reprot", 2, "No such command 'reprot'"),
        (
            "price gtp-4.1",
            3,
            "no price of 'gtp-4.1' is known for anthropic or cohere or google or mistral or openai; similar: gpt-4.1",
        ),
        ("estimate no-such-model", 3, "model 'no-such-model' has no price"),
        ("explain call_1", 3, "no call 'call_1' is kept in this ledger"),
        ("explain", 2, "give the id of a call, or --last"),
        ("top", 2, "top needs a terminal; elsewhere write farebox top --once"),
        ("kill nobody", 3, "no budget 'nobody' is known"),
        ("set-limit org", 2, "say how much: --usd, --tokens or --calls"),
        ("prune --before ever", 2, "is no span"),
    ],
)
def test_bad_input_ends_with_one_line(inside: Inside, ledger: Use, words: str, code: int, line: str) -> None:
    ledger()
    returned, out, said = inside(*words.split(), stdin="a prompt")
    assert (returned, out) == (code, "")
    assert line in one_line(said)


def test_a_malformed_file_is_named_with_its_line(command: Command) -> None:
    (command.folder / "farebox.toml").write_text('ledger = "sqlite:///x.db"\nkeep_for = "9d"\n', encoding="utf-8")
    ended = command("report")
    assert ended.returncode == 2
    assert one_line(ended.stderr).startswith(
        f"farebox: {command.folder}/farebox.toml, line 2: keep_for='9d' is no setting"
    )


def test_a_ledger_of_one_process_can_not_be_read_by_another(command: Command) -> None:
    command.environment["FAREBOX_LEDGER"] = "memory://"
    ended = command("report")
    assert ended.returncode == 3
    assert "ends with its process" in one_line(ended.stderr)


# ── the rest ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_init_writes_a_file_that_can_be_read_and_never_over_one(command: Command) -> None:
    assert command("init").returncode == 0
    written = (command.folder / "farebox.toml").read_text("utf-8")
    uncommented = "\n".join(
        line[2:] if line.startswith("# ") and ("=" in line or line.startswith("# [")) else line
        for line in written.splitlines()
    )
    (command.folder / "all.toml").write_text(uncommented.replace('prices = "prices.toml"', ""), encoding="utf-8")
    program = "import farebox; print(*sorted({row.budget for row in farebox.status()}))"
    environment = {**command.environment, "FAREBOX_CONFIG": "all.toml"}
    ran = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=command.folder,
        env=environment,
        check=False,
    )
    assert (ran.stdout, ran.stderr) == ("org\n", "")
    again = command("init")
    assert (again.returncode, one_line(again.stderr).endswith("was left as it is; remove it first")) == (2, True)
    assert (command.folder / "farebox.toml").read_text("utf-8") == written


def test_the_doctor_finds_what_is_well_and_what_is_not(command: Command, inside: Inside, ledger: Use) -> None:
    ledger()
    spend()
    code, out, _ = inside("doctor", "--json")
    found = {finding["what"]: finding for finding in json.loads(out)}
    assert code == 0
    assert found["openai"]["is_ok"] is True
    assert found["calls"]["found"] == "1, 0.006 USD spent, 0 USD reserved"
    assert found["ledger"]["found"].endswith("ledger.db (FAREBOX_LEDGER)")
    assert "genai-prices" in found["prices"]["found"]


def test_the_doctor_says_which_word_of_the_file_is_wrong(
    command: Command, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    (command.folder / "farebox.toml").write_text("budgets = 3", encoding="utf-8")
    monkeypatch.delenv("FAREBOX_CONFIG")
    code, out, _ = inside("doctor")
    assert code == 1
    assert "settings   PROBLEM" in out
    assert "budgets=3 is a whole number" in out


@pytest.mark.parametrize("words", ["price gpt-4.1", "estimate gpt-4.1", "doctor"])
def test_a_question_that_needs_no_ledger_makes_none(
    command: Command, inside: Inside, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    command.environment["FAREBOX_LEDGER"] = "sqlite:///ledger.db"
    assert inside(*words.split(), stdin="a prompt")[0] == 0
    assert list(command.folder.iterdir()) == []


def test_the_demo_stops_and_agrees_with_the_bill(command: Command) -> None:
    ended = command("demo")
    assert ended.returncode == 0, ended.stderr
    *_, spent, billed = ended.stdout.splitlines()
    assert "budget 'demo' (0.02 USD) needs" in ended.stdout
    assert Decimal(spent.split()[4]) == Decimal(billed.split()[4]) <= Decimal("0.02")


def test_the_version_and_the_help_need_no_ledger(command: Command) -> None:
    assert command("version").stdout.startswith("farebox ")
    said = command("--help").stdout
    for name in ("run", "report", "top", "budgets", "doctor"):
        assert f"\n  {name} " in said


@pytest.mark.parametrize(
    ("shell", "before", "after"),
    [
        ("bash", "", 'COMP_WORDS=(farebox re) COMP_CWORD=1; _farebox_completion farebox; echo "${COMPREPLY[@]}"'),
        # zsh completes at a prompt only: what it is given is shown instead.
        (
            "zsh -f",
            "autoload -U compinit; compinit -u",
            "COMP_WORDS='farebox re' COMP_CWORD=1 _FAREBOX_COMPLETE=zsh_complete farebox; test $_comps[farebox]",
        ),
        ("fish", "", 'complete -C "farebox re"'),
    ],
)
def test_a_shell_completes_commands_with_the_documented_line(
    command: Command, shell: str, before: str, after: str
) -> None:
    words = shell.split()
    if shutil.which(words[0]) is None:
        pytest.skip(f"there is no {words[0]} here")
    (line,) = re.findall(rf"^\| {words[0]} \| `(.*?)` in", PAGE.read_text("utf-8"), re.MULTILINE)
    script = "\n".join([before, line.replace("\\|", "|"), after])
    ran = subprocess.run(
        [*words, "-c", script], capture_output=True, text=True, env=command.environment, check=False, timeout=60
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert set(re.findall(r"\bre[a-z]+\b", ran.stdout)) >= {"report", "reset"}


@pytest.mark.parametrize("missing", ["click"])
def test_without_click_a_line_says_what_to_install(command: Command, missing: str) -> None:
    program = f"import sys; sys.modules[{missing!r}] = None; from farebox.cli import main; sys.exit(main(['report']))"
    ran: Any = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=command.environment, check=False
    )
    assert ran.returncode == 2
    assert "pip install 'farebox[cli]'" in one_line(ran.stderr)
