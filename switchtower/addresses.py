"""May something be sent to this address?

Whatever is not known to be a public address is refused, in whatever form it is written: what is reachable from here and
not from everywhere is not for those who may only name an address.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final

from switchtower.errors import ConfigurationError

__all__ = ["LOOPBACK", "AddressPolicy", "networks_from"]

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

LOOPBACK: Final = ("127.0.0.0/8", "::1/128")

_BLOCKED_V4: Final = tuple(
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",  # private
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",  # loopback
        "169.254.0.0/16",  # link-local, with the metadata services of clouds
        "172.16.0.0/12",  # private
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.31.196.0/24",  # AS112
        "192.52.193.0/24",  # AMT
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",  # private
        "192.175.48.0/24",  # AS112
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "168.63.129.16/32",  # the metadata service of Azure
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_PUBLIC_V6: Final = IPv6Network("2000::/3")
"""Of the others none is routed in public: loopback, mapped and translated IPv4, unique local, link-local, multicast."""
_BLOCKED_V6: Final = tuple(
    IPv6Network(text)
    for text in (
        "2001::/23",  # protocol assignments, Teredo among them
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "2620:4f:8000::/48",  # AS112
        "3fff::/20",  # documentation
    )
)
_MAPPED: Final = IPv6Network("::ffff:0:0/96")

_WEB_PORTS: Final = frozenset({80, 443})
_FIRST_FREE_PORT: Final = 1024
_OTHERS_PORTS: Final = frozenset(
    {
        *(1080, 1433, 1521, 1719, 1720, 1723, 2049, 2181, 2375, 2376, 2377, 2379, 2380, 3306, 3389, 3659, 4045, 4190),
        *(5060, 5061, 5432, 5672, 5900, 5984, 6000, 6379, 6443, 6566, 6667, 7000, 7001, 7199, 9042, 9092, 9200, 9300),
        *(10250, 10255, 11211, 15672, 26379, 27017, 27018, 27019, 50000),
    }
)
"""Ports of databases, brokers and control planes, which might take a request for something else."""


@dataclass(frozen=True, slots=True)
class AddressPolicy:
    """Refuses addresses that are not public, and ports that are not the web's; `allowed` networks are let in all the
    same."""

    allowed: Sequence[Network] = ()

    def allows(self, address: str) -> bool:
        """Whether an address is in one of the networks that an operator allowed by name."""
        try:
            found = _plain(ip_address(address))
        except ValueError:
            return False
        return any(found in network for network in self.allowed if network.version == found.version)

    def refusal(self, address: str, port: int) -> str | None:
        """Why nothing may be sent there, in words; None where it may."""
        if port in _OTHERS_PORTS or (port < _FIRST_FREE_PORT and port not in _WEB_PORTS):
            return f"port {port} is not one that webhooks are sent to"
        try:
            given = ip_address(address)
        except ValueError:
            return "it is no address"
        if self.allows(address) or _is_public(_plain(given)):
            return None
        return f"{address} is not a public address"


def _plain(address: Address) -> Address:
    """The IPv4 address that an IPv6 one means, where it is one in other clothes; without a zone."""
    if isinstance(address, IPv4Address):
        return address
    if address in _MAPPED:
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return IPv6Address(int(address))


def _is_public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _BLOCKED_V4)
    return address in _PUBLIC_V6 and not any(address in network for network in _BLOCKED_V6)


def networks_from(texts: Iterable[str]) -> tuple[Network, ...]:
    """Networks as an operator writes them: `10.1.0.0/16`, `fd00::/8`, or one address.

    Raises:
        ConfigurationError: one is none.
    """
    found = []
    for text in texts:
        try:
            found.append(ip_network(text.strip()))
        except ValueError as error:
            raise ConfigurationError(
                f"{text!r} is no network that webhooks may be sent to ({error}); write it as 10.1.0.0/16 or fd00::/8."
            ) from None
    return tuple(found)
