"""`python -m farebox` is the `farebox` command."""

import sys

from farebox.cli import main

if __name__ == "__main__":
    sys.exit(main())
