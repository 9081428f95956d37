"""Filters and pages on an imitation database: reads only, and what every filter means."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from mongomock_motor import AsyncMongoMockClient

from switchtower.callers import EVERYTHING, Reach
from switchtower.errors import InvalidInput
from switchtower.jobs import JobFilter, PayloadMatch
from switchtower.states import JobState
from switchtower.store.collections import Store
from switchtower.store.driver import Database
from switchtower.store.listing import (
    JobOrder,
    branches,
    decode_cursor,
    encode_cursor,
    filter_document,
    payload_path,
    projection,
)
from switchtower.store.skew import MemberClocks

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(number: int, **fields: Any) -> dict[str, Any]:
    return {
        "_id": f"job_{number:02}",
        "name": "work",
        "queue": "q",
        "state": "waiting",
        "org": "",
        "priority": 0,
        "rank": 0,
        "created_at": NOW + timedelta(minutes=number),
        **fields,
    }


JOBS = [
    job(0, name="alpha", tags=["red", "blue"], group="g", worker_id="w", state="active"),
    job(1, queue="p", state="failed", error={"message": "Broken [pipe]", "type": "OSError", "fingerprint": "f"}),
    job(2, org="acme", custom_id="mine", parent_id="job_01", unique_key="u"),
    job(3, state="removed"),
    job(4, payload={"user": {"email": "a@b.c", "roles": ["x", "y"]}, "$gt": 1}),
    job(5, state="completed", flow_id="job_05"),
]


@pytest.fixture
async def store() -> Store:
    client = AsyncMongoMockClient(tz_aware=True)
    made = Store(Database(lambda: client, "listing", "mock", MemberClocks()))
    await made.jobs.insert_many(JOBS)
    return made


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (JobFilter(), [0, 1, 2, 4, 5]),
        (JobFilter(ids=["job_01", "mine", "job_03", "no"]), [1, 2]),
        (JobFilter(ids=[]), []),
        (JobFilter(queues=["p"]), [1]),
        (JobFilter(queues=["p", "q"], states=[JobState.WAITING]), [2, 4]),
        (JobFilter(queues=[]), []),
        (JobFilter(states=[]), []),
        (JobFilter(states=[JobState.ACTIVE, JobState.FAILED]), [0, 1]),
        (JobFilter(names=["alpha", "beta"]), [0]),
        (JobFilter(names=[]), []),
        (JobFilter(tags=["blue", "green"]), [0]),
        (JobFilter(group="g"), [0]),
        (JobFilter(unique_key="u"), [2]),
        (JobFilter(parent_id="job_01"), [2]),
        (JobFilter(flow_id="job_05"), [5]),
        (JobFilter(error_fingerprint="f"), [1]),
        (JobFilter(created_after=NOW + timedelta(minutes=2)), [4, 5]),
        (JobFilter(created_before=NOW + timedelta(minutes=2)), [0, 1]),
        (JobFilter(created_after=NOW, created_before=NOW + timedelta(minutes=2)), [1]),
        (JobFilter(payload=[PayloadMatch("user.email", "a@b.c")]), [4]),
        (JobFilter(payload=[PayloadMatch("user.roles", "y")]), [4]),
        (JobFilter(payload=[PayloadMatch("user.roles", {"$ne": "z"})]), []),
        (JobFilter(payload=[PayloadMatch("user.email", {"$gt": ""})]), []),
        (JobFilter(queues=["q"], names=["alpha"], tags=["red"], group="g"), [0]),
        (JobFilter(queues=["p"], names=["alpha"]), []),
    ],
    ids=repr,
)
async def test_filter_finds_what_it_says(store: Store, filter: JobFilter, expected: list[int]) -> None:
    for match in (
        filter_document(filter, reach=EVERYTHING),
        branches(filter, reach=EVERYTHING, queues=["p", "q"]).match,
    ):
        found = await store.jobs.find(match, sort=[("_id", 1)]).to_list(None)
        assert [row["_id"] for row in found] == [f"job_{number:02}" for number in expected]


async def test_tenant_sees_its_own_jobs_only(store: Store) -> None:
    for filter in (JobFilter(), JobFilter(queues=["q"]), JobFilter(ids=["job_02", "job_04"])):
        found = await store.jobs.find(branches(filter, reach=Reach("acme")).match).to_list(None)
        assert [row["_id"] for row in found] == ["job_02"]


@pytest.mark.parametrize("path", ["", ".", "a.", ".a", "a..b", "$where", "a.$b", "a\0b", "x" * 600])
def test_payload_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(InvalidInput):
        payload_path(path)


@pytest.mark.parametrize("text", ["x" * 257, "a\0b"])
def test_text_that_cannot_be_looked_for_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        filter_document(JobFilter(text=text), reach=EVERYTHING)


@pytest.mark.parametrize("order", JobOrder)
def test_cursor_holds_the_sort_key_of_its_row(order: JobOrder) -> None:
    row = job(7, run_at=NOW, finished_at=None, rank=-3)
    value, id = decode_cursor(order, encode_cursor(order, row))
    expected = {"run_at_asc": NOW, "run_at_desc": NOW, "priority": -3}.get(order.value)
    assert (value, id) == (expected, "job_07")


@pytest.mark.parametrize(
    "cursor", ["", "x", "====", "🎲", "bnVsbA", "WzEsMiwzXQ", "eyJhIjoxfQ", "WyJydW5fYXRfYXNjIixbInQiLDFdLDFd"]
)
def test_malformed_cursor_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(JobOrder.RUN_AT_ASC, cursor)


def test_cursor_of_another_order_is_refused() -> None:
    with pytest.raises(InvalidInput):
        decode_cursor(JobOrder.CREATED_ASC, encode_cursor(JobOrder.CREATED_DESC, job(1)))


def test_heavy_fields_are_read_when_asked_for() -> None:
    assert projection(None) is None
    light = projection(frozenset())
    some = projection(frozenset({"payload"}))
    assert light is not None and some is not None
    assert light["payload"] == light["logs"] == 0
    assert "payload" not in some and some["logs"] == 0
