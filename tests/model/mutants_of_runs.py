"""Seeded faults of workflow runs and events, as `mutants` has them of single jobs."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from switchtower.engine.workflows import Workflows
from switchtower.store import operations, workflows
from switchtower.store.expressions import GONE


def steps_are_recorded_without_the_lease() -> AbstractContextManager[Any]:
    return patch.object(workflows, "by_token", lambda verb, token: {})


def events_are_given_to_everyone() -> AbstractContextManager[Any]:
    whole = workflows._matching

    def matching(*arguments: Any, **options: Any) -> dict[str, Any]:
        filter = whole(*arguments, **options)
        del filter["consumed_by"]
        return filter

    return patch.object(workflows, "_matching", matching)


def events_of_all_tenants_are_one() -> AbstractContextManager[Any]:
    whole = workflows._matching

    def matching(*arguments: Any, **options: Any) -> dict[str, Any]:
        filter = whole(*arguments, **options)
        del filter["org"]
        return filter

    return patch.object(workflows, "_matching", matching)


def lost_workers_keep_their_events() -> AbstractContextManager[Any]:
    async def give_back(store: Any, event: Any) -> None:
        pass

    return patch.object(workflows, "give_back", give_back)


def events_are_taken_from_who_took_over() -> AbstractContextManager[Any]:
    whole = workflows.consume

    async def consume(*arguments: Any, **options: Any) -> Any:
        found = await whole(*arguments, **options)
        return None if found is None else (found[0], True)

    return patch.object(workflows, "consume", consume)


def nobody_looks_again_when_put_aside() -> AbstractContextManager[Any]:
    async def recheck(self: Workflows, run_id: str) -> bool:
        return False

    return patch.object(Workflows, "recheck", recheck)


def retried_runs_await_nothing() -> AbstractContextManager[Any]:
    return patch.object(operations, "AWAITING", GONE)


def retried_runs_keep_what_was_undone() -> AbstractContextManager[Any]:
    return patch.object(operations, "_STEPS_KEPT", "$steps")


def replays_keep_all_steps() -> AbstractContextManager[Any]:
    async def replay(store: Any, run: Any, actor: str, *, keep: Any, source: str | None = None) -> Any:
        match = {"_id": run.job.id, "state": {"$in": ["completed", "failed", "cancelled"]}}
        return await store.jobs.find_one_and_update(match, operations.retry(actor), return_document=True)

    return patch.object(workflows, "replay", replay)


def _replays_give(up: bool) -> AbstractContextManager[Any]:
    """Replays that take for recorded what was not, or the other way round."""
    whole = workflows.replay
    status = workflows.StepStatus.COMPLETED if up else workflows.StepStatus.WAITING

    async def replay(store: Any, run: Any, actor: str, *, keep: Any, source: str | None = None) -> Any:
        steps = [replace(step, status=status) if step.kind is workflows.StepKind.WAIT else step for step in run.steps]
        return await whole(store, replace(run, steps=steps), actor, keep=keep, source=source)

    return patch.object(workflows, "replay", replay)


def replays_give_up_what_was_not_recorded() -> AbstractContextManager[Any]:
    return _replays_give(up=True)


def replays_give_again_what_was_recorded() -> AbstractContextManager[Any]:
    return _replays_give(up=False)


MUTANTS_OF_RUNS = [
    steps_are_recorded_without_the_lease,
    events_are_given_to_everyone,
    events_of_all_tenants_are_one,
    lost_workers_keep_their_events,
    events_are_taken_from_who_took_over,
    nobody_looks_again_when_put_aside,
    retried_runs_await_nothing,
    retried_runs_keep_what_was_undone,
    replays_keep_all_steps,
    replays_give_up_what_was_not_recorded,
    replays_give_again_what_was_recorded,
]
