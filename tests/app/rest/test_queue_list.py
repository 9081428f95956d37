"""Queues that a key, or a whole server, does not show are not there: over HTTP, in GraphQL and in a dialect."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from app.rest.conveyor import CONVEYOR
from switchtower.access import NewApiKey, Scope
from switchtower.callers import SYSTEM
from switchtower.jobs import NewJob
from tests.app.product import ENQUEUE
from tests.app.rest.conftest import Server, running

QUEUES = "{ queues { name } }"
CREATE = """
mutation ($input: CreateApiKeyInput!) {
  createApiKey(input: $input) { ... on CreatedApiKey { key { queues } secret } ... on Error { code message } }
}
"""
PAUSE = "mutation ($n: String!) { pauseQueue(name: $n) { ... on Queue { name paused } ... on Error { code } } }"
FLOW = """
mutation ($input: EnqueueFlowInput!) { enqueueFlow(input: $input) { ... on Flow { id } ... on Error { code } } }
"""
CANCEL_FLOW = "mutation ($id: ID!) { cancelFlow(id: $id) { ... on BulkOperation { id } ... on Error { code } } }"


@pytest.fixture
async def narrow(mongodb_url: str, database_name: str) -> AsyncIterator[Server]:
    """A server that shows the queues `mail` and `bills`."""
    async with running(mongodb_url, database_name, queues="mail, bills") as server:
        yield server


async def jobs(server: Server) -> dict[str, str]:
    """One waiting job in each of three queues, by queue."""
    found = {}
    for queue in ("mail", "bills", "vault"):
        new = NewJob(name="work", queue=queue, unique_key=f"only-{queue}")
        found[queue] = (await server.engine.jobs.enqueue(new, caller=SYSTEM)).job.id
    return found


async def key_for(server: Server, *queues: str) -> str:
    """A key that knows these queues."""
    new = NewApiKey(name="k", scopes=[Scope.OPERATE], queues=queues)
    return (await server.engine.keys.create(new, caller=SYSTEM)).secret


async def test_a_server_shows_its_queues_only(narrow: Server) -> None:
    ids = await jobs(narrow)
    assert {job["queue"] for job in (await narrow.ask("GET", "/v1/jobs")).json} == {"mail", "bills"}
    assert (await narrow.ask("GET", "/v1/jobs?queue=vault")).json == []
    assert (await narrow.ask("GET", f"/v1/jobs/{ids['vault']}")).status == 404
    assert (await narrow.ask("POST", f"/v1/jobs/{ids['vault']}/cancel")).status == 404
    assert (await narrow.ask("POST", f"/v1/jobs/{ids['mail']}/cancel")).status == 204
    refused = await narrow.graphql(ENQUEUE, input={"name": "work", "queue": "vault"})
    assert refused["enqueueJob"]["code"] == "NOT_FOUND"
    assert (await narrow.graphql(PAUSE, n="vault"))["pauseQueue"] == {"code": "NOT_FOUND"}
    assert (await narrow.graphql(PAUSE, n="mail"))["pauseQueue"]["paused"] is True
    assert (await narrow.graphql("{ viewer { queues } }"))["viewer"]["queues"] == ["bills", "mail"]
    assert (await narrow.ask("GET", "/metrics/prometheus")).status == 403


async def test_a_key_shows_what_it_and_the_server_share(narrow: Server) -> None:
    ids = await jobs(narrow)
    new = NewApiKey(name="k", scopes=[Scope.ADMIN], queues=["mail", "vault"])
    key = (await narrow.engine.keys.create(new, caller=SYSTEM)).secret
    assert [job["id"] for job in (await narrow.ask("GET", "/v1/jobs", key=key)).json] == [ids["mail"]]
    viewer = (await narrow.graphql("{ viewer { queues key { name queues } } }", key=key))["viewer"]
    assert viewer == {"queues": ["mail"], "key": {"name": "k", "queues": ["mail", "vault"]}}


async def test_a_key_passes_on_its_queues_or_fewer(maintained: Server) -> None:
    new = NewApiKey(name="k", scopes=[Scope.ADMIN], queues=["mail", "bills"])
    key = (await maintained.engine.keys.create(new, caller=SYSTEM)).secret

    async def create(**input: Any) -> Any:
        answer = await maintained.graphql(CREATE, key=key, input={"name": "n", "scopes": ["OPERATE"], **input})
        return answer["createApiKey"]

    assert (await create())["key"]["queues"] == ["bills", "mail"]
    assert (await create(queues=["mail"]))["key"]["queues"] == ["mail"]
    assert (await create(queues=["mail", "vault"]))["code"] == "FORBIDDEN"
    assert (await create(queues=["mail"], queue="bills"))["code"] == "VALIDATION"
    assert (await create(queues=[]))["code"] == "VALIDATION"


async def test_a_key_that_stands_elsewhere_is_a_conflict_and_shows_nothing(maintained: Server) -> None:
    ids = await jobs(maintained)
    key = (
        await maintained.engine.keys.create(NewApiKey(name="k", scopes=[Scope.OPERATE], queues=["mail"]), caller=SYSTEM)
    ).secret
    answer = await maintained.graphql(
        ENQUEUE, key=key, input={"name": "work", "queue": "mail", "uniqueKey": "only-vault"}
    )
    assert answer["enqueueJob"]["code"] == "CONFLICT" and ids["vault"] not in str(answer)
    many = "mutation ($i: [EnqueueJobInput!]!) { enqueueJobs(inputs: $i) { items { ... on Error { code } } } }"
    inputs = [{"name": "work", "queue": queue} for queue in ("vault", "mail", "vault")]
    answer = await maintained.graphql(many, key=key, i=inputs)
    codes = [item.get("code") for item in answer["enqueueJobs"]["items"]]
    assert codes == ["NOT_FOUND", None, "NOT_FOUND"]


async def test_a_flow_that_reaches_into_other_queues_is_not_ended_as_a_whole(maintained: Server) -> None:
    tree = {"job": {"name": "top", "queue": "mail"}, "children": [{"job": {"name": "part", "queue": "vault"}}]}
    flow = (await maintained.graphql(FLOW, input={"root": tree}))["enqueueFlow"]["id"]
    key = (
        await maintained.engine.keys.create(NewApiKey(name="k", scopes=[Scope.OPERATE], queues=["mail"]), caller=SYSTEM)
    ).secret
    assert (await maintained.graphql(CANCEL_FLOW, key=key, id=flow))["cancelFlow"] == {"code": "FORBIDDEN"}
    assert (await maintained.graphql(FLOW, key=key, input={"root": tree}))["enqueueFlow"] == {"code": "NOT_FOUND"}
    other = (
        await maintained.engine.keys.create(
            NewApiKey(name="o", scopes=[Scope.OPERATE], queues=["vault", "mail"]), caller=SYSTEM
        )
    ).secret
    assert "id" in (await maintained.graphql(CANCEL_FLOW, key=other, id=flow))["cancelFlow"]


async def test_conveyor_knows_no_queue_that_is_not_shown(narrow: Server) -> None:
    """The rows of reliability.md §3.2: read, write, search, stream and the routes of jobs, all 404."""
    ids = await jobs(narrow)
    for route in CONVEYOR.routes:
        if "name" not in route.parameters:
            continue
        body = {"state": "failed", "grace": 0, "name": "work", "data": {}} if route.body is not None else None
        path = route.path.format(name="vault", id=ids["vault"])
        answer = await narrow.ask(route.method, path, body=body)
        assert answer.status == 404, (route.method, path, answer.body)
        assert answer.json["error"]["code"] == "NOT_FOUND"
        if "id" in route.parameters:
            # Through another queue it is a job that is not there, which two routes do not say with a status.
            path = route.path.format(name="mail", id=ids["vault"])
            answer = await narrow.ask(route.method, path, body=body)
            assert answer.status == 404 or answer.json in ({"data": []}, {"data": {"removed": True}}), route
    assert (await narrow.engine.jobs.get(ids["vault"], caller=SYSTEM)) is not None
    shown = [queue["name"] for queue in (await narrow.ask("GET", "/api/queues")).json["data"]]
    assert set(shown) <= {"mail", "bills"}
    assert (await narrow.ask("GET", f"/api/search?q={ids['vault']}")).json == {"data": None}
    assert (await narrow.ask("GET", "/api/search?q=vau&type=queue")).json == {"data": []}
    assert (await narrow.ask("GET", "/api/search?q=x&type=payload&queue=vault")).status == 404
    assert (await narrow.ask("GET", "/api/jobs/search?queue=vault")).status == 404
