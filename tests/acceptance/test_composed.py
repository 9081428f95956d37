"""The composed system without containers: three database nodes, two servers and two workers, with the commands and the
environment that docker-compose.yml gives them; only addresses differ."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.mongod import ReplicaSet, free_ports

ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.acceptance, pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_SECONDS = 180

ENQUEUE = """
mutation($input: EnqueueJobInput!) {
  enqueueJob(input: $input) { __typename ... on Job { id } ... on Error { message } }
}
"""
RESULT = "query($id: ID!) { job(id: $id) { state result attempt } }"


@pytest.mark.nightly
def test_composed_system_works_and_survives_the_loss_of_a_primary(replica_set: ReplicaSet, tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_text("one\ntwo\n")
    with composed(replica_set.url, tmp_path) as (servers, processes):
        first, second = servers
        before = [run_job(first, second, f"before-{number}") for number in range(5)]
        replica_set.primary().kill()
        after = [run_job(second, first, f"after-{number}") for number in range(5)]
        assert before == after == ["COMPLETED"] * 5
        assert all(process.poll() is None for process in processes), "a process ended with the primary"


def run_job(enqueue_at: str, read_at: str, key: str) -> str:
    """One job through one server, its outcome read from the other; the call is repeated until it is acknowledged."""
    wanted = {"name": "checksum_file", "queue": "files", "payload": {"path": "input.txt"}, "idempotencyKey": key}
    answer = acknowledged(enqueue_at, ENQUEUE, {"input": wanted})["enqueueJob"]
    assert "id" in answer, answer
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        job = acknowledged(read_at, RESULT, {"id": answer["id"]})["job"]
        if job and job["state"] in {"COMPLETED", "FAILED", "CANCELLED"}:
            assert job["attempt"] == 1, job
            return str(job["state"])
        assert time.monotonic() < deadline, job
        time.sleep(0.05)


def acknowledged(url: str, query: str, variables: dict[str, Any]) -> dict[str, Any]:
    body = json.dumps({"query": query, "variables": variables}).encode()
    request = urllib.request.Request(f"{url}/graphql", body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_SECONDS) as response:
                answer: dict[str, Any] = json.load(response)
        except urllib.error.HTTPError as error:
            # While there is no primary a server says so, and asks to be asked again.
            assert error.code == 503 and error.headers["Retry-After"], error.read()
            assert time.monotonic() < deadline, error.read()
            time.sleep(0.1)
            continue
        assert "errors" not in answer, answer
        return dict(answer["data"])


@contextmanager
def composed(mongodb_url: str, folder: Path) -> Iterator[tuple[list[str], list[subprocess.Popen[bytes]]]]:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]
    with ExitStack() as stack:
        processes, urls = [], {}
        for name in ("server1", "server2", "worker1", "worker2"):
            (port,) = free_ports(1)
            urls[name] = f"http://127.0.0.1:{port}"
            addresses = {
                "SWITCHTOWER_MONGODB_URL": mongodb_url,
                "SWITCHTOWER_HOST": "127.0.0.1",
                "SWITCHTOWER_PORT": str(port),
                "SWITCHTOWER_HEALTH_PORT": str(port),
            }
            given = services[name]["environment"]
            environment = os.environ | given | {key: value for key, value in addresses.items() if key in given}
            environment |= {"SWITCHTOWER_PORT": str(port), "PYTHONPATH": str(ROOT)}
            command = [sys.executable, "-c", "from switchtower.cli import main; main()", *services[name]["command"]]
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
            stack.callback(end, process)
            processes.append(process)
        # The image's own health check asks this of servers and workers alike.
        for name, url in urls.items():
            wait_ready(f"{url}/readyz", folder / f"{name}.log")
        yield [urls["server1"], urls["server2"]], processes
        for process in processes:
            process.terminate()
        assert [process.wait(timeout=60) for process in processes] == [0, 0, 0, 0]


def wait_ready(url: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except OSError:
            assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
