"""The scripts of the Redis ledger: every operation is one, so it happens at once or not at all.

A script reads, decides, and writes at its end: what it finds wrong it says before the first write, because Redis takes no
write back.  The sources are Lua files beside this one; a script begins with the parts it needs.

Reserve and end, which every call needs, begin with a short way for plain calls (`*_plain.lua`); what it does not answer, the
general one below it does.  The two say the same: a test compares both with the ledger in memory.
"""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import Final

import attrs

#: The major is in the prefix of all keys, `fb1:`; within it fields and keys are only added.  A server that was written by a
#: newer schema is refused; a change that can't be additive gets a new prefix, and a command that copies.
SCHEMA: Final = 1


@attrs.frozen
class Script:
    """A script and the SHA-1 the server knows it by."""

    name: str
    text: bytes
    sha: bytes


def _script(name: str, *parts: str) -> Script:
    folder = files("farebox.ledgers") / "_redis"
    text = "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in (*parts, name)).encode()
    return Script(name, text, hashlib.sha1(text, usedforsecurity=False).hexdigest().encode())


_GENERAL: Final = ("numbers", "accounts")
_ACCOUNTS: Final = ("fence", "plain", *_GENERAL)
_HOLDS: Final = ("fence", "holds")

OPEN: Final = _script("open")
ALIVE: Final = _script("alive", "fence")
RESERVE: Final = _script(
    *("reserve", "fence", "plain", "caps_plain", "reserve_plain", "reserve_first"),
    *(*_GENERAL, "caps", "holds", "reserve_general"),
)
EXTEND: Final = _script("extend", *_ACCOUNTS, "holds")
END: Final = _script(
    *("end", "fence", "plain", "rows_plain", "end_plain", "end_first"), *(*_GENERAL, "holds", "rows", "end_general")
)
#: Ends and reserves that are asked together: what they do to one account is written once.
SEVERAL: Final = _script(
    *("several", "fence", "plain", "rows_plain", "end_plain", "caps_plain", "reserve_plain", "several_plain"),
    *(*_GENERAL, "caps", "holds", "rows", "end_general", "reserve_general"),
)
NOTE: Final = _script("note", *_HOLDS)
NOTED: Final = _script("noted", *_HOLDS)
CHARGE: Final = _script("charge", "fence", "plain", "rows_plain", *_GENERAL, "holds", "rows")
SAY: Final = _script("say", *_ACCOUNTS)
ADD_ROW: Final = _script("add_row", "fence", "plain", "rows_plain", "numbers", "rows")
FORGET: Final = _script("forget", *_ACCOUNTS)
LEARN: Final = _script("learn", "fence")
DUE: Final = _script("due", *_HOLDS)
VIEW: Final = _script("view", *_ACCOUNTS)
ACCOUNTS_PAGE: Final = _script("accounts_page", *_ACCOUNTS)
CONTROLS: Final = _script("controls", "fence")
HELD: Final = _script("held", *_HOLDS)
OWNERS: Final = _script("owners", "fence")
ROWS_PAGE: Final = _script("rows_page", "fence")
ROWS_OF: Final = _script("rows_of", "fence")
LAST_ROW: Final = _script("last_row", "fence")
DAYS: Final = _script("days", "fence")
DAY: Final = _script("day", "fence")
LEARNT: Final = _script("learnt", "fence")
PRUNE: Final = _script("prune", "fence")

ALL: Final = tuple(value for value in list(globals().values()) if isinstance(value, Script))
