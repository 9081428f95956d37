"""The gate before a made-up engine: what is charged to whom, and what a server gives back of what it took."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from app import auth
from app.auth import Gate
from app.limits import Refused
from switchtower.access import ApiKey, RateLimit, Scope, TenantLimits
from switchtower.engine.keys import Portion
from tests.app.conftest import build_door
from tests.app.direct import request


class Keys:
    """Knows every token, and hands out portions of three that last a second."""

    def __init__(self, rate: RateLimit | None = None, tenant: RateLimit | None = None) -> None:
        self.rate, self.tenant = rate, tenant
        self.taken: list[tuple[str, str | None, int]] = []
        self.granted = 3

    async def verify(self, text: str) -> ApiKey:
        now = datetime.now(UTC)
        return ApiKey(text, text, "live", frozenset({Scope.READ}), now, "test", org="acme", rate=self.rate)

    def valid(self, key: ApiKey) -> bool:
        return True

    async def tenant_limits(self, org: str) -> TenantLimits:
        return TenantLimits(org, rate=self.tenant)

    async def take(self, owner: str, rate: RateLimit, *, spent: Portion | None, used: int) -> Portion:
        self.taken.append((owner, None if spent is None else spent.id, used))
        return Portion(f"portion {len(self.taken)}", self.granted, 1_000)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """The monotonic clock, to be moved by hand."""
    clock = [100.0]
    monkeypatch.setattr(auth, "time", SimpleNamespace(monotonic=lambda: clock[0]))
    yield clock


def gate_before(keys: Keys) -> Gate:
    gate = Gate()
    gate.engine = SimpleNamespace(keys=keys)  # type: ignore[assignment]
    return gate


async def ask(gate: Gate, token: str, times: int = 1) -> None:
    for _ in range(times):
        await gate.charge(await gate.admit(token), writes=False)


async def test_what_was_not_used_of_a_portion_is_given_back(now: list[float]) -> None:
    keys = Keys(rate=RateLimit(60))
    gate = gate_before(keys)
    await ask(gate, "key_a", times=2)
    now[0] += 2
    await ask(gate, "key_a")
    assert keys.taken == [("key_a", None, 0), ("key_a", "portion 1", 2)]


async def test_a_portion_that_is_used_up_is_followed_by_another(now: list[float]) -> None:
    keys = Keys(rate=RateLimit(60))
    await ask(gate_before(keys), "key_a", times=4)
    assert keys.taken == [("key_a", None, 0), ("key_a", "portion 1", 3)]


async def test_all_keys_of_a_tenant_share_its_rate(now: list[float]) -> None:
    keys = Keys(tenant=RateLimit(60))
    gate = gate_before(keys)
    await ask(gate, "key_a", times=2)
    await ask(gate, "key_b")
    assert {owner for owner, _, _ in keys.taken} == {"tenant acme"}
    keys.granted = 0
    with pytest.raises(Refused) as refused:
        await ask(gate, "key_b")
    assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")


@pytest.mark.timeout(20)
async def test_an_event_stream_counts_among_a_keys_subscriptions() -> None:
    gate = Gate(subscriptions=1)
    gate.engine = gate_before(Keys()).engine
    gate.open(await gate.admit("key_a"), lambda: 1)
    door = build_door(gate=gate)

    async def subscribe(token: str) -> tuple[int, str]:
        headers = [("content-type", "application/json"), ("accept", "text/event-stream")]
        headers += [("authorization", f"Bearer {token}")]
        answer = await request(
            door.app, "POST", "/graphql", headers=headers, body=b'{"query": "subscription { count }"}'
        )
        return answer.status, answer.json["errors"][0]["extensions"]["code"]

    assert await subscribe("key_a") == (429, "TOO_MANY_SUBSCRIPTIONS")
