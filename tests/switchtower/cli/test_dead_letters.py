"""`switchtower dlq`, where what it does is more than one request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from switchtower.cli.dead_letters import _replay_all

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)


class FailsAgain:
    """A server with so many dead letters, one a second, whose jobs fail again as soon as they are replayed."""

    def __init__(self, letters: int, *, round: int) -> None:
        self.failed = [BEGAN + timedelta(seconds=n) for n in range(letters)]
        self.replayed = 0
        self._round = round

    async def execute(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        nodes = [{"failedAt": at.isoformat()} for at in reversed(self.failed[self.replayed :])]
        page = {"hasNextPage": len(nodes) > variables["first"], "endCursor": "x"}
        return {"deadLetters": {"nodes": nodes[: variables["first"]], "pageInfo": page}}

    async def mutate(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        assert self.replayed < 1_000, "it goes round"
        before = datetime.fromisoformat(variables["filter"]["failedBefore"])
        waiting = [at for at in self.failed[self.replayed :] if at < before][: self._round]
        self.replayed += len(waiting)
        self.failed += [self.failed[-1] + timedelta(seconds=n + 1) for n in range(len(waiting))]
        return {"replayed": len(waiting), "errors": []}


async def test_what_fails_again_is_not_replayed_again() -> None:
    assert await _replay_all(FailsAgain(25, round=10), {"replayed": False}) == (25, [])
    assert await _replay_all(FailsAgain(0, round=10), {"replayed": False}) == (0, [])
