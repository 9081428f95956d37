"""Conveyor, row by row: each route's answer in full, in the words of its document."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from app.rest.conveyor import CONVEYOR
from switchtower.flows import FlowNode
from switchtower.jobs import NewJob
from tests.app.rest.conftest import Server
from tests.app.rest.transcripts import Transcript, play
from tests.conformance.situations import CALLER, enqueue, job_in, quiet

Q, J = "/api/queues/{name}", "/api/queues/{name}/jobs/{id}"
DOCUMENTED = (
    *("GET /api/queues", f"GET {Q}", f"POST {Q}/pause", f"POST {Q}/resume", f"POST {Q}/drain", f"POST {Q}/clean"),
    *(f"POST {Q}/retry", f"POST {Q}/promote", f"DELETE {Q}"),
    *(f"GET {Q}/jobs", f"POST {Q}/jobs", f"GET {J}", f"GET {J}/children", f"POST {J}/retry", f"POST {J}/promote"),
    *(f"POST {J}/cancel", f"PATCH {J}", f"DELETE {J}", f"GET {Q}/groups", "GET /api/flows", "GET /api/search"),
    *(f"GET {Q}/metrics", "GET /api/metrics/sparklines", "GET /api/metrics/status"),
    *("GET /api/events", f"GET {Q}/events"),
)
"""What Conveyor's own document lists."""
UNDOCUMENTED = ("GET /api/config", "GET /api/jobs/search")
"""What its dashboard uses besides."""

DATA = {"to": "a@b.c", "n": [1, 2.5, None, True]}
WAITING: dict[str, Any] = {
    "id": "<job>",
    "name": "send-email",
    "queueName": "billing",
    "data": DATA,
    "state": "waiting",
    "attemptsMade": 0,
    "progress": 0,
    "returnvalue": None,
    "failedReason": None,
    "opts": {},
    "deduplicationKey": None,
    "logs": [],
    "stacktrace": [],
    "createdAt": "<time>",
    "processedAt": None,
    "completedAt": None,
    "failedAt": None,
    "delayUntil": None,
    "lockUntil": None,
    "lockedBy": None,
    "parentId": None,
    "parentQueueName": None,
    "pendingChildrenCount": 0,
    "cancelledAt": None,
    "groupId": None,
    "discarded": False,
    "childrenIds": [],
    "attemptLogs": [],
}
FAILED = WAITING | {
    "state": "failed",
    "attemptsMade": 1,
    "failedReason": "it broke",
    "opts": {"attempts": 1, "backoff": {"type": "exponential", "delay": 1000}},
    "stacktrace": ["Traceback …"],
    "processedAt": "<time>",
    "failedAt": "<time>",
    "attemptLogs": [
        {
            "attempt": 1,
            "startedAt": "<time>",
            "endedAt": "<time>",
            "status": "failed",
            "error": "it broke",
            "stacktrace": "Traceback …",
            "logs": [],
        }
    ],
}
PARENT = WAITING | {
    "name": "parent",
    "data": None,
    "state": "waiting-children",
    "opts": {"attempts": 4, "backoff": {"type": "exponential", "delay": 1000}},
    "pendingChildrenCount": 1,
    "childrenIds": ["<job>"],
}
CHILD = PARENT | {
    "name": "child",
    "queueName": "elsewhere",
    "state": "waiting",
    "pendingChildrenCount": 0,
    "childrenIds": [],
    "parentId": "<job>",
    "parentQueueName": "billing",
}
COUNTS = dict.fromkeys(("waiting", "waiting-children", "delayed", "active", "completed", "failed"), 0)
HERE = {"name": "billing"}


def data(value: Any) -> dict[str, Any]:
    return {"data": value}


def page(*jobs: Any, end: int = 100) -> dict[str, Any]:
    return {"data": list(jobs), "meta": {"total": len(jobs), "start": 0, "end": end}}


def error(code: str, message: str) -> dict[str, Any]:
    return {"error": {"code": code, "message": message}}


async def empty(server: Server) -> dict[str, str]:
    return HERE | {"id": "nobody"}


async def waiting(server: Server) -> dict[str, str]:
    answer = await server.ask("POST", "/api/queues/billing/jobs", body={"name": "send-email", "data": DATA})
    return HERE | {"id": answer.json["data"]["id"]}


async def delayed(server: Server) -> dict[str, str]:
    s = await job_in(server.engine, "scheduled", name="send-email", queue="billing", payload=DATA)
    return HERE | {"id": s.id}


async def active(server: Server) -> dict[str, str]:
    s = await job_in(server.engine, "active", name="send-email", queue="billing", payload=DATA)
    return HERE | {"id": s.id}


async def failed(server: Server) -> dict[str, str]:
    s = await job_in(server.engine, "failed", name="send-email", queue="billing", payload=DATA, max_attempts=1)
    return HERE | {"id": s.id}


async def paused(server: Server) -> dict[str, str]:
    await server.engine.queues.pause("billing", caller=CALLER)
    await server.engine.queues.pause("billing", caller=CALLER, job_name="send-email")
    return HERE


async def family(server: Server) -> dict[str, str]:
    child = FlowNode(job=NewJob(name="child", queue="elsewhere"))
    root = FlowNode(job=NewJob(name="parent", queue="billing"), children=[child])
    flow = await server.engine.flows.enqueue(root, caller=CALLER)
    return HERE | {"id": flow.id}


async def grouped(server: Server) -> dict[str, str]:
    for group in ("acme", "acme", "zed"):
        await enqueue(server.engine, queue="billing", group=group)
    await server.engine.claims.claim("w", ["billing"], limit=1)
    return HERE


QUEUE = {
    "name": "billing",
    "counts": COUNTS,
    "isPaused": True,
    "latestActivity": None,
    "scheduledCount": 0,
}
STATE_MESSAGE = 'state must be "failed" or "completed"'
TRANSCRIPTS = (
    Transcript("GET /api/config", 200, data({"readOnly": False, "authRequired": False})),
    Transcript("GET /api/queues", 200, data([QUEUE]), paused),
    Transcript(f"GET {Q}", 200, data({"name": "billing", "counts": COUNTS, "pausedNames": []}), empty),
    Transcript(
        f"GET {Q}",
        200,
        data({"name": "billing", "counts": COUNTS, "pausedNames": ["__all__", "send-email"]}),
        paused,
    ),
    Transcript(f"POST {Q}/pause", 200, data({"paused": "__all__"}), empty),
    Transcript(f"POST {Q}/pause", 200, data({"paused": "send-email"}), empty, sent={"jobName": "send-email"}),
    Transcript(f"POST {Q}/resume", 200, data({"resumed": "__all__"}), paused, sent={"jobName": "__all__"}),
    Transcript(f"POST {Q}/resume", 200, data({"resumed": "send-email"}), paused, sent={"jobName": "send-email"}),
    Transcript(f"POST {Q}/drain", 200, data({"drained": True}), waiting),
    Transcript(f"POST {Q}/drain", 200, data({"drained": True}), empty),
    Transcript(f"POST {Q}/clean", 200, data({"removed": 0}), failed, sent={"state": "failed", "grace": 3_600_000}),
    Transcript(
        f"POST {Q}/clean",
        400,
        error("BAD_REQUEST", "grace: must be a number of milliseconds, from 0 on."),
        empty,
        sent={"state": "failed"},
    ),
    Transcript(f"POST {Q}/retry", 200, data({"retried": 1}), failed, sent={"state": "failed"}),
    Transcript(f"POST {Q}/retry", 200, data({"retried": 0}), failed, sent={"state": "completed"}),
    Transcript(f"POST {Q}/retry", 400, error("BAD_REQUEST", STATE_MESSAGE), empty, sent={"state": "waiting"}),
    Transcript(f"POST {Q}/promote", 200, data({"promoted": 1}), delayed),
    Transcript(f"DELETE {Q}", 200, data({"obliterated": True}), empty),
    Transcript(f"DELETE {Q}", 200, data({"obliterated": True}), active, query="?force=true"),
    Transcript(f"GET {Q}/jobs", 200, page(WAITING), waiting),
    Transcript(f"GET {Q}/jobs", 200, page(), empty, query="?state=failed"),
    Transcript(f"GET {Q}/jobs", 200, page(FAILED), failed, query="?state=failed"),
    Transcript(
        f"POST {Q}/jobs",
        201,
        data(WAITING | {"state": "delayed", "delayUntil": "<time>", "opts": {"priority": 1, "delay": 5000}}),
        empty,
        sent={"name": "send-email", "data": DATA, "opts": {"priority": 1, "delay": 5000}},
    ),
    Transcript(
        f"POST {Q}/jobs", 400, error("BAD_REQUEST", 'Valid JSON with "name" field is required'), empty, sent=b"garbage"
    ),
    Transcript(f"GET {J}", 200, data(WAITING), waiting),
    Transcript(f"GET {J}", 200, data(PARENT), family),
    Transcript(f"GET {J}", 404, error("NOT_FOUND", "Job nobody not found"), empty),
    Transcript(f"GET {J}/children", 200, data([CHILD]), family),
    Transcript(f"GET {J}/children", 200, data([]), empty),
    Transcript(f"POST {J}/retry", 200, data({"retried": True}), failed),
    Transcript(f"POST {J}/retry", 400, error("BAD_REQUEST", 'Cannot retry job in state "waiting"'), waiting),
    Transcript(f"POST {J}/promote", 200, data({"promoted": True}), delayed),
    Transcript(f"POST {J}/promote", 400, error("BAD_REQUEST", 'Cannot promote job in state "failed"'), failed),
    Transcript(f"POST {J}/cancel", 200, data({"cancelled": True}), active),
    Transcript(f"POST {J}/cancel", 400, error("BAD_REQUEST", 'Cannot cancel job in state "delayed"'), delayed),
    Transcript(
        f"PATCH {J}",
        200,
        data(WAITING | {"data": [1], "opts": {"priority": 2}}),
        waiting,
        sent={"data": [1], "opts": {"priority": 2}},
    ),
    Transcript(f"PATCH {J}", 400, error("BAD_REQUEST", "Cannot edit active jobs"), active, sent={"data": 1}),
    Transcript(f"PATCH {J}", 404, error("NOT_FOUND", "Job nobody not found"), empty, sent={"data": 1}),
    Transcript(f"DELETE {J}", 200, data({"removed": True}), active),
    Transcript(f"DELETE {J}", 200, data({"removed": True}), empty),
    Transcript(
        f"GET {Q}/groups",
        200,
        data(
            [
                {"groupId": "acme", "activeCount": 1, "waitingCount": 1},
                {"groupId": "zed", "activeCount": 0, "waitingCount": 1},
            ]
        ),
        grouped,
    ),
    Transcript("GET /api/flows", 200, data([PARENT]), family),
    Transcript("GET /api/flows", 200, data([]), family, query="?state=completed"),
    Transcript("GET /api/search", 200, data(WAITING), waiting, query="?q={id}"),
    Transcript("GET /api/search", 200, data(None), waiting, query="?q=nobody&type=job"),
    Transcript("GET /api/search", 200, data([QUEUE]), paused, query="?q=illi&type=queue"),
    Transcript("GET /api/search", 200, data([WAITING]), waiting, query="?q=A%40B.c&type=payload&queue=billing"),
    Transcript("GET /api/search", 200, data([WAITING]), waiting, query="?q=D-EM&type=name"),
    Transcript("GET /api/search", 400, error("BAD_REQUEST", 'Query parameter "q" is required')),
    Transcript("GET /api/jobs/search", 200, page(WAITING, end=50), waiting, query="?name=EMAIL&state=waiting,bogus"),
    Transcript(f"GET {Q}/metrics", 200, data([]), empty),
    Transcript(
        f"GET {Q}/metrics",
        400,
        error("BAD_REQUEST", 'granularity must be "minute" or "hour"'),
        empty,
        query="?granularity=day",
    ),
    Transcript("GET /api/metrics/sparklines", 200, data({})),
    Transcript("GET /api/metrics/status", 200, data({"enabled": True})),
)


@pytest.mark.parametrize("transcript", TRANSCRIPTS, ids=lambda transcript: transcript.name)
async def test_transcript(server: Server, transcript: Transcript) -> None:
    await play(server, CONVEYOR, transcript)
    await quiet(server.engine)


@pytest.mark.parametrize("transcript", TRANSCRIPTS[:4], ids=lambda transcript: transcript.name)
async def test_transcript_under_the_prefix(server: Server, transcript: Transcript) -> None:
    await play(server, CONVEYOR, transcript, prefix="/conveyor")


def table() -> set[str]:
    return {f"{route.method} {route.path}" for route in CONVEYOR.routes}


def test_the_table_is_what_is_documented() -> None:
    assert table() == {*DOCUMENTED, *UNDOCUMENTED}
    text = (Path(__file__).parents[3] / "docs" / "rest" / "conveyor.md").read_text()
    assert set(re.findall(r"`((?:GET|POST|PUT|PATCH|DELETE) /api\S*)`", text)) == table()


def test_every_route_has_its_transcript() -> None:
    streams = {f"{route.method} {route.path}" for route in CONVEYOR.routes if route.events is not None}
    assert {transcript.request for transcript in TRANSCRIPTS} == table() - streams


async def test_whatever_is_under_its_paths_is_answered_in_its_shape(server: Server) -> None:
    for method, target, status, code in (
        ("GET", "/api", 404, "NOT_FOUND"),
        ("GET", "/api/", 404, "NOT_FOUND"),
        ("GET", "/api/nothing", 404, "NOT_FOUND"),
        ("GET", "/conveyor/", 404, "NOT_FOUND"),
        ("GET", "/api/queues/", 404, "NOT_FOUND"),
        ("GET", "/api/queues/a/jobs/", 404, "NOT_FOUND"),
        ("GET", "/api//queues", 404, "NOT_FOUND"),
        ("PUT", "/api/queues/a", 405, "METHOD_NOT_ALLOWED"),
        ("TRACE", "/api/search", 405, "METHOD_NOT_ALLOWED"),
        ("POST", "/api/config", 405, "METHOD_NOT_ALLOWED"),
    ):
        answer = await server.ask(method, target)
        assert (answer.status, answer.json["error"]["code"]) == (status, code), target
        assert set(answer.json["error"]) == {"code", "message"}
        assert answer.headers["access-control-allow-origin"] == "*"
    preflight = await server.ask("OPTIONS", "/api/queues", origin="https://elsewhere.example")
    assert (preflight.status, preflight.body) == (204, b"")
    long = await server.ask("GET", "/api/queues/" + "x" * 40_000)
    assert (long.status, long.json["error"]["code"]) == (414, "URI_TOO_LONG")


async def test_its_own_description_is_at_its_address(server: Server) -> None:
    for base in ("", "/conveyor"):
        answer = await server.ask("GET", f"{base}/openapi.json")
        assert answer.status == 200 and answer.json["openapi"].startswith("3.1")
        assert answer.json["servers"] == [{"url": base or "/"}]
        assert set(answer.json["paths"]) == {route.path for route in CONVEYOR.routes}
