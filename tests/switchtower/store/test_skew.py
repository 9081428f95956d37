"""How far apart the members' clocks are, as heartbeats tell it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from switchtower.store.skew import MemberClocks

NOW = datetime.now(UTC)


def heartbeat(member: int, *, ahead_seconds: float = 0.0, taken_seconds: float = 0.0, awaited: bool = False) -> Any:
    said = NOW + timedelta(seconds=ahead_seconds)
    reply = SimpleNamespace(document={"localTime": said.replace(tzinfo=None)})
    return SimpleNamespace(connection_id=("db", member), reply=reply, duration=taken_seconds, awaited=awaited)


@pytest.fixture(autouse=True)
def _time_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchtower.store.skew.time", SimpleNamespace(monotonic=lambda: 1_000.0))


def test_members_that_agree_are_not_apart() -> None:
    clocks = MemberClocks()
    assert clocks.skew_seconds == 0
    for member in range(3):
        clocks.succeeded(heartbeat(member))
    assert clocks.skew_seconds < 0.5


def test_the_farthest_two_count_and_one_that_is_gone_does_not() -> None:
    clocks = MemberClocks()
    for member, ahead in enumerate((0.0, -5.0, 600.0)):
        clocks.succeeded(heartbeat(member, ahead_seconds=ahead))
    assert abs(clocks.skew_seconds - 605) < 0.5
    clocks.failed(heartbeat(2))
    assert abs(clocks.skew_seconds - 5) < 0.5


def test_a_slow_answer_counts_from_its_middle_and_an_awaited_one_from_its_end() -> None:
    clocks = MemberClocks()
    clocks.succeeded(heartbeat(0))
    clocks.succeeded(heartbeat(1, ahead_seconds=-4.0, taken_seconds=8.0))
    clocks.succeeded(heartbeat(2, taken_seconds=10.0, awaited=True))
    assert clocks.skew_seconds < 0.5


def test_a_reply_without_a_time_says_nothing() -> None:
    clocks = MemberClocks()
    clocks.succeeded(SimpleNamespace(reply=SimpleNamespace(document={}), connection_id=1, duration=0.0, awaited=False))  # type: ignore[arg-type]
    assert clocks.skew_seconds == 0
