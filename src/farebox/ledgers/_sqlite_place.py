"""Where a SQLite ledger lies, as its URL says, and whether a database can lie there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote

import attrs

SYNCHRONOUS: Final = ("FULL", "NORMAL")
_LINE: Final = 'configure(ledger="sqlite:///farebox.db")'
_MOUNTS: Final = Path("/proc/mounts")
#: File systems on which locks and shared memory are not to be relied on, as /proc/mounts names them.
_NETWORK: Final = frozenset(
    "nfs nfs4 cifs smb smb2 smb3 smbfs 9p afs ceph glusterfs lustre gpfs ocfs2 gfs2 beegfs davfs "
    "fuse.sshfs fuse.glusterfs fuse.ceph fuse.s3fs fuse.gcsfuse fuse.rclone fuse.davfs2 fuse.juicefs fuse.mfs".split()
)


@attrs.frozen(kw_only=True)
class Place:
    """What a URL says: the absolute path of the database, and how to use it."""

    path: Path
    timeout_seconds: float = 5.0
    synchronous: str = "FULL"

    @property
    def shown(self) -> str:
        return f"sqlite:///{self.path}"

    @property
    def lock_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}-lock")

    @property
    def owners_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}-owners")


def read_url(url: str) -> Place:
    """The place a URL names; a relative path is taken from the current directory, now.

    Raises:
        ValueError: another scheme, no path, an option or a value it does not know.
    """
    scheme, separator, rest = url.partition("://")
    written, _, query = rest.partition("?")
    if scheme != "sqlite" or not separator or not written.startswith("/") or written.strip("/") in ("", ":memory:"):
        raise ValueError(
            f"{url!r} is no SQLite ledger's URL; write {_LINE} for a file in the current directory, "
            'or "sqlite:////var/lib/farebox.db" with four slashes for an absolute path'
        )
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in ("timeout", "synchronous"):
            raise ValueError(
                f"a SQLite ledger has no option {name!r}; the options are timeout=<seconds> and "
                'synchronous=FULL|NORMAL: write "sqlite:///farebox.db?timeout=5&synchronous=FULL"'
            )
        options[name] = value
    try:
        timeout_seconds = float(options.get("timeout", "5"))
    except ValueError:
        timeout_seconds = -1.0
    if not 0 < timeout_seconds <= 3_600:
        raise ValueError(
            f"timeout={options['timeout']!r} is no number of seconds above 0 and at most 3600; "
            'write "sqlite:///farebox.db?timeout=5"'
        )
    synchronous = options.get("synchronous", "FULL").upper()
    if synchronous not in SYNCHRONOUS:
        raise ValueError(
            f"synchronous={options['synchronous']!r} is none of {', '.join(SYNCHRONOUS)}; FULL survives a power cut, "
            'NORMAL may forget the last calls then: write "sqlite:///farebox.db?synchronous=FULL"'
        )
    path = Path(os.path.abspath(unquote(written[1:])))
    return Place(path=path, timeout_seconds=timeout_seconds, synchronous=synchronous)


def check_place(place: Place, mounts: str | None = None) -> None:
    """Whether a database can lie there at all, before anything is touched; `mounts` is read from the system if None.

    Raises:
        ValueError: its directory is none, it is a directory itself, or it lies on a network file system.
    """
    directory = place.path.parent
    if not directory.is_dir():
        raise ValueError(
            f"ledger {place.shown} can't be made: {str(directory)!r} is no directory; "
            f"create it first, or choose another place: {_LINE}"
        )
    if place.path.is_dir():
        raise ValueError(f"ledger {place.shown} is a directory; name a file in it: {place.shown}/farebox.db")
    if mounts is None:
        try:
            mounts = _MOUNTS.read_text("utf-8", errors="surrogateescape")
        except OSError:
            return  # no Linux: nobody says what is mounted where
    file_system = file_system_of(os.path.realpath(directory), mounts)
    if file_system in _NETWORK:
        raise ValueError(
            f"ledger {place.shown} lies on a network file system ({file_system}), where SQLite's locks and shared memory "
            "can't be relied on and budgets would be overspent; use a local disk, or redis:// for several machines"
        )


def file_system_of(directory: str, mounts: str) -> str:
    """The type of the file system an absolute, real `directory` lies on; `mounts` as in /proc/mounts."""
    found, longest = "", -1
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\").rstrip("/")
        # The last of two that are mounted at one point hides the first.
        if (directory == point or directory.startswith(f"{point}/")) and len(point) >= longest:
            found, longest = fields[2], len(point)
    return found
