"""`python -m switchtower.cli` is `switchtower`."""

from __future__ import annotations

from switchtower.cli import main

if __name__ == "__main__":
    main()
