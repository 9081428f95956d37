"""Whether a server says that it is ready, before a made-up engine."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
import pytest
from starlette.requests import Request

from app.probes import Probes
from switchtower.errors import StoreUnavailable

ASKED = Request({"type": "http", "headers": []})


class Engine:
    """Well in every respect, unless told otherwise."""

    clients_replaced = 0

    def __init__(self, *, missing: tuple[str, ...] = (), fresh: bool = True, away: bool = False) -> None:
        self.missing, self.fresh, self.away, self.lag_seconds = missing, fresh, away, 0.0

    def hub(self) -> Engine:
        return self

    async def ping(self) -> float:
        if self.away:
            raise StoreUnavailable()
        return 0.001

    async def missing_indexes(self) -> list[str]:
        return list(self.missing)


async def ready(engine: Any) -> tuple[int, dict[str, bool]]:
    probes = Probes(asyncio.Event())
    probes.engine = engine
    answer = await probes.ready(ASKED)
    return answer.status_code, {name: check["ok"] for name, check in orjson.loads(answer.body)["checks"].items()}


@pytest.mark.parametrize(
    ("engine", "status", "failing"),
    [
        (Engine(), 200, set()),
        (Engine(missing=("jobs.claims",)), 503, {"indexes"}),
        (Engine(fresh=False), 503, {"changeStream"}),
        (Engine(away=True), 503, {"database"}),
        (None, 503, {"server"}),
    ],
)
async def test_ready_is_when_all_is_well(engine: Any, status: int, failing: set[str]) -> None:
    code, checks = await ready(engine)
    assert (code, {name for name, ok in checks.items() if not ok}) == (status, failing)


async def test_a_server_that_stops_is_not_ready() -> None:
    closing = asyncio.Event()
    probes = Probes(closing)
    probes.engine = Engine()  # type: ignore[assignment]
    closing.set()
    assert (await probes.ready(ASKED)).status_code == 503
    assert (await probes.live(ASKED)).status_code == 200
