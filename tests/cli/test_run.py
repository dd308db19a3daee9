"""`farebox run`: a program that knows nothing of farebox, under a budget that holds for all its processes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Command, Ended, Inside

#: One call: 7 tokens in and 300 out of gpt-4.1, at 2 and 8 USD a million.
CALL_USD = Decimal("0.002414")

AGENT = """\
import sys
from openai import OpenAI

client = OpenAI(max_retries=0)

def ask():
    question = [{"role": "user", "content": "hi"}]
    return client.chat.completions.create(model="gpt-4.1", messages=question, max_completion_tokens=400)

"""


@pytest.fixture
def agent(command: Command, provider: Any) -> Command:
    """A command in a folder with an `agent.py` that calls the fake provider, as its environment says."""
    command.environment.update(OPENAI_BASE_URL=provider.openai_base_url, OPENAI_API_KEY="no-key-needed")
    return command


def write(command: Command, program: str, name: str = "agent.py") -> None:
    (command.folder / name).write_text(AGENT + program, encoding="utf-8")


def one_line(ended: Ended) -> str:
    """The only line on stderr."""
    lines = ended.stderr.splitlines()
    assert len(lines) == 1, ended.stderr
    return lines[0]


def test_a_program_that_fits_ends_as_ever_and_the_report_finds_its_calls(agent: Command, provider: Any) -> None:
    write(agent, "ask(); ask(); print(sys.argv[1:]); sys.exit(5)")
    ended = agent("run", "--usd", "0.01", "--tag", "team=search, eu", "--", "python", "agent.py", "--usd", "7")
    assert (ended.stdout, ended.returncode) == ("['--usd', '7']\n", 5)
    assert re.fullmatch(
        r"farebox: run-\d{8}-\d{6}-[0-9a-f]{4}: 0.004828 of 0.01 USD, 614 tokens, 2 calls", one_line(ended)
    )
    assert provider.bill.usd == 2 * CALL_USD
    found = json.loads(agent("report", "--by", "team", "--json").stdout)
    assert [(row["tags"], row["usd"]) for row in found["rows"]] == [({"team": "search, eu"}, "0.004828")]


def test_a_stop_ends_the_program_with_one_line_and_a_code_of_its_own(agent: Command, provider: Any) -> None:
    write(agent, "while True: ask()")
    ended = agent("run", "--usd", "0.01", "-m", "agent")
    assert ended.returncode == 79
    assert "needs 0.003533 USD for gpt-4.1 but has 0.002758 USD remaining" in one_line(ended)
    assert one_line(ended).startswith("farebox: stopped: budget 'run-")
    assert provider.bill.calls == 3


def test_a_program_that_swallows_the_stop_keeps_its_code_and_a_line_counts(agent: Command, provider: Any) -> None:
    write(
        agent,
        "for _ in range(10):\n"
        "    try:\n        ask()\n"
        "    except Exception as error:\n        last = error\n"
        "assert type(last).__name__ == 'BudgetExceeded'\nsys.exit(3)",
    )
    ended = agent("run", "--calls", "4", "--", "python", "agent.py")
    assert ended.returncode == 3
    assert one_line(ended).endswith("4 of 4 calls; 6 calls were refused and not sent")
    assert provider.bill.calls == 4


def test_a_stop_that_was_raised_again_as_another_error_is_still_one(agent: Command) -> None:
    write(agent, "try:\n    ask()\nexcept Exception as error:\n    raise RuntimeError('the agent failed') from error")
    ended = agent("run", "--usd", "0", "--", "python", "agent.py")
    assert ended.returncode == 79
    assert "RuntimeError: the agent failed" in ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("farebox: stopped: budget 'run-")


def test_child_processes_of_every_kind_share_the_budget(agent: Command, provider: Any) -> None:
    write(
        agent,
        "import multiprocessing, subprocess\n"
        "def work():\n"
        "    for _ in range(5):\n"
        "        try:\n            ask()\n"
        "        except Exception:\n            pass\n"
        "if __name__ == '__main__' and sys.argv[1:] != ['child']:\n"
        "    children = [multiprocessing.get_context(kind).Process(target=work) for kind in ('fork', 'spawn')]\n"
        "    for child in children:\n        child.start()\n"
        "    other = subprocess.Popen([sys.executable, 'agent.py', 'child'])\n"
        "    for child in children:\n        child.join()\n"
        "    other.wait()\n"
        "elif __name__ == '__main__':\n    work()\n",
    )
    ended = agent("run", "--usd", "0.02", "--json", "--", "python", "agent.py")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(one_line(ended))
    # What seven cost leaves 0.003102, and the next call needs 0.003533.
    assert (found["calls"], found["usd"], found["refused_calls"]) == (7, "0.016898", 8)
    assert provider.bill.calls == 7


def test_what_the_program_itself_configures_lifts_nothing(agent: Command, provider: Any) -> None:
    write(
        agent,
        "import farebox\n"
        "farebox.configure(budgets=[farebox.budget('own', usd=100, per='day')], tags={'app': 'shop'})\n"
        "farebox.uninstrument()\n"
        "with farebox.configure(budgets=[], tags={}):\n    farebox.detach(); ask()\n"
        "while True: ask()",
    )
    ended = agent("run", "--usd", "0.01", "--", "python", "agent.py")
    assert (ended.returncode, provider.bill.calls) == (79, 3)
    found = json.loads(agent("report", "--by", "app,run", "--json").stdout)
    assert sorted((row["tags"]["app"], row["calls"], row["refused_calls"]) for row in found["rows"]) == [
        ("", 1, 0),
        ("shop", 2, 1),
    ]
    assert {row["tags"]["run"][:4] for row in found["rows"]} == {"run-"}


def test_a_run_inside_a_run_is_under_both_budgets(agent: Command, provider: Any) -> None:
    write(agent, "while True: ask()")
    inner = [*Command.words(["run", "--usd", "1", "--", "python", "agent.py"])]
    ended = agent("run", "--calls", "2", "--", *inner)
    assert (ended.returncode, provider.bill.calls) == (79, 2)


def test_one_own_sitecustomize_runs_first_and_the_path_is_as_it_was(command: Command) -> None:
    (command.folder / "mine").mkdir()
    (command.folder / "mine" / "sitecustomize.py").write_text("print('mine')", encoding="utf-8")
    program = "import sys, sitecustomize; print(sitecustomize.__file__); print([p for p in sys.path if '_hook' in p])"
    command.environment["PYTHONPATH"] = str(command.folder / "mine")
    ended = command("run", "--usd", "1", "--", "python", "-c", program)
    # Also in the process of the command itself, which may write it out when it ends.
    said = ["mine", "mine", str(command.folder / "mine" / "sitecustomize.py"), "[]"]
    assert sorted(ended.stdout.splitlines()) == sorted(said)


def test_an_own_sitecustomize_that_fails_lifts_nothing(agent: Command, provider: Any) -> None:
    (agent.folder / "mine").mkdir()
    (agent.folder / "mine" / "sitecustomize.py").write_text("import no_such_module", encoding="utf-8")
    write(agent, "ask()")
    agent.environment["PYTHONPATH"] = str(agent.folder / "mine")
    ended = agent("run", "--calls", "0", "--", "python", "agent.py")
    assert (ended.returncode, provider.bill.calls) == (79, 0)


def test_a_ledger_that_is_lost_meanwhile_does_not_change_the_code_of_the_program(command: Command) -> None:
    folder = "data/farebox"
    ended = command("run", "--usd", "1", "--", "sh", "-c", f"rm ../{folder}/farebox.db*; exit 5")
    assert ended.returncode == 5


def test_a_program_without_a_model_loads_nothing_of_farebox(command: Command) -> None:
    program = "import sys; print([name for name in sys.modules if name.startswith(('farebox', 'attr', 'typing'))])"
    ended = command("run", "--usd", "1", "--", "python", "-c", program)
    assert ended.stdout == "[]\n"
    assert "imported no SDK that farebox meters" in one_line(ended)


@pytest.mark.parametrize(
    ("sdk", "program"),
    [
        (
            "mistralai.client",
            (
                "from mistralai.client import Mistral; client = Mistral(api_key='-', server_url=sys.argv[1] + '/mistral');"
                "client.chat.complete(model='mistral-small-2603', messages=asked)"
            ),
        ),
        (
            "cohere",
            (
                "import cohere; client = cohere.ClientV2('-', base_url=sys.argv[1] + '/cohere');"
                "client.chat(model='command-r-08-2024', messages=asked)"
            ),
        ),
        (
            "google.genai",
            (
                "from google import genai; client = genai.Client(api_key='-', http_options={'base_url': sys.argv[1]});"
                "client.models.generate_content(model='gemini-2.5-flash-lite', contents='hi')"
            ),
        ),
    ],
)
def test_a_program_with_another_sdk_is_measured_too(command: Command, provider: Any, sdk: str, program: str) -> None:
    pytest.importorskip(sdk, reason=f"{sdk} is not installed")
    program = f"import sys; asked = [{{'role': 'user', 'content': 'hi'}}]; {program}"
    ended = command("run", "--usd", "1", "--", "python", "-c", program, provider.anthropic_base_url)
    assert provider.bill.calls == 1
    assert f"{provider.bill.usd.normalize():f} of 1 USD" in one_line(ended)


def test_a_program_that_is_no_python_runs_and_a_line_says_so(command: Command) -> None:
    ended = command("run", "--usd", "1", "--", "sh", "-c", "echo hello; exit 4")
    assert (ended.stdout, ended.returncode) == ("hello\n", 4)
    assert "nothing was measured or limited: the program started no Python" in one_line(ended)


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["--", "no-such-program"], 127, "farebox: no-such-program: there is no such program"),
        (["--", "./data.txt"], 126, "farebox: ./data.txt can't be started: Permission denied"),
        (["--usd", "five", "--", "true"], 2, "farebox: usd='five' is not a number"),
        (["--usd", "-1", "--", "true"], 2, "usd=-1 is negative"),
        (["--usd", "1", "--on-exceed", "stop", "--", "true"], 2, "on_exceed='stop' is no mode; choose from 'block'"),
        (["--on-exceed", "warn", "--", "true"], 2, "--on-exceed needs a limit"),
        (["--tag", "team", "--", "true"], 2, "'team' is no pair; write it as team=search"),
        (["--tag", "model=x", "--", "true"], 2, "model='x' can't be a tag"),
        (["--calls", "1"], 2, "Missing argument"),
        (["-m"], 2, "-m needs the name of a module"),
    ],
)
def test_what_can_not_be_run_ends_with_one_line(
    command: Command, inside: Inside, arguments: list[str], code: int, line: str
) -> None:
    (command.folder / "data.txt").write_text("no program", encoding="utf-8")
    returned, out, said = inside("run", *arguments)
    assert (returned, out, len(said.splitlines())) == (code, "", 1)
    assert line in said


def test_with_a_ledger_that_is_none_the_program_does_not_start(command: Command) -> None:
    (command.folder / "ledger.db").write_text("this is a diary, and no database" * 100, encoding="utf-8")
    (command.folder / "farebox.toml").write_text('ledger = "sqlite:///ledger.db"', encoding="utf-8")
    ended = command("run", "--usd", "1", "--", "sh", "-c", "echo started")
    assert (ended.stdout, ended.returncode) == ("", 2)
    assert "ledger.db" in one_line(ended)


def test_an_sdk_that_can_not_be_measured_can_not_be_imported(agent: Command, provider: Any) -> None:
    write(agent, "ask()")
    broken = "import os; os.environ['FAREBOX_LEDGER'] = 'sqlite:///'; import runpy; runpy.run_path('agent.py')"
    ended = agent("run", "--usd", "1", "--", "python", "-c", broken)
    assert ended.returncode == 2
    assert "nothing is sent, as it can't be measured" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert provider.bill.calls == 0


LOOP = "print('ready', flush=True)\nwhile True: time.sleep(0.05)"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_passed_on(command: Command, number: signal.Signals) -> None:
    handler = f"import signal, sys, time; signal.signal({int(number)}, lambda *_: sys.exit(7)); "
    # In a session of its own: there is no terminal that would send Ctrl-C to the program as well.
    process = command.start("run", "--", "python", "-c", handler + LOOP, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    process.communicate(timeout=30)
    assert process.returncode == 7


def test_a_program_that_a_signal_ended_says_so_by_its_code(command: Command) -> None:
    process = command.start("run", "--", "python", "-c", "import time; " + LOOP, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(said.splitlines()) == 1


def test_ctrl_c_at_a_terminal_reaches_the_program_once(command: Command, tmp_path: Path) -> None:
    counts = "import os, signal, time; n = []; signal.signal(2, lambda *_: n.append(1)); print('ready', flush=True)\n"
    counts += "while not n: time.sleep(0.01)\ntime.sleep(0.5); print('got', len(n), flush=True); os._exit(9)"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(command.folder)
        os.execve(sys.executable, Command.words(["run", "--", "python", "-c", counts]), command.environment)
    said = b""
    pressed = False
    with contextlib.suppress(OSError):  # the terminal ends with its last program
        while chunk := os.read(terminal, 1024):
            said += chunk
            if b"ready" in said and not pressed:
                pressed = True
                os.write(terminal, b"\x03")
    _, status = os.waitpid(child, 0)
    os.close(terminal)
    assert b"got 1" in said, said
    assert os.waitstatus_to_exitcode(status) == 9
