"""Locks on the files around a SQLite ledger: whose turn it is to write, and which processes are there.

They are `fcntl.lockf`'s: the kernel drops them with the process, however it ends, and a forked child does not inherit
them.  Two things about them are easy to forget: closing any descriptor of a file drops this process's locks on it, and
asking for a lock that this process has already succeeds.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from farebox.errors import LedgerUnavailable
from farebox.ledgers._sqlite_place import Place

try:
    import fcntl
except ImportError:  # Windows: SQLite's own lock is the only one
    fcntl = None  # type: ignore[assignment]

#: Pauses between two looks at a lock that another process has: the first, and the longest.
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.000_05, 0.001
#: Bytes of the file of turns: whose turn it is, and who is next.
_ROOM, _DOOR = 0, 1


class Turn:
    """Whose turn it is to write: a lock on a file beside the database.

    SQLite's own lock is asked for by sleeping and looking again, which starves processes for seconds; with this one it is
    free when it is asked for.  Threads of one process are kept apart by their ledger.
    """

    def __init__(self, place: Place) -> None:
        self._place = place
        self._fd = -1
        if fcntl is not None:
            self._fd = os.open(place.lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)

    def take(self) -> None:
        """Wait for it.  Who waits first stands at the door, and the one who gives its turn back comes after them.

        Raises:
            LedgerUnavailable: another process had it for longer than the place's timeout.
        """
        deadline = time.monotonic() + self._place.timeout_seconds
        self._wait_for(_DOOR, _LONGEST_PAUSE_SECONDS, deadline)
        try:
            self._wait_for(_ROOM, _FIRST_PAUSE_SECONDS, deadline)
        finally:
            _unlock(self._fd, _DOOR)

    def _wait_for(self, what: int, longest_pause_seconds: float, deadline: float) -> None:
        pause_seconds = _FIRST_PAUSE_SECONDS
        while not _lock(self._fd, what):
            if time.monotonic() >= deadline:
                raise LedgerUnavailable(
                    f"ledger {self._place.shown} is being written by another process for more than "
                    f"{self._place.timeout_seconds:g} seconds; nothing was changed"
                )
            time.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, longest_pause_seconds)

    def give(self) -> None:
        """Let the next one write; nothing happens where it was not taken."""
        _unlock(self._fd, _ROOM)

    def let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


#: Owners that are ledgers of this process, with the process: a lock of its own tells it nothing, and looking would drop it.
_ours: dict[str, int] = {}


class Owner:
    """This process among those that use a ledger: it holds a lock on a file of its own while it lives."""

    def __init__(self, place: Place, name: str) -> None:
        self.name = name
        self._directory = place.owners_path
        self._path = place.owners_path / name
        self._fd = -1
        _ours[name] = os.getpid()
        self.show_up()

    def show_up(self) -> None:
        """Be there; anew where somebody removed the file."""
        while not self._is_there():
            self.let_go()
            self._directory.mkdir(exist_ok=True)
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            if _lock(fd):
                self._fd = fd
            else:  # somebody looks whether it is free, and may be about to remove it
                os.close(fd)
                time.sleep(_FIRST_PAUSE_SECONDS)

    def _is_there(self) -> bool:
        if self._fd < 0:
            return False
        try:
            return os.path.samestat(os.fstat(self._fd), os.stat(self._path))
        except FileNotFoundError:
            return False

    def leave(self) -> None:
        """Say that this process does not use the ledger any more."""
        _ours.pop(self.name, None)
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            self.let_go()

    def let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # The others

    def is_dead(self, name: str) -> bool:
        """Whether the process that called itself `name` is gone, or has left."""
        if _ours.get(name) == os.getpid():
            return False
        fd = self._open_if_free(name)
        if fd is None:
            return False
        if fd >= 0:
            os.close(fd)
        return True

    def bury(self, holders: set[str]) -> None:
        """Remove the files of the dead of whom nothing is held; `holders` are owners of whom something is."""
        try:
            names = os.listdir(self._directory)
        except FileNotFoundError:
            return
        for name in names:
            if name in holders or _ours.get(name) == os.getpid():
                continue
            fd = self._open_if_free(name)
            if fd is not None and fd >= 0:
                try:
                    (self._directory / name).unlink(missing_ok=True)
                finally:
                    os.close(fd)

    def _open_if_free(self, name: str) -> int | None:
        """A descriptor of that owner's file with its lock taken; -1 where there is no file, None where it is locked."""
        path = self._directory / name
        if fcntl is None:
            return _remove_if_free(path)
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return -1
        if not _lock(fd):
            os.close(fd)
            return None
        return fd


def _lock(fd: int, at: int = 0) -> bool:
    """Lock one byte of a file for this process without waiting; False where another has it."""
    if fcntl is None:
        return True
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, at)
    except OSError:
        return False
    return True


def _unlock(fd: int, at: int) -> None:
    if fcntl is not None:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, at)


def _remove_if_free(path: Path) -> int | None:
    """Where there are no such locks, but a file can't be removed while its process has it open: Windows."""
    if sys.platform != "win32":
        return None
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        return None
    return -1
