"""A thread that works for a ledger: soon after it is rung for, and now and then."""

from __future__ import annotations

import logging
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

_PAUSE_SECONDS: Final = 5.0

_logger = logging.getLogger("farebox")


class Worker(Protocol):
    """Whom it works for; a worker that is not busy may be collected meanwhile."""

    @property
    def is_busy(self) -> bool: ...

    def work(self) -> float:
        """Do what there is to do; returns the seconds until the next time."""
        ...


class Keeper:
    """Starts its thread when it is first rung.  `ring` is one C call that never waits, so a finalizer may call it.

    Args:
        at_exit: What `atexit` was told to do too; children that `multiprocessing` has forked never run that.
    """

    def __init__(self, worker: Worker, at_exit: Callable[[], None]) -> None:
        self._at_exit = at_exit
        self._worker = weakref.ref(worker)
        # A lock as a bell: rung by `release`.
        self._bell = threading.Lock()
        self._bell.acquire()
        self._thread: threading.Thread | None = None
        self._is_dismissed = False

    @property
    def is_there(self) -> bool:
        """Whether its thread was started."""
        return self._thread is not None

    def ring(self) -> None:
        if self._thread is None and not self._is_dismissed and not sys.is_finalizing():
            self._start()
        if not self._bell.locked():
            return  # it rings already
        try:
            self._bell.release()
        except RuntimeError:
            pass  # another thread has rung it meanwhile

    def dismiss(self) -> None:
        """Have the thread end."""
        self._is_dismissed = True
        self.ring()

    def _start(self) -> None:
        self._thread = threading.Thread(target=self._run, name="farebox-ledger", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:  # the interpreter ends: what is queued is written by `flush` at exit
            self._thread = None
        util: Any = sys.modules.get("multiprocessing.util")
        if util is not None and sys.modules["multiprocessing.process"].parent_process() is not None:
            util.Finalize(None, self._at_exit, exitpriority=100)

    def _run(self) -> None:
        seconds = 0.0
        while not self._is_dismissed:
            worker = self._worker()
            if worker is None:
                return
            kept = worker if worker.is_busy else None  # what is not written yet must not be lost with it
            del worker
            self._bell.acquire(timeout=seconds)
            worker = kept or self._worker()
            if worker is None or self._is_dismissed:
                return
            try:
                seconds = worker.work()
            except Exception as error:
                # The message of a foreign error may quote what was written: its class is enough to find it.
                _logger.error("the thread of a ledger raised %s and goes on", type(error).__name__)
                seconds = _PAUSE_SECONDS
            del worker, kept
