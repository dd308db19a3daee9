"""What programs ask of an SDK's surfaces, each written once for sync and async clients, whole and as a stream.

A program is a generator: it yields what a method of the SDK returned, and gets what a client of its kind makes of it.  What it
returns is what its user gets to see.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
from collections.abc import Callable, Generator
from typing import Any

import attrs
import pydantic

KINDS = ("sync", "async", "stream", "async stream")

Steps = Generator[Any, Any, Any]
Program = Callable[[Any], Steps]


@attrs.frozen
class All:
    """A stream, or a manager that opens one, to be read to its end."""

    stream: Any


@attrs.frozen
class Entered:
    """A manager that is entered now, and left when the program ends."""

    manager: Any


def answered(program: Program, client: Any) -> Any:
    """What the user of a program gets to see, of a sync client."""
    steps = program(client)
    found = next(steps)
    with contextlib.ExitStack() as stack:
        while True:
            if isinstance(found, All):
                found = _read(found.stream)
            elif isinstance(found, Entered):
                found = stack.enter_context(found.manager)
            try:
                found = steps.send(found)
            except StopIteration as end:
                return seen(end.value)


async def answered_async(program: Program, client: Any) -> Any:
    steps = program(client)
    found = next(steps)
    async with contextlib.AsyncExitStack() as stack:
        while True:
            if isinstance(found, All):
                found = await _read_async(found.stream)
            elif isinstance(found, Entered):
                found = await stack.enter_async_context(found.manager)
            elif inspect.isawaitable(found):
                found = await found
            try:
                found = steps.send(found)
            except StopIteration as end:
                return seen(end.value)


def ask(program: Program, opened: Callable[[bool], Any], kind: str) -> Any:
    """What its user gets to see, of a client that `opened` makes, async or not, and that is closed then."""

    async def main() -> Any:
        async with opened(True) as client:
            return await answered_async(program, client)

    if "async" in kind:
        return asyncio.run(main())
    with opened(False) as client:
        return answered(program, client)


def _read(stream: Any) -> list[Any]:
    with stream if hasattr(stream, "__enter__") else contextlib.nullcontext(stream) as parts:
        return list(parts)


async def _read_async(stream: Any) -> list[Any]:
    if inspect.isawaitable(stream):
        stream = await stream
    async with stream if hasattr(stream, "__aenter__") else contextlib.nullcontext(stream) as parts:
        return [part async for part in parts]


def seen(value: Any) -> Any:
    """All that can be read of an answer, for comparison."""
    if isinstance(value, pydantic.BaseModel):
        return value.model_dump(mode="json", warnings=False)
    if isinstance(value, (list, tuple)):
        return [seen(one) for one in value]
    return value.content if hasattr(value, "content") and not isinstance(value, (str, bytes)) else value
