"""The settings as they are printed: where each comes from, and no secret of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from switchtower.cli.effective import main


def test_settings_say_where_they_come_from_and_hide_the_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "switchtower.toml").write_text("concurrency = 4\n")
    monkeypatch.setenv("SWITCHTOWER_MONGODB_URL", "mongodb://olga:hunter2@db-1:27017,db-2/?replicaSet=rs0")
    main()
    printed = capsys.readouterr().out
    rows = {row["name"]: row for row in json.loads(printed)}
    assert rows["mongodb_url"] == {
        "name": "mongodb_url",
        "value": "mongodb://olga:redacted@db-1:27017,db-2/?replicaSet=rs0",
        "origin": "environment SWITCHTOWER_MONGODB_URL",
        "used_by": "server, workers",
    }
    assert (rows["concurrency"]["value"], rows["concurrency"]["origin"]) == ("4", "switchtower.toml")
    assert (rows["driver"]["value"], rows["driver"]["origin"]) == ("pymongo", "default")
    assert "hunter2" not in printed
