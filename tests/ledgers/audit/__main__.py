"""Processes are killed in the middle of their work, and then the books are compared with what they noted down.

    python -m tests.ledgers.audit [--ledger URL] [--seconds N] [--workers N] [--seed N]

Without `--ledger` a new SQLite file is audited, and then a Redis server of its own.  The ledger at a URL must be empty.

Workers hold, extend, settle, release and charge at random, against a few accounts with tight limits and windows of a second.
Each notes down what it intends before it asks the ledger, and what the provider billed before it settles, in a log that a
kill can't undo.  Now and then a request or an answer gets lost, or a request arrives twice.  Meanwhile one worker after the
other gets SIGKILL, and some stand still for a while.  At the end all holds expire.

What must hold, and what a violation is called:
    I1  spent + reserved <= limit + debt, in every account and unit, whenever looked at
    I2  the balances are the sum of what is held and of the rows, and the sums of a report are those of the rows; what is
        debt has a cause
    I3  spent + reserved >= what the provider billed within the bounds, whenever looked at
    I5  nothing is charged twice: every call that was granted has one row, and its cost is its bound or what was settled
    I7  a repeated operation is answered as the first time
"""

from __future__ import annotations

import argparse
import importlib
import sys
import tempfile
from pathlib import Path
from typing import Final

from tests.ledgers.audit.books import LAWS, audit
from tests.ledgers.audit.calls import Opener, open_plain
from tests.servers import redis_server

#: Violations of one law.
_MOST_SHOWN: Final = 4


def _opener(name: str) -> Opener:
    """A function by its module and name, which opens what is to be audited."""
    module, _, function = name.partition(":")
    opener: Opener = getattr(importlib.import_module(module), function)
    return opener


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--ledger", metavar="URL", help="an empty ledger; without it, a new one of each kind")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long the storm lasts (default 10)")
    parser.add_argument("--workers", type=int, default=4, help="processes (default 4)")
    parser.add_argument("--seed", type=int, help="of the choices, not of what the machine makes of them")
    parser.add_argument("--opener", type=_opener, default=open_plain, help="module:function that opens the ledger")
    chosen = parser.parse_args()
    said = {"seconds": chosen.seconds, "workers": chosen.workers, "seed": chosen.seed, "opener": chosen.opener}
    with tempfile.TemporaryDirectory() as folder:
        if chosen.ledger is not None:
            found = {chosen.ledger.partition("://")[0]: audit(chosen.ledger, **said)}
        else:
            found = {"sqlite": audit(f"sqlite:///{folder}/audit.db", **said)}
            with redis_server(Path(folder)) as server:
                found["redis"] = audit(f"{server.url}?timeout=5", **said)
    for kind, findings in found.items():
        sys.stdout.write(f"{kind}: {findings}\n")
        for law in LAWS:
            broken = [violation for violation in findings.violations if violation.startswith(law)]
            for violation in broken[:_MOST_SHOWN]:
                sys.stdout.write(f"  {violation}\n")
    sys.exit(any(findings.violations for findings in found.values()))


if __name__ == "__main__":
    main()
