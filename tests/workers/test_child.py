"""How a worker process is started: what it is told, and what it does not inherit."""

from __future__ import annotations

import itertools
from pathlib import Path

from workers.child import OUR_FOLDER, _command, child_environment
from workers.settings import WorkerSettings


def test_a_process_is_told_each_setting_under_its_own_name() -> None:
    settings = WorkerSettings(concurrency=3, queues=("a", "b"), lease_seconds=4, drain_seconds=5, grace_seconds=6)
    command = _command("tasks:app", Path("/project"), settings, "wkr_1", 7)
    given = dict(itertools.pairwise(command))
    assert given["switchtower.runner"] == "tasks:app"
    assert {name: given[f"--{name}"] for name in ("app-dir", "worker-id", "queues", "concurrency", "ready-fd")} == {
        "app-dir": "/project",
        "worker-id": "wkr_1",
        "queues": "a,b",
        "concurrency": "3",
        "ready-fd": "7",
    }
    times = [float(given[f"--{name}-seconds"]) for name in ("lease", "drain", "grace")]
    assert times == [4, 5, 6]
    assert {"-P", "--supervised"} <= set(command)


def test_our_folder_is_found_by_any_name_that_it_has(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.symlink_to(OUR_FOLDER)
    for name in (str(other), f"{OUR_FOLDER}/workers/.."):
        assert "PYTHONPATH" not in child_environment(WorkerSettings(), {"PYTHONPATH": name})
