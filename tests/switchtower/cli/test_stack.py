"""Processes start together, stop in order, and never outlive the command that started them."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import textwrap
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from switchtower.cli.places import child_environment, require_server, server_root
from switchtower.cli.stack import Interrupted, Stack
from switchtower.errors import ConfigurationError
from tests.waiting import until

SERVICE = """
import os, signal, sys, time
name = sys.argv[1]
def stop(number, frame):
    with open("journal", "a") as journal:
        print(name, "stopped", file=journal)
    if "stubborn" not in sys.argv:
        sys.exit(0)
signal.signal(signal.SIGTERM, stop)
if "broken" in sys.argv:
    sys.exit("it cannot work")
print("a warning", file=sys.stderr)
print(f"{name} is ready", os.getpid(), flush=True)
print("more", flush=True)
while True:
    time.sleep(0.05)
"""

PARENT = """
import asyncio, os, sys
from pathlib import Path
from switchtower.cli.places import child_environment
from switchtower.cli.stack import Stack
def told(name, line):
    print(name, line, flush=True)
async def main():
    async with Stack(mongodb_url="unused", data_dir=Path("."), on_line=told) as stack:
        for name in ("one", "two"):
            await stack.start(name, "service", [name], child_environment(Path(os.getcwd())))
        await stack.ready()
        print(*(child.process.pid for child in stack.children), flush=True)
        await stack.run()
asyncio.run(main())
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "service.py").write_text(SERVICE)
    (tmp_path / "parent.py").write_text(PARENT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
async def lines() -> list[tuple[str, str]]:
    return []


@pytest.fixture
async def stack(folder: Path, lines: list[tuple[str, str]]) -> AsyncIterator[Stack]:
    async with Stack(
        mongodb_url="unused", data_dir=folder, on_line=lambda name, line: lines.append((name, line)), drain_seconds=30
    ) as opened:
        yield opened


def journal(folder: Path) -> list[str]:
    return (folder / "journal").read_text().splitlines() if (folder / "journal").exists() else []


async def test_what_started_last_stops_first(folder: Path, lines: list[tuple[str, str]]) -> None:
    environment = child_environment(folder)
    async with Stack(
        mongodb_url="unused", data_dir=folder, on_line=lambda name, line: lines.append((name, line))
    ) as stack:
        first = await stack.start("one", "service", ["one"], environment)
        second = await stack.start("two", "service", ["two"], environment)
        ready = await stack.ready()
        assert ready == [f"one is ready {first.process.pid}", f"two is ready {second.process.pid}"]
        await until(lambda: {("one", "more"), ("one", "a warning"), ("two", "more")} <= set(lines))
    assert journal(folder) == ["two stopped", "one stopped"]
    assert not psutil.pid_exists(first.process.pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_a_signal_ends_the_wait(folder: Path, stack: Stack, number: signal.Signals) -> None:
    await stack.start("one", "service", ["one"], child_environment(folder))
    await stack.ready()
    running = asyncio.create_task(stack.run())
    os.kill(os.getpid(), number)
    await running
    with pytest.raises(Interrupted):
        await stack.ready()


async def test_a_second_signal_makes_haste(folder: Path, lines: list[tuple[str, str]]) -> None:
    async with Stack(mongodb_url="unused", data_dir=folder, on_line=lambda *_: None, drain_seconds=3_600) as stack:
        child = await stack.start("one", "service", ["one", "stubborn"], child_environment(folder))
        await stack.ready()
        stack._interrupt()

        async def again() -> None:
            # Two signals that come together count as one.
            await until(lambda: journal(folder) == ["one stopped"])
            stack._interrupt()

        second = asyncio.create_task(again())
    await second
    assert journal(folder) == ["one stopped", "one stopped"]
    assert child.exited.result() == -signal.SIGKILL


async def test_a_process_that_ends_by_itself_is_reported(
    folder: Path, stack: Stack, lines: list[tuple[str, str]]
) -> None:
    await stack.start("server", "service", ["one", "broken"], child_environment(folder))
    with pytest.raises(ConfigurationError, match="The server ended with exit code 1; what it said is above"):
        await stack.ready()
    assert ("server", "it cannot work") in lines


async def test_a_process_that_is_killed_is_reported(folder: Path, stack: Stack) -> None:
    child = await stack.start("worker", "service", ["one"], child_environment(folder))
    await stack.ready()
    child.process.kill()
    with pytest.raises(ConfigurationError, match="The worker was killed by SIGKILL"):
        await stack.run()


async def test_nothing_outlives_a_parent_that_is_killed(folder: Path) -> None:
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "parent.py", stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert parent.stdout is not None
    said: set[str] = set()
    pids: list[int] = []
    # Until both have said all that they say: whoever writes to a parent that is gone dies of that.
    while not (pids and {"one more", "two more"} <= said):
        line = (await parent.stdout.readline()).decode().strip()
        assert line, said
        said.add(line)
        words = line.split()
        if all(word.isdigit() for word in words):
            pids = [int(word) for word in words]
    children = [psutil.Process(pid) for pid in pids]
    parent.kill()
    await parent.wait()
    await until(lambda: not any(child.is_running() for child in children))
    assert sorted(journal(folder)) == ["one stopped", "two stopped"]


async def test_the_users_folder_is_not_on_the_path_of_our_processes(
    folder: Path, stack: Stack, lines: list[tuple[str, str]]
) -> None:
    ours, theirs = folder / "ours", folder / "theirs"
    for place in (ours, theirs):
        (place / "app").mkdir(parents=True)
        (place / "app" / "__main__.py").write_text(
            textwrap.dedent(f"""\
                import sys, time
                print("{place.name}", sys.argv[1:], sys.stdin.read(), flush=True)
                time.sleep(60)
                """)
        )
    os.chdir(theirs)
    await stack.start("server", "app", ["--flag"], child_environment(ours))
    assert await stack.ready() == ["ours ['--flag']"]


def test_the_servers_folders_are_found() -> None:
    root = server_root()
    assert (root / "app").is_dir() and (root / "workers").is_dir()


def test_the_environment_of_a_process_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    environment = child_environment(Path("/ours"), port="1", host=None)
    assert environment["PYTHONPATH"] == f"/ours{os.pathsep}/theirs"
    assert environment["SWITCHTOWER_PORT"] == "1"
    assert "SWITCHTOWER_HOST" not in environment


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "strawberry" else object())
    with pytest.raises(ConfigurationError, match=r"needs strawberry, which is not installed.*pip install"):
        require_server()
