"""`python -m workers tasks:app --processes 2`: the supervisor and its worker processes, in the foreground."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from switchtower.errors import ConfigurationError
from switchtower.garbage import relax
from switchtower.instrument import configure_logging
from workers.settings import WorkerSettings
from workers.supervisor import Supervisor

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs until SIGTERM or SIGINT; prints one line when every worker process is ready. Returns the exit code."""
    options = vars(_parser().parse_args(arguments))
    target, folder = options.pop("app"), Path(options.pop("app_dir")).absolute()
    configure_logging()
    try:
        settings = WorkerSettings(**{name: value for name, value in options.items() if value is not None})
        supervisor = Supervisor(target, folder, settings)
        relax()
        return asyncio.run(supervisor.run(ready=lambda lines: _say_ready(lines, settings)))
    except ValidationError as error:
        for wrong in error.errors():
            name = ".".join(map(str, wrong["loc"]))
            print(f"switchtower: SWITCHTOWER_{name.upper()}: {wrong['msg']}.", file=sys.stderr)
        return 2
    except ConfigurationError as error:
        print(f"switchtower: {error.message}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m workers", description="Worker processes for an application.")
    parser.add_argument("app", help="the application, as module:attribute")
    parser.add_argument("--app-dir", default=".", help="the folder that the module is in (default: the current one)")
    parser.add_argument("--processes", type=int, dest="workers", help="how many worker processes (default: 1)")
    parser.add_argument("--concurrency", type=int, help="jobs at a time in each process (default: 10)")
    parser.add_argument("--queues", help="comma-separated (default: those that the tasks name)")
    parser.add_argument("--lease-seconds", type=float)
    parser.add_argument("--drain-seconds", type=float)
    parser.add_argument("--grace-seconds", type=float)
    parser.add_argument("--health-port", type=int, help="serve /livez and /readyz on this port of the loopback")
    parser.add_argument("--mongodb-url")
    parser.add_argument("--reload", action="store_true", default=None, help="restart when Python files change")
    return parser


def _say_ready(lines: list[dict[str, object]], settings: WorkerSettings) -> None:
    first = lines[0]
    queues, tasks = (", ".join(map(str, _list(first[key]))) for key in ("queues", "tasks"))
    processes = f"{len(lines)} worker process{'es' if len(lines) > 1 else ''}"
    print(f"Ready: {processes} x {settings.concurrency} · queues {queues} · tasks {tasks}", flush=True)


def _list(value: object) -> list[object]:
    return list(value) if isinstance(value, list) else []


if __name__ == "__main__":
    sys.exit(main())
