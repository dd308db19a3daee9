"""The door of farebox's pytest plugin: what pytest loads in every run, whether the run has to do with farebox or not.

It stands outside of the package, because importing anything of `farebox` imports its core.  The plugin itself is
`farebox.testing.plugin`.  It is imported once an option, a mark or a fixture asks for it, or the program under test has
imported farebox.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from farebox.testing import FakeProvider
    from farebox.testing.plugin import Cassette, Plugin, Spend

_FIXTURES = frozenset({"spend", "fake_provider", "cassette", "cassettes"})


class Hooks:
    """What a conftest.py may say."""

    @pytest.hookspec
    def pytest_farebox_cassette(self, item: pytest.Item) -> dict[str, Any] | None:
        """Words for the cassette of a test, as of `@pytest.mark.cassette`, whose own words win."""


def pytest_addhooks(pluginmanager: pytest.PytestPluginManager) -> None:
    pluginmanager.add_hookspecs(Hooks)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("farebox", "what tests may spend on LLM calls (farebox)")
    group.addoption("--farebox-budget", metavar="USD", help="one budget for the whole run, shared by all its workers")
    group.addoption("--farebox-budget-per-test", metavar="USD", help="a budget for each test")
    group.addoption("--farebox-block-live", action="store_true", help="refuse metered calls that leave this machine")
    group.addoption(
        "--farebox-cassettes",
        metavar="MODE",
        help="what tests with @pytest.mark.cassette do: replay (send nothing), record (anew), new (record what is "
        "missing), off; replay by default, or as the ini option farebox_cassettes says",
    )
    group.addoption("--farebox-strict-cassettes", action="store_true", help="fail where a recorded call is not played")
    parser.addini("farebox_cassettes", "as --farebox-cassettes", default="")
    group.addoption("--farebox-top", metavar="N", type=int, help="how many tests the cost table shows (10)")
    group.addoption("--farebox-json", metavar="PATH", help="write what each test spent as JSON")
    group.addoption("--farebox-markdown", metavar="PATH", help="write the cost table, and what grew, as Markdown")
    group.addoption("--farebox-baseline", metavar="PATH", help="fail where a test uses more than this file says")
    group.addoption("--farebox-update-baseline", action="store_true", help="write what tests use to the baseline")
    group.addoption(
        "--farebox-tolerance", metavar="PERCENT", help="how much more than the baseline is fine, as 5%% (0%%)"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "budget(usd, tokens, calls, on_exceed='block'): what the LLM calls of the test may spend (farebox)"
    )
    config.addinivalue_line("markers", "live: the test may call real providers under --farebox-block-live (farebox)")
    config.addinivalue_line(
        "markers",
        "cassette(name, ignore, ignore_hosts, redact, strict): the LLM calls of the test are played from a file (farebox)",
    )
    door = Door(config)
    config.pluginmanager.register(door, "farebox-door")
    if any(value for name, value in vars(config.option).items() if name.startswith("farebox_")):
        door.open()


@pytest.fixture
def spend(request: pytest.FixtureRequest) -> Spend:
    """What the LLM calls of this test cost so far: `spend.assert_under(usd="0.01", calls=3)`, `.report()`, `.calls()`."""
    return _door(request).open().spend_of(request.node)


@pytest.fixture
def fake_provider(request: pytest.FixtureRequest) -> Iterator[FakeProvider]:
    """A `farebox.testing.FakeProvider` of this test's own, running."""
    _door(request).open()
    from farebox.testing import FakeProvider

    with FakeProvider() as provider:
        yield provider


@pytest.fixture
def cassette(request: pytest.FixtureRequest) -> Cassette:
    """The cassette of this test, as `@pytest.mark.cassette` puts it in: `.played`, `.unplayed`, `.recorded`, `.path`."""
    return _door(request).open().cassette_of(request.node)


@pytest.fixture(scope="session")
def cassettes(request: pytest.FixtureRequest) -> Callable[..., AbstractContextManager[Cassette | None]]:
    """For what several tests share: `with cassettes("tests/cassettes/corpus.json"):`, a path from pytest's root folder."""
    return _door(request).open().opened_cassettes(request.config.rootpath)


class Door:
    """Opens when the run turns out to have to do with farebox; until then it looks, and imports nothing."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._plugin: Plugin | None = None

    def open(self) -> Plugin:
        if self._plugin is None:
            from farebox.testing.plugin import Plugin

            self._plugin = Plugin(self._config)
            self._config.pluginmanager.register(self._plugin, "farebox-plugin")
        return self._plugin

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        marked = [item for item in items if item.get_closest_marker("budget") or item.get_closest_marker("cassette")]
        if marked or any(_FIXTURES.intersection(getattr(item, "fixturenames", ())) for item in items):
            self.open().check_marks(marked)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self) -> Iterator[None]:
        if self._plugin is None and "farebox" in sys.modules:
            self.open()
        return (yield)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self._plugin is None and hasattr(report, "farebox"):  # of an xdist worker
            self.open().pytest_runtest_logreport(report)


def _door(request: pytest.FixtureRequest) -> Door:
    door = request.config.pluginmanager.get_plugin("farebox-door")
    assert isinstance(door, Door)
    return door
