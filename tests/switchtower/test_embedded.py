"""The embedded database: what starts it, what stops it, and what it says when it cannot run."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import AsyncMongoClient, MongoClient

from switchtower import embedded, mongod
from switchtower.errors import ConfigurationError, StoreUnavailable
from tests.mongod import ReplicaSet


@pytest.fixture
def directory() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="sw-"))
    yield path
    for process in psutil.process_iter(["cmdline"]):
        # A test that failed half-way must not leave its mongod; the directory's name is in its arguments.
        if any(f"--dbpath={path}/" in argument for argument in process.info["cmdline"] or ()):
            process.kill()
    shutil.rmtree(path, ignore_errors=True)


def client(url: str) -> MongoClient[dict[str, Any]]:
    return MongoClient(url, w="majority", serverSelectionTimeoutMS=60_000)


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def fake_mongod(folder: Path, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "mongod"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def test_starts_a_private_replica_set_without_tcp(directory: Path) -> None:
    with embedded.start(directory) as server:
        assert not server.attached
        assert 0 < server.started_seconds < 60
        process = psutil.Process(server.pid)
        assert [c for c in process.net_connections(kind="inet") if c.status == psutil.CONN_LISTEN] == []
        assert stat.S_IMODE((directory / "mongodb").stat().st_mode) == 0o700
        assert os.getsid(server.pid) == server.pid, "Ctrl-C in the terminal must not reach mongod"
        with client(server.url) as connection:
            hello = connection.admin.command("hello")
            assert hello["isWritablePrimary"] and hello["setName"] == "switchtower"
            assert connection.server_info()["version"] == server.version
            options = connection.admin.command("getCmdLineOpts")["parsed"]
            assert options["net"]["compression"]["compressors"] == "disabled"
            assert options["replication"]["oplogSizeMB"] == 1024
    assert gone(server.pid)


async def test_transactions_and_change_streams_work_on_its_url(mongodb_url: str, database_name: str) -> None:
    async with AsyncMongoClient(mongodb_url) as connection:
        collection = connection[database_name].things
        async with await collection.watch() as changes:
            async with connection.start_session() as session, await session.start_transaction():
                await collection.insert_one({"_id": 1}, session=session)
            assert (await changes.next())["documentKey"] == {"_id": 1}


def test_second_start_attaches_and_the_last_to_leave_stops_it(directory: Path) -> None:
    first = embedded.start(directory)
    second = embedded.start(directory)
    assert (second.attached, second.pid, second.url) == (True, first.pid, first.url)
    first.stop()
    first.stop()
    with client(second.url) as connection:
        connection.test.things.insert_one({"_id": "kept"})
    second.stop()
    assert gone(first.pid)
    with embedded.start(directory) as again, client(again.url) as connection:
        assert not again.attached
        assert connection.test.things.find_one() == {"_id": "kept"}


def test_simultaneous_starts_share_one_mongod(directory: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from switchtower import embedded\n"
        "server = embedded.start(Path(sys.argv[1])); print(server.pid, flush=True); sys.stdin.read(); server.stop()"
    )
    starters = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(directory)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(4)
    ]
    try:
        pids = {int(starter.stdout.readline()) for starter in starters if starter.stdout}
        assert len(pids) == 1
    finally:
        codes = [starter.communicate(timeout=60) and starter.returncode for starter in starters]
    assert codes == [0, 0, 0, 0]
    assert gone(pids.pop())


def test_killed_starter_leaves_a_database_that_the_next_start_adopts(directory: Path) -> None:
    program = (
        "import os, signal, sys; from pathlib import Path; from switchtower import embedded\n"
        "print(embedded.start(Path(sys.argv[1])).pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    starter = subprocess.run([sys.executable, "-c", program, str(directory)], capture_output=True, text=True)
    assert starter.returncode == -signal.SIGKILL
    orphan = int(starter.stdout)
    assert not gone(orphan)
    with embedded.start(directory) as adopted:
        assert (adopted.attached, adopted.pid) == (True, orphan)
    assert gone(orphan)


def test_starter_killed_before_the_set_was_initiated_is_made_good(directory: Path) -> None:
    home = embedded._Home(directory)
    home.create()
    with home.starting(5):
        orphan = embedded._launch(home, home.place_socket(), ())
    try:
        with embedded.start(directory) as server, client(server.url) as connection:
            assert server.pid == orphan.pid
            connection.test.things.insert_one({})
    finally:
        orphan.kill()
        orphan.wait()


def test_killed_mongod_keeps_every_acknowledged_write(directory: Path) -> None:
    server = embedded.start(directory)
    with client(server.url) as connection:
        for number in range(50):
            connection.test.things.insert_one({"_id": number})
        os.kill(server.pid, signal.SIGKILL)
    with embedded.start(directory) as again, client(again.url) as connection:
        assert not again.attached
        assert connection.test.things.count_documents({}) == 50
    server.stop()


DIRECTORIES = ("co:lon, comma [1] ünï", "deep" * 30)


@pytest.mark.parametrize("name", DIRECTORIES, ids=str)
def test_any_directory_will_do_and_it_may_be_moved(directory: Path, name: str) -> None:
    with embedded.start(directory / "before") as server, client(server.url) as connection:
        connection.test.things.insert_one({"_id": "moved"})
    (directory / "before").rename(directory / name)
    with embedded.start(directory / name) as server, client(server.url) as connection:
        assert connection.test.things.find_one() == {"_id": "moved"}
        assert stat.S_IMODE(Path(connection.address[0]).parent.stat().st_mode) == 0o700


def test_socket_folder_prepared_by_someone_else_is_refused(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = directory / ("deep" * 30)
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    with embedded.start(deep) as server:
        folder = Path(MongoClient(server.url).address[0]).parent
    shutil.rmtree(folder)
    folder.mkdir(mode=0o777)
    folder.chmod(0o777)
    with pytest.raises(ConfigurationError, match="not a private directory"):
        embedded.start(deep)


def test_foreign_mongod_on_the_same_data_is_named(directory: Path) -> None:
    embedded.start(directory).stop()
    data = directory / "mongodb" / "data"
    address = f"--bind_ip={directory}/foreign.sock"
    with subprocess.Popen(
        [str(mongod.find_mongod()), f"--dbpath={data}", address, "--nounixsocket"], stdout=subprocess.DEVNULL
    ) as foreign:
        try:
            deadline = time.monotonic() + 60
            while not (directory / "foreign.sock").exists() and time.monotonic() < deadline:
                time.sleep(0.01)
            with pytest.raises(ConfigurationError, match="Another mongod, not started by Switchtower"):
                embedded.start(directory)
        finally:
            foreign.kill()


def test_mongod_that_does_not_answer_is_named(directory: Path) -> None:
    server = embedded.start(directory)
    (directory / "mongodb" / embedded.SOCKET_NAME).unlink()
    with pytest.raises(StoreUnavailable, match=rf"pid {server.pid}\) holds .* does not answer"):
        embedded.start(directory, timeout_seconds=0.5)
    server.stop()
    assert gone(server.pid)


def test_unwritable_directory_is_a_clear_error(directory: Path) -> None:
    (directory / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be used .*--data-dir"):
        embedded.start(directory / "file")


def test_newer_mongod_on_path_comes_before_the_bundled_one(directory: Path) -> None:
    mine = fake_mongod(directory / "bin", "echo 'db version v8.0.1'")
    assert mongod.find_mongod({"PATH": str(mine.parent)}) == mine


@pytest.mark.parametrize("script", ["echo 'db version v5.0.31'", "exit 127"])
def test_unusable_mongod_on_path_is_passed_over(directory: Path, script: str) -> None:
    old = fake_mongod(directory / "bin", script)
    assert mongod.find_mongod({"PATH": str(old.parent)}) == mongod._bundled_mongod()


def test_no_mongod_at_all_names_every_remedy(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = fake_mongod(directory / "bin", "echo 'db version v5.0.31'")
    monkeypatch.setattr(mongod, "_bundled_mongod", lambda: None)
    with pytest.raises(ConfigurationError) as raised:
        mongod.find_mongod({"PATH": str(old.parent)})
    message = str(raised.value)
    assert "SWITCHTOWER_MONGODB_URL" in message and "PATH" in message and "switchtower[embedded]" in message
    assert "version 5.0" in message


@pytest.mark.parametrize(
    ("output", "error", "said"),
    [
        (
            "mongod: error while loading shared libraries: libcurl.so.4: cannot open shared object file",
            ConfigurationError,
            "apt-get install libcurl4",
        ),
        (
            "mongod: /lib/libc.so.6: version `GLIBC_2.34' not found (required by mongod)",
            ConfigurationError,
            "glibc 2.34",
        ),
        ("Wrong featureCompatibilityVersion", ConfigurationError, "another major version"),
        ("write failed: No space left on device", StoreUnavailable, "disk .* is full"),
        ("something new", StoreUnavailable, "ended with code 1 .*something new.*mongod.log"),
    ],
)
def test_mongod_that_cannot_run_says_what_to_do(
    directory: Path, monkeypatch: pytest.MonkeyPatch, output: str, error: type[Exception], said: str
) -> None:
    broken = fake_mongod(directory / "bin", f'echo "{output.replace("`", chr(92) + "`")}" >&2; exit 1')
    monkeypatch.setattr(mongod, "_bundled_mongod", lambda: broken)
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(error, match=said):
        embedded.start(directory / "data")


def test_mongod_that_never_gets_ready_is_given_up_and_ended(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sleeper = fake_mongod(directory / "bin", "exec sleep 600")
    monkeypatch.setattr(embedded, "find_mongod", lambda: sleeper)
    launch, launched = embedded._launch, []

    def noted(*arguments: Any) -> subprocess.Popen[bytes]:
        launched.append(launch(*arguments))
        return launched[-1]

    monkeypatch.setattr(embedded, "_launch", noted)
    with pytest.raises(StoreUnavailable, match="did not become ready"):
        embedded.start(directory / "data", timeout_seconds=0.5)
    (process,) = launched
    assert gone(process.pid)


@pytest.mark.nightly
def test_replica_set_for_fault_tests_survives_what_they_do_to_it(replica_set: ReplicaSet) -> None:
    with client(replica_set.url) as connection:
        connection.test.things.insert_one({"_id": 1})
        old = replica_set.primary()
        began = time.monotonic()
        old.kill()
        connection.test.things.insert_one({"_id": 2})
        assert time.monotonic() - began < 60
        assert replica_set.primary() is not old
        old.restart()
        replica_set.wait_healthy()
        frozen = next(member for member in replica_set.members if member is not replica_set.primary())
        frozen.freeze()
        assert frozen.hello() == {}
        frozen.thaw()
        replica_set.wait_healthy()
        before = replica_set.primary()
        replica_set.step_down()
        assert replica_set.primary() is not before
        assert connection.test.things.count_documents({}) == 2
