"""How commands speak and end, against a scripted server; tests/acceptance runs them against the real one."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest
from starlette.responses import Response

from tests.switchtower.cli.terminal import switchtower
from tests.switchtower.scripted_server import Message, ScriptedServer, push, scripted_server


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as started:
        yield started


def job(state: str = "WAITING", **more: Any) -> dict[str, Any]:
    return {
        "__typename": "Job",
        "id": "job_1",
        "name": "send_email",
        "queue": "email",
        "state": state,
        "deduplication": None,
        "attempt": 1,
        "maxAttempts": 4,
        "progress": None,
        "logs": [],
        "result": None,
        "error": None,
        "startedAt": None,
        "finishedAt": None,
        "createdAt": "2026-01-31T12:00:00.000Z",
        "runAt": "2026-01-31T12:00:00.000Z",
        "cancelRequestedAt": None,
        **more,
    }


def enqueued(body: Message) -> dict[str, Any]:
    return {"data": {"enqueueJobs": {"items": [job() for _ in body["variables"]["inputs"]]}}}


class TestEnqueue:
    async def test_prints_the_id(self, server: ScriptedServer) -> None:
        server.answer = enqueued
        ended = await switchtower("enqueue", "send_email", "to=a@b.c", "n:=5", "--delay", "5s", "--url", server.url)
        assert (ended.code, ended.out, ended.err) == (0, "job_1\n", "")
        (body,) = server.requests
        assert body["variables"]["inputs"] == [
            {"name": "send_email", "payload": {"to": "a@b.c", "n": 5}, "delayMs": 5_000}
        ]

    async def test_reads_the_payload_from_standard_input(self, server: ScriptedServer) -> None:
        server.answer = enqueued
        ended = await switchtower("enqueue", "t", "--payload", "-", "--url", server.url, "--json", stdin='{"a": [1]}')
        assert ended.json["id"] == "job_1"
        assert server.requests[0]["variables"]["inputs"][0]["payload"] == {"a": [1]}

    async def test_says_that_it_was_there_already(self, server: ScriptedServer) -> None:
        server.answer = lambda body: {"data": {"enqueueJobs": {"items": [job(deduplication="UNIQUE_KEY")]}}}
        ended = await switchtower("enqueue", "t", "--unique-key", "k", "--url", server.url)
        assert ended.out == "job_1\n"
        assert "was there already (same unique key)" in ended.err

    async def test_deduplicates(self, server: ScriptedServer) -> None:
        server.answer = lambda body: {"data": {"enqueueJobs": {"items": [job(deduplication="REPLACED")]}}}
        debounce = ("--deduplicate", "debounce", "--dedup-key", "k", "--dedup-ttl", "1h", "--delay", "5s")
        ended = await switchtower("enqueue", "t", *debounce, "--url", server.url)
        assert (ended.out, "was replaced" in ended.err) == ("job_1\n", True)
        sent = server.requests[0]["variables"]["inputs"][0]
        assert sent["delayMs"] == 5_000
        assert (sent["deduplication"]["mode"], sent["deduplication"]["key"]) == ("DEBOUNCE", "k")
        assert sent["deduplication"]["ttlMs"] == 3_600_000
        wrong = await switchtower("enqueue", "t", "--deduplicate", "often", "--url", server.url)
        assert (wrong.code, "simple, throttle, debounce" in wrong.err) == (2, True)

    @pytest.mark.parametrize(("state", "code"), [("COMPLETED", 0), ("FAILED", 1), ("CANCELLED", 1)])
    async def test_watch_ends_with_the_job(self, server: ScriptedServer, state: str, code: int) -> None:
        server.answer = enqueued
        running = asyncio.create_task(switchtower("enqueue", "t", "--watch", "--url", server.url))
        socket, message = await server.subscribed.get()
        line = {"at": "2026-01-31T12:00:00.000Z", "level": "info", "line": "sent \x1b[31m", "attempt": 1}
        await push(socket, message, {"job": job("ACTIVE", progress={"percent": 50, "message": "connecting"})})
        await push(socket, message, {"job": job("ACTIVE", progress=60, logs=[line])})
        error = {"type": "ValueError", "message": "no"} if state == "FAILED" else None
        await push(socket, message, {"job": job(state, logs=[line], error=error)})
        await socket.send_json({"id": message["id"], "type": "complete"})
        ended = await running
        assert ended.code == code
        assert "job_1 · active · 50 % connecting" in ended.out
        assert ended.out.count("sent �[31m") == 1
        assert "\x1b" not in ended.out
        assert f"job_1 {state.lower()}" in ended.out.splitlines()[-1]

    @pytest.mark.parametrize(
        ("options", "code"),
        [(["--remove-on-complete"], 0), (["--remove-on-complete", "--remove-on-fail"], 1), ([], 1)],
    )
    async def test_watch_of_a_job_that_is_removed_at_its_end(
        self, server: ScriptedServer, options: list[str], code: int
    ) -> None:
        server.answer = enqueued
        running = asyncio.create_task(switchtower("enqueue", "t", "--watch", *options, "--url", server.url))
        socket, message = await server.subscribed.get()
        await push(socket, message, {"job": job("ACTIVE")})
        await push(socket, message, {"job": None})
        ended = await running
        assert (ended.code, ended.out.splitlines()[-1]) == (code, "job_1 removed")

    async def test_watch_with_json_is_one_document_a_line(self, server: ScriptedServer) -> None:
        server.answer = enqueued
        running = asyncio.create_task(switchtower("enqueue", "t", "-w", "--json", "--url", server.url))
        socket, message = await server.subscribed.get()
        await push(socket, message, {"job": job("COMPLETED")})
        await socket.send_json({"id": message["id"], "type": "complete"})
        assert [line["state"] for line in (await running).json_lines] == ["WAITING", "COMPLETED"]


class TestEndings:
    async def test_nobody_answers(self, server: ScriptedServer) -> None:
        url = server.url
        await server.stop()
        ended = await switchtower("jobs", "--url", url)
        assert (ended.code, ended.out) == (3, "")
        assert "No Switchtower server answers at" in ended.err
        assert "switchtower dev" in ended.err
        assert len(ended.err.splitlines()) == 1
        await server.start()

    @pytest.mark.parametrize(
        ("response", "code"),
        [(Response("", 401), 3), (Response("", 403), 3), (Response("", 503), 3), (Response("hello", 200), 1)],
    )
    async def test_the_server_refuses(self, server: ScriptedServer, response: Response, code: int) -> None:
        server.answer = lambda body: response
        ended = await switchtower("jobs", "--url", server.url)
        assert ended.code == code
        assert ended.err.startswith("Error: ")

    async def test_errors_are_json_too(self, server: ScriptedServer) -> None:
        server.answer = lambda body: {"data": {"job": None}}
        ended = await switchtower("job", "job_9", "--json", "--url", server.url)
        assert (ended.code, ended.out) == (1, "")
        assert orjson.loads(ended.err)["error"]["code"] == "NOT_FOUND"

    @pytest.mark.parametrize(
        "arguments",
        [
            ("nonsense",),
            ("jobs", "--nonsense"),
            ("jobs", "--state", "nonsense"),
            ("jobs", "--limit", "0"),
            ("jobs", "--since", "nonsense"),
            ("enqueue",),
            ("enqueue", "t", "pair"),
            ("enqueue", "t", "--payload", "{"),
            ("enqueue", "t", "--delay", "5"),
            ("retry",),
            ("retry", "job_1", "--queue", "q"),
            ("retry", "job_1", "--dry-run"),
            ("dlq", "replay"),
            ("dlq", "purge", "--older-than", "soon"),
            ("jobs", "--url", "nonsense"),
        ],
    )
    async def test_usage(self, arguments: tuple[str, ...]) -> None:
        ended = await switchtower(*arguments)
        assert (ended.code, ended.out) == (2, "")
        assert "Error: " in ended.err

    async def test_a_refused_value_is_usage(self, server: ScriptedServer) -> None:
        refused = {"code": "VALIDATION", "message": "name: must not be empty.", "field": "name"}
        server.answer = lambda body: {"data": {"enqueueJobs": {"items": [refused]}}}
        ended = await switchtower("enqueue", "", "--url", server.url)
        assert (ended.code, ended.err) == (2, "Error: name: must not be empty.\n")

    async def test_the_address_and_the_key_come_from_the_environment(
        self, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SWITCHTOWER_URL", server.url)
        monkeypatch.setenv("SWITCHTOWER_API_KEY", "secret")
        server.answer = lambda body: {"data": {"queues": []}}
        assert (await switchtower("queues", "--json")).json == []
        assert server.headers[0]["authorization"] == "Bearer secret"


class TestBulk:
    async def test_by_id_goes_on_behind_a_refusal(self, server: ScriptedServer) -> None:
        def answer(body: Message) -> dict[str, Any]:
            if body["variables"]["id"] == "job_2":
                return {"data": {"retryJob": {"code": "INVALID_TRANSITION", "message": "Cannot retry it."}}}
            return {"data": {"retryJob": {**job(), "id": body["variables"]["id"]}}}

        server.answer = answer
        ended = await switchtower("retry", "job_1", "job_2", "job_3", "--url", server.url)
        assert ended.code == 1
        assert ended.out == "job_1 is waiting\njob_3 is waiting\n"
        assert ended.err == "Error: Cannot retry it.\n"

    async def test_a_dry_run_changes_nothing(self, server: ScriptedServer) -> None:
        operation = operated(matched=12, changed=0, sampleIds=["job_1"], done=True)
        server.answer = lambda body: {"data": {"retryJobs": operation}}
        ended = await switchtower("retry", "--queue", "email", "--state", "failed", "--dry-run", "--url", server.url)
        assert ended.code == 0
        assert ended.out == "Would retry 12 jobs; nothing was changed.\n  job_1\n"
        assert [body["variables"] for body in server.requests] == [
            {"filter": {"queues": ["email"], "states": ["FAILED"]}, "dryRun": True}
        ]

    async def test_waits_until_all_are_done(self, server: ScriptedServer) -> None:
        server.answer = lambda body: {"data": {"cancelJobs": operated(matched=2_000, changed=0)}}
        running = asyncio.create_task(switchtower("cancel", "--all", "--json", "--url", server.url))
        socket, message = await server.subscribed.get()
        await push(socket, message, {"bulkOperation": operated(matched=2_000, changed=1_000)})
        await push(socket, message, {"bulkOperation": operated(matched=2_000, changed=1_999, failed=1, done=True)})
        ended = await running
        assert ended.code == 1
        assert (ended.json["changed"], ended.json["failed"]) == (1_999, 1)


def operated(**more: Any) -> dict[str, Any]:
    return {
        "__typename": "BulkOperation",
        "id": "bulk_1",
        "verb": "retry",
        "matched": 0,
        "changed": 0,
        "failed": 0,
        "done": False,
        "exact": True,
        "sampleIds": [],
        **more,
    }


class TestListing:
    async def test_pages_until_the_limit(self, server: ScriptedServer) -> None:
        def answer(body: Message) -> dict[str, Any]:
            nodes = [{**job("FAILED"), "id": f"job_{n}"} for n in range(body["variables"]["first"])]
            nodes[0]["error"] = {"type": "ValueError", "message": "no\nsecond line"}
            return {"data": {"jobs": {"pageInfo": {"hasNextPage": True, "endCursor": "c"}, "nodes": nodes}}}

        server.answer = answer
        ended = await switchtower("jobs", "--limit", "150", "--url", server.url)
        assert [(b["variables"]["first"], b["variables"]["after"]) for b in server.requests] == [(100, None), (50, "c")]
        lines = ended.out.splitlines()
        assert len(lines) == 151
        assert re.fullmatch(r"job_0 +failed +send_email +email +1/4 +\d+ d +ValueError: no *", lines[1])
        assert "newest 150" in ended.err

    async def test_json_is_what_the_server_said(self, server: ScriptedServer) -> None:
        page = {"pageInfo": {"hasNextPage": False, "endCursor": None}, "nodes": [job(name="ü\x1b")]}
        server.answer = lambda body: {"data": {"jobs": page}}
        ended = await switchtower("jobs", "--json", "--url", server.url)
        assert ended.json == page["nodes"]


class TestTail:
    async def test_each_event_is_a_line(self, server: ScriptedServer) -> None:
        running = asyncio.create_task(
            switchtower("tail", "--queue", "email", "--state", "failed", "--count", "3", "--url", server.url)
        )
        socket, message = await server.subscribed.get()
        assert message["payload"]["variables"]["filter"] == {"queues": ["email"], "to": ["FAILED"]}
        common = {"cursor": "c", "at": "2026-01-31T12:00:00.000Z", "jobId": "job_1", "jobName": "t", "queue": "email"}
        moved = {
            "__typename": "JobTransition",
            "type": "BURY",
            "from": "ACTIVE",
            "to": "FAILED",
            "attempt": 4,
            **common,
        }
        for item in (
            moved,
            {"__typename": "JobLogged", "lines": [{"level": "info", "line": "one"}], **common},
            {"__typename": "StreamGap", "reason": "fell behind", **common},
        ):
            await push(socket, message, {"jobEvents": item})
        out = (await running).out.splitlines()
        assert out[0].endswith("job_1 email/t bury → failed (attempt 4)")
        assert out[1].endswith("job_1 email/t one")
        assert "events are missing here: fell behind" in out[2]
