"""`python -m _peers MODULE SETTINGS.json`: one piece of work, and what came of it as JSON on the last line."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

from _peers import work  # first: it keeps the SDK as it was before any library touched it

module, settings = sys.argv[1], json.loads(Path(sys.argv[2]).read_text())
did = work.DO[settings["work"]](importlib.import_module(f"_peers.{module}"), settings)
print(json.dumps(did))
