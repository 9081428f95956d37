"""Where does the database come from on a machine that has none?

`start` runs a real mongod as a one-node replica set that listens on a Unix socket and on nothing else. One mongod
serves one data directory: whoever starts second attaches, and the last one to leave stops it. A mongod whose starter
was killed lives on, for the workers that still use it, and is adopted by the next start.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self
from urllib.parse import quote

from pymongo import MongoClient
from pymongo.errors import PyMongoError

from switchtower.errors import ConfigurationError, StoreUnavailable
from switchtower.mongod import find_mongod, reason_for_exit

try:
    import fcntl
    import resource
except ImportError as error:
    raise ConfigurationError(
        "The embedded database needs Unix sockets and file locks, which Windows does not have. "
        "Use WSL, or set SWITCHTOWER_MONGODB_URL."
    ) from error

__all__ = ["EmbeddedMongo", "start"]

REPLICA_SET = "switchtower"
SOCKET_NAME = "mongodb-27017.sock"

# The oplog window is what a resuming change stream needs. Compression is off because 6.0.5 predates the fix of
# CVE-2025-14847. A signalled shutdown need not wait for other members to take over: there are none. A process that was
# killed while it created a flow holds the flow's idempotency key until its transaction is ended, which takes a minute
# where nothing else is set.
MONGOD_OPTIONS = (
    "--nounixsocket",
    "--quiet",
    "--networkMessageCompressors=disabled",
    "--wiredTigerCacheSizeGB=0.25",
    "--oplogSize=1024",
    "--oplogMinRetentionHours=1",
    "--setParameter=diagnosticDataCollectionEnabled=false",
    "--setParameter=shutdownTimeoutMillisForSignaledShutdown=0",
    "--setParameter=transactionLifetimeLimitSeconds=15",
)

MOST_FILES = 64_000

_abandoned: list[subprocess.Popen[bytes]] = []


class EmbeddedMongo:
    """A running mongod that this process uses; leaving the `with` block (or `stop`) gives it back.

    `url` fits motor and both pymongo clients; `version` is the server's; `started_seconds` is what `start` took;
    `attached` says that the mongod was already running.
    """

    def __init__(
        self,
        *,
        url: str,
        version: str,
        pid: int,
        started_seconds: float,
        attached: bool,
        home: _Home,
        usage: IO[str],
        process: subprocess.Popen[bytes] | None,
    ) -> None:
        self.url = url
        self.version = version
        self.pid = pid
        self.started_seconds = started_seconds
        self.attached = attached
        self.log_path = home.log
        self._home = home
        self._usage: IO[str] | None = usage
        self._process = process

    def stop(self) -> None:
        """Give the mongod back: it shuts down cleanly if nobody else uses this data directory, else it keeps running.

        Does nothing the second time. Raises StoreUnavailable when mongod does not end within 60 s.
        """
        if self._usage is None:
            return
        with self._home.starting(timeout_seconds=60):
            self._usage.close()
            self._usage = None
            if not self._home.unused():
                if self._process is not None:
                    _abandoned.append(self._process)
                return
            _shut_down(self._home)
            if self._process is not None:
                self._process.wait(timeout=10)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(data_dir: Path, *, extra_args: Sequence[str] = (), timeout_seconds: float = 60) -> EmbeddedMongo:
    """Bring up the mongod of `data_dir` and wait until it accepts writes, or attach to the one already running.

    Blocks (call it through `asyncio.to_thread`). Creates the directory, private to this user, where it is missing.
    `extra_args` go to mongod as they are and count only when this call is the one that starts it.

    Raises ConfigurationError when no usable mongod exists or it cannot run here (the message says what to install), and
    StoreUnavailable when it was started and did not become writable within `timeout_seconds`.
    """
    began = time.monotonic()
    deadline = began + timeout_seconds
    home = _Home(data_dir)
    home.create()
    with home.starting(timeout_seconds):
        while True:
            process = None
            path = home.live_socket(deadline)
            if path is None:
                path = home.place_socket()
                process = _launch(home, path, extra_args)
            try:
                version, pid = _make_writable(path, home, process, deadline)
                usage = home.use()
                break
            except _MongodGone:
                continue
            except BaseException:
                if process is not None:
                    process.kill()
                    process.wait()
                raise
    return EmbeddedMongo(
        url=f"mongodb://{quote(str(path), safe='')}/?directConnection=true&replicaSet={REPLICA_SET}",
        version=version,
        pid=pid,
        started_seconds=time.monotonic() - began,
        attached=process is None,
        home=home,
        usage=usage,
        process=process,
    )


class _MongodGone(Exception):
    """The mongod that was being attached to ended meanwhile."""


class _Home:
    """The files of one embedded database: data, log, socket, and the locks that decide who starts and stops it."""

    def __init__(self, data_dir: Path) -> None:
        self.path = data_dir.expanduser().absolute() / "mongodb"
        self.data = self.path / "data"
        self.log = self.path / "mongod.log"
        self._start_lock = self.path / "start.lock"
        self._use_lock = self.path / "use.lock"
        self._run_lock = self.path / "run.lock"

    def create(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.mkdir(mode=0o700, exist_ok=True)
            self.path.chmod(0o700)
            self.data.mkdir(mode=0o700, exist_ok=True)
            # The data directory mostly lies in the user's project, whose repository it must not enter.
            (self.path / ".gitignore").write_text("*\n")
        except OSError as error:
            raise ConfigurationError(
                f"The data directory {self.path.parent} cannot be used ({error.strerror}). "
                "Choose one that you may write to with --data-dir."
            ) from error

    @contextmanager
    def starting(self, timeout_seconds: float) -> Iterator[None]:
        """Hold the right to start or stop this mongod; others wait here."""
        with self._start_lock.open("a") as lock:
            deadline = time.monotonic() + timeout_seconds
            while not _try_lock(lock):
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"Another process has been starting or stopping the database in {self.path} for over "
                        f"{timeout_seconds:.0f} s. Look at {self.log}, end that process and try again."
                    )
                time.sleep(0.02)
            yield

    def use(self) -> IO[str]:
        """Count this process as a user until the file is closed, by it or by its death."""
        usage = self._use_lock.open("a")
        fcntl.flock(usage, fcntl.LOCK_SH)
        return usage

    def unused(self) -> bool:
        with self._use_lock.open("a") as usage:
            return _try_lock(usage)

    def held_by_mongod(self) -> bool:
        """Whether a mongod, starting, running or stopping, has this data directory open."""
        with self._run_lock.open("a") as lock:
            return not _try_lock(lock)

    def mongod_pid(self) -> int | None:
        with suppress(OSError, ValueError):
            return int((self.data / "mongod.lock").read_text())
        return None

    @contextmanager
    def running(self) -> Iterator[int]:
        """A descriptor for mongod to inherit: the lock on it lasts exactly as long as that process, from its first
        instant, which the lock that mongod takes itself does not."""
        with self._run_lock.open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield lock.fileno()

    def live_socket(self, deadline: float) -> Path | None:
        """The socket of the mongod that has this data directory open; None when there is no such mongod.

        A starter killed half-way leaves one that is still recovering, and a stopped one needs its second to end: both
        are waited for.
        """
        while self.held_by_mongod():
            recorded = Path(self._start_lock.read_text().strip() or os.devnull)
            if _answers(recorded):
                return recorded
            if time.monotonic() > deadline:
                raise StoreUnavailable(
                    f"A mongod (pid {self.mongod_pid()}) holds {self.data} and does not answer. "
                    f"End it and start again; its log is {self.log}."
                )
            time.sleep(0.02)
        return None

    def place_socket(self) -> Path:
        """Clear away a dead mongod's socket, choose where the next one listens, and record it for those who attach."""
        folder = self.path
        if not _fits_a_socket(folder):
            key = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:16]
            folder = Path(tempfile.gettempdir()) / f"switchtower-{os.getuid()}-{key}"
            _make_private(folder)
            if not _fits_a_socket(folder):
                raise ConfigurationError(
                    f"No Unix socket can be made in {self.path} or {folder}. Choose a shorter --data-dir on a "
                    "local disk, or set SWITCHTOWER_MONGODB_URL."
                )
        path = folder / SOCKET_NAME
        path.unlink(missing_ok=True)
        self._start_lock.write_text(str(path))
        return path


def _try_lock(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _make_private(folder: Path) -> None:
    """Own `folder` alone: the temporary directory is shared, so a folder prepared there by someone else is refused."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    if folder.is_symlink() or not folder.is_dir() or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise ConfigurationError(
            f"{folder} exists and is not a private directory of yours, so the database socket is not put there. "
            "Remove it, set TMPDIR, or choose a shorter --data-dir."
        )


def _fits_a_socket(folder: Path) -> bool:
    # mongod reads commas, colons and brackets in an address as separators.
    if not re.fullmatch(r"[\w/. %@+=~-]+", str(folder)):
        return False
    probe = folder / SOCKET_NAME.replace("mongodb", "probing")
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(probe))
    except OSError:
        return False
    finally:
        probe.unlink(missing_ok=True)
    return True


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(path))
    except OSError:
        return False
    return True


def _launch(home: _Home, path: Path, extra_args: Sequence[str]) -> subprocess.Popen[bytes]:
    mongod = find_mongod()
    if home.log.exists():
        home.log.replace(home.log.with_suffix(".previous.log"))
    # A session of its own: Ctrl-C in the terminal reaches the workers, which need the database to drain.
    command = [str(mongod), f"--replSet={REPLICA_SET}", f"--dbpath={home.data}", f"--bind_ip={path}", *MONGOD_OPTIONS]
    with home.log.open("wb") as log, home.running() as lock, _many_files():
        return subprocess.Popen(
            [*command, *extra_args],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home.path,
            start_new_session=True,
            pass_fds=[lock],
        )


@contextmanager
def _many_files() -> Iterator[None]:
    """Lets a child open many files: it needs one for every index and connection, and ends when it may open no more."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(MOST_FILES, most)
    if before != resource.RLIM_INFINITY and before < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


def _make_writable(
    path: Path, home: _Home, process: subprocess.Popen[bytes] | None, deadline: float
) -> tuple[str, int]:
    """Make the mongod at `path` primary of its one-node set; returns its version and pid."""
    while not _answers(path):
        _require_alive(process, home, deadline)
        time.sleep(0.01)
    client: MongoClient[dict[str, Any]] = MongoClient(
        f"mongodb://{quote(str(path), safe='')}/?directConnection=true",
        serverSelectionTimeoutMS=1000,
        socketTimeoutMS=5000,
    )
    with client:
        configured = False
        while True:
            try:
                if client.admin.command("hello").get("isWritablePrimary"):
                    break
                if not configured:
                    _configure(client, str(path))
                    configured = True
            except PyMongoError as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(f"mongod does not become ready ({error}). Its log is {home.log}.") from error
            _require_alive(process, home, deadline)
            time.sleep(0.01)
        return str(client.server_info()["version"]), int(client.admin.command("serverStatus")["pid"])


def _configure(client: MongoClient[dict[str, Any]], member: str) -> None:
    """Write the one-node configuration, or repair it where the directory has moved since: a node that does not find its
    own address in its configuration takes no part in the set."""
    stored = client.local["system.replset"].find_one()
    if stored is None:
        members = [{"_id": 0, "host": member}]
        client.admin.command("replSetInitiate", {"_id": REPLICA_SET, "members": members})
    elif stored["members"][0]["host"] != member:
        stored["members"][0]["host"] = member
        stored["version"] += 1
        client.admin.command("replSetReconfig", stored, force=True)


def _require_alive(process: subprocess.Popen[bytes] | None, home: _Home, deadline: float) -> None:
    if process is not None and process.poll() is not None:
        raise reason_for_exit(process.returncode, log=home.log, data=home.data)
    if process is None and not home.held_by_mongod():
        raise _MongodGone
    if time.monotonic() > deadline:
        raise StoreUnavailable(f"mongod did not become ready in time. Its log is {home.log}.")


def _shut_down(home: _Home) -> None:
    # The lock on the data directory, not the process table, says when it is over: a mongod whose parent has not
    # collected it stays in the table. Nor is the pid remembered: after a crash another process may have restarted it.
    for number, patience_seconds in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
        if home.held_by_mongod() and (pid := home.mongod_pid()):
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        deadline = time.monotonic() + patience_seconds
        while home.held_by_mongod() and time.monotonic() < deadline:
            time.sleep(0.02)
        if not home.held_by_mongod():
            return
    raise StoreUnavailable(f"mongod (pid {home.mongod_pid()}) does not end. Its log is {home.log}.")
