"""Every test starts with an empty memory ledger, no scope and no client instrumented, and leaves it so."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextvars import copy_context
from typing import Any

import pytest
from hypothesis import settings

os.environ["FAREBOX_CONFIG"] = ""  # no farebox.toml of whoever runs the tests

STORM = os.environ.get("FAREBOX_STORM") == "long"

if os.environ.get("TESTED_OVER") == "uvloop":
    import asyncio

    import uvloop  # type: ignore[import-not-found, unused-ignore]

    asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())

pytest_plugins = ["tests.surfaces"]

settings.register_profile("short", deadline=None, derandomize="CI" in os.environ)
settings.register_profile("long", deadline=None, max_examples=2_000)
settings.load_profile("long" if STORM else "short")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not STORM and item.get_closest_marker("storm"):
            item.add_marker(pytest.mark.skip(reason="takes minutes; run `make storm`"))


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Iterator[None]:
    """Run each test in its own copy of the context: a tag or a frame that it leaves behind ends with it."""
    test, context = pyfuncitem.obj, copy_context()

    @functools.wraps(test)
    def in_own_context(*args: Any, **kwargs: Any) -> Any:
        return context.run(test, *args, **kwargs)

    pyfuncitem.obj = in_own_context
    try:
        return (yield)
    finally:
        pyfuncitem.obj = test


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """A memory ledger of this test's own, and no client instrumented after it."""
    import farebox
    from farebox import _config, _instrument

    assert farebox.current() is None
    _config.was_instrumented = True  # a budget without an SDK is what most unit tests look at
    _config.forget()
    with farebox.configure(prices="{}", tags={}):
        yield
        farebox.uninstrument()
        for seam in _instrument._seams.values():
            for client in list(seam.clients):
                farebox.uninstrument(client)


@pytest.fixture
def provider() -> Iterator[Any]:
    """A fake provider, running: it answers every SDK's requests on loopback and counts what it was sent."""
    from farebox.testing import FakeProvider

    with FakeProvider() as provider:
        yield provider
