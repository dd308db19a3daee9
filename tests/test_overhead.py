"""What a metered call adds is counted, as no machine disturbs a count: benchmarks/overhead.py has the clock."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

COUNT = """\
import farebox, overhead
with farebox.instrument():
    for row in overhead.work_rows():
        print(row.bare_instructions, row.added_instructions, row.added_calls, row.what, sep="\\t")
"""


def test_a_metered_call_has_python_do_hardly_more_than_a_bare_one() -> None:
    ran = subprocess.run([sys.executable, "-c", COUNT], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    rows = [line.split("\t") for line in ran.stdout.splitlines()]
    assert len(rows) == 4
    for bare, added, functions, what in rows:
        assert int(bare) > 20_000, what
        assert int(functions) <= 0, what
        assert int(added) * 100 <= int(bare) * (5 if "stream" in what else 2), what
