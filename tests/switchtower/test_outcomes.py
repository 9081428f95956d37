"""Whatever a handler does ends in one recorded outcome, and its worker goes on with nothing left over of it."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator

import pytest

from switchtower import App, execution, testing
from switchtower.states import JobState
from tests.switchtower import odd_tasks
from tests.switchtower.odd_tasks import ENDS, FAILS, RAISED
from tests.switchtower.working import reaches, read

S = JobState
SETTLED = (S.COMPLETED, S.FAILED, S.CANCELLED, S.RETRYING, S.SCHEDULED, S.WAITING)
ENDED = {"snooze for a timedelta": S.SCHEDULED, "retry in a timedelta": S.RETRYING, "cancel": S.CANCELLED}
PLACES = ("on_loop", "later_on_loop", "in_thread", "in_process", "in_batch")


@pytest.fixture
async def app(mongodb_url: str, database_name: str) -> AsyncIterator[App]:
    app = odd_tasks.app
    app.mongodb_url, app.database = mongodb_url, database_name
    yield app
    await app.close()


@pytest.fixture
def own_log(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Where the worker's lines go instead of into pytest's report, which texts that are no UTF-8 cannot reach."""
    lines = io.StringIO()
    logger = logging.Logger("a logger of the test's own")
    logger.addHandler(logging.StreamHandler(lines))
    monkeypatch.setattr(execution, "logger", logger)
    return lines


@pytest.mark.parametrize("place", PLACES)
async def test_every_odd_ending_is_recorded_and_the_next_job_runs(app: App, place: str, own_log: io.StringIO) -> None:
    expected = dict.fromkeys(RAISED, S.RETRYING) | dict.fromkeys(FAILS, S.FAILED) | ENDED
    got, ids = {}, {}
    async with testing.worker(app, concurrency=1):
        for how in RAISED | FAILS | ENDS:
            odd = ids[how] = (await app.enqueue(place, {"how": how})).job.id
            job = await reaches(app, odd, *(state for state in SETTLED if state is not S.WAITING))
            assert job.state in (S.CANCELLED, S.SCHEDULED) or (job.error and job.error.message is not None), how
            got[how] = job.state
            # The one runner of this worker is whole.
            assert (await reaches(app, (await app.enqueue("plain", {})).job.id, S.COMPLETED)).result == 0
    assert got == expected
    # Each is in the log, whatever it makes of its text.
    lines = own_log.getvalue()
    untold = {how for how, id in ids.items() if f"{place} ({id}): attempt 1 of 2 failed" not in lines}
    assert untold == {"cancel", "snooze for a timedelta"}


async def test_what_a_handler_does_to_its_task_reaches_no_other_job(app: App) -> None:
    ends = {
        "cancels itself": S.FAILED,
        "cancels itself and returns": S.COMPLETED,
        "cancels itself and goes on": S.COMPLETED,
        "adds a callback": S.COMPLETED,
    }
    async with testing.worker(app, concurrency=2):
        for how, state in ends.items():
            ids = [(await app.enqueue("meddles", {"how": how})).job.id for _ in range(6)]
            for id in ids:
                assert (await reaches(app, id, *SETTLED[:4])).state is state, how
            plain = [(await app.enqueue("plain", {"n": n})).job.id for n in range(6)]
            assert [(await reaches(app, id, S.COMPLETED)).result for id in plain] == [0] * 6


@pytest.mark.parametrize("name", ["wrapped", "returns_a_coroutine", "returns_a_coroutine_in_process"])
async def test_awaitable_result_is_awaited_whatever_the_function_looks_like(app: App, name: str) -> None:
    async with testing.worker(app, concurrency=1):
        assert (await reaches(app, (await app.enqueue(name, {"n": 1})).job.id, S.COMPLETED, S.FAILED)).result == 2


async def test_hook_that_exits_changes_nothing(mongodb_url: str, database_name: str) -> None:
    app = App(mongodb_url=mongodb_url, database=database_name)
    called = asyncio.Event()

    @app.task()
    async def works() -> str:
        return "done"

    @app.on_complete
    def exits(*_: object) -> None:
        called.set()
        raise SystemExit(1)

    async with testing.worker(app, concurrency=1):
        for _ in range(2):
            called.clear()
            id = (await works.enqueue()).job.id
            await reaches(app, id, S.COMPLETED)
            await asyncio.wait_for(called.wait(), 60)
    assert (await read(app, id)).result == "done"
    await app.close()
