"""What events add up to."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from switchtower.events import Event, Topic
from switchtower.store.counters import fold

NOW = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize(("to", "failed"), [("failed", 1), ("waiting", 0)])
def test_a_job_that_failed_with_its_worker_is_counted_as_failed(to: str, failed: int) -> None:
    event = Event("1.1", Topic.JOB, "rescue", "job_1", NOW, queue="q", name="n", from_state="active", to_state=to)
    delta = fold([event])
    assert delta.states[("q", "")] == {"active": -1, to: 1}
    counted = delta.minutes.get((NOW.replace(second=0), "q", "", "n"), {})
    assert counted.get("failed", 0) == failed
