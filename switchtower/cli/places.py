"""Where are the server's own folders, and is what they need installed?

`app`, `schema` and `workers` are kept off the import path, where a user's own packages of these names live. They are
beside `switchtower` in a checkout, and under `share/switchtower` of an installation.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import switchtower
from switchtower.errors import ConfigurationError

__all__ = ["child_environment", "database_name", "is_set", "require_server", "server_root", "setting"]

T = TypeVar("T", str, int, Path)

FILE = "switchtower.toml"

MARKS = ("app/__main__.py", "schema/__init__.py", "workers/__main__.py")
SERVER_MODULES = ("fastapi", "strawberry", "uvicorn")


def server_root() -> Path:
    """The folder that holds `app`, `schema` and `workers`. Raises ConfigurationError when the installation lacks it."""
    for candidate in _candidates():
        if all((candidate / mark).is_file() for mark in MARKS):
            return candidate
    raise ConfigurationError(
        "The server's files (share/switchtower) are not where this installation should have them. "
        "Install again with: pip install --force-reinstall 'switchtower[server]'"
    )


def require_server() -> None:
    """Raises ConfigurationError when the packages that the server needs are not installed."""
    missing = [name for name in SERVER_MODULES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            f"The server needs {', '.join(missing)}, which is not installed. Run: pip install 'switchtower[server]'"
        )


def setting(name: str, given: T | None, default: T) -> T:
    """The value given as an option (or by the environment), else the one in switchtower.toml, else the default.

    Raises ConfigurationError when the file cannot be read or holds something else there.
    """
    if given is not None:
        return given
    value = _file().get(name)
    if value is None:
        return default
    if not isinstance(value, int if isinstance(default, int) else str) or isinstance(value, bool):
        raise ConfigurationError(f"{name} in {FILE} is {value!r}; correct it there.")
    return type(default)(value)


def database_name() -> str:
    """The database that the processes of this configuration use."""
    return setting("database", os.environ.get("SWITCHTOWER_DATABASE") or None, "switchtower")


def is_set(name: str) -> bool:
    """Whether the environment or switchtower.toml says something of a setting."""
    return f"SWITCHTOWER_{name.upper()}" in os.environ or name in _file()


def child_environment(root: Path, **settings: str | None) -> dict[str, str]:
    """The environment of a process of ours: `root` first on its path, and the given settings; None leaves one out."""
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH")]))
    environment["PYTHONUNBUFFERED"] = "1"
    for name, value in settings.items():
        if value is not None:
            environment[f"SWITCHTOWER_{name.upper()}"] = value
    return environment


def _file() -> dict[str, Any]:
    import tomllib

    try:
        with open(FILE, "rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{FILE} cannot be read: {error}") from error


def _candidates() -> Iterator[Path]:
    import site
    import sysconfig
    from importlib import metadata

    checkout = Path(switchtower.__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file():
        yield checkout
    share = Path("share", "switchtower")
    yield Path(sysconfig.get_path("data")) / share
    # What pip recorded knows of --prefix, --target and --user.
    with suppress(metadata.PackageNotFoundError):
        for file in metadata.files("switchtower") or ():
            if file.as_posix().endswith("share/switchtower/app/__main__.py"):
                yield Path(str(file.locate())).resolve().parent.parent
    yield Path(site.getuserbase()) / share
