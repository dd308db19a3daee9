"""What was committed survives a power cut: the write-ahead log is brought to the disk by this process itself.

SQLite would do it within the transaction, and all who want to write would wait for the disk in turn.  Here a process gives its
turn away first and then waits, so several wait at once.  Nothing is answered before it is safe: the log is one file that only
grows, so whoever has waited for his own part of it has waited for all parts that it builds on.
"""

from __future__ import annotations

import os
from typing import Final

from farebox.ledgers._sqlite_place import Place

#: Where there is none, SQLite does it.
CAN_SYNC: Final = hasattr(os, "fdatasync")


class Log:
    """The log of a database that this process has open: SQLite removes it only with the last connection.

    Raises:
        OSError: it is not there, or can't be opened.
    """

    def __init__(self, place: Place) -> None:
        # SQLite puts it beside the file that a symbolic link leads to.
        self._fd = os.open(f"{os.path.realpath(place.path)}-wal", os.O_RDWR | os.O_CLOEXEC)

    def sync(self) -> None:
        """Wait until all that was committed before is on the disk.

        Raises:
            OSError: it may not be, and asking again would not tell.
        """
        os.fdatasync(self._fd)

    def let_go(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
