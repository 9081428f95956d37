"""Who starts the worker processes, and what happens when one dies?

The supervisor imports no user code, so nothing of a user's can take it down. A child that dies is noticed at once: its
jobs are given to others without waiting for its lease, and another child takes its place.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from switchtower.engine import Engine
from switchtower.errors import ConfigurationError, StoreUnavailable
from switchtower.runner import EXIT_RESTART, EXIT_USAGE
from workers.child import Child
from workers.courier import deliver
from workers.health import serve_health
from workers.maintainer import maintain
from workers.settings import WorkerSettings

__all__ = ["Supervisor"]

logger = logging.getLogger("switchtower.supervisor")

BACKOFF_SECONDS = (0.5, 30.0)
KILLED_BACKOFF_SECONDS = 5.0
STABLE_SECONDS = 2.0
KILL_AFTER_SECONDS = 20.0
COURIER_SECONDS = 15.0


class Place:
    """One of the supervisor's worker processes through all its restarts."""

    def __init__(self) -> None:
        self.child: Child | None = None
        self.restarts = 0
        self.last_exit: int | None = None
        self.failures = 0

    @property
    def status(self) -> dict[str, Any]:
        """For the health endpoint."""
        child = self.child
        state = "starting"
        if child is None or child.exited.done():
            state = "waiting to restart" if self.failures else "stopped"
        elif child.is_ready:
            state = "ready"
        return {
            "state": state,
            "pid": child.pid if child else None,
            "worker": child.worker_id if child else None,
            "restarts": self.restarts,
            "last_exit": self.last_exit,
        }


class Supervisor:
    """Keeps `settings.workers` processes of the application `target` (in `folder`) at work until told to stop."""

    def __init__(self, target: str, folder: Path, settings: WorkerSettings) -> None:
        self.target = target
        self.folder = folder
        self.settings = settings
        self.places = [Place() for _ in range(settings.workers)]
        self._stopping = asyncio.Event()
        self._changed = asyncio.Event()
        self._exit_code = 0
        self._burials: set[asyncio.Task[None]] = set()
        self._ever_ready = False

    @property
    def status(self) -> dict[str, Any]:
        """Whether every process is at work, and each one's state."""
        places = [place.status for place in self.places]
        return {"ready": all(p["state"] == "ready" for p in places) and not self._stopping.is_set(), "workers": places}

    def stop(self) -> None:
        """Drains every process, and the courier; called again, has the processes stop at once."""
        self._stopping.set()
        self._changed.set()
        for place in self.places:
            if place.child is not None:
                place.child.terminate()

    async def run(self, *, ready: Callable[[list[dict[str, object]]], None]) -> int:
        """Works until `stop`; calls `ready` once, when every process has said that it is. Returns the exit code.

        Raises:
            ConfigurationError: no usable database, or the health port is taken.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        engine = await self._connect()
        if engine is None:
            return 0
        self._engine = engine
        settings = self.settings
        server = None
        if settings.health_port is not None:
            server = await serve_health(settings.health_host, settings.health_port, lambda: self.status)
        maintenance_stop = asyncio.Event()
        maintenance = loop.create_task(maintain(engine, maintenance_stop))
        options = replace(
            settings.courier_options, lease_seconds=settings.lease_seconds, drain_seconds=settings.drain_seconds
        )
        courier = loop.create_task(deliver(engine, options, self._stopping))
        announcement = loop.create_task(self._announce(ready))
        watcher = loop.create_task(self._watch_files()) if settings.reload else None
        try:
            await asyncio.gather(*(self._keep(place) for place in self.places))
        finally:
            for task in (announcement, watcher):
                if task is not None:
                    task.cancel()
            if server is not None:
                server.close()
            self._stopping.set()
            if self._burials:
                await asyncio.wait(self._burials, timeout=5)
            await asyncio.wait([courier], timeout=settings.drain_seconds + COURIER_SECONDS)
            courier.cancel()
            maintenance_stop.set()
            await asyncio.wait([maintenance], timeout=5)
            maintenance.cancel()
            await engine.close()
        return self._exit_code

    async def _connect(self) -> Engine | None:
        settings = self.settings
        if not settings.mongodb_url:
            raise ConfigurationError(
                "No database is configured. Set SWITCHTOWER_MONGODB_URL to a replica set, or use `switchtower dev`, "
                "which brings its own."
            )
        told = False
        while not self._stopping.is_set():
            try:
                engine = await Engine.connect(
                    settings.mongodb_url,
                    database=settings.database,
                    driver=settings.driver,
                    role="worker",
                    **settings.keeping_options,
                )
                await engine.prepare()
                return engine
            except StoreUnavailable as error:
                if not told:
                    logger.warning("%s Waiting for it.", error.message)
                told = True
                await self._wait(2.0)
        return None

    async def _keep(self, place: Place) -> None:
        """Has one process at work, again and again, until the supervisor stops."""
        while not self._stopping.is_set():
            child = place.child = await Child.start(self.target, self.folder, self.settings)
            if self._stopping.is_set():
                child.terminate()
            code = place.last_exit = await self._until_exit(child)
            if code != 0:
                self._bury(child)
            if self._stopping.is_set():
                return
            place.restarts += 1
            if child.exited_for_reload:
                continue
            if code == EXIT_USAGE and not self._ever_ready and not self.settings.reload:
                self._exit_code = EXIT_USAGE
                self.stop()
                return
            if code == EXIT_USAGE and self.settings.reload:
                place.failures += 1
                logger.error("the worker waits for the code to change")
                await self._wait(None)
                continue
            await self._back_off(place, child, code)

    async def _until_exit(self, child: Child) -> int:
        """The child's exit code; one that outstays its drain is killed."""
        stopping = asyncio.create_task(self._stopping.wait())
        await asyncio.wait({child.exited, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not child.exited.done():
            await asyncio.wait({child.exited}, timeout=self.settings.drain_seconds + KILL_AFTER_SECONDS)
            if not child.exited.done():
                logger.error("worker process %d did not stop; it is killed", child.pid)
                child.kill()
        return await child.exited

    async def _back_off(self, place: Place, child: Child, code: int) -> None:
        lived = time.monotonic() - child.started_at
        worked = 0.0 if child.ready_at is None else time.monotonic() - child.ready_at
        place.failures = 1 if worked > STABLE_SECONDS else place.failures + 1
        if code in (0, EXIT_RESTART):
            logger.warning("worker process %d ended (%s); another takes its place", child.pid, _ending(code))
            seconds = 0.0
        else:
            # What was killed from outside is likely to work again; what ended by itself will do the same the next time.
            longest = KILLED_BACKOFF_SECONDS if code < 0 else BACKOFF_SECONDS[1]
            seconds = min(BACKOFF_SECONDS[0] * 2 ** max(0, min(place.failures - 1, 10)), longest)
            logger.error(
                "worker process %d died (%s) after %.1f s, failure %d in a row; another starts in %.1f s",
                child.pid,
                _ending(code),
                lived,
                place.failures,
                seconds,
            )
        await self._wait(seconds)

    def _bury(self, child: Child) -> None:
        task = asyncio.get_running_loop().create_task(self._take_back(child.worker_id))
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _take_back(self, worker_id: str) -> None:
        """Gives the dead worker's jobs to others now; after a lease, maintenance would."""
        for _ in range(max(1, int(self.settings.lease_seconds))):
            try:
                moved = await self._engine.workers.bury_dead(worker_id)
            except StoreUnavailable:
                await asyncio.sleep(1)
                continue
            except Exception:
                logger.exception("the jobs of worker %s could not be given back; its lease will", worker_id)
                return
            if moved:
                logger.warning("%d jobs of worker %s were given back", moved, worker_id)
            return

    async def _announce(self, ready: Callable[[list[dict[str, object]]], None]) -> None:
        lines = []
        for place in self.places:
            while True:
                child = place.child
                if child is not None and (line := await asyncio.shield(child.ready)):
                    lines.append(line)
                    break
                await asyncio.sleep(0.05)
        self._ever_ready = True
        ready(lines)

    async def _watch_files(self) -> None:
        from watchfiles import PythonFilter, awatch

        logging.getLogger("watchfiles").setLevel(logging.WARNING)
        async for changes in awatch(self.folder, watch_filter=PythonFilter(), stop_event=self._stopping):
            names = sorted({Path(path).name for _, path in changes})
            logger.info("%s changed: the workers restart", ", ".join(names[:5]))
            for place in self.places:
                if place.child is not None and not place.child.exited.done():
                    place.child.exited_for_reload = True
                    place.child.terminate()
            self._changed.set()

    async def _wait(self, seconds: float | None) -> None:
        """Waits, but not longer than until the code changes or the supervisor stops."""
        if not self._stopping.is_set():
            self._changed.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()


def _ending(code: int) -> str:
    return f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
