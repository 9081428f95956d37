"""The front door before an application that answers at once."""

from __future__ import annotations

import pytest
from starlette.responses import PlainTextResponse

from app.front_door import FrontDoor
from app.limits import RequestLimits
from tests.app.direct import request

DOOR = FrontDoor(PlainTextResponse("here"), limits=RequestLimits())


@pytest.mark.parametrize("given", ["a", "trace-1.2_3", "x" * 64])
async def test_a_plain_request_id_is_kept(given: str) -> None:
    answer = await request(DOOR, "GET", "/", headers=[("x-request-id", given)])
    assert answer.headers["x-request-id"] == given


@pytest.mark.parametrize("given", ["", "a b", "a<script>", "a\tlevel=error", "x" * 65, "ä"])
async def test_any_other_request_id_is_replaced(given: str) -> None:
    answer = await request(DOOR, "GET", "/", headers=[("x-request-id", given)])
    assert len(answer.headers["x-request-id"]) == 16
    assert answer.headers["x-request-id"].isalnum()
