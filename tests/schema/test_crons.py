"""Crons over GraphQL: every field, every mutation, and crons that are followed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from switchtower.engine import Engine
from tests.conformance.situations import quiet
from tests.schema.conftest import Commands, Graph
from tests.schema.test_streams import Reader, ready

FIELDS = """id name enabled expression everyMs timezone overlap catchUp jitterMs startsAt endsAt limit fired lastFiredAt
  nextRunAt nextRuns(count: 3) createdAt updatedAt scope { org app }
  job { name queue payload priority maxAttempts tags timeoutMs ttlMs group uniqueKey }
  fires(last: 5) { slot at outcome jobId reason job { id name cronId cron { id } } }"""
ERRORS = "... on ValidationError { field } ... on Error { code message }"
CREATE = f"""mutation($input: CreateCronInput!) {{ createCron(input: $input) {{
  __typename ... on Cron {{ {FIELDS} }} {ERRORS} }} }}"""
UPDATE = f"""mutation($id: ID!, $input: UpdateCronInput!) {{ updateCron(id: $id, input: $input) {{
  __typename ... on Cron {{ {FIELDS} }} {ERRORS} }} }}"""
READ = f"query($id: ID!) {{ cron(id: $id) {{ {FIELDS} }} }}"


def change(verb: str) -> str:
    return f"mutation($id: ID!) {{ {verb}Cron(id: $id) {{ __typename ... on Cron {{ id enabled }} {ERRORS} }} }}"


async def create(graph: Graph, **input: Any) -> Any:
    given = {"name": "nightly", "expression": "0 3 * * *", "job": {"name": "sweep"}, **input}
    return await graph(CREATE, input={key: value for key, value in given.items() if value is not None})


async def fire(engine: Engine, id: str) -> datetime:
    """Lets the cron's slot of this hour come now."""
    slot = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    await engine._store.crons.update_one({"_id": id}, {"$set": {"next_at": slot}})
    assert await engine.crons.tick() == 1
    return slot


async def test_cron_with_every_field(graph: Graph) -> None:
    job = {
        "name": "sweep",
        "queue": "night",
        "payload": {"a": 1},
        "priority": 3,
        "maxAttempts": 7,
        "tags": ["t"],
        "timeoutMs": 500,
        "ttlMs": 9000,
        "group": "g",
        "uniqueKey": "u",
    }
    starts = (datetime.now(UTC) + timedelta(days=400)).replace(hour=0, minute=0, second=0, microsecond=0)
    made = await create(
        graph,
        job={**job, "backoff": {"kind": "FIXED", "baseMs": 10}},
        timezone="Europe/Berlin",
        overlap="REPLACE",
        catchUp="ALL",
        jitterMs=50,
        limit=2,
        startsAt=starts.isoformat(),
        endsAt=(starts + timedelta(days=90)).isoformat(),
    )
    assert made.pop("__typename") == "Cron"
    assert made["job"] == job
    plain = {"name": "nightly", "enabled": True, "expression": "0 3 * * *", "everyMs": None, "limit": 2, "fired": 0}
    plain |= {"timezone": "Europe/Berlin", "overlap": "REPLACE", "catchUp": "ALL", "jitterMs": 50, "fires": []}
    assert {key: made[key] for key in plain} == plain
    assert len(made["nextRuns"]) == 2 and made["nextRuns"][0] == made["nextRunAt"]
    assert (made["lastFiredAt"], made["scope"]) == (None, {"org": None, "app": None})
    assert await graph(READ, id=made["id"]) == made
    assert await graph("query($id: ID!) { node(id: $id) { __typename id } }", id=made["id"]) == {
        "__typename": "Cron",
        "id": made["id"],
    }
    assert await graph.as_tenant("t")(READ, id=made["id"]) is None
    assert (await create(graph, expression=None, everyMs=60_000, name="often"))["everyMs"] == 60_000


async def test_same_again_is_the_same_and_another_is_a_conflict(graph: Graph) -> None:
    first = await create(graph)
    assert (await create(graph))["id"] == first["id"]
    assert (await create(graph, limit=5))["code"] == "CONFLICT"
    assert (await graph("{ crons { totalCount { value } } }"))["totalCount"] == {"value": 1}


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "no name": ({"name": ""}, "name"),
    "no schedule": ({"expression": None}, "schedule"),
    "two schedules": ({"everyMs": 5_000}, "schedule"),
    "impossible date": ({"expression": "0 0 30 2 *"}, "expression"),
    "no expression": ({"expression": "whenever"}, "expression"),
    "no zone": ({"timezone": "Mars/Olympus"}, "timezone"),
    "too often": ({"expression": None, "everyMs": 1}, "everyMs"),
    "no fires": ({"limit": 0}, "limit"),
    "backwards": ({"jitterMs": -1}, "jitterMs"),
    "no job": ({"job": {"name": ""}}, "name"),
    "ends first": ({"startsAt": "2030-01-02T00:00:00Z", "endsAt": "2030-01-01T00:00:00Z"}, "endsAt"),
}


async def test_what_cannot_be_a_cron(graph: Graph) -> None:
    for name, (input, field) in REFUSED.items():
        answer = await create(graph, **input)
        assert (answer["__typename"], answer["field"]) == ("ValidationError", field), name


async def test_changes(graph: Graph) -> None:
    cron = await create(graph, limit=5, startsAt="2030-01-01T00:00:00Z")
    id = cron["id"]
    changed = await graph(UPDATE, id=id, input={"everyMs": 5_000, "limit": None, "overlap": "SKIP", "startsAt": None})
    assert (changed["everyMs"], changed["expression"], changed["limit"]) == (5_000, None, None)
    assert (changed["overlap"], changed["startsAt"], changed["name"]) == ("SKIP", None, "nightly")
    back = await graph(UPDATE, id=id, input={"expression": "@daily", "timezone": "Asia/Tokyo", "name": "other"})
    assert (back["expression"], back["timezone"], back["everyMs"], back["name"]) == (
        "@daily",
        "Asia/Tokyo",
        None,
        "other",
    )
    job = await graph(UPDATE, id=id, input={"job": {"name": "b", "queue": "q"}, "jitterMs": 5, "catchUp": "SKIP"})
    assert (job["job"]["name"], job["job"]["queue"], job["jitterMs"], job["catchUp"]) == ("b", "q", 5, "SKIP")
    for input, field in (
        ({}, "input"),
        ({"timezone": "UTC"}, "timezone"),
        ({"limit": 0}, "limit"),
        ({"name": ""}, "name"),
    ):
        assert (await graph(UPDATE, id=id, input=input))["field"] == field
    await create(graph, name="taken")
    assert (await graph(UPDATE, id=id, input={"name": "taken"}))["code"] == "CONFLICT"
    assert (await graph(UPDATE, id="cron_x", input={"limit": 1}))["code"] == "NOT_FOUND"
    assert (await graph.as_tenant("t")(UPDATE, id=id, input={"limit": 1}))["code"] == "NOT_FOUND"


async def test_disable_enable_delete(graph: Graph) -> None:
    id = (await create(graph))["id"]
    for _ in range(2):
        assert await graph(change("disable"), id=id) == {"__typename": "Cron", "id": id, "enabled": False}
    found = await graph(READ, id=id)
    assert (found["nextRunAt"], found["nextRuns"]) == (None, [])
    for _ in range(2):
        assert (await graph(change("enable"), id=id))["enabled"] is True
    for verb in ("enable", "disable", "delete"):
        assert (await graph.as_tenant("t")(change(verb), id=id))["code"] == "NOT_FOUND"
    assert (await graph(change("delete"), id=id))["id"] == id
    assert await graph(READ, id=id) is None
    for verb in ("enable", "disable", "delete"):
        assert (await graph(change(verb), id=id))["code"] == "NOT_FOUND"


async def test_trigger(graph: Graph) -> None:
    trigger = f"""mutation($id: ID!, $key: String) {{ triggerCron(id: $id, idempotencyKey: $key) {{ __typename
      ... on Job {{ id name deduplication cron {{ name }} }} {ERRORS} }} }}"""
    id = (await create(graph))["id"]
    first = await graph(trigger, id=id, key="k")
    assert (first["name"], first["deduplication"], first["cron"]) == ("sweep", None, {"name": "nightly"})
    again = await graph(trigger, id=id, key="k")
    assert (again["id"], again["deduplication"]) == (first["id"], "IDEMPOTENCY_KEY")
    assert (await graph(trigger, id=id, key=""))["field"] == "idempotencyKey"
    assert (await graph(trigger, id="cron_x"))["code"] == "NOT_FOUND"


async def test_fires_with_their_jobs(graph: Graph, engine: Engine) -> None:
    id = (await create(graph, expression="0 * * * *"))["id"]
    slot = await fire(engine, id)
    found = await graph(READ, id=id)
    (fired,) = found["fires"]
    assert (fired["outcome"], fired["reason"], fired["jobId"]) == ("fired", None, fired["job"]["id"])
    assert datetime.fromisoformat(fired["slot"]) == slot == datetime.fromisoformat(found["lastFiredAt"])
    assert fired["job"]["cron"] == {"id": id} and fired["job"]["cronId"] == id
    await graph("mutation($id: ID!) { removeJob(id: $id) { __typename } }", id=fired["jobId"])
    assert (await graph(READ, id=id))["fires"][0]["job"] is None
    for field, bad in (("fires(last: 0) { slot }", "last"), ("nextRuns(count: 101)", "count")):
        error = await graph.refused(f"query($id: ID!) {{ cron(id: $id) {{ {field} }} }}", id=id)
        assert error.original_error.field == bad


async def test_pages_and_the_crons_of_jobs_are_one_look_up(graph: Graph, engine: Engine, commands: Commands) -> None:
    ids = [(await create(graph, name=f"c{n}", expression="0 * * * *"))["id"] for n in range(5)]
    page = """query($first: Int, $after: String) { crons(first: $first, after: $after) {
      nodes { id } pageInfo { hasNextPage endCursor } totalCount { value } } }"""
    first = await graph(page, first=2)
    assert [node["id"] for node in first["nodes"]] == ids[:2] and first["pageInfo"]["hasNextPage"]
    rest = await graph(page, after=first["pageInfo"]["endCursor"])
    assert [node["id"] for node in rest["nodes"]] == ids[2:] and rest["totalCount"] == {"value": 5}
    assert (await graph.as_tenant("t")(page))["nodes"] == []
    for id in ids:
        await fire(engine, id)
    await quiet(engine)
    with commands.counted() as names:
        await graph("{ crons { nodes { name nextRuns fires { outcome job { state } } } } }")
    assert names == ["find crons", "find jobs"]
    with commands.counted() as names:
        await graph("{ jobs { nodes { cron { name } } } }")
    assert names == ["find jobs", "find crons"]


async def test_crons_are_followed(graph: Graph, engine: Engine) -> None:
    follow = """subscription($after: String) { cronEvents(after: $after) { __typename
      ... on CronEvent { cursor type cronId cronName slot jobId actor at } ... on StreamGap { reason } } }"""
    async with Reader(graph.stream(follow)) as events, Reader(graph.as_tenant("t").stream(follow)) as foreign:
        await ready(graph, 2)
        cron = await create(graph, expression="0 * * * *")
        id = cron["id"]
        await graph(UPDATE, id=id, input={"overlap": "SKIP"})
        await fire(engine, id)
        await engine._store.crons.update_one(
            {"_id": id}, {"$set": {"due": [{"slot": datetime(2020, 1, 1, tzinfo=UTC)}]}}
        )
        assert await engine.crons.tick() == 1
        for verb in ("disable", "enable", "delete"):
            await graph(change(verb), id=id)
        seen = []
        while not seen or seen[-1]["type"] != "DELETE":
            seen.append(await events.next())
        types = [event["type"] for event in seen]
        assert types == ["CREATE", "UPDATE", "FIRE", "SKIP", "DISABLE", "ENABLE", "DELETE"]
        assert {event["cronId"] for event in seen} == {id} and {event["cronName"] for event in seen} == {"nightly"}
        assert seen[2]["jobId"] and seen[2]["slot"] and seen[2]["actor"] == "system"
        assert seen[0]["actor"] == "tester" and seen[3]["jobId"] is None
        assert foreign.items.empty()
    async with Reader(graph.stream(follow, after=seen[2]["cursor"])) as behind:
        assert (await behind.next())["type"] == "SKIP"
