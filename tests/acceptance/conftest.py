"""Storms: whole programs on real SDKs against a provider that keeps its own bill."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import farebox
from tests.acceptance.rides import ALL_RIDES, RIDES, Ride, bound_of


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
