"""The commands by name: each is imported when it is called, and what went wrong in it ends as one line."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import click

from farebox.cli import _exits
from farebox.errors import FareboxError, LedgerUnavailable, UnpricedModel


class _Place(NamedTuple):
    """Where a command is, and what it does."""

    module: str
    help: str


_COMMANDS: Final = {
    "run": _Place("run", "Run a program under a budget, without a change to it."),
    "report": _Place("_reading", "Who spent how much."),
    "top": _Place("top", "The same as a live table."),
    "budgets": _Place("_reading", "How each standing budget stands now."),
    "tail": _Place("_calls", "Single calls as they end."),
    "statusline": _Place("_reading", "One line: spent today, and the nearest budget."),
    "explain": _Place("_explaining", "How the cost of one call came about."),
    "price": _Place("_explaining", "The rates of a model, and where they come from."),
    "estimate": _Place("_explaining", "What a prompt on stdin would cost."),
    "set-limit": _Place("_changing", "Give a budget other limits."),
    "top-up": _Place("_changing", "Add to the limits of the window of now."),
    "reset": _Place("_changing", "Start a budget anew in the window of now."),
    "kill": _Place("_changing", "Refuse every call of a budget."),
    "unkill": _Place("_changing", "Let a killed budget go on."),
    "adjust": _Place("_correcting", "Correct what a call cost: refunded, or billed otherwise."),
    "export": _Place("_calls", "Every single call, as CSV or JSON lines."),
    "prune": _Place("_changing", "Let go of old single calls; sums stay."),
    "doctor": _Place("doctor", "Look whether everything works."),
    "init": _Place("_setting", "Write a farebox.toml to start from."),
    "demo": _Place("_setting", "A loop that is never satisfied, and a budget; needs no key."),
    "version": _Place("_setting", "Versions of farebox and of its prices."),
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        place = _COMMANDS.get(cmd_name)
        if place is None:
            return None
        module = importlib.import_module(f"farebox.cli.{place.module}")
        found: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return found

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):  # without importing them
            formatter.write_dl([(name, place.help) for name, place in _COMMANDS.items()])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            code = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError:
            _let_go_of_stdout()
            return _exits.BROKEN_PIPE
        except LedgerUnavailable as error:
            raise _exits.Problem(_first_line(error), _exits.LEDGER) from error
        except OSError as error:
            _let_go_of_stdout()  # it may be what can't be written
            what = f": {error.filename}" if error.filename else ""
            raise _exits.Problem(f"{error.strerror or error}{what}", _exits.BAD_INPUT) from error
        except UnpricedModel as error:
            raise _exits.Problem(_first_line(error), _exits.NOT_FOUND) from error
        except (FareboxError, ValueError) as error:
            raise _exits.Problem(_first_line(error), _exits.BAD_INPUT) from error
        return code


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Everything reads the ledger of farebox.toml or FAREBOX_LEDGER, or else a file in your data folder.",
)
def commands() -> None:
    """Budgets for LLM calls that hold, and who spent the rest."""


def run_command(arguments: Sequence[str] | None) -> int:
    """Run the command, say in one line what went wrong, and return the exit code."""
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    try:
        code = commands.main(None if arguments is None else list(arguments), prog_name="farebox", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return _exits.BAD_INPUT
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "farebox"
        _say(f"{where}: {_first_line(error)} ({where} --help says more)")
        return _exits.BAD_INPUT
    except click.ClickException as error:
        _say(f"farebox: {_first_line(error)}")
        return error.ends_with if isinstance(error, _exits.Problem) else error.exit_code
    except click.Abort:
        return _exits.INTERRUPTED
    return code if isinstance(code, int) else 0


def _first_line(error: Exception) -> str:
    text = error.format_message() if isinstance(error, click.ClickException) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__


def _say(line: str) -> None:
    try:
        click.echo(line, err=True)
    except OSError:
        pass  # there is nobody to tell


def _let_go_of_stdout() -> None:
    """Nobody reads it any more: what is still in it goes nowhere, instead of an error when the process ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
