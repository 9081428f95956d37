"""`switchtower workflows …`: what it asks for, what it prints, against a scripted server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.switchtower.cli.terminal import switchtower
from tests.switchtower.scripted_server import ScriptedServer, scripted_server

RUN: dict[str, Any] = {
    "__typename": "WorkflowRun",
    "id": "run_1",
    "workflow": "order",
    "version": 2,
    "state": "SLEEPING",
    "currentStep": "charge",
    "createdAt": "2026-01-31T12:00:00.000Z",
    "startedAt": None,
    "finishedAt": None,
    "error": {"type": "ValueError", "message": "no\nmoney"},
}
STEP = {"name": "charge", "kind": "STEP", "status": "FAILED", "attempts": 3, "result": None, "error": RUN["error"]}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as started:
        yield started


def answering(field: str, value: Any) -> Any:
    return lambda body: {"data": {field: value}}


async def test_lists_runs_by_workflow_and_state(server: ScriptedServer) -> None:
    page = {"nodes": [RUN], "pageInfo": {"hasNextPage": False, "endCursor": "c"}}
    server.answer = answering("workflowRuns", page)
    options = ("--workflow", "order", "--state", "sleeping", "--limit", "5", "--url", server.url)
    ended = await switchtower("workflows", "list", *options)
    assert ended.code == 0
    assert "run_1" in ended.out and "sleeping" in ended.out and "charge" in ended.out
    assert server.requests[0]["variables"] == {
        "filter": {"workflow": "order", "states": ["SLEEPING"]},
        "first": 5,
        "after": None,
    }
    assert (await switchtower("workflows", "list", "--url", server.url, "--json")).json == [RUN]


async def test_lists_what_live_workers_have(server: ScriptedServer) -> None:
    server.answer = answering("workflows", [{"name": "order", "versions": [1, 2]}])
    assert "1, 2" in (await switchtower("workflows", "names", "--url", server.url)).out


async def test_shows_a_run_with_its_steps_or_says_that_there_is_none(server: ScriptedServer) -> None:
    server.answer = answering("workflowRun", {**RUN, "input": {"id": 7}, "output": None, "steps": [STEP]})
    ended = await switchtower("workflows", "show", "run_1", "--url", server.url)
    assert "failed" in ended.out and "ValueError: no" in ended.out and "money" not in ended.out
    assert (await switchtower("workflows", "show", "run_1", "--url", server.url, "--json")).json["steps"] == [STEP]
    server.answer = answering("workflowRun", None)
    missing = await switchtower("workflows", "show", "run_2", "--url", server.url)
    assert (missing.code, "run_2" in missing.err) == (1, True)


async def test_starts_with_what_is_given_alone(server: ScriptedServer) -> None:
    server.answer = answering("startWorkflow", RUN)
    ended = await switchtower(
        "workflows",
        "start",
        "order",
        "id:=7",
        "--version",
        "2",
        "--delay",
        "5s",
        "--run-id",
        "mine",
        "--url",
        server.url,
    )
    assert ended.out == "run_1 sleeping\n"
    assert server.requests[0]["variables"]["input"] == {
        "workflow": "order",
        "input": {"id": 7},
        "version": 2,
        "delayMs": 5_000,
        "runId": "mine",
    }


@pytest.mark.parametrize(
    ("command", "field", "variables"),
    [
        (("cancel", "run_1", "--yes"), "cancelWorkflowRun", {"id": "run_1"}),
        (("replay", "run_1", "charge"), "replayWorkflowRun", {"id": "run_1", "step": "charge"}),
    ],
)
async def test_changes_a_run_and_says_what_it_is_now(
    server: ScriptedServer, command: tuple[str, ...], field: str, variables: dict[str, str]
) -> None:
    server.answer = answering(field, RUN)
    assert (await switchtower("workflows", *command, "--url", server.url)).out == "run_1 sleeping\n"
    assert server.requests[0]["variables"] == variables
    assert (await switchtower("workflows", *command, "--url", server.url, "--json")).json == RUN
    refused = {"__typename": "InvalidTransition", "code": "INVALID_TRANSITION", "message": "It has ended."}
    server.answer = answering(field, refused)
    ended = await switchtower("workflows", *command, "--url", server.url)
    assert (ended.code, "It has ended." in ended.err) == (1, True)


async def test_publishes_an_event(server: ScriptedServer) -> None:
    server.answer = answering("publishEvent", {"__typename": "PublishedEvent", "id": "evt_1", "name": "paid"})
    ended = await switchtower("workflows", "publish", "paid", "id:=7", "--idempotency-key", "k", "--url", server.url)
    assert ended.out == "evt_1\n"
    assert server.requests[0]["variables"]["input"] == {
        "name": "paid",
        "payload": {"id": 7},
        "idempotencyKey": "k",
    }
