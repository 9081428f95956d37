"""AsyncMQ's own rules, where they differ from ours."""

from __future__ import annotations

import pytest

from switchtower.states import JobState
from switchtower.workers import OutcomeKind
from tests.app.rest.conftest import Server
from tests.app.rest.test_asyncmq import post
from tests.conformance.situations import ERROR, job_in


@pytest.mark.parametrize("kind", [OutcomeKind.COMPLETE, OutcomeKind.FAIL, OutcomeKind.ABORT])
@pytest.mark.parametrize("form", ["single", "bulk"])
async def test_what_a_cancelled_handler_returns_is_discarded(server: Server, kind: OutcomeKind, form: str) -> None:
    s = await job_in(server.engine, JobState.ACTIVE)
    if form == "single":
        answer = await post(server, f"/queues/{s.queue}/jobs/{s.id}/cancel")
        assert (answer.status, answer.json) == (200, {"ok": True})
    else:
        answer = await post(server, f"/queues/{s.queue}/jobs", {"action": "cancel", "job_id": s.id})
        assert answer.status == 302
    assert (await s.job()).cancel_requested_at is not None
    await s.report(kind, **({"result": {"late": True}} if kind is OutcomeKind.COMPLETE else {"error": ERROR}))
    job = await s.job()
    assert (job.state, job.result) == (JobState.CANCELLED, None)
