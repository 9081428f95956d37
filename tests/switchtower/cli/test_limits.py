"""`switchtower limits`, against a scripted server."""

from __future__ import annotations

import copy
from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.switchtower.cli.terminal import switchtower
from tests.switchtower.scripted_server import Message, ScriptedServer, scripted_server

NONE = {"concurrency": None, "rate": None}
LIMITS: dict[str, Any] = {
    "concurrency": 5,
    "rate": {"starts": 100, "perMs": 60_000},
    "names": [{"name": "send", "concurrency": 2, "rate": None}],
    "perGroup": NONE,
    "groups": [],
}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server() as started:
        started.answer = answer
        yield started


def answer(body: Message) -> dict[str, Any]:
    if "input" in body["variables"]:
        empty = {**NONE, "names": [], "perGroup": NONE, "groups": []}
        return {"data": {"setQueueLimits": {"__typename": "Queue", "limits": empty | body["variables"]["input"]}}}
    return {"data": {"queue": {"limits": copy.deepcopy(LIMITS)}}}


async def test_shows_what_is_limited(server: ScriptedServer) -> None:
    ended = await switchtower("limits", "mail", "--url", server.url)
    assert ended.code == 0 and len(server.requests) == 1
    rows = [line.split() for line in ended.out.splitlines()]
    assert ["the", "queue", "5", "100/1m"] in rows and ["task", "send", "2"] in rows


@pytest.mark.parametrize(
    ("options", "change"),
    [
        (["--concurrency", "7"], {"concurrency": 7}),
        (["--rate", "10/500ms"], {"rate": {"starts": 10, "perMs": 500}}),
        (["--rate", "none"], {"rate": None}),
        (["--name", "send", "-r", "1/1s"], {"names": [LIMITS["names"][0] | {"rate": {"starts": 1, "perMs": 1_000}}]}),
        (["--name", "send", "--clear"], {"names": []}),
        (["--name", "b", "-c", "1"], {"names": [*LIMITS["names"], {"name": "b", "concurrency": 1, "rate": None}]}),
        (["--group", "vip", "-c", "9"], {"groups": [{"name": "vip", "concurrency": 9, "rate": None}]}),
        (["--per-group", "-c", "1"], {"perGroup": {"concurrency": 1, "rate": None}}),
    ],
)
async def test_changes_one_limit_and_leaves_the_others(
    server: ScriptedServer, options: list[str], change: dict[str, Any]
) -> None:
    ended = await switchtower("limits", "mail", *options, "--url", server.url, "--json")
    assert ended.code == 0
    assert server.requests[1]["variables"]["input"] == LIMITS | change
    assert ended.json == LIMITS | change


async def test_clears_them_all(server: ScriptedServer) -> None:
    ended = await switchtower("limits", "mail", "--clear", "--url", server.url)
    assert server.requests[1]["variables"]["input"] == {}
    assert "no limits" in ended.err


@pytest.mark.parametrize(
    "options",
    [
        ["-c", "many"],
        ["-c", "-1"],
        ["-r", "100"],
        ["-r", "x/1m"],
        ["-r", "1/soon"],
        ["--name", "a", "--per-group", "-c", "1"],
        ["--clear", "-c", "1"],
    ],
)
async def test_refuses_what_it_cannot_read(server: ScriptedServer, options: list[str]) -> None:
    ended = await switchtower("limits", "mail", *options, "--url", server.url)
    assert ended.code == 2
    assert all("input" not in body["variables"] for body in server.requests)


async def test_pauses_one_group(server: ScriptedServer) -> None:
    paused = {"paused": False, "pausedNames": [], "pausedGroups": ["a"], "counts": {"waiting": 3}}
    server.answer = lambda body: {"data": {"pauseQueue": {"__typename": "Queue", **paused}}}
    ended = await switchtower("pause", "mail", "--group", "a", "--url", server.url)
    assert server.requests[0]["variables"] == {"name": "mail", "jobName": None, "group": "a"}
    assert ended.out == "group a in mail is paused; 3 jobs wait\n"
