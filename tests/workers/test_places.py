"""The supervisor over processes that are made up: whose jobs go back, and when it says that it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.waiting import until
from workers import supervisor as module
from workers.child import Child
from workers.settings import WorkerSettings
from workers.supervisor import Supervisor

KILLED, FAILED, DRAINED = -9, 1, 0


class Process:
    """A child that works until it is told how it ends."""

    pid = 1
    exited_for_reload = False
    is_ready = True
    started_at = ready_at = 0.0

    def __init__(self, number: int) -> None:
        self.worker_id = f"wkr_{number}"
        self.exited: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def terminate(self) -> None:
        if not self.exited.done():
            self.exited.set_result(DRAINED)

    kill = terminate


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Process]]:
    """The processes that were started, in order."""
    found: list[Process] = []

    async def start(*_: Any) -> Process:
        found.append(Process(len(found)))
        return found[-1]

    monkeypatch.setattr(Child, "start", start)
    monkeypatch.setattr(module, "BACKOFF_SECONDS", (0.0, 0.0))
    yield found


@pytest.mark.parametrize(("code", "buried"), [(KILLED, ["wkr_0"]), (FAILED, ["wkr_0"]), (DRAINED, [])])
async def test_the_jobs_of_a_process_that_died_go_back_at_once(
    started: list[Process], code: int, buried: list[str]
) -> None:
    gone: list[str] = []

    async def bury_dead(worker_id: str) -> int:
        gone.append(worker_id)
        return 0

    supervisor = Supervisor("tasks:app", Path(), WorkerSettings(mongodb_url="mongodb://nowhere"))
    supervisor._engine = SimpleNamespace(workers=SimpleNamespace(bury_dead=bury_dead))  # type: ignore[assignment]
    keeping = asyncio.create_task(supervisor._keep(supervisor.places[0]))
    await until(lambda: started)
    started[0].exited.set_result(code)
    await until(lambda: len(started) == 2)
    supervisor.stop()
    await keeping
    assert gone == buried
    assert supervisor.places[0].restarts == 1


async def test_a_supervisor_is_ready_while_all_work_and_it_does_not_stop(started: list[Process]) -> None:
    supervisor = Supervisor("tasks:app", Path(), WorkerSettings(workers=2, mongodb_url="mongodb://nowhere"))
    assert not supervisor.status["ready"]
    for number, place in enumerate(supervisor.places):
        place.child = Process(number)  # type: ignore[assignment]
    assert supervisor.status["ready"]
    supervisor._stopping.set()
    assert not supervisor.status["ready"]
