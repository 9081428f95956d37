"""Claims that lost their answer and are carried out late: each job is handed out once, under the token of one try."""

from __future__ import annotations

from typing import Any

import pytest
from pymongo.errors import AutoReconnect

from switchtower.engine import Engine
from switchtower.engine import claims as verbs
from switchtower.store import permits
from tests.conformance.situations import enqueue, fresh


async def test_try_that_is_carried_out_behind_the_next_hands_nothing_out_twice(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    for group in ("a", "b", "c", "d"):
        await enqueue(engine, queue=queue, group=group)
    claim, late, tokens = permits.claim, [], []

    async def loses_its_first_answer(*args: Any, **options: Any) -> int:
        tokens.append(options["token"])
        if len(tokens) == 1:
            # The server will carry it out, some time from now.
            late.append((args, options))
            raise AutoReconnect("connection closed")
        return await claim(*args, **options)

    monkeypatch.setattr(permits, "claim", loses_its_first_answer)
    monkeypatch.setattr(verbs, "DOUBT_SECONDS", 60.0)
    first = await engine.claims.claim("w", [queue], limit=2)
    for args, options in late:
        await claim(*args, **options)
    handed = list(first)
    for doubt in engine.claims._doubts.values():
        doubt.asked_at = 0.0
    while more := await engine.claims.claim("w", [queue], limit=2):
        handed += more
        for doubt in engine.claims._doubts.values():
            doubt.asked_at = 0.0
    assert len(tokens) >= 2 and len(set(tokens)) == len(tokens), "a token belongs to one try"
    assert sorted(job.id for job in handed) == sorted({job.id for job in handed}), "handed out twice"
    assert len(handed) == 4


async def test_late_jobs_that_could_not_be_handed_out_are_found_again(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = fresh("queue")
    await enqueue(engine, queue=queue)
    allowed = type(engine.claims).allowed
    failed: list[bool] = []

    async def fails_twice(self: Any, *args: Any) -> Any:
        if len(failed) < 2:
            failed.append(True)
            raise AutoReconnect("connection closed")
        return await allowed(self, *args)

    monkeypatch.setattr(type(engine.claims), "allowed", fails_twice)
    for _ in range(2):
        with pytest.raises(Exception, match=r"answer|connection|reach"):
            await engine.claims.claim("w", [queue])
        for doubt in engine.claims._doubts.values():
            doubt.asked_at = 0.0
    assert len(await engine.claims.claim("w", [queue])) == 1
