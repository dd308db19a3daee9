"""`farebox run`: a program under a budget, without a change to it.

The program gets a folder in front of its PYTHONPATH whose `sitecustomize` has farebox meter every Python process it starts,
and the run's budget, which all of them share in the ledger, by name.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final

import click

from farebox._call import read_tags
from farebox.cli import _doors, _exits, _hook
from farebox.cli._armed import TAG, VARIABLE
from farebox.cli._output import Shown, amount, note, read_pairs, shows
from farebox.cli._reading import RUN_TIME
from farebox.errors import FareboxError

#: Signals that the program gets when `run` gets them, where the system has them.
_PASSED_ON: Final = ("SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2")
#: Signals that a terminal sends to everybody at it, the program too.
_OF_TERMINAL: Final = ("SIGINT", "SIGQUIT")


class _RunCommand(click.Command):
    """As python has it: what comes after `-m module`, or after the first word of the program, is the program's."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        with_values = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        at = 0
        while at < len(args) and args[at].startswith("-") and args[at] not in ("-m", "--"):
            at += 2 if args[at] in with_values else 1
        if args[at : at + 1] == ["-m"]:
            if len(args) == at + 1:
                raise click.UsageError("-m needs the name of a module: farebox run -m agent", ctx)
            args = [*args[:at], "--", sys.executable, *args[at:]]
        return super().parse_args(ctx, args)


@click.command(
    "run",
    cls=_RunCommand,
    context_settings={"allow_interspersed_args": False},
    options_metavar="[OPTIONS]",
    short_help="Run a program under a budget, without a change to it.",
)
@click.option("--usd", metavar="USD", help="At most so much money, for all its processes together.")
@click.option("--tokens", type=int, metavar="N", help="At most so many tokens.")
@click.option("--calls", type=int, metavar="N", help="At most so many calls.")
@click.option(
    "--on-exceed", metavar="MODE", default="block", show_default=True, help="What happens to a call that does not fit."
)
@click.option("--tag", "tags", multiple=True, metavar="K=V", help="A label of every call.")
@click.argument("program", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- PROGRAM... | -m MODULE...")
@shows
def run(
    usd: str | None,
    tokens: int | None,
    calls: int | None,
    on_exceed: str,
    tags: tuple[str, ...],
    program: tuple[str, ...],
    shown: Shown,
) -> int:
    """Run a program under a budget, without a change to it.

    \b
    farebox run --usd 5 -- python agent.py --fast
    farebox run --usd 5 -m agent --fast

    Python processes that it starts share the budget.  Its exit code is the program's, or 79 where the budget stopped it.
    """
    labels = read_pairs(tags)
    read_tags(labels)
    limits = {"usd": usd, "tokens": tokens, "calls": calls}
    words: dict[str, Any] = {name: limit for name, limit in limits.items() if limit is not None}
    name = f"run-{time.strftime(RUN_TIME, time.gmtime())}-{secrets.token_hex(2)}"
    if words:
        words["on_exceed"] = on_exceed
        _doors.imposed(name, words)
    elif on_exceed != "block":
        raise click.UsageError("--on-exceed needs a limit: --usd, --tokens or --calls")
    ledger = _doors.use_ledger(makes=True)
    with tempfile.TemporaryDirectory(prefix="farebox-run-") as notes:
        environment = _environment(name, words, labels, ledger.url, notes)
        returned = _run(program, environment)
        told = {line for file in Path(notes).iterdir() for line in file.read_text("utf-8").split()}
    if not (returned == _exits.STOPPED and "stopped" in told):  # it has said so
        try:
            _sum_up(name, words, told, ledger.shown, shown)
        except (FareboxError, ValueError) as error:  # which says nothing about how the program ended
            note(f"{name} can't be summed up: {str(error).partition(chr(10))[0]}")
    return returned if returned >= 0 else _exits.SIGNAL - returned


def _environment(
    name: str, words: dict[str, Any], labels: dict[str, str], ledger_url: str, notes: str
) -> dict[str, str]:
    """What the program is started with: a run inside a run is under both budgets."""
    from urllib.parse import quote

    said = dict(os.environ)
    outer = json.loads(said.get(VARIABLE, "") or "[]")
    said[VARIABLE] = json.dumps([*outer, {"name": name, "budget": words, "notes": notes}])
    said["FAREBOX_LEDGER"] = ledger_url
    if labels:
        known = _doors.settings().tags or {}
        said["FAREBOX_TAGS"] = ",".join(
            f"{quote(tag, safe='')}={quote(value, safe='')}" for tag, value in {**known, **labels}.items()
        )
    folder = str(Path(_hook.__file__).parent)
    others = [path for path in said.get("PYTHONPATH", "").split(os.pathsep) if path and path != folder]
    said["PYTHONPATH"] = os.pathsep.join([folder, *others])
    return said


def _run(program: Sequence[str], environment: dict[str, str]) -> int:
    """Start the program, pass signals on, and return its exit code; -n where signal n ended it."""
    started: list[subprocess.Popen[bytes]] = []
    with _passing_on_signals(started):
        # As a shell looks it up: by the PATH of now.  Windows would look beside this Python first.
        found = shutil.which(program[0])
        try:
            started.append(subprocess.Popen([found or program[0], *program[1:]], env=environment))
        except FileNotFoundError:
            raise _exits.Problem(f"{program[0]}: there is no such program", _exits.NO_PROGRAM) from None
        except OSError as error:
            raise _exits.Problem(f"{program[0]} can't be started: {error.strerror}", _exits.NOT_STARTED) from None
        return started[0].wait()


@contextmanager
def _passing_on_signals(started: list[subprocess.Popen[bytes]]) -> Iterator[None]:
    def pass_on(number: int, frame: FrameType | None) -> None:
        if started and not (signal.Signals(number).name in _OF_TERMINAL and _is_at_terminal()):
            started[0].send_signal(number)

    numbers = [getattr(signal, name) for name in (*_PASSED_ON, *_OF_TERMINAL) if hasattr(signal, name)]
    before = {number: signal.signal(number, pass_on) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _is_at_terminal() -> bool:
    """Whether a Ctrl-C of a terminal comes to this process, and so to the program as well."""
    if not hasattr(os, "tcgetpgrp"):
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def _sum_up(name: str, words: dict[str, Any], told: set[str], ledger: str, shown: Shown) -> None:
    """One line on what the run came to, or on why nobody knows."""
    import farebox

    total = farebox.report(where={TAG: name}).total
    if shown.as_json:
        click.echo(
            json.dumps(
                {
                    "run": name,
                    "limit": {unit: words[unit] for unit in ("usd", "tokens", "calls") if unit in words},
                    "is_measured": "armed" in told,
                    "usd": amount(total.usd),
                    "reserved_usd": amount(total.reserved_usd),
                    "tokens": total.input_tokens + total.output_tokens,
                    "calls": total.calls,
                    "refused_calls": total.refused_calls,
                    "unpriced_calls": total.unpriced_calls,
                }
            ),
            err=True,
        )
    elif "armed" not in told:
        note(_why_unmeasured(told))
    else:
        note(_summary(name, words, total, ledger))


def _why_unmeasured(told: set[str]) -> str:
    if "python" not in told:
        return "nothing was measured or limited: the program started no Python that heeds PYTHONPATH"
    if "absent" in told:
        return "nothing was measured or limited: farebox is not installed for the Python of the program"
    return "nothing was measured: the program imported no SDK that farebox meters (openai, anthropic, google-genai, mistralai, cohere)"


def _summary(name: str, words: dict[str, Any], total: Any, ledger: str) -> str:
    tokens = total.input_tokens + total.output_tokens
    of = {unit: f" of {words[unit]}" if unit in words else "" for unit in ("usd", "tokens", "calls")}
    said = f"{name}: {amount(total.usd)}{of['usd']} USD, {tokens}{of['tokens']} tokens, {total.calls}{of['calls']} {'call' if total.calls == 1 and not of['calls'] else 'calls'}"
    if total.reserved_usd:
        said += f"; {amount(total.reserved_usd)} USD still reserved"
    if total.unpriced_calls:
        said += f"; {total.unpriced_calls} calls have no price"
    if total.refused_calls:
        said += (
            f"; {total.refused_calls} {'call was' if total.refused_calls == 1 else 'calls were'} refused and not sent"
        )
    if not total.calls and not total.refused_calls:
        said += f" in {ledger}"
    return said
