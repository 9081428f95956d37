"""What every test can ask for: a real mongod of the session's own, a database of the test's own, a driver.

    async def test_something(mongodb_url: str, database_name: str, driver: str) -> None: ...

`mongodb_url` is a one-node replica set with fail points enabled (`tests.mongod.fail_command`); `database_name` is empty
and has every index; `driver` is PyMongo's, and Motor's too for tests marked `motor` (all of them under
SWITCHTOWER_TEST_DRIVER=motor).
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from hypothesis import HealthCheck, settings
from pymongo import MongoClient

from switchtower import embedded
from switchtower.embedded import EmbeddedMongo
from switchtower.store.driver import Database, connect
from tests.databases import Databases, Onlooker
from tests.mongod import TEST_COMMANDS, ReplicaSet

TEMPORARY = "switchtower-tests-"
SETTINGS = (
    TEST_COMMANDS,
    # A query that no index serves is an error, as long as it asks for anything but the whole collection.
    "--setParameter=notablescan=true",
    # A database is some seventy files, which a mongod keeps open for five minutes after they were dropped: a fast run
    # met the limit of 20,000, and the mongod died of it.
    "--setParameter=minSnapshotHistoryWindowInSeconds=30",
    "--syncdelay=20",
)
MONGOD = pytest.StashKey[EmbeddedMongo]()
DRIVER = os.environ.get("SWITCHTOWER_TEST_DRIVER", "pymongo")
MEMORY = Path("/dev/shm")
ROOM = 4 * 2**30


def scratch() -> Path | None:
    """Where the tests' databases are: in memory where that has room, since most tests wait for nothing but the disk
    that a journal is flushed to; None for the usual place. A killed mongod finds what it wrote in either."""
    try:
        roomy = shutil.disk_usage(MEMORY).free >= ROOM and os.access(MEMORY, os.W_OK)
    except OSError:
        return None
    return MEMORY if roomy else None


def pytest_configure(config: pytest.Config) -> None:
    # No example fails because the machine is busy, and every run has the same ones; the nightly run draws new ones.
    nightly = os.environ.get("SWITCHTOWER_TEST_SCALE") == "full"
    settings.register_profile(
        "house", deadline=None, derandomize=not nightly, suppress_health_check=[HealthCheck.too_slow], print_blob=True
    )
    settings.load_profile("house")
    # A developer's own settings must not reach the tests, least of all the address of their database.
    for name in list(os.environ):
        if name.startswith("SWITCHTOWER_") and not name.startswith("SWITCHTOWER_TEST_"):
            del os.environ[name]

    def interrupted(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    # Ended by its caller, the run still tears down: no mongod is left behind.
    signal.signal(signal.SIGTERM, interrupted)


def pytest_sessionstart(session: pytest.Session) -> None:
    # A run that was itself killed could not tear down: its servers have lost their parent.
    for process in psutil.process_iter(["name", "ppid", "cmdline"]):
        if process.info["name"] == "mongod" and process.info["ppid"] == 1:
            for directory in re.findall(rf"--dbpath=(\S*/{TEMPORARY}[^/\s]+)", " ".join(process.info["cmdline"] or ())):
                process.kill()
                shutil.rmtree(directory, ignore_errors=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    server = item.config.stash.get(MONGOD, None)
    if server is not None and not psutil.pid_exists(server.pid):
        # Every test after this one would wait half a minute and fail for no reason of its own.
        said = server.log_path.read_text(errors="replace").splitlines()
        fatal = [line[:1_000] for line in said if '"s":"F"' in line]
        pytest.exit("\n".join(["The session's mongod ended:", *fatal[:20], *said[-5:]]), returncode=3)


@pytest.fixture(scope="session")
def scale() -> str:
    """`full` under make nightly, else `ci`: which of a fault test's two counts to use."""
    return os.environ.get("SWITCHTOWER_TEST_SCALE", "ci")


@pytest.fixture(scope="session")
def mongod(pytestconfig: pytest.Config) -> Iterator[EmbeddedMongo]:
    """The session's mongod; each process of a parallel run has its own, since fail points are server-wide."""
    directory = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=scratch()))
    try:
        with embedded.start(directory, extra_args=SETTINGS) as server:
            pytestconfig.stash[MONGOD] = server
            yield server
            del pytestconfig.stash[MONGOD]
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def mongodb_url(mongod: EmbeddedMongo) -> str:
    return mongod.url


@pytest.fixture(scope="session")
def mongo(mongodb_url: str) -> Iterator[MongoClient[dict[str, Any]]]:
    """A blocking client, for arranging and inspecting what the code under test reads and writes."""
    with Onlooker(mongodb_url) as client:
        yield client


@pytest.fixture(scope="session")
def databases(mongodb_url: str, mongo: MongoClient[dict[str, Any]]) -> Databases:
    return Databases(mongodb_url, mongo)


@pytest.fixture
def database_name(databases: Databases) -> Iterator[str]:
    """The name of an empty database with all indexes, which only this test uses."""
    name = databases.take()
    yield name
    databases.give_back(name)


@pytest.fixture
def bare_database_name(mongo: MongoClient[dict[str, Any]]) -> Iterator[str]:
    """The name of a database that does not exist yet, for tests of what creates it; dropped afterwards."""
    name = f"test_{uuid.uuid4().hex[:16]}"
    yield name
    mongo.drop_database(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "driver" in metafunc.fixturenames and metafunc.definition.get_closest_marker("motor") and DRIVER == "pymongo":
        metafunc.parametrize("driver", ["pymongo", "motor"])


@pytest.fixture
def driver() -> str:
    return DRIVER


@pytest.fixture
async def database(mongodb_url: str, database_name: str, driver: str) -> AsyncIterator[Database]:
    """The test's own database as the store sees it."""
    opened = await connect(mongodb_url, database=database_name, driver=driver)
    yield opened
    await opened.close()


@pytest.fixture
def replica_set() -> Iterator[ReplicaSet]:
    """Three mongods with two-second elections, for tests that break them."""
    directory = Path(tempfile.mkdtemp(prefix=f"{TEMPORARY}replicas-", dir=scratch()))
    try:
        with ReplicaSet(directory) as replicas:
            yield replicas
    finally:
        shutil.rmtree(directory, ignore_errors=True)
