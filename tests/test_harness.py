"""The tests' own tools: what they promise to other tests, held here."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
from pymongo import MongoClient
from pymongo.errors import OperationFailure, WriteConcernError

from switchtower.store.driver import Database
from tests.mongod import fail_command
from tests.waiting import until


def test_fail_point_ends_with_its_block(
    mongo: MongoClient[dict[str, Any]], mongodb_url: str, database_name: str
) -> None:
    things = mongo[database_name].things
    with fail_command(mongodb_url, ["insert"], errorCode=8000), pytest.raises(OperationFailure) as raised:
        things.insert_one({"_id": 1})
    assert raised.value.code == 8000
    things.insert_one({"_id": 1})


def test_lost_reply_is_a_write_that_happened(
    mongo: MongoClient[dict[str, Any]], mongodb_url: str, database_name: str
) -> None:
    with (
        MongoClient[dict[str, Any]](mongodb_url, retryWrites=False) as client,
        fail_command(mongodb_url, ["insert"], times=1, writeConcernError={"code": 64, "errmsg": "lost"}),
        pytest.raises(WriteConcernError),
    ):
        client[database_name].things.insert_one({"_id": 1})
    assert mongo[database_name].things.count_documents({}) == 1


async def test_database_fixture_reaches_the_tests_own_database(
    database: Database, driver: str, mongo: MongoClient[dict[str, Any]], database_name: str
) -> None:
    assert database.driver == driver
    await database["things"].insert_one({"_id": driver})
    assert [thing["_id"] for thing in mongo[database_name].things.find()] == [driver]


async def test_waiting_answers_the_value_or_names_the_condition() -> None:
    answers = iter([None, 0, "ready"])
    assert await until(lambda: next(answers)) == "ready"
    with pytest.raises(AssertionError, match="never_true"):
        never_true = False
        await until(lambda: never_true, timeout_seconds=0.05)


SLEEPER = """
import os, sys
def test_waits(mongod):
    print(mongod.pid, flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGTERM, marks=pytest.mark.nightly)])
def test_ended_run_leaves_no_mongod(tmp_path: Path, number: signal.Signals) -> None:
    root = Path(__file__).parents[1]
    (tmp_path / "test_sleeper.py").write_text(SLEEPER)
    command = [sys.executable, "-m", "pytest", "-q", "-s", "-p", "tests.conftest", f"--rootdir={tmp_path}"]
    run = subprocess.Popen(
        [*command, "-c", os.devnull, str(tmp_path / "test_sleeper.py")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout is not None
    pid = int(next(line for line in run.stdout if line.strip().isdigit()))
    run.send_signal(number)
    run.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert psutil.pid_exists(pid)
        again = subprocess.run(
            [*command, "-c", os.devnull, "--collect-only", str(tmp_path)],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(root)},
        )
        assert again.returncode == 0
    gone, _ = psutil.wait_procs([psutil.Process(pid)] if psutil.pid_exists(pid) else [], timeout=10)
    assert not psutil.pid_exists(pid) or gone
