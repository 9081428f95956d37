"""What a run does with children that its journal names and that were never made, since its worker died in between."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from switchtower.durable import WorkflowContext
from switchtower.states import JobState
from switchtower.workflows import Step, StepKind, StepStatus


class Suspended(Exception):
    pass


@pytest.mark.parametrize("state", [JobState.WAITING, JobState.COMPLETED])
async def test_children_that_were_never_made_are_made(state: JobState) -> None:
    row = Step(name="c", kind=StepKind.FAN_OUT, status=StepStatus.WAITING, children=("a", "b", "c"))
    made: list[Any] = []

    async def enqueue(jobs: Any, *, linked: bool) -> None:
        assert linked
        made.extend(jobs)

    async def jobs(target: Any, inputs: list[Any]) -> list[str]:
        return [f"job of {input}" for input in inputs]

    async def read(ids: Any) -> dict[str, Any]:
        return {"a": SimpleNamespace(state=state)}

    run = SimpleNamespace(job=SimpleNamespace(pending=["b"]))
    journal = SimpleNamespace(
        run=run, recall=lambda name, kind: row, enqueue=enqueue, suspend=lambda *, children: Suspended(children)
    )
    context = SimpleNamespace(_journal=journal, _jobs=jobs, _read=read)
    with pytest.raises(Suspended):
        await WorkflowContext._child(cast(WorkflowContext, context), "c", "target", [1, 2, 3], StepKind.FAN_OUT)
    assert made == [("b", "job of 2")], "c is not waited for any more: it ended, and is gone"
