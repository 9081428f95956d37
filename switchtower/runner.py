"""What is a worker process? `python -P -m switchtower.runner tasks:app`

The process that imports user code, and nothing of ours but this package. It imports the application from the user's
directory, runs one worker until it is told to drain, and exits with a code that tells its supervisor why.

SIGTERM drains, a second one stops at once. SIGINT does the same, except under a supervisor (`--supervised`): a terminal
sends Ctrl-C to the whole group, and the supervisor decides. A supervised process drains when its standard input ends,
which it does when the supervisor dies.
"""

from __future__ import annotations

import argparse
import asyncio
import importlib
import json
import logging
import os
import signal
import sys
import threading
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from switchtower.errors import ConfigurationError, StoreUnavailable
from switchtower.garbage import relax
from switchtower.instrument import configure_logging

if TYPE_CHECKING:
    from switchtower.handlers import App
    from switchtower.worker import Worker

__all__ = ["EXIT_RESTART", "EXIT_UNAVAILABLE", "EXIT_USAGE", "import_app", "main"]

EXIT_USAGE = 2
EXIT_UNAVAILABLE = 3
EXIT_RESTART = 75

OURS = ("switchtower", "importlib", "__main__")

logger = logging.getLogger("switchtower.worker")


def import_app(target: str, folder: Path) -> App:
    """The `App` that `module:attribute` names (`module` alone: its `app`), `folder` being first on the import path.

    Raises:
        ConfigurationError: there is no such module or attribute, it is not an App, or importing it failed; says which.
    """
    from switchtower.handlers import App

    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise ConfigurationError(
                f"There is no module {name!r} in {folder}. Name the module with your tasks as in "
                "`switchtower dev tasks:app`, and run the command in the folder that holds it."
            ) from None
        raise ConfigurationError(
            f"Importing {name!r} failed: it needs the module {error.name!r}, which is not installed here."
        ) from error
    except Exception as error:
        raise ConfigurationError(f"Importing {name!r} failed:\n{_user_traceback(error)}") from error
    found = getattr(module, attribute, None)
    if not isinstance(found, App):
        apps = [key for key, value in vars(module).items() if isinstance(value, App)]
        hint = f" It has {', '.join(f'{name}:{key}' for key in apps)}." if apps else ""
        raise ConfigurationError(f"{name}:{attribute} is not a switchtower.App.{hint}")
    return found


def _user_traceback(error: Exception) -> str:
    """The traceback from the first frame on that is neither ours nor the import system's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_globals.get("__name__", "").partition(".")[0] in OURS:
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace, limit=-8)).rstrip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one worker; returns the process's exit code (0: drained)."""
    options = _parser().parse_args(arguments)
    configure_logging()
    if options.supervised:
        _watch_supervisor()
    try:
        app = import_app(options.app, Path(options.app_dir).absolute())
        code = asyncio.run(_work(app, options))
    except ConfigurationError as error:
        print(f"switchtower: {error.message}", file=sys.stderr, flush=True)
        return EXIT_USAGE
    except StoreUnavailable as error:
        print(f"switchtower: {error.message}", file=sys.stderr, flush=True)
        return EXIT_UNAVAILABLE
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -P -m switchtower.runner", description="One worker process.")
    parser.add_argument("app", help="the application, as module:attribute")
    parser.add_argument("--app-dir", default=".", help="the folder that the module is in (default: the current one)")
    parser.add_argument("--worker-id", help="the id to register under (default: a fresh one)")
    parser.add_argument("--queues", default="", help="comma-separated; default: every queue that a task names")
    parser.add_argument("--concurrency", type=int, default=10, help="jobs at a time (default: 10)")
    parser.add_argument("--lease-seconds", type=float, default=30.0)
    parser.add_argument("--drain-seconds", type=float, default=30.0)
    parser.add_argument("--grace-seconds", type=float, default=10.0)
    parser.add_argument("--supervised", action="store_true", help="ignore SIGINT; drain when standard input ends")
    parser.add_argument("--ready-fd", type=int, help="write the ready line to this file descriptor instead of stdout")
    return parser


def queues_of(app: App) -> tuple[str, ...]:
    """`default`, where a caller enqueues who knows a task's name only, and the queues that its tasks and crons name."""
    named = {"default", *(str(task.defaults.get("queue", "default")) for task in app.tasks.values())}
    named |= {cron.job.queue for cron in app.crons.values()}
    return tuple(sorted(named, key=lambda name: (name != "default", name)))


async def _work(app: App, options: argparse.Namespace) -> int:
    from switchtower.worker import Ending, Worker

    worker = Worker(
        app,
        worker_id=options.worker_id,
        queues=tuple(name.strip() for name in options.queues.split(",") if name.strip()) or queues_of(app),
        concurrency=options.concurrency,
        lease_seconds=options.lease_seconds,
        drain_seconds=options.drain_seconds,
        grace_seconds=options.grace_seconds,
        exit_when_blocked=True,
    )
    _listen_to_signals(worker, supervised=options.supervised)
    relax()
    ending = await worker.run(ready=lambda: _say_ready(worker, options.ready_fd))
    logger.info("worker %s ended: %s", worker.id, ending)
    await app.close()
    code = 0 if ending is Ending.DRAINED else EXIT_RESTART
    if worker.left_behind:
        # A thread that ignores its stop would keep the interpreter from ending.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _listen_to_signals(worker: Worker, *, supervised: bool) -> None:
    loop = asyncio.get_running_loop()
    told = False

    def stop() -> None:
        nonlocal told
        if told:
            worker.stop_now()
        told = True
        worker.drain()

    loop.add_signal_handler(signal.SIGTERM, stop)
    if supervised:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    else:
        loop.add_signal_handler(signal.SIGINT, stop)


def _watch_supervisor() -> None:
    """Sends this process a SIGTERM when standard input ends. User code gets an empty standard input."""
    lifeline = os.dup(0)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)

    def watch() -> None:
        while os.read(lifeline, 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="switchtower-lifeline", daemon=True).start()


def _say_ready(worker: Worker, descriptor: int | None) -> None:
    line = {
        "event": "ready",
        "worker": worker.id,
        "pid": os.getpid(),
        "queues": list(worker.queues),
        "concurrency": worker.concurrency,
        "tasks": sorted(worker.app.tasks),
    }
    data = json.dumps(line) + "\n"
    if descriptor is None:
        print(data, end="", flush=True)
    else:
        with os.fdopen(descriptor, "w") as pipe:
            pipe.write(data)


if __name__ == "__main__":
    sys.exit(main())
