"""What a SQLite ledger keeps for programs that start later: counts by bucket, by key, of bounded number and size."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

_MOST_KEYS: Final = 1_024
#: Counts under one key, above which all of them are halved: what is new outweighs what is old.
_MOST_SAMPLES: Final = 2_048


def write_learnt(connection: sqlite3.Connection, learnt: Mapping[str, Sequence[int]]) -> None:
    """Count more answers: their buckets by key.  The keys that were longest not heard of go first."""
    (last,) = connection.execute("SELECT max(learnt_seq) FROM learnt").fetchall()[0]
    for seq, (key, buckets) in enumerate(learnt.items(), (last or 0) + 1):
        found = connection.execute("SELECT counts FROM learnt WHERE key = ?", (key,)).fetchall()
        counts = _counts(found[0][0]) if found else {}
        for bucket in buckets:
            counts[bucket] = counts.get(bucket, 0) + 1
        if sum(counts.values()) > _MOST_SAMPLES:
            counts = {bucket: count // 2 for bucket, count in counts.items() if count > 1}
        connection.execute("INSERT OR REPLACE INTO learnt VALUES (?, ?, ?)", (key, json.dumps(counts), seq))
    connection.execute(
        "DELETE FROM learnt WHERE key IN (SELECT key FROM learnt ORDER BY learnt_seq DESC LIMIT -1 OFFSET ?)",
        (_MOST_KEYS,),
    )


def read_learnt(connection: sqlite3.Connection) -> dict[str, dict[int, int]]:
    found = connection.execute("SELECT key, counts FROM learnt").fetchall()
    return {key: _counts(counts) for key, counts in found}


def _counts(text: str) -> dict[int, int]:
    return {int(bucket): count for bucket, count in json.loads(text).items()}
