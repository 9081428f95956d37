"""Which options do commands share, and how is what they are given read?"""

from __future__ import annotations

import re
import sys
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from switchtower.errors import InvalidInput
from switchtower.states import JobState

if TYPE_CHECKING:
    from switchtower.client import Client

__all__ = [
    "AsJson",
    "CreatedAfter",
    "CreatedBefore",
    "DataDir",
    "Fingerprint",
    "Group",
    "MongodbUrl",
    "Names",
    "Queues",
    "States",
    "Tags",
    "Text",
    "Url",
    "Yes",
    "call",
    "confirm",
    "duration_ms",
    "interactive",
    "job_filter",
    "moment",
    "parse_payload",
]

T = TypeVar("T")

Url = Annotated[
    str | None,
    typer.Option("--url", envvar="SWITCHTOWER_URL", help="The server's address (http://127.0.0.1:8420 if left out)."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
MongodbUrl = Annotated[
    str | None,
    typer.Option(
        "--mongodb-url", envvar="SWITCHTOWER_MONGODB_URL", help="A replica set; the embedded database if left out."
    ),
]
DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        envvar="SWITCHTOWER_DATA_DIR",
        help="Where the embedded database keeps its data (.switchtower if left out).",
    ),
]
Queues = Annotated[list[str] | None, typer.Option("--queue", "-q", help="Only of this queue; can be repeated.")]
Names = Annotated[list[str] | None, typer.Option("--name", "-n", help="Only of this task; can be repeated.")]
States = Annotated[list[JobState] | None, typer.Option("--state", "-s", help="Only in this state; can be repeated.")]
Tags = Annotated[list[str] | None, typer.Option("--tag", "-t", help="Only with this tag; can be repeated.")]
Group = Annotated[str | None, typer.Option("--group", help="Only of this group.")]
Text = Annotated[str | None, typer.Option("--text", help="Only with this text in id, name, payload or error.")]
Fingerprint = Annotated[
    str | None, typer.Option("--error", metavar="FINGERPRINT", help="Only failed with this error (see stats --errors).")
]
CreatedAfter = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="Only created since: 2h ago as 2h, or 2026-01-31T12:00Z.")
]
CreatedBefore = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Only created until: like --since.")]

_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)")


def call(url: str | None, action: Callable[[Client], Awaitable[T]]) -> T:
    """Connects to the server at `url`, does `action`, and returns its answer."""
    import asyncio

    from switchtower.client import Client

    async def connected() -> T:
        async with Client(url) as client:
            return await action(client)

    return asyncio.run(connected())


def interactive() -> bool:
    """Whether a person can be asked; a script is taken to mean what it says."""
    return sys.stdin.isatty() and sys.stdout.isatty() and "--json" not in sys.argv


def confirm(question: str) -> None:
    """Asks; ends the command when the answer is no."""
    typer.confirm(question, abort=True)


def job_filter(
    *,
    queue: Sequence[str] | None = None,
    name: Sequence[str] | None = None,
    state: Sequence[JobState] | None = None,
    tag: Sequence[str] | None = None,
    group: str | None = None,
    text: str | None = None,
    error: str | None = None,
    since: str | None = None,
    until: str | None = None,
) -> dict[str, Any]:
    """The `JobFilter` of the schema for these options; empty when none is given."""
    given = {
        "queues": list(queue or ()),
        "names": list(name or ()),
        "states": [s.name for s in state or ()],
        "tags": list(tag or ()),
        "group": group,
        "text": text,
        "errorFingerprint": error,
        "createdAfter": moment("--since", since),
        "createdBefore": moment("--until", until),
    }
    return {key: value for key, value in given.items() if value not in (None, [])}


def duration_ms(option: str, text: str | None) -> int | None:
    """Milliseconds of a length of time such as `500ms`, `5s`, `1.5h` or `7d`. Raises InvalidInput."""
    if text is None:
        return None
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise InvalidInput(option, f"{text!r} is no length of time; write 500ms, 30s, 5m, 2h or 7d.")
    return round(float(found[1]) * _UNITS[found[2]])


def moment(option: str, text: str | None) -> str | None:
    """A time, or a length of time ago, as the API writes times. Raises InvalidInput."""
    if text is None:
        return None
    try:
        if _DURATION.fullmatch(text.strip()):
            at = datetime.now(UTC) - timedelta(milliseconds=duration_ms(option, text) or 0)
        else:
            at = datetime.fromisoformat(text)
            at = at.astimezone() if at.tzinfo is None else at
        return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        raise InvalidInput(option, f"{text!r} is no time; write 2026-01-31T12:00Z, or 2h for two hours ago.") from None


def parse_payload(pairs: Sequence[str], payload: str | None) -> Any:
    """The payload that `key=text` and `key:=JSON` arguments and `--payload` (JSON, `@file` or `-`) make up.

    Pairs are set in the object that `--payload` gives. None when nothing is given. Raises InvalidInput.
    """
    value = _parse_json("--payload", _read(payload)) if payload is not None else None
    if not pairs:
        return value
    if value is not None and not isinstance(value, dict):
        raise InvalidInput("--payload", "is not an object, so key=value cannot be set in it.")
    fields: dict[str, Any] = dict(value or {})
    for pair in pairs:
        key, found, text = pair.partition("=")
        if not found or not key.removesuffix(":"):
            raise InvalidInput("payload", f"{pair!r} is not key=text or key:=JSON.")
        if key.endswith(":"):
            fields[key[:-1]] = _parse_json(key[:-1], text)
        else:
            fields[key] = text
    return fields


def _read(payload: str) -> str:
    if payload == "-":
        return sys.stdin.read()
    if not payload.startswith("@"):
        return payload
    try:
        return Path(payload[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InvalidInput("--payload", f"{payload[1:]} cannot be read: {reason}.") from None


def _parse_json(field: str, text: str) -> Any:
    import orjson

    try:
        return orjson.loads(text)
    except ValueError as error:
        raise InvalidInput(field, f"is not JSON: {error}. For plain text write key=text.") from None
