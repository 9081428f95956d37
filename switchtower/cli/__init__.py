"""What can be done from a terminal?

`main` is the console script `switchtower`. Nothing heavy is imported here: the processes that `switchtower dev` starts
pass through this package too, and `switchtower --help` answers at once.
"""

from __future__ import annotations

__all__ = ["main"]


def main() -> None:
    """Runs the command line of this process and ends it: 0 ok, 1 a job failed or a verb was refused, 2 usage, 3 no
    connection."""
    from switchtower.cli.application import run

    run()
