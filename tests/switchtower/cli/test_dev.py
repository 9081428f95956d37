"""What `switchtower dev` makes sure of before it starts anything; tests/acceptance runs all of it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from switchtower.cli.dev import _claim
from switchtower.errors import ConfigurationError


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def test_a_free_port_is_found(tmp_path: Path) -> None:
    with _claim(tmp_path, "127.0.0.1", 0) as (_, port):
        assert 1_024 <= port <= 65_535


def test_a_port_that_something_else_has(tmp_path: Path, taken: int) -> None:
    with (
        pytest.raises(ConfigurationError, match=f"Port {taken} on 127.0.0.1 cannot be used .*use --port"),
        _claim(tmp_path, "127.0.0.1", taken),
    ):
        pass


def test_a_port_that_another_dev_of_the_folder_has(tmp_path: Path, taken: int) -> None:
    with _claim(tmp_path, "127.0.0.1", 0) as (announce, _):
        announce(f"http://127.0.0.1:{taken}")
        with (
            pytest.raises(
                ConfigurationError, match=f"Port {taken} is in use by another `switchtower dev`.*{os.getpid()}"
            ),
            _claim(tmp_path, "127.0.0.1", taken),
        ):
            pass


def test_a_second_one_runs_beside_it_on_another_port(tmp_path: Path) -> None:
    with _claim(tmp_path, "127.0.0.1", 0) as (announce, first):
        announce(f"http://127.0.0.1:{first}")
        with _claim(tmp_path, "127.0.0.1", 0) as (announce_second, second):
            assert second != first
            announce_second(f"http://127.0.0.1:{second}")
        assert (tmp_path / "dev.lock").read_text() == f"{os.getpid()} http://127.0.0.1:{first}"


@pytest.mark.parametrize("host", ["no.such.host.invalid", "192.0.2.1"])
def test_an_address_that_is_not_ours(tmp_path: Path, host: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--host|cannot be used"), _claim(tmp_path, host, 0):
        pass


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ConfigurationError, match=r"cannot be used .*--data-dir"),
        _claim(tmp_path / "file" / "data", "127.0.0.1", 0),
    ):
        pass
