"""Storms: whole programs on real SDKs against a provider that keeps its own bill."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import farebox
from farebox import configure
from tests.acceptance.programs.running import Program
from tests.acceptance.programs.stores import namespace, until
from tests.acceptance.rides import ALL_RIDES, RIDES, Ride, bound_of
from tests.servers import redis_url

ROOT = Path(__file__).parents[2]


@pytest.fixture
def metered(fresh: None) -> Iterator[None]:
    """Every client of the process is instrumented."""
    for ride in ALL_RIDES:
        bound_of(ride)
    with farebox.instrument():
        yield


@pytest.fixture(params=RIDES, ids=str)
def ride(request: pytest.FixtureRequest) -> Ride:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture
def open_client(provider: Any) -> Iterator[Callable[..., Any]]:
    """Makes sync clients and closes them after the test, before the provider stops."""
    with contextlib.ExitStack() as clients:
        yield lambda ride, **options: clients.enter_context(ride.client(provider, **options))


@pytest.fixture
def client(ride: Ride, open_client: Callable[..., Any]) -> Any:
    return open_client(ride)


# ── programs that share a ledger ─────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_url(tmp_path_factory.mktemp("redis")) as url:
        yield url


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A ledger that processes share."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'ledger.db'}"
    return f"{request.getfixturevalue('redis')}?namespace={namespace()}&timeout=5"


@pytest.fixture
def use() -> Iterator[Callable[..., None]]:
    """`use(url, {...}, ...)`: this process takes part too, with budgets in the words of a program."""
    with contextlib.ExitStack() as handles:

        def use(url: str, *budgets: dict[str, Any], **words: Any) -> None:
            from tests.acceptance.programs.rider import budget_of

            handles.enter_context(configure(ledger=url, budgets=[budget_of(dict(one)) for one in budgets], **words))

        yield use


@pytest.fixture(scope="module")
def riders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where programs are started."""
    path = tmp_path_factory.mktemp("riders") / "socket"
    environment = {**os.environ, "FAREBOX_CONFIG": ""}
    command = [sys.executable, "-m", "tests.acceptance.programs.rider", str(path)]
    with subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            until(path.exists, 60)
            yield str(path)
        finally:
            server.kill()


@pytest.fixture
def start(provider: Any, riders: str) -> Iterator[Callable[..., Program]]:
    """`start(way, ledger=url, budgets=[...])` runs a `rider`."""
    with contextlib.ExitStack() as running:

        def start(way: str, *, ledger: str, budgets: list[dict[str, Any]], **words: Any) -> Program:
            asked = {
                "way": way,
                "ledger": ledger,
                "budgets": budgets,
                "ride": "openai",
                "openai_base_url": provider.openai_base_url,
                "anthropic_base_url": provider.anthropic_base_url,
                **words,
            }
            return running.enter_context(contextlib.closing(Program(riders, asked)))

        yield start
