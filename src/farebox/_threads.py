"""Carries context variables into threads and thread pools, and nothing else of the context.

`asyncio` tasks and `asyncio.to_thread` copy the whole context by themselves; `threading.Thread` and
`ThreadPoolExecutor.submit` start from an empty one.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

T = TypeVar("T")

_start = threading.Thread.start
#: `ThreadPoolExecutor.submit` as it was found when somebody first asked to carry: its module is slow to import.
_submit: Callable[..., Future[Any]] | None = None
_users = 0
_lock = threading.Lock()
_variable: ContextVar[Any] | None = None


def carry_variable(variable: ContextVar[Any]) -> None:
    """Name the one variable to carry; its value when nothing is set is None."""
    global _variable
    _variable = variable


def carried(function: Callable[..., T], value: Any) -> Callable[..., T]:
    """`function`, run with the variable at `value` and back at what it was afterwards."""

    @functools.wraps(function, updated=())
    def run(*args: Any, **kwargs: Any) -> T:
        assert _variable is not None
        before = _variable.get()
        _variable.set(value)
        try:
            return function(*args, **kwargs)
        finally:
            _variable.set(before)

    return run


def carry_into_threads() -> None:
    """Start to carry.  Counted: as many `stop_carrying` undo it."""
    global _users, _submit
    from concurrent.futures import ThreadPoolExecutor

    with _lock:
        _users += 1
        if _users == 1:
            _submit = _submit or ThreadPoolExecutor.submit
            threading.Thread.start = _start_carrying  # type: ignore[method-assign]
            ThreadPoolExecutor.submit = _submit_carrying  # type: ignore[method-assign,assignment]


def stop_carrying() -> None:
    """Stop to carry; where another tool has wrapped over ours, ours stays below it and passes through."""
    global _users
    from concurrent.futures import ThreadPoolExecutor

    with _lock:
        _users -= 1
        if _users == 0:
            if threading.Thread.start is _start_carrying:
                threading.Thread.start = _start  # type: ignore[method-assign]
            if ThreadPoolExecutor.submit is _submit_carrying:
                ThreadPoolExecutor.submit = _submit  # type: ignore[method-assign,assignment]


def _start_carrying(self: threading.Thread) -> None:
    value = None if _variable is None or not _users else _variable.get()
    if value is not None:
        own = self.__dict__.get("run")
        run = carried(self.run, value)

        def run_once() -> None:
            # Leave no trace on the thread: it may be kept, and would keep the scope.
            if own is None:
                del self.__dict__["run"]
            else:
                self.run = own  # type: ignore[method-assign]
            run()

        self.run = run_once  # type: ignore[method-assign]
    _start(self)


def _submit_carrying(self: ThreadPoolExecutor, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
    assert _submit is not None
    if _variable is None or not _users:
        return _submit(self, fn, *args, **kwargs)
    value = _variable.get()
    # The pool may start a worker now; it would keep this scope for good, and hand it to other people's tasks.
    _variable.set(None)
    try:
        return _submit(self, carried(fn, value), *args, **kwargs)
    finally:
        _variable.set(value)
