"""Which other queues can be run here, and how? One that cannot be installed is said to be missing, with the reason.

Each is installed from its registry into a cache folder, at the versions that are pinned here, and runs as one process
that does producer's and worker's part and prints one JSON line.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from bench.processes import process

__all__ = ["AGENDA", "ASYNCMQ", "BULLMQ", "Missing", "Peers"]

HERE = Path(__file__).parent
AGENDA, ASYNCMQ, BULLMQ = "Agenda", "asyncmq", "BullMQ"
INSTALL_SECONDS = 180.0
RUN_SECONDS = 60.0
PAUSE_MS = 25


class Missing(Exception):
    """A peer cannot be run here; says why."""


async def _run(*command: str, folder: Path) -> None:
    running = await asyncio.create_subprocess_exec(
        *command, cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        output, _ = await asyncio.wait_for(running.communicate(), INSTALL_SECONDS)
    except TimeoutError:
        running.kill()
        await running.wait()
        raise Missing(f"{command[0]} took longer than {INSTALL_SECONDS:g} s") from None
    if running.returncode:
        lines = output.decode(errors="replace").strip().splitlines()
        told = next((line for line in lines if "error" in line.lower()), lines[-1] if lines else "")
        raise Missing(f"{Path(command[0]).name} failed with {running.returncode}: {told[:120]}")


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise Missing(f"{name} is not installed")
    return found


class Peers:
    """The peers on one mongod (`url`); `cache` is where they are installed, `scratch` a folder for a socket."""

    def __init__(self, url: str, *, scratch: Path, cache: Path | None = None) -> None:
        self._url = url
        self._scratch = scratch
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        self._cache = cache or Path(base) / "switchtower-bench"
        self._missing: dict[str, str] = {}
        self._number = 0

    async def install(self) -> None:
        """Installs what can be installed; `missing` tells the rest. Quick when it is there already."""
        for names, installing in (((AGENDA, BULLMQ), self._install_node), ((ASYNCMQ,), self._install_python)):
            try:
                await installing()
            except Missing as error:
                self._missing |= dict.fromkeys(names, str(error))
        if shutil.which("redis-server") is None:
            self._missing.setdefault(BULLMQ, "redis-server is not installed")

    def leave_out(self, why: str) -> None:
        """Runs no peer at all, for this reason."""
        self._missing = dict.fromkeys((AGENDA, ASYNCMQ, BULLMQ), why)

    def missing(self, peer: str) -> str | None:
        """Why a peer cannot be run; None when it can."""
        return self._missing.get(peer)

    async def _install_node(self) -> None:
        npm, _ = _program("npm"), _program("node")
        folder = self._cache / "node"
        folder.mkdir(parents=True, exist_ok=True)
        wanted = (HERE / "package-lock.json").read_bytes()
        installed = folder / ".installed"
        for script in HERE.glob("*.mjs"):
            shutil.copy(script, folder)
        if installed.exists() and installed.read_bytes() == wanted:
            return
        shutil.copy(HERE / "package.json", folder)
        shutil.copy(HERE / "package-lock.json", folder)
        # Not `ci`: it insists on optional builds for every platform, which a mirror need not have.
        await _run(npm, "install", "--no-save", "--ignore-scripts", "--no-audit", "--no-fund", folder=folder)
        installed.write_bytes(wanted)

    async def _install_python(self) -> None:
        folder = self._cache / "python"
        wanted = (HERE / "requirements.txt").read_bytes()
        installed = folder / ".installed"
        if installed.exists() and installed.read_bytes() == wanted:
            return
        folder.mkdir(parents=True, exist_ok=True)
        await _run(sys.executable, "-m", "venv", "--clear", str(folder), folder=self._cache)
        requirements = str(HERE / "requirements.txt")
        python = str(folder / "bin" / "python")
        await _run(
            python, "-m", "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements, folder=folder
        )
        installed.write_bytes(wanted)

    async def ask(self, peer: str, role: str, *, count: int, concurrency: int = 10, seconds: float = 15) -> Any:
        """Runs a peer on a fresh database: `role` is add, run or pickup; `seconds` bounds a run. Returns its answer.

        Raises: Missing.
        """
        if peer in self._missing:
            raise Missing(self._missing[peer])
        self._number += 1
        orders = {
            "role": role,
            "url": self._url,
            "database": f"bench_peer_{self._number}",
            "count": count,
            "concurrency": concurrency,
            "seconds": seconds,
            "pause": PAUSE_MS,
        }
        if peer == ASYNCMQ:
            python = str(self._cache / "python" / "bin" / "python")
            return await self._answer(python, str(HERE / "asyncmq_peer.py"), orders)
        node = self._cache / "node"
        if peer == AGENDA:
            return await self._answer("node", str(node / "agenda.mjs"), orders)
        async with self._redis() as socket:
            return await self._answer("node", str(node / "bullmq.mjs"), orders | {"socket": socket})

    async def _answer(self, program: str, script: str, orders: dict[str, Any]) -> Any:
        async with process(program, script, orjson.dumps(orders).decode(), folder=self._cache) as running:
            return orjson.loads(await running.line(seconds=RUN_SECONDS))

    @asynccontextmanager
    async def _redis(self) -> AsyncIterator[str]:
        """A Redis of its own on a Unix socket, without any persistence."""
        socket = self._scratch / "redis.sock"
        options = ("--port", "0", "--unixsocket", str(socket), "--save", "", "--appendonly", "no")
        async with process(_program("redis-server"), *options, folder=self._scratch) as running:
            while "ready to accept connections" not in (await running.line()).lower():
                pass
            yield str(socket)
