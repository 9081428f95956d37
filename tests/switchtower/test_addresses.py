"""Nothing is sent to an address that is not public, however it is written, and whatever a name leads to.

Names are resolved by a stub, and connections are made by a fake: no packet leaves here.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import httpcore2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from switchtower.addresses import LOOPBACK, AddressPolicy, networks_from
from switchtower.attempts import ErrorKind
from switchtower.errors import ConfigurationError, InvalidInput
from switchtower.jobs import ClaimedJob
from switchtower.retry import DEFAULT_BACKOFF
from switchtower.sending import Sender, Sent
from switchtower.webhooks import Address, check_url, new_secret

PUBLIC = ("8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450:4001:81b::200e")
SECRET = new_secret()

BLOCKED_V4 = (
    *("0.0.0.0", "0.1.2.3", "0.255.255.255", "10.0.0.0", "10.0.0.1", "10.255.255.255"),
    *("100.64.0.1", "100.100.100.200", "100.127.255.255", "127.0.0.1", "127.0.0.53", "127.1.2.3", "127.255.255.255"),
    *("169.254.0.1", "169.254.169.253", "169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.255.255"),
    *("172.16.0.1", "172.17.0.1", "172.31.255.255", "192.0.0.1", "192.0.0.170", "192.0.0.192", "192.0.2.1"),
    *("192.88.99.1", "192.168.0.1", "192.168.1.254", "192.168.255.255", "198.18.0.1", "198.19.255.255"),
    *("198.51.100.7", "203.0.113.9", "224.0.0.1", "224.0.0.251", "239.255.255.250", "240.0.0.1", "250.1.2.3"),
    *("255.255.255.254", "255.255.255.255", "168.63.129.16", "192.31.196.1", "192.52.193.1", "192.175.48.1"),
)
BLOCKED_V6 = (
    *("::", "::1", "::2", "::7f00:1", "::127.0.0.1", "::10.0.0.1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:7f00:1"),
    *("::ffff:10.0.0.1", "::ffff:169.254.169.254", "::ffff:a9fe:a9fe", "::ffff:192.168.1.1", "::ffff:0.0.0.0"),
    *("::ffff:0:127.0.0.1", "::ffff:0:808:808", "64:ff9b::7f00:1", "64:ff9b::127.0.0.1", "64:ff9b::10.0.0.1"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b::8.8.8.8", "64:ff9b:1::1", "64:ff9b:1:ffff::127.0.0.1", "100::1", "100:0:0:1::1"),
    *("2001::1", "2001:0:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:2::1", "2001:10::1", "2001:20::1"),
    *("2001:db8::1", "2001:1ff:ffff::1", "2002:7f00:1::", "2002:7f00:1::1", "2002:a9fe:a9fe::", "2002:808:808::1"),
    *("2620:4f:8000::1", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fc00::1", "fd00::1", "fd00:ec2::254"),
    *("fd12:3456:789a:1::1", "fdff:ffff::1", "fe80::1", "fe80::1%lo", "fe80::1%eth0", "fe80::a9fe:a9fe", "febf::1"),
    *("fec0::1", "feff::1", "ff00::1", "ff02::1", "ff02::fb", "ff05::1:3", "ff0e::1", "ffff::1"),
)
NUMBERS = (
    *("127.1", "127.0.1", "0", "0.0", "1", "2130706433", "0x7f000001", "0x7f.0.0.1", "0x7f.1", "017700000001"),
    *("0177.0.0.1", "0177.1", "127.0x1", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376", "0xa9.0xfe.0xa9.0xfe"),
    *("169.16689662", "169.254.43518", "3232235777", "0xc0a80101", "167772161", "10.1", "192.168.257", "4294967295"),
    *("0x0", "00", "0x", "0000.0000.0000.0000", "127.000.000.001", "0x7F.0X0.0.1"),
)
NAMES: Mapping[str, Sequence[str]] = {
    "localhost": ["127.0.0.1", "::1"],
    "localhost.": ["127.0.0.1"],
    "LOCALHOST": ["127.0.0.1"],
    "localhost.localdomain": ["127.0.0.1"],
    "ip6-localhost": ["::1"],
    "localtest.me": ["127.0.0.1"],
    "127.0.0.1.nip.io": ["127.0.0.1"],
    "10.0.0.1.nip.io": ["10.0.0.1"],
    "169.254.169.254.nip.io": ["169.254.169.254"],
    "a9fea9fe.nip.io": ["169.254.169.254"],
    "metadata": ["169.254.169.254"],
    "metadata.google.internal": ["169.254.169.254"],
    "metadata.google.internal.": ["169.254.169.254"],
    "metadata.azure.internal": ["168.63.129.16"],
    "instance-data": ["169.254.169.254"],
    "kubernetes.default.svc": ["10.96.0.1"],
    "host.docker.internal": ["192.168.65.2"],
    "gateway.docker.internal": ["192.168.65.1"],
    "alibaba.example": ["100.100.100.200"],
    "oracle.example": ["192.0.0.192"],
    "ecs.example": ["169.254.170.2"],
    "ec2.example": ["fd00:ec2::254"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "nat64.example": ["64:ff9b::7f00:1"],
    "sixtofour.example": ["2002:7f00:1::"],
    "zoned.example": ["fe80::1%2"],
    "cname.example": ["192.168.1.1"],
    "mixed.example": ["93.184.216.34", "10.0.0.1"],
    "mixed-first.example": ["10.0.0.1", "93.184.216.34"],
    "mixed-families.example": ["93.184.216.34", "::1"],
    "mixed-late.example": ["1.1.1.1", "8.8.8.8", "9.9.9.9", "93.184.216.34", "127.0.0.1"],
    "broadcast.example": ["255.255.255.255"],
    "multicast.example": ["224.0.0.1", "ff02::1"],
    "xn--lclhst-jua6b.example": ["127.0.0.1"],
    "%6c%6f%63%61%6c%68%6f%73%74": ["127.0.0.1"],
}
PORTS = (
    *(1, 7, 19, 20, 21, 22, 23, 25, 53, 69, 79, 110, 111, 135, 139, 143, 161, 389, 445, 465, 514, 587, 631, 636, 873),
    *(993, 995, 1023, 1433, 1521, 2049, 2181, 2375, 2376, 2379, 3306, 3389, 5432, 5672, 5900, 5984, 6000, 6379, 6443),
    *(7001, 9042, 9092, 9200, 9300, 10250, 10255, 11211, 15672, 26379, 27017, 27018, 27019, 50000),
)
FORMS = (
    *("file:///etc/passwd", "gopher://127.0.0.1:6379/_x", "ftp://127.0.0.1/", "data:text/plain,x", "dict://127.0.0.1/"),
    *("ldap://127.0.0.1/", "jar:http://127.0.0.1!/", "unix:/var/run/docker.sock", "http+unix://%2Fvar%2Frun/"),
    *("//127.0.0.1/", "127.0.0.1", "http:127.0.0.1", "http:/127.0.0.1", "http:///127.0.0.1", "https://", "http://:80/"),
    *("http://a@127.0.0.1/", "http://8.8.8.8@127.0.0.1/", "http://127.0.0.1@8.8.8.8/", "http://a:b@8.8.8.8/"),
    *("http://8.8.8.8\\@127.0.0.1/", "http://8.8.8.8#@127.0.0.1/", "http://8.8.8.8/#x", "http://8.8.8.8:80:80/"),
    *("http://8.8.8.8/\r\nHost: 127.0.0.1", "http://8.8.8.8/\nX: y", "http://8.8.8.8/\tx", "http://8.8.8.8 /"),
    *("http://8.8.8.8\x00.evil/", "http://127。0。0。1/", "http://①②⑦.⓪.⓪.①/", "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/"),
    *("http://[::1", "http://::1/", "http://[127.0.0.1]/", "http://[::1]extra/", "http://8.8.8.8:0/"),
    *("http://8.8.8.8:65536/", "http://8.8.8.8:-1/", "http://8.8.8.8:0x50/", "http://8.8.8.8:\uff18\uff10/"),
)


class Stub:
    """A resolver of these names; numbers are read as the system does, without asking anybody."""

    def __init__(self, names: Mapping[str, Sequence[str]]) -> None:
        self.names = {name.lower(): list(found) for name, found in names.items()}
        self.asked: list[str] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        if host.lower() in self.names:
            return self.names[host.lower()]
        try:
            return [socket.inet_ntoa(socket.inet_aton(host))]
        except OSError:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known") from None


class Fake(httpcore2.AsyncNetworkBackend):
    """Connects to nothing, and remembers where it was asked to; the endpoint answers 200."""

    def __init__(self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> None:
        self.connected: list[tuple[str, int]] = []
        self.streams: list[Wire] = []
        self.answer = answer

    async def connect_tcp(self, host: str, port: int, *args: Any, **kwargs: Any) -> httpcore2.AsyncNetworkStream:
        self.connected.append((host, port))
        self.streams.append(Wire(self.answer))
        return self.streams[-1]


class Wire(httpcore2.AsyncNetworkStream):
    """What is sent over one connection."""

    def __init__(self, answer: bytes) -> None:
        self.sent = b""
        self.server_hostname: str | None = None
        self._answer = [answer]

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109
        return self._answer.pop(0) if self._answer else b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109
        self.sent += buffer

    async def aclose(self) -> None:
        return

    async def start_tls(self, ssl_context: Any, server_hostname: str | None = None, timeout: Any = None) -> Wire:  # noqa: ASYNC109
        self.server_hostname = server_hostname
        return self

    def get_extra_info(self, info: str) -> Any:
        return None


def job(**fields: Any) -> ClaimedJob:
    now = datetime.now(UTC)
    given: dict[str, Any] = {
        **{"id": "job_1", "name": "n", "queue": "q", "payload": {"a": 1}, "token": "t", "number": 1, "generation": 1},
        **{"max_attempts": 4, "backoff": DEFAULT_BACKOFF, "fence": 1, "org": "", "app": "", "timeout_ms": None},
        **{"expires_at": None, "created_at": now, "run_at": now},
    }
    return ClaimedJob(**{**given, **fields})


async def send(
    url: str, fake: Fake, *, allowed: Iterable[str] = (), names: Mapping[str, Sequence[str]] = NAMES, **fields: Any
) -> Sent:
    sender = Sender(AddressPolicy(networks_from(allowed)), resolver=Stub(names), backend=fake)
    return await sender.send(job(**fields), Address(url, (SECRET,)), seconds=5)


def bracketed(address: str) -> str:
    return f"[{address.replace('%', '%25')}]" if ":" in address else address


VECTORS = (
    *(f"http://{bracketed(address)}/" for address in (*BLOCKED_V4, *BLOCKED_V6)),
    *(f"https://{bracketed(address)}:8443/hook" for address in (*BLOCKED_V4[::5], *BLOCKED_V6[::5])),
    *(f"http://{number}/latest/meta-data/" for number in NUMBERS if number != "0x"),
    *(f"https://{name}/" for name in NAMES),
    *(f"http://8.8.8.8:{port}/" for port in PORTS),
    *(f"https://public.example:{port}/" for port in PORTS[::4]),
)


def test_there_are_vectors_enough() -> None:
    assert len(set(VECTORS)) + len(FORMS) >= 200


@pytest.mark.parametrize("url", VECTORS)
async def test_nothing_is_sent_to_what_is_not_public(url: str) -> None:
    fake = Fake()
    sent = await send(url, fake, names={**NAMES, "public.example": ["93.184.216.34"]})
    assert sent.error is not None
    assert (sent.error.kind, sent.error.type) == (ErrorKind.BLOCKED_ADDRESS, "blocked_address"), sent.error
    assert sent.delivery.status_code is None and sent.answered is None
    assert fake.connected == []


@pytest.mark.parametrize("url", FORMS)
async def test_what_is_no_address_cannot_be_set(url: str) -> None:
    with pytest.raises(InvalidInput):
        check_url("url", url)


@pytest.mark.parametrize("address", PUBLIC)
async def test_public_addresses_are_sent_to(address: str) -> None:
    fake = Fake()
    sent = await send(f"http://{bracketed(address)}/", fake)
    assert sent.error is None and sent.delivery.status_code == 200
    assert fake.connected == [(address, 80)]


async def test_the_address_that_was_checked_is_the_one_that_is_connected_to() -> None:
    fake = Fake()
    resolver = Stub({"hooks.example": ["93.184.216.34", "8.8.8.8"]})
    sender = Sender(AddressPolicy(), resolver=resolver, backend=fake)
    sent = await sender.send(job(), Address("https://hooks.example/in?x=1", (SECRET,)), seconds=5)
    assert sent.error is None
    assert resolver.asked == ["hooks.example"], "asked once: nothing can change in between"
    assert fake.connected == [("93.184.216.34", 443)]
    (wire,) = fake.streams
    assert wire.server_hostname == "hooks.example"
    head = wire.sent.split(b"\r\n\r\n")[0].decode().split("\r\n")
    assert head[0] == "POST /in?x=1 HTTP/1.1" and "Host: hooks.example" in head


async def test_a_name_that_changes_between_attempts_is_refused_then() -> None:
    fake, resolver = Fake(), Stub({"rebind.example": ["93.184.216.34"]})
    sender = Sender(AddressPolicy(), resolver=resolver, backend=fake)
    address = Address("https://rebind.example/", (SECRET,))
    assert (await sender.send(job(), address, seconds=5)).error is None
    resolver.names["rebind.example"] = ["127.0.0.1"]
    again = await sender.send(job(number=2), address, seconds=5)
    assert again.error is not None and again.error.type == "blocked_address"
    assert len(fake.connected) == 1


async def test_a_redirect_leads_nowhere() -> None:
    fake = Fake(b"HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\n\r\n")
    sent = await send("https://public.example/", fake, names={"public.example": ["93.184.216.34"]})
    assert sent.error is not None and sent.error.type == "http_status" and "302" in sent.error.message
    assert sent.delivery.status_code == 302 and fake.connected == [("93.184.216.34", 443)]


async def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:3128")
    fake = Fake()
    assert (await send("https://public.example/", fake, names={"public.example": ["93.184.216.34"]})).error is None
    assert fake.connected == [("93.184.216.34", 443)]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.10", "::1", "::ffff:127.0.0.1"])
async def test_loopback_can_be_allowed(address: str) -> None:
    fake = Fake()
    sent = await send(f"http://{bracketed(address)}:8000/", fake, allowed=LOOPBACK)
    assert sent.error is None and [port for _, port in fake.connected] == [8000]
    blocked = await send("http://10.0.0.1/", Fake(), allowed=LOOPBACK)
    assert blocked.error is not None and blocked.error.type == "blocked_address"


async def test_a_private_network_can_be_allowed_by_name_and_no_other() -> None:
    fake = Fake()
    names = {"in.example": ["10.1.2.3"], "out.example": ["10.2.0.1"], "six.example": ["fd00:1::1"]}
    allowed = ["10.1.0.0/16", "fd00:1::/32"]
    assert (await send("http://in.example/", fake, allowed=allowed, names=names)).error is None
    assert (await send("http://six.example/", fake, allowed=allowed, names=names)).error is None
    refused = await send("http://out.example/", fake, allowed=allowed, names=names)
    assert refused.error is not None and refused.error.type == "blocked_address"
    assert [host for host, _ in fake.connected] == ["10.1.2.3", "fd00:1::1"]
    ports = await send("http://in.example:6379/", fake, allowed=allowed, names=names)
    assert ports.error is not None and ports.error.type == "blocked_address"


@pytest.mark.parametrize("text", ["10.0.0.1/8", "nonsense", "10.0.0.0/33", "", "::/200", "https://10.0.0.1"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError):
        networks_from([text])


@given(st.integers(0, 2**32 - 1))
def test_what_python_does_not_call_global_is_blocked(number: int) -> None:
    address = ipaddress.IPv4Address(number)
    policy = AddressPolicy()
    if not address.is_global or address.is_multicast:
        assert policy.refusal(str(address), 443) is not None
    assert (policy.refusal(str(address), 443) is None) == (policy.refusal(f"::ffff:{address}", 443) is None)
    assert policy.refusal(f"64:ff9b::{address}", 443) is not None


@given(st.integers(0, 2**128 - 1))
def test_of_the_new_addresses_too(number: int) -> None:
    address = ipaddress.IPv6Address(number)
    if not address.is_global or address.is_multicast:
        assert AddressPolicy().refusal(str(address), 443) is not None


@pytest.mark.parametrize("text", ["", "hooks.example", "1.2.3", "1.2.3.4.5", "::g", "127.1", "0x7f000001"])
def test_what_is_no_address_at_all_is_blocked(text: str) -> None:
    assert AddressPolicy().refusal(text, 443) is not None
    assert not AddressPolicy(networks_from(["0.0.0.0/0", "::/0"])).allows(text)
