"""Where one more, or one less, is another answer: queues that a key sees, states, attempts and a quota."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from schema import loaders
from schema.context import Context
from schema.resolvers import export, metrics
from schema.resolvers.jobs import EventFilter
from schema.resolvers.streams import follow
from switchtower.access import TenantLimits
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.events import Event, Topic
from switchtower.jobs import Job, JobFilter
from switchtower.pages import Page
from tests.schema.conftest import Graph, worker

NARROW = Caller("narrow", queues=frozenset({"mail"}))


def asks(caller: Caller, **parts: Any) -> Context:
    """A question of this caller to an engine that has these parts alone."""
    return Context(engine=cast(Engine, SimpleNamespace(**parts)), caller=caller)


def event(queue: str, **fields: Any) -> Event:
    return Event("1.1", Topic.JOB, "update", "job_1", datetime.now(UTC), queue=queue, **fields)


async def test_a_worker_is_a_keys_when_it_sees_all_of_its_queues(engine: Engine, graph: Graph) -> None:
    for queues, own in [(["mail"], True), (["mail", "bills"], False), (["bills"], False)]:
        id = await worker(engine, queues=queues)
        narrow = Graph(graph.schema, replace(graph.context, caller=NARROW, memo={}))
        extend = "mutation($id: ID!) { extendLeases(input: {workerId: $id}) { __typename } }"
        assert (await narrow(extend, id=id))["__typename"] == ("ExtendedLeases" if own else "NotFound")


async def test_events_of_other_queues_are_not_followed() -> None:
    matches: list[Callable[[Event], bool]] = []

    class Hub:
        @asynccontextmanager
        async def subscribe(
            self, match: Callable[[Event], bool], *, after: str | None
        ) -> AsyncIterator[AsyncIterator[Event]]:
            matches.append(match)

            async def nothing() -> AsyncIterator[Event]:
                for item in ():
                    yield item

            yield nothing()

    context = asks(NARROW, hub=Hub)
    assert [item async for item in follow(context, Topic.JOB, lambda event: True)] == []
    (match,) = matches
    assert match(event("mail")) and not match(event("bills"))


def test_who_waits_for_a_state_is_told_when_it_is_entered_alone() -> None:
    wanted = EventFilter(to=frozenset({"active"}))
    assert wanted(event("q", from_state="waiting", to_state="active"))
    assert not wanted(event("q", from_state="active", to_state="active"))


async def test_a_failure_waits_as_its_attempt_does(graph: Graph) -> None:
    await graph.enqueue(backoff={"kind": "EXPONENTIAL", "baseMs": 10_000, "jitter": 0.0})
    claim = """mutation { claimJobs(input: {queues: ["default"], workerId: "w"}) {
        ... on ClaimedJobs { jobs { leaseToken job { id } } } } }"""
    (leased,) = (await graph(claim))["jobs"]
    failed = await graph(
        """mutation($id: ID!, $token: String!) { failJob(id: $id, leaseToken: $token, error: {message: "no"}) {
             ... on Job { runAt updatedAt } } }""",
        id=leased["job"]["id"],
        token=leased["leaseToken"],
    )
    wait = datetime.fromisoformat(failed["runAt"]) - datetime.fromisoformat(failed["updatedAt"])
    assert round(wait.total_seconds()) == 10


async def test_each_of_many_jobs_counts_for_the_quota(engine: Engine, graph: Graph) -> None:
    many = """mutation($i: [EnqueueJobInput!]!) { enqueueJobs(inputs: $i) { items { __typename } } }"""
    tenant, operator = graph.as_tenant("acme"), Caller("operator")
    for quota, kind in ((1, "RateLimited"), (2, "Job")):
        await engine.keys.set_tenant_limits(TenantLimits("acme", quota), caller=operator)
        items = (await tenant(many, i=[{"name": "n"}] * 2))["items"]
        assert [item["__typename"] for item in items] == [kind] * 2


async def test_two_pages_of_children_have_each_their_own_size() -> None:
    async def children_of(ids: list[str], **_: Any) -> dict[str, Page[Any]]:
        return {id: Page(["a", "b", "c"], ["1", "2", "3"], False, False) for id in ids}

    context = asks(NARROW, jobs=SimpleNamespace(children_of=children_of))
    few, all_ = await loaders.children_of(context, [("parent", 1, frozenset()), ("parent", 3, frozenset())])
    assert (few.items, few.cursors, few.has_next) == (["a"], ["1"], True)
    assert (all_.items, all_.has_next) == (["a", "b", "c"], False)


async def test_totals_are_shown_to_who_sees_everything() -> None:
    async def history(*, limit: int) -> list[str]:
        return ["all"]

    for caller, shown in [(Caller("operator"), ["all"]), (Caller("tenant", org="acme"), []), (NARROW, [])]:
        assert await metrics.history(asks(caller, metrics=SimpleNamespace(history=history)), 10) == shown


@pytest.mark.parametrize(("asked", "meant"), [(None, 1), (-5, -5), (5, 1)])
async def test_an_export_ends_where_its_filter_does_and_when_it_began(asked: int | None, meant: int) -> None:
    now, until = datetime(2026, 1, 1, tzinfo=UTC), []

    async def page(filter: JobFilter, **_: Any) -> Page[Job]:
        until.append(filter.created_before)
        return Page([], [], False, False)

    filter = JobFilter(created_before=None if asked is None else now + timedelta(seconds=asked))
    clock, jobs = SimpleNamespace(now=lambda: now), SimpleNamespace(page=page)
    context = asks(Caller("operator"), clock=clock, jobs=jobs)
    assert [found async for found in export.jobs(context, filter, export.Sizes())] == []
    assert until == [now + timedelta(seconds=meant)]
