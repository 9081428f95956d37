"""Prints the settings of the server and the workers as JSON, from a process that can import both.

`switchtower config` runs it with the folder of `app` and `workers` on the path.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import orjson
from pydantic import ValidationError

if TYPE_CHECKING:
    from pydantic_settings import BaseSettings

__all__ = ["main"]

SECRETS = ("key", "secret", "password", "token")


def main() -> None:
    """Writes a list of name, value, origin (environment, file or default) and the processes that use it."""
    rows: dict[str, dict[str, str]] = {}
    for module, user in (("app.settings", "server"), ("workers.settings", "workers")):
        for row in _rows(_settings(module)):
            known = rows.setdefault(row["name"], {**row, "used_by": user})
            if known["used_by"] != user:
                known["used_by"] = f"{known['used_by']}, {user}"
    print(orjson.dumps([rows[name] for name in sorted(rows)]).decode())


def _settings(module: str) -> type[BaseSettings]:
    from pydantic_settings import BaseSettings

    for found in vars(importlib.import_module(module)).values():
        if inspect.isclass(found) and issubclass(found, BaseSettings) and found.__module__ == module:
            return found
    raise LookupError(f"{module} has no settings.")


def _rows(kind: type[BaseSettings]) -> list[dict[str, str]]:
    prefix = str(kind.model_config.get("env_prefix", ""))
    try:
        settings = kind()
    except ValidationError as error:
        first = error.errors()[0]
        sys.exit(f"{prefix}{'.'.join(map(str, first['loc']))}".upper() + f": {first['msg']}")
    environment = {name.upper() for name in os.environ}
    rows = []
    for field in kind.model_fields:
        name = f"{prefix}{field}".upper()
        value = getattr(settings, field)
        if name in environment:
            origin = f"environment {name}"
        else:
            origin = "switchtower.toml" if field in settings.model_fields_set else "default"
        rows.append({"name": field, "value": _shown(field, value), "origin": origin})
    return rows


def _shown(field: str, value: Any) -> str:
    if value is None:
        return ""
    if any(word in field for word in SECRETS):
        return "redacted"
    text = ", ".join(map(str, value)) if isinstance(value, list | tuple | set | frozenset) else str(value)
    return _without_password(text) if "://" in text else text


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    credentials, at, hosts = parts.netloc.rpartition("@")
    user = credentials.partition(":")[0]
    netloc = f"{user}:redacted@{hosts}" if ":" in credentials else f"{credentials}{at}{hosts}"
    return urlunsplit((parts.scheme, netloc, parts.path, parts.query, ""))


if __name__ == "__main__":
    main()
