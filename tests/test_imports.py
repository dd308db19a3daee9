"""Runs a function once a module is there: after it is initialised, once, and without a trace."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from farebox import _imports
from farebox._imports import when_imported
from farebox.testing import FakeProvider

Write = Callable[..., str]


@pytest.fixture(autouse=True)
def no_trace() -> Iterator[None]:
    """Nobody waits yet, whatever tests of other files wait for; and they wait on afterwards."""
    before, waiting = list(sys.meta_path), dict(_imports._waiting)
    sys.meta_path[:] = [finder for finder in before if not isinstance(finder, _imports._Finder)]
    _imports._waiting.clear()
    yield
    _imports._waiting.clear()
    _imports._waiting.update(waiting)
    sys.meta_path[:] = before


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module of a name that nothing else has, and returns the name."""
    monkeypatch.syspath_prepend(str(tmp_path))
    written = []

    def write(source: str, name: str = "farebox_test_module") -> str:
        (tmp_path / f"{name}.py").write_text(source, encoding="utf-8")
        importlib.invalidate_caches()
        written.append(name)
        return name

    yield write
    for name in written:
        sys.modules.pop(name, None)


def test_it_runs_at_once_for_a_module_that_is_there() -> None:
    ran, before = [], list(sys.meta_path)
    when_imported("json", lambda: ran.append("json"))
    assert ran == ["json"]
    assert sys.meta_path == before


def test_it_runs_once_the_module_has_been_initialised(write: Write) -> None:
    name, seen = write("early = 1\nlate = 2\n"), []
    when_imported(name, lambda: seen.append(sys.modules[name].late))
    assert seen == []
    module = importlib.import_module(name)
    assert seen == [2]
    importlib.import_module(name)
    importlib.reload(module)
    assert seen == [2]


def test_it_runs_for_an_import_statement_and_for_a_package(tmp_path: Path, write: Write) -> None:
    (tmp_path / "farebox_test_package").mkdir()
    write("inner = 1", "farebox_test_package/part")
    write("from farebox_test_package import part", "farebox_test_package/__init__")
    ran: list[str] = []
    when_imported("farebox_test_package", lambda: ran.append("package"))
    when_imported("farebox_test_package.part", lambda: ran.append("part"))
    exec("import farebox_test_package.part")
    assert ran == ["part", "package"]
    for name in [name for name in sys.modules if name.startswith("farebox_test_package")]:
        del sys.modules[name]


def test_several_wait_and_run_in_the_order_they_came_the_same_one_once(write: Write) -> None:
    name, ran = write(""), []

    def first() -> None:
        ran.append("first")

    when_imported(name, first)
    when_imported(name, lambda: ran.append("second"))
    when_imported(name, first)
    importlib.import_module(name)
    assert ran == ["first", "second"]


def test_nothing_is_left_in_the_import_system(write: Write) -> None:
    name, before = write("x = 1\n"), list(sys.meta_path)
    when_imported(name, lambda: None)
    assert sys.meta_path != before
    module = importlib.import_module(name)
    assert sys.meta_path == before
    assert type(module.__loader__).__module__.startswith(("_frozen_importlib", "importlib"))
    assert module.__spec__ is not None
    assert module.__spec__.loader is module.__loader__
    assert inspect.getsource(module) == "x = 1\n"


def test_the_finder_stays_for_as_long_as_somebody_waits(write: Write) -> None:
    before = list(sys.meta_path)
    one, other = write("", "farebox_test_one"), write("", "farebox_test_other")
    ran: list[str] = []
    when_imported(one, lambda: ran.append("one"))
    when_imported(other, lambda: ran.append("other"))
    importlib.import_module(one)
    assert (ran, len(sys.meta_path)) == (["one"], len(before) + 1)
    importlib.import_module(other)
    assert (ran, sys.meta_path) == (["one", "other"], before)


def test_other_imports_go_on_as_ever_meanwhile(write: Write) -> None:
    when_imported("farebox_test_nowhere", lambda: None)
    name = write("x = 1")
    assert importlib.import_module(name).x == 1
    assert importlib.util.find_spec("farebox_test_absent") is None
    with pytest.raises(ModuleNotFoundError, match="farebox_test_nowhere"):
        importlib.import_module("farebox_test_nowhere")


def test_looking_for_a_module_is_not_importing_it(write: Write) -> None:
    name, ran = write(""), []
    when_imported(name, lambda: ran.append(name))
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.name == name
    assert ran == []
    importlib.import_module(name)
    assert ran == [name]


def test_an_import_that_fails_leaves_it_waiting_for_the_next(write: Write) -> None:
    name, ran = write("raise LookupError('not today')"), []
    when_imported(name, lambda: ran.append(name))
    for _ in range(2):
        with pytest.raises(LookupError, match="not today"):
            importlib.import_module(name)
    assert ran == []
    assert name not in sys.modules
    write("x = 12345\n")
    assert importlib.import_module(name).x == 12345
    assert ran == [name]


def test_what_it_raises_leaves_the_import_statement(write: Write) -> None:
    name = write("x = 1")

    def refuse() -> None:
        raise LookupError("this SDK is not as farebox knows it")

    when_imported(name, refuse)
    with pytest.raises(LookupError, match="not as farebox knows it"):
        importlib.import_module(name)


@pytest.mark.parametrize("what", ["others", "again"])
def test_one_that_raises_spoils_nothing_for_the_others(write: Write, what: str) -> None:
    name, ran = write("x = 1"), []

    def refuse() -> None:
        ran.append("refused")
        raise LookupError

    when_imported(name, refuse)
    when_imported(name, lambda: ran.append("other"))
    with pytest.raises(LookupError):
        importlib.import_module(name)
    if what == "others":
        assert "other" in ran
    else:
        with pytest.raises(LookupError):
            importlib.import_module(name)


def test_it_runs_for_a_module_that_another_thread_is_importing(write: Write) -> None:
    name = write("import time\nstarted = True\ntime.sleep(0.3)\nlast = True\n")
    thread, ran = threading.Thread(target=importlib.import_module, args=[name]), []
    thread.start()
    while not hasattr(sys.modules.get(name), "started"):
        time.sleep(0.001)
    when_imported(name, lambda: ran.append(sys.modules[name].last))
    thread.join()
    assert ran == [True]


def test_a_module_without_a_spec_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[int] = []
    monkeypatch.setitem(sys.modules, "farebox_test_stub", ModuleType("farebox_test_stub"))
    when_imported("farebox_test_stub", lambda: ran.append(1))
    assert ran == [1]


def in_a_fresh_process(script: str, *words: str) -> Any:
    command = [sys.executable, "-W", "error", "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_importing_and_instrumenting_imports_no_sdk() -> None:
    script = (
        "import json, sys, farebox\n"
        "before = [name for name in ('openai', 'anthropic', 'google.genai', 'mistralai') if name in sys.modules]\n"
        "farebox.instrument()\n"
        "names = ('openai', 'anthropic', 'google.genai', 'mistralai')\n"
        "print(json.dumps([before, [name for name in names if name in sys.modules]]))\n"
    )
    assert in_a_fresh_process(script) == [[], []]


def test_an_sdk_imported_after_instrument_is_metered_and_one_before_too() -> None:
    script = (
        "import json, sys\n"
        "import anthropic, farebox\n"
        "farebox.instrument()\n"
        "import openai\n"
        "print(json.dumps([hasattr(sdk._base_client.SyncAPIClient.request, '__wrapped__') for sdk in (anthropic, openai)]\n"
        "    + [any('farebox' in type(finder).__module__ for finder in sys.meta_path)]))\n"
    )
    assert in_a_fresh_process(script) == [True, True, True]  # the last: it waits for Google's, too


def test_googles_sdk_imported_after_instrument_is_metered_in_both_its_stacks() -> None:
    pytest.importorskip("google.genai", reason="google-genai is not installed")
    script = (
        "import json, sys, farebox\n"
        "farebox.instrument(only=['google'])\n"
        "import google.genai\n"
        "client = google.genai.Client(api_key='fake')\n"
        "found = [hasattr(type(client._api_client)._request, '__wrapped__')]\n"
        "if hasattr(client, 'interactions'):\n"
        "    import google.genai._gaos.basesdk as stack\n"
        "    found.append(hasattr(stack.BaseSDK.do_request, '__wrapped__'))\n"
        "print(json.dumps([*found, any('farebox' in type(finder).__module__ for finder in sys.meta_path)]))\n"
    )
    assert in_a_fresh_process(script) in ([True, True, False], [True, True])


def test_mistrals_sdk_imported_after_instrument_is_metered_in_all_its_packages() -> None:
    pytest.importorskip("mistralai", reason="mistralai is not installed")
    script = (
        "import importlib, json, sys, farebox\n"
        "farebox.instrument(only=['mistral'])\n"
        "found = []\n"
        "for part in ('', '.azure', '.gcp'):\n"
        "    base = importlib.import_module(f'mistralai{part}.client.basesdk').BaseSDK\n"
        "    found.append(hasattr(base.do_request, '__wrapped__') and hasattr(base.do_request_async, '__wrapped__'))\n"
        "print(json.dumps(found))\n"
    )
    if importlib.util.find_spec("mistralai.basesdk") is not None:
        pytest.skip("this mistralai has its classes elsewhere")
    assert in_a_fresh_process(script) in ([True, True, True], [True, True])


def test_undo_before_the_sdk_is_imported_leaves_it_alone() -> None:
    script = (
        "import json, sys, farebox\n"
        "farebox.instrument().undo()\n"
        "finder = any('farebox' in type(finder).__module__ for finder in sys.meta_path)\n"
        "import openai\n"
        "print(json.dumps([finder, hasattr(openai._base_client.SyncAPIClient.request, '__wrapped__')]))\n"
    )
    assert in_a_fresh_process(script) == [False, False]


def test_after_instrument_no_call_imports_anything() -> None:
    """Whatever importing farebox leaves for later, it is there before the first call that it would make wait."""
    script = (
        "import asyncio, json, sys\n"
        "import anthropic, openai, farebox\n"
        "clients = {'base_url': sys.argv[1], 'api_key': 'fake'}\n"
        "openai_client, async_client = openai.OpenAI(**clients), openai.AsyncOpenAI(**clients)\n"
        "anthropic_client = anthropic.Anthropic(base_url=sys.argv[2], api_key='fake')\n"
        "asked = {'messages': [{'role': 'user', 'content': 'hi'}]}\n"
        "chat = {'model': 'gpt-5-mini', **asked}\n"
        "message = {'model': 'claude-haiku-4-5', 'max_tokens': 9, **asked}\n"
        "async def calls():\n"
        "    for stream in (False, True):\n"
        "        for create, words in (openai_client.chat.completions.create, chat), (anthropic_client.messages.create, message):\n"
        "            came = create(**words, stream=stream)\n"
        "            list(came if stream else ())\n"
        "    openai_client.responses.create(model='gpt-5-mini', input='hi')\n"
        "    await async_client.chat.completions.create(**chat)\n"
        "async def main():\n"
        "    await calls()\n"
        "    farebox.instrument()\n"
        "    before = set(sys.modules)\n"
        "    with farebox.track(feature='search'), farebox.budget('search', usd=1) as b:\n"
        "        await calls()\n"
        "    after = set(sys.modules)\n"
        "    print(json.dumps([b.spent_calls, sorted(after - before)]))\n"
        "asyncio.run(main())\n"
    )
    with FakeProvider() as provider:
        assert in_a_fresh_process(script, provider.openai_base_url, provider.anthropic_base_url) == [6, []]


def test_whatever_is_sent_on_the_bus_first_finds_enforcement_there() -> None:
    script = (
        "import json\n"
        "from farebox import signals\n"
        "from farebox.types import Call\n"
        "call = Call(provider_name='local', operation_name='chat', endpoint='', request_model='my-llm')\n"
        "signals.pre_call.publish(call)\n"
        "call.outcome = 'completed'\n"
        "signals.post_call.publish(call)\n"
        "import farebox\n"
        "print(json.dumps(farebox.report().total.calls))\n"
    )
    assert in_a_fresh_process(script) == 1
