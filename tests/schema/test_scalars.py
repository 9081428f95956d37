"""Times, JSON, numbers and enums on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

from schema.scalars import MAX_INT, int32
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.schema.conftest import Graph


async def test_times_are_read(graph: Graph) -> None:
    for text in [
        "2030-01-01T00:00:00Z",
        "2030-01-01t00:00:00z",
        "2030-01-01T00:00:00.5Z",
        "2030-01-01T01:00:00.123456789+01:00",
        "2030-12-31T23:59:59-23:59",
    ]:
        job = await graph(
            'mutation($at: DateTime!) { enqueueJob(input: {name: "n", runAt: $at}) { ... on Job { runAt } } }', at=text
        )
        assert job["runAt"].endswith("Z") and job["runAt"][-5] == "."


async def test_what_is_no_time_is_refused(graph: Graph) -> None:
    for value in [
        "2030-01-01T00:00:00",
        "2030-01-01",
        "20300101T000000Z",
        "2030-01-01 00:00:00Z",
        "2030-02-30T00:00:00Z",
        "2030-01-01T00:00:60Z",
        "0000-01-01T00:00:00Z",
        "0001-01-01T00:00:00+23:00",
        "9999-12-31T23:59:59-10:00",
        "2030-01-01T00:00:00+99:99",
        "٢٠٣٠-01-01T00:00:00Z",
        "2030-W01-1T00:00:00Z",
        "",
        1893456000,
        True,
        {},
    ]:
        query = "query($at: DateTime) { jobs(filter: {createdAfter: $at}) { nodes { id } } }"
        answer = await graph.raw(query, at=value)
        assert answer.errors is not None and answer.data is None
        assert "DateTime" in answer.errors[0].message and len(answer.errors[0].message) < 300


async def test_times_are_written_in_utc_with_milliseconds() -> None:
    from schema.scalars import SCALARS

    write = SCALARS[datetime].serialize
    assert write is not None
    at = datetime(2026, 1, 31, 12, 0, 0, 5_999, tzinfo=UTC)
    assert write(at) == "2026-01-31T12:00:00.005Z"
    assert write(at.astimezone(timezone(timedelta(hours=5, minutes=30)))) == "2026-01-31T12:00:00.005Z"


async def test_json_goes_through_unchanged(graph: Graph) -> None:
    for value in [None, True, 0, -(2**63), 2**63 - 1, 1.5, "", "ü\u2028😀", [], {}, {"$gt": 1, "a.b": [{"": None}]}]:
        job = await graph(
            'mutation($p: JSON) { enqueueJob(input: {name: "n", payload: $p}) { ... on Job { id payload } } }', p=value
        )
        assert job["payload"] == value and type(job["payload"]) is type(value)
        assert (await graph("query($id: ID!) { job(id: $id) { payload } }", id=job["id"]))["payload"] == value


async def test_json_literals(graph: Graph) -> None:
    mutation = 'mutation($x: Int) { enqueueJob(input: {name: "n", payload: %s}) { ... on Job { payload } } }'
    job = await graph(mutation % '{a: [1, -2.5, "s", true, null, E], b: {c: $x}}', x=3)
    assert job["payload"] == {"a": [1, -2.5, "s", True, None, "E"], "b": {"c": 3}}


async def test_json_literals_that_cannot_be_kept_are_refused(graph: Graph) -> None:
    for literal in ["9223372036854775808", "1e400", "1" * 5000, "{a: 1, a: 2}", "[{b: -1e999}]"]:
        answer = await graph.raw(
            f'mutation {{ enqueueJob(input: {{name: "n", payload: {literal}}}) {{ __typename }} }}'
        )
        assert answer.errors is not None and answer.data is None
        assert len(answer.errors[0].message) < 300


async def test_durations_beyond_an_int_are_shown_as_its_largest(graph: Graph, engine: Engine) -> None:
    year = 365 * 24 * 3600 * 1000
    new = NewJob(name="n", timeout_ms=year, ttl_ms=year, unique_key="u", unique_for_ms=year)
    id = (await engine.jobs.enqueue(new, caller=Caller("test"))).job.id
    job = await graph("query($id: ID!) { job(id: $id) { timeoutMs ttlMs uniqueForMs } }", id=id)
    assert job == {"timeoutMs": MAX_INT, "ttlMs": MAX_INT, "uniqueForMs": MAX_INT}
    assert (int32(None), int32(5), int32(1.9)) == (None, 5, 1)
