"""Where the workers' settings come from, and what a worker process inherits."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from workers.child import OUR_FOLDER, child_environment
from workers.settings import WorkerSettings


def test_arguments_before_environment_before_file_before_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "switchtower.toml").write_text(
        'workers = 3\nconcurrency = 4\nqueues = ["a", "b"]\nlease_seconds = 9\nport = 8420\n'
    )
    monkeypatch.setenv("SWITCHTOWER_CONCURRENCY", "5")
    monkeypatch.setenv("SWITCHTOWER_LEASE_SECONDS", "7")
    settings = WorkerSettings(lease_seconds=6)
    assert (settings.workers, settings.concurrency, settings.lease_seconds) == (3, 5, 6)
    assert (settings.queues, settings.drain_seconds, settings.mongodb_url) == (("a", "b"), 30, None)
    monkeypatch.setenv("SWITCHTOWER_QUEUES", " x , y,")
    assert WorkerSettings().queues == ("x", "y")


@pytest.mark.parametrize("wrong", [{"workers": 0}, {"concurrency": -1}, {"lease_seconds": 0}, {"driver": "other"}])
def test_settings_out_of_bounds_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        WorkerSettings(**wrong)  # type: ignore[arg-type]


def test_a_worker_process_inherits_everything_but_our_folder() -> None:
    given = {"PYTHONPATH": os.pathsep.join([str(OUR_FOLDER), "/the/users/own", f"{OUR_FOLDER}/"]), "HOME": "/home/u"}
    environment = child_environment(WorkerSettings(mongodb_url="mongodb://x", database="d"), given)
    assert environment["PYTHONPATH"] == "/the/users/own"
    assert (environment["HOME"], environment["SWITCHTOWER_MONGODB_URL"]) == ("/home/u", "mongodb://x")
    assert environment["SWITCHTOWER_DATABASE"] == "d"
    assert "PYTHONPATH" not in child_environment(WorkerSettings(), {"PYTHONPATH": str(OUR_FOLDER)})
