"""The names a user sees: few, sorted, alike in shape; and errors that survive a trip to another process."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from types import FunctionType, ModuleType
from typing import Any

import pytest

import farebox
from farebox import errors

#: A value of the type of each field that an error may carry, none of them the default.
FIELDS: dict[str, Any] = {
    "budget": "nightly-eval",
    "scope": "nightly-eval > summarise",
    "unit": "tokens",
    "limit": Decimal("5.00"),
    "spent": Decimal("4.9712"),
    "reserved": Decimal("0.0155"),
    "needed": Decimal("0.0421"),
    "kind": "contended",
    "resets_at": datetime(2026, 11, 22, tzinfo=UTC),
    "response": {"id": "resp_1"},
    "provider_name": "openai",
    "what": ("image_url",),
    "tag": "tenant",
    "endpoint": "/v1/images/generations",
    "model": "gpt-5-mini",
}

RAISED = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.FareboxError)
]
WARNED = [
    value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, errors.FareboxWarning)
]
FUNCTIONS = [name for name in farebox.__all__ if isinstance(getattr(farebox, name), FunctionType)]


def is_room(name: str) -> bool:
    """Importing a room makes it an attribute of the package; only those in `__all__` are public names."""
    value = getattr(farebox, name)
    return isinstance(value, ModuleType) and value.__name__ == f"farebox.{name}" and name not in farebox.__all__


def test_dir_and_all_agree() -> None:
    assert [name for name in dir(farebox) if not name.startswith("_") and not is_room(name)] == farebox.__all__


def test_all_is_sorted_and_short() -> None:
    assert farebox.__all__ == sorted(set(farebox.__all__))
    assert len(farebox.__all__) < 25


def test_type_checkers_and_programs_find_a_name_in_the_same_place() -> None:
    """The names that are loaded when they are asked for are said twice, as type checkers read no tables."""
    typed = {
        alias.name: node.module
        for branch in ast.parse(inspect.getsource(farebox)).body
        if isinstance(branch, ast.If)
        for node in branch.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    homes = {name: f"farebox.{home}" for home, names in farebox._HOMES.items() for name in names.split()}
    assert typed == homes | dict.fromkeys(farebox._MODULES, "farebox")
    assert sorted({*homes, "BudgetExceeded"}) == farebox.__all__
    for name, home in homes.items():
        assert getattr(farebox, name) is getattr(sys.modules[home], name)


def test_a_fresh_process_finds_every_name_before_it_is_asked_for() -> None:
    script = (
        "import farebox, pickle\n"
        "assert set(farebox.__all__) | {'signals', 'on_exceed'} <= set(dir(farebox))\n"
        "assert pickle.loads(pickle.dumps(farebox.report)) is farebox.report\n"
        "assert farebox.signals.pre_call and farebox.on_exceed.Stop()\n"
        "import pydoc\n"
        "assert 'report(by' in ''.join(pydoc.plain(pydoc.render_doc(farebox)).split())\n"
        "assert not hasattr(farebox, 'reprot')\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


@pytest.mark.parametrize("name", farebox.__all__)
def test_a_public_name_says_what_it_does(name: str) -> None:
    documented = getattr(farebox, name).__doc__
    assert documented
    assert documented.strip()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_options_are_keyword_only(name: str) -> None:
    """The first parameter is what the function is about and may be left out; every other optional one is named."""
    _, *others = inspect.signature(getattr(farebox, name)).parameters.values() or [None]
    positional = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    assert not [other.name for other in others if other.kind in positional and other.default is not other.empty]


def fields_of(cls: type[BaseException]) -> dict[str, Any]:
    """Something for every keyword of an error's own `__init__`."""
    if not isinstance(cls.__init__, FunctionType):
        return {}
    _, message, *keywords = inspect.signature(cls.__init__).parameters.values()
    assert message.name == "message"
    for keyword in keywords:
        assert keyword.kind is keyword.KEYWORD_ONLY
        assert keyword.default is not keyword.empty, f"{cls.__name__}({keyword.name}=) needs a default"
        assert keyword.default != FIELDS[keyword.name]
    return {keyword.name: FIELDS[keyword.name] for keyword in keywords}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("cls", RAISED + WARNED)
def test_an_error_survives_pickling_with_its_fields(cls: type[Exception], protocol: int) -> None:
    fields = fields_of(cls)
    error = cls("who, what it needed, what it had", **fields)
    error.add_note("where")
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is cls
    assert copy.args == error.args
    assert str(copy) == "who, what it needed, what it had"
    assert vars(copy) == vars(error) == fields | {"__notes__": ["where"]}


@pytest.mark.parametrize("cls", RAISED)
def test_an_error_can_be_made_without_arguments(cls: type[Exception]) -> None:
    assert isinstance(cls(), errors.FareboxError)


def test_no_error_is_another_librarys() -> None:
    for cls in RAISED + WARNED:
        assert {base.__module__ for base in cls.__mro__} == {"farebox.errors", "builtins"}


def test_the_tree_at_the_top_of_errors_shows_every_class_below_its_parent() -> None:
    drawn: dict[str, str | None] = {}
    path: list[tuple[int, str]] = []
    for line in (errors.__doc__ or "").splitlines():
        if found := re.match(r"([│├└─ ]*)(Farebox\w+|(?<=─ )\w+)", line):
            depth, name = len(found[1]), found[2]
            path = [(column, above) for column, above in path if column < depth]
            drawn[name] = path[-1][1] if path else None
            path.append((depth, name))
    roots = (errors.FareboxError, errors.FareboxWarning)
    assert drawn == {cls.__name__: None if cls in roots else cls.__bases__[0].__name__ for cls in RAISED + WARNED}


def test_errors_is_only_classes_and_what_their_fields_are_made_of() -> None:
    """So that `RAISED` and `WARNED`, which are read from it, are all there is."""
    classes = {node.name for node in ast.parse(inspect.getsource(errors)).body if isinstance(node, ast.ClassDef)}
    assert classes == {cls.__name__ for cls in RAISED + WARNED} | {"ScopeEnded"}
