"""The files people deploy with name settings that exist, and open nothing to the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.settings import ServerSettings
from tests.house.test_tree import PACKAGES, project_files, python_files
from workers.settings import WorkerSettings

ROOT = Path(__file__).parents[2]
SETTING = re.compile(r"SWITCHTOWER_[A-Z][A-Z_]*[A-Z]")


def known_settings() -> set[str]:
    fields = set(ServerSettings.model_fields) | set(WorkerSettings.model_fields)
    read = {
        name
        for path in python_files(*PACKAGES)
        for name in re.findall(r"[\"'](SWITCHTOWER_[A-Z_]+)[\"']", path.read_text())
    }
    return {f"SWITCHTOWER_{field.upper()}" for field in fields} | read | {"SWITCHTOWER_TEST_SCALE"}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    composed: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return dict(composed["services"])


def test_every_setting_that_a_text_names_exists() -> None:
    texts = [p for p in project_files() if p.suffix in {".md", ".yml"} or p.name in {"Dockerfile", "Makefile"}]
    named = {name for path in texts for name in SETTING.findall(path.read_text())}
    assert "SWITCHTOWER_MONGODB_URL" in named
    assert named - known_settings() == set()


def test_composed_ports_are_published_on_this_machine_only(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert len(published) == 2
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_composed_system_is_what_the_readme_promises(services: dict[str, Any]) -> None:
    assert [name for name in services if name.startswith("mongo") and name[5:].isdigit()] == [
        "mongo1",
        "mongo2",
        "mongo3",
    ]
    commands = [service["command"][0] for service in services.values() if service.get("build")]
    assert sorted(commands) == ["serve", "serve", "worker", "worker"]
    # Each starts only when what it needs is there: a container that loops on a missing database hides other faults.
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            assert needed in services, f"{name} depends on {needed}"


def test_composed_environment_is_accepted_by_the_settings(
    services: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, settings in (("server1", ServerSettings), ("worker1", WorkerSettings)):
        with monkeypatch.context() as patch:
            for variable, value in services[name]["environment"].items():
                patch.setenv(variable, value)
            accepted = settings()
            assert accepted.mongodb_url == services[name]["environment"]["SWITCHTOWER_MONGODB_URL"]
