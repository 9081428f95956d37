"""The last place before a packet leaves looks at the address once more."""

from __future__ import annotations

from typing import Any

import pytest

from switchtower.addresses import AddressPolicy
from switchtower.sending import BlockedAddress, GuardedBackend


class Inner:
    def __init__(self) -> None:
        self.connected: list[str] = []

    async def connect_tcp(self, host: str, *_: Any) -> str:
        self.connected.append(host)
        return f"a stream to {host}"


async def test_only_what_the_policy_lets_in_is_connected_to() -> None:
    inner: Any = Inner()
    guarded = GuardedBackend(AddressPolicy(), inner)
    for host in ("127.0.0.1", "10.0.0.1", "::ffff:127.0.0.1", "169.254.169.254"):
        with pytest.raises(BlockedAddress):
            await guarded.connect_tcp(host, 443)
    assert inner.connected == [] and guarded.stream is None
    assert str(await guarded.connect_tcp("93.184.216.34", 443)) == "a stream to 93.184.216.34"
