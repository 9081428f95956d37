"""When a job of Dispatched runs: at the time that was asked for, as its document says, however near it is."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from switchtower.states import JobState
from tests.app.rest.conftest import Server
from tests.app.rest.test_dispatched import client_of, read


@pytest.mark.parametrize("verb", ["POST", "PATCH"])
@pytest.mark.parametrize("seconds", [20, 59])
async def test_less_than_a_minute_ahead_is_not_now(server: Server, verb: str, seconds: int) -> None:
    client = await client_of(server)
    now = server.engine.clock.now()
    at = now.replace(microsecond=0) + timedelta(seconds=seconds)
    if verb == "POST":
        answer = await client.dispatch(scheduleFor=at.isoformat())
    else:
        answer = await client.ask("PATCH", f"/api/jobs/{await client.new()}", {"scheduledFor": at.isoformat()})
    assert answer.json["status"] == "QUEUED" and datetime.fromisoformat(answer.json["scheduledFor"]) == at
    job = await read(server, answer.json["jobId"])
    assert (job.state, job.run_at, job.scheduled_for) == (JobState.SCHEDULED, at, at)
    await server.engine.upkeep.stage()
    assert (await read(server, job.id)).state is JobState.SCHEDULED, "its time has not come"


async def test_what_has_passed_is_now(server: Server) -> None:
    client = await client_of(server)
    answer = await client.dispatch(scheduleFor="2020-01-01T00:00:00Z")
    assert answer.status == 201 and "scheduledFor" not in answer.json
    assert (await read(server, answer.json["jobId"])).state is JobState.WAITING
