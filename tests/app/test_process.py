"""`python -m app`: one line when it is ready, one line when it cannot run, a clean stop."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
import pytest
from pydantic import ValidationError

from app.settings import ServerSettings

ROOT = Path(__file__).parents[2]


def environment(**variables: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), **variables}


@contextmanager
def running(folder: Path, *arguments: str, **variables: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The process, and the line that it said when it was ready."""
    process = subprocess.Popen(
        [sys.executable, "-m", "app", "--port", "0", *arguments],
        cwd=folder,
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def refuse(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The exit code and the one line of a process that cannot run."""
    done = subprocess.run(
        [sys.executable, "-m", "app", *arguments],
        cwd=folder,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    return done.returncode, lines[0]


def test_ready_line_and_clean_stop(tmp_path: Path, mongodb_url: str, database_name: str) -> None:
    with running(tmp_path, "--mongodb-url", mongodb_url, SWITCHTOWER_DATABASE=database_name) as (process, line):
        found = re.match(r"Ready: (http://127\.0\.0\.1:\d+) · GraphQL \S+/graphql · database", line)
        assert found, line
        with httpx2.Client(base_url=found[1], timeout=60) as http:
            assert http.get("/livez").status_code == 200
            events = {"Accept": "text/event-stream"}
            query = {"query": "subscription { jobEvents { __typename } }"}
            with http.stream("POST", "/graphql", json=query, headers=events, timeout=60) as stream:
                process.send_signal(signal.SIGTERM)
                assert "complete" not in "".join(stream.iter_text())
        assert process.wait(60) == 0
        _, said = process.communicate()
        assert said == ""


def test_an_embedded_database_is_started_and_stopped_with_it(tmp_path: Path) -> None:
    with running(tmp_path, "--data-dir", "data") as (process, line):
        assert line.startswith("Ready: "), line
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    assert not any(path.name.endswith(".sock") for path in tmp_path.rglob("*"))


def test_a_taken_port(tmp_path: Path, mongodb_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        code, line = refuse(tmp_path, "--port", str(port), "--mongodb-url", mongodb_url)
    assert code == 2
    assert line == f"switchtower: Port {port} is in use by another program; stop it, or use --port."


def test_no_database(tmp_path: Path) -> None:
    code, line = refuse(
        tmp_path, "--port", "0", "--mongodb-url", "mongodb://127.0.0.1:9/?replicaSet=x&serverSelectionTimeoutMS=300"
    )
    assert code == 3
    assert line.startswith("switchtower: ")


WRONG: dict[str, tuple[dict[str, str], str]] = {
    "not a number": ({"SWITCHTOWER_MAX_DEPTH": "deep"}, "SWITCHTOWER_MAX_DEPTH: "),
    "out of range": ({"SWITCHTOWER_PORT": "99999"}, "SWITCHTOWER_PORT: "),
    "open to all, embedded": (
        {"SWITCHTOWER_HOST": "::", "SWITCHTOWER_ALLOW_INSECURE_BIND": "true"},
        "set SWITCHTOWER_MONGODB_URL",
    ),
}


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        pytest.param(*wrong, id=name, marks=[] if name == "not a number" else pytest.mark.nightly)
        for name, wrong in WRONG.items()
    ],
)
def test_what_is_wrong_with_the_settings_is_said(tmp_path: Path, variables: dict[str, str], words: str) -> None:
    code, line = refuse(tmp_path, **variables)
    assert code == 2
    assert line.startswith("switchtower: ") and words in line


def test_settings_come_from_arguments_then_variables_then_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "switchtower.toml").write_text('port = 1000\nmax_depth = 7\nallowed_origins = ["https://a.example"]\n')
    monkeypatch.setenv("SWITCHTOWER_PORT", "2000")
    monkeypatch.setenv("SWITCHTOWER_ALLOWED_HOSTS", "One.example, two.example")
    settings = ServerSettings(database="given")
    assert (settings.database, settings.port, settings.max_depth) == ("given", 2000, 7)
    assert settings.allowed_hosts == ("one.example", "two.example")
    assert settings.allowed_origins == ("https://a.example",)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost", "127.8.8.8"])
def test_loopback_needs_nothing(host: str) -> None:
    assert ServerSettings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org", "127.0.0.1.example.org"])
def test_other_addresses_need_a_database_of_their_own(host: str) -> None:
    with pytest.raises(ValidationError):
        ServerSettings(host=host)
    assert not ServerSettings(host=host, mongodb_url="mongodb://db/?replicaSet=rs").is_loopback
