"""Real mongods for tests: fail points on the session's own server, and whole replica sets to break."""

from __future__ import annotations

import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from switchtower.mongod import find_mongod

TEST_COMMANDS = "--setParameter=enableTestCommands=1"


@contextmanager
def fail_command(
    url: str,
    commands: Sequence[str],
    *,
    times: int | None = None,
    mode: Mapping[str, Any] | str | None = None,
    **data: Any,
) -> Iterator[None]:
    """Make `commands` misbehave on the server at `url` while the block runs.

    `times` bounds the failures; without it (and without `mode`) every matching command fails. `data` is the fail
    point's own: `errorCode=91`, `closeConnection=True`, `blockConnection=True, blockTimeMS=500`, or for a write that is
    executed and then reported as failed: `writeConcernError={"code": 91, "errmsg": "x"}` with
    `errorLabels=["RetryableWriteError"]` (with 91 the driver also thinks the primary gone and waits out its 10 s
    heartbeat; with 64 it does not). The fail point is server-wide: narrow it to one client with `appName`.
    """
    chosen = mode if mode is not None else {"times": times} if times is not None else "alwaysOn"
    client: MongoClient[dict[str, Any]] = MongoClient(url)
    with client:
        client.admin.command(
            {"configureFailPoint": "failCommand", "mode": chosen, "data": {"failCommands": list(commands), **data}}
        )
        try:
            yield
        finally:
            client.admin.command({"configureFailPoint": "failCommand", "mode": "off"})


class Member:
    """One mongod of a `ReplicaSet`."""

    def __init__(self, directory: Path, port: int, arguments: Sequence[str], *, ahead_seconds: int = 0) -> None:
        self.port = port
        self.address = f"127.0.0.1:{port}"
        self._directory = directory
        self._arguments = arguments
        self._environment = dict(os.environ) | (clock_ahead(ahead_seconds) if ahead_seconds else {})
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start this mongod, again if it ended; returns as soon as it accepts connections."""
        assert not self.running, f"the member on {self.port} already runs"
        (self._directory / "data").mkdir(parents=True, exist_ok=True)
        with (self._directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(find_mongod()),
                    f"--dbpath={self._directory / 'data'}",
                    f"--port={self.port}",
                    "--bind_ip=127.0.0.1",
                    "--nounixsocket",
                    "--quiet",
                    "--wiredTigerCacheSizeGB=0.25",
                    "--networkMessageCompressors=disabled",
                    "--setParameter=diagnosticDataCollectionEnabled=false",
                    TEST_COMMANDS,
                    *self._arguments,
                ],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while True:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            assert self.running, f"mongod on {self.port} ended: {self.log()[-500:]}"
            assert time.monotonic() < deadline, f"mongod on {self.port} does not listen"
            time.sleep(0.02)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        self._signal(signal.SIGKILL)
        self._wait()

    def terminate(self, *, wait: bool = True) -> None:
        """SIGTERM. A primary hands over first and ends after about 15 s; `wait=False` returns at once."""
        self._signal(signal.SIGTERM)
        if wait:
            self._wait()

    def freeze(self) -> None:
        """SIGSTOP: connections stay open and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Wait for a running SIGTERM to finish, then start."""
        self._wait()
        self.start()

    def hello(self) -> dict[str, Any]:
        """What it says of itself; empty when it does not answer within a second."""
        client: MongoClient[dict[str, Any]] = MongoClient(
            self.address,
            directConnection=True,
            serverSelectionTimeoutMS=1000,
            connectTimeoutMS=1000,
            socketTimeoutMS=1000,
        )
        with client:
            try:
                return dict(client.admin.command("hello"))
            except PyMongoError:
                return {}

    def command(self, name: str, value: Any = 1, **options: Any) -> dict[str, Any]:
        """Runs an admin command on this very member."""
        client: MongoClient[dict[str, Any]] = MongoClient(self.address, directConnection=True)
        with client:
            return dict(client.admin.command(name, value, **options))

    def log(self) -> str:
        return (self._directory / "log").read_text(errors="replace")

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def _wait(self) -> None:
        assert self._process is not None
        self._process.wait(timeout=60)


class ReplicaSet:
    """Mongods on loopback ports that form one set; elections take two seconds. Use it as a context manager.

    The clock of the last member may be ahead; the first is the first primary.
    """

    def __init__(
        self,
        directory: Path,
        size: int = 3,
        *,
        election_timeout_ms: int = 2000,
        heartbeat_ms: int = 500,
        oplog_mib: int = 64,
        extra_args: Sequence[str] = (),
        last_ahead_seconds: int = 0,
    ) -> None:
        arguments = ("--replSet=faults", f"--oplogSize={oplog_mib}", *extra_args)
        ahead = [0] * (size - 1) + [last_ahead_seconds]
        self.members = [
            Member(directory / str(port), port, arguments, ahead_seconds=seconds)
            for port, seconds in zip(free_ports(size), ahead, strict=True)
        ]
        self._settings = {"electionTimeoutMillis": election_timeout_ms, "heartbeatIntervalMillis": heartbeat_ms}

    @property
    def url(self) -> str:
        return f"mongodb://{','.join(member.address for member in self.members)}/?replicaSet=faults"

    def start(self) -> Self:
        """Start every member, initiate the set and wait until it has a primary and all others follow it."""
        try:
            for member in self.members:
                member.start()
            first = self.members[0]
            configuration = {
                "_id": "faults",
                "members": [{"_id": n, "host": member.address} for n, member in enumerate(self.members)],
                "settings": self._settings,
            }
            client: MongoClient[dict[str, Any]] = MongoClient(first.address, directConnection=True)
            with client:
                client.admin.command("replSetInitiate", configuration)
            self.wait_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    def stop(self) -> None:
        """End every member by its process id, whatever state it is in."""
        for member in self.members:
            if member.running:
                member.kill()

    def primary(self, timeout_seconds: float = 60) -> Member:
        """The member that accepts writes now; waits for an election where there is none."""
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline:
            # After a freeze two members may both claim it for a moment: the younger election is the true one.
            claims = {
                member: hello["electionId"]
                for member in self.members
                if member.running and (hello := member.hello()).get("isWritablePrimary")
            }
            if claims:
                return max(claims, key=lambda member: claims[member])
            time.sleep(0.05)
        raise AssertionError(f"no primary within {timeout_seconds} s")

    def secondaries(self) -> list[Member]:
        return [member for member in self.members if member.running and member.hello().get("secondary")]

    def wait_healthy(self, timeout_seconds: float = 60) -> None:
        """Wait until every member is primary or secondary."""
        deadline = time.monotonic() + timeout_seconds
        self.primary(timeout_seconds)
        while len(self.secondaries()) < len(self.members) - 1:
            assert time.monotonic() < deadline, "the set does not become healthy"
            time.sleep(0.05)

    def step_down(self, seconds: int = 60) -> None:
        """Make the primary give way to another member, and stand aside for `seconds`."""
        self.primary().command("replSetStepDown", seconds, secondaryCatchUpPeriodSecs=30)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def clock_ahead(seconds: int) -> dict[str, str]:
    """The environment of a process whose wall clock is ahead, or behind; its monotonic clock is everyone's."""
    import libfaketime

    library = Path(libfaketime.__file__).parent / "vendor/libfaketime/src/libfaketime.so.1"
    return {"LD_PRELOAD": str(library), "FAKETIME": f"{seconds:+}s", "DONT_FAKE_MONOTONIC": "1"}


def free_ports(count: int) -> list[int]:
    """Ports for others to listen on later, also again after they ended.

    They lie below those that the system gives to connections and to whoever asks for any port: until they are bound, no
    other process of a parallel run can come by one except by drawing the same number.
    """
    ports: list[int] = []
    while len(ports) < count:
        port = random.SystemRandom().randrange(15_000, 32_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports += [port] if port not in ports else []
    return ports
