"""`GET /export/jobs.ndjson`: every job that a filter means, as lines, in bounded memory, to whoever may see them."""

from __future__ import annotations

import asyncio
import json
import socket
import tracemalloc
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import pytest
from pymongo import MongoClient
from pymongo.database import Database

from schema.context import Context
from schema.ndjson import job_line
from schema.resolvers import export as resolvers
from switchtower.callers import Caller
from switchtower.clock import to_ms
from switchtower.engine import Engine
from switchtower.errors import InvalidInput
from switchtower.ids import JOB, new_id
from switchtower.jobs import JobFilter, NewJob
from switchtower.store.documents import job_document
from tests.app.product import ENQUEUE, execute, product
from tests.app.serving import Served
from tests.app.test_auth import Keys
from tests.waiting import until

PATH = "/export/jobs.ndjson"
JOBS = 50_000
QUERY = """query($id: ID!) { job(id: $id) { id customId name queue state priority payload result attempt maxAttempts
  generation tags group uniqueKey lifo runAt createdAt pendingChildren dependsOn removeOnComplete scope { org app }
  backoff { kind baseMs capMs jitter waitsMs } timeline { type from to actor attempt } } }"""


@pytest.fixture
def served(mongodb_url: str, database_name: str) -> Iterator[Served]:
    with product(mongodb_url, database_name) as server:
        yield server


@pytest.fixture
def http(served: Served) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=served.url, timeout=60) as client:
        yield client


@pytest.fixture
def many(mongo: MongoClient[dict[str, Any]], database_name: str) -> None:
    """Fifty thousand jobs of 1 KB: 50 MB, which nobody should hold at once."""
    fill(mongo[database_name], JOBS, 1_000)


@pytest.fixture
def large(mongo: MongoClient[dict[str, Any]], database_name: str) -> None:
    """More than the buffers between a server and a reader that does not read can hold."""
    fill(mongo[database_name], 4_000, 10_000)


def fill(database: Database[dict[str, Any]], count: int, size: int) -> None:
    now = to_ms(datetime.now(UTC)) - 60_000
    text = "x" * size
    for start in range(0, count, 2_000):
        database["jobs"].insert_many(
            job_document(
                NewJob(name="work", queue="many", payload={"n": n, "text": text}, tags=["odd"] if n % 2 else []),
                id=new_id(JOB),
                org="",
                app="",
                actor="test",
                now_ms=now,
                pending=[],
            )
            for n in range(start, start + 2_000)
        )


def lines(response: httpx2.Response) -> list[dict[str, Any]]:
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    assert response.text == "" or response.text.endswith("\n")
    return [json.loads(line) for line in response.text.splitlines()]


def export(http: httpx2.Client, **filter: Any) -> list[dict[str, Any]]:
    return lines(http.get(PATH, params={"filter": json.dumps(filter)} if filter else {}))


def test_a_line_says_what_the_schema_says(http: httpx2.Client) -> None:
    payload = {"snake_case": [1, 2.5, None, {"from_state": "ü"}]}
    input = {"name": "work", "payload": payload, "tags": ["t"], "group": "g", "delayMs": 100_000, "uniqueKey": "k"}
    id = execute(http, ENQUEUE, input=input)["enqueueJob"]["id"]
    (line,) = export(http)
    shown = execute(http, QUERY, id=id)["job"]
    for field, value in shown.items():
        if field == "timeline":
            assert [{name: row[name] for name in value[0]} for row in line[field]] == value
        elif field in ("runAt", "createdAt"):
            assert datetime.fromisoformat(line[field]) - datetime.fromisoformat(value) < timedelta(milliseconds=1)
        else:
            assert line[field] == value, field
    assert (line["state"], line["payload"]) == ("SCHEDULED", payload)


def test_filter_is_that_of_the_schema(http: httpx2.Client) -> None:
    for n in range(30):
        input = {"name": f"n{n % 3}", "queue": f"q{n % 2}", "payload": {"n": n, "at": {"deep": n % 5}}}
        execute(http, ENQUEUE, input={**input, **({"delayMs": 100_000} if n >= 20 else {})})
    assert [row["payload"]["n"] for row in export(http)] == list(range(30))
    assert len(export(http, queues=["q1"], names=["n0", "n1"])) == 10
    assert len(export(http, states=["SCHEDULED"])) == 10
    assert len(export(http, payload=[{"path": "at.deep", "value": 3}])) == 6
    assert export(http, createdAfter="2100-01-01T00:00:00Z") == []
    assert export(http, ids=["job_nope"]) == []


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("filter=", "JSON"),
        ("filter=[]", "object"),
        ("filter={", "JSON"),
        ('filter={"queue":"a"}', "queue"),
        ('filter={"queues":[1]}', "queues"),
        ('filter={"states":["waiting"]}', "states"),
        ('filter={"createdAfter":"yesterday"}', "createdAfter"),
        ('filter={"payload":[{"path":"$where","value":1}]}', "payload"),
        ('filter={"payload":[{"value":1}]}', "path"),
        ('filter={"queues":["a"],"queues":["b"]}', "twice"),
        ('filter={"text":"' + "x" * 300 + '"}', "text"),
        ("filter={}&filter={}", "twice"),
        ("queue=a", "queue"),
        ("filter=%ff%00", "JSON"),
    ],
)
def test_bad_filter_is_a_400_that_says_why(http: httpx2.Client, query: str, says: str) -> None:
    response = http.get(f"{PATH}?{query}")
    assert response.status_code == 400, response.text
    (error,) = response.json()["errors"]
    assert error["extensions"]["code"] == "VALIDATION"
    assert says in error["message"]


def test_other_methods_are_refused(http: httpx2.Client) -> None:
    assert http.post(PATH).status_code == 405
    head = http.head(PATH)
    assert (head.status_code, head.content) == (200, b"")


def test_keys_see_their_own_and_need_to_read(served: Served) -> None:
    keys = Keys(served)
    _, ours = keys.create("READ", "OPERATE", org="acme")
    _, theirs = keys.create("READ", "OPERATE", org="other")
    _, blind = keys.create("WORK", org="acme")
    id, gone = keys.create("READ", org="acme")
    keys.revoke(id)
    with keys.client(ours) as http, keys.client(theirs) as other:
        execute(http, ENQUEUE, input={"name": "mine"})
        execute(other, ENQUEUE, input={"name": "theirs"})
        assert [row["name"] for row in export(http)] == ["mine"]
        assert [row["scope"]["org"] for row in export(other)] == ["other"]
    assert {row["name"] for row in export(keys.http)} == {"mine", "theirs"}
    with keys.client(blind) as http:
        assert (http.get(PATH).status_code, "scope read" in http.get(PATH).text) == (403, True)
    with keys.client(gone) as http:
        assert http.get(PATH).status_code == 401
    with httpx2.Client(base_url=served.url, timeout=60) as http:
        assert http.get(PATH).status_code == 401
    _, slow = keys.create("READ", rate={"requests": 1, "perMs": 600_000})
    with keys.client(slow) as http:
        assert [http.get(PATH).status_code for _ in range(2)] == [200, 429]


@pytest.mark.nightly
def test_fifty_thousand_arrive_whole_in_order(many: None, http: httpx2.Client) -> None:
    seen = -1
    with http.stream("GET", PATH) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            row = json.loads(line)
            assert row["payload"]["n"] == seen + 1
            seen += 1
    assert seen == JOBS - 1


@pytest.mark.nightly
async def test_server_holds_a_page_of_them_and_the_database_nothing(
    many: None, mongodb_url: str, database_name: str, mongo: MongoClient[dict[str, Any]]
) -> None:
    engine = await Engine.connect(mongodb_url, database=database_name)
    context = Context(engine=engine, caller=Caller("test"))
    database = mongo[database_name]
    try:
        sizes = resolvers.Sizes()
        tracemalloc.start()
        count = 0
        pages = resolvers.jobs(context, JobFilter(tags=["odd"]), sizes)
        async for page in pages:
            chunk = b"".join(map(job_line, page))
            sizes.observe(len(page), len(chunk))
            assert len(chunk) < 4 * 2**20
            count += len(page)
            if count % 5_000 < len(page):
                assert open_cursors(database, "jobs") == 0
        peak = tracemalloc.get_traced_memory()[1]
        assert count == JOBS / 2
        # As objects the jobs would be some 200 MB; a page is 1 MB as text, in a few forms at a time.
        assert peak < 40 * 2**20, peak
    finally:
        tracemalloc.stop()
        await engine.close()


def open_cursors(database: Any, collection: str) -> int:
    found = database.client.admin.aggregate(
        [
            {"$currentOp": {"idleCursors": True, "allUsers": True}},
            {"$match": {"ns": f"{database.name}.{collection}", "cursor.tailable": {"$ne": True}, "type": "idleCursor"}},
        ]
    )
    return len([row for row in found if "$changeStream" not in str(row)])


@pytest.mark.slow
async def test_reader_that_breaks_off_leaves_nothing_behind(large: None, served: Served) -> None:
    for _ in range(5):
        with socket.create_connection((served.host, served.port)) as broken:
            broken.sendall(f"GET {PATH} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b"200 OK" in broken.recv(65_536)
    await until(lambda: not served.server.server_state.connections)
    await until(lambda: not served.server.server_state.tasks)


@pytest.mark.slow
async def test_revoked_key_and_closing_server_cut_the_stream(large: None, served: Served) -> None:
    keys = Keys(served)
    id, secret = keys.create("READ")

    def read() -> None:
        with (
            keys.client(secret) as http,
            http.stream("GET", "/api/events") as events,
            http.stream("GET", PATH) as response,
        ):
            rows = response.iter_lines()
            for _ in range(10):
                next(rows)
            keys.revoke(id)
            # All that is open for a key ends at once: when this one has, nothing more is written to the other.
            for _ in events.iter_raw():
                pass
            # What was cut must not look like all there is.
            with pytest.raises(httpx2.RemoteProtocolError):
                for _ in rows:
                    pass

    await asyncio.to_thread(read)


@pytest.mark.parametrize("text", [10, "yes", {"a": 1}])
def test_filter_must_have_the_types_of_the_schema(text: Any) -> None:
    from schema.build import build_schema
    from schema.ndjson import job_filter

    with pytest.raises(InvalidInput, match=r"filter\.text|text"):
        job_filter(build_schema(), {"text": text} if text != "yes" else {"lifo": text, "text": "a"})
