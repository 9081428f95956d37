"""How does a command speak?

Results go to standard output, errors and progress to standard error. On a terminal with colour and tables as wide as it
is; into a pipe without colour, and nothing is cut. With `--json` results are JSON: one document, or one per line for
what goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from switchtower.errors import Forbidden, InvalidInput, StoreUnavailable, SwitchtowerError, Unauthorized

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "EXIT_REFUSED",
    "EXIT_UNREACHABLE",
    "EXIT_USAGE",
    "age",
    "console",
    "exit_code",
    "note",
    "print_json",
    "print_json_line",
    "print_table",
    "print_text",
    "report",
    "shown",
    "state_style",
]

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3

STYLES = {
    "WAITING": "cyan",
    "SCHEDULED": "blue",
    "BLOCKED": "magenta",
    "ACTIVE": "bold yellow",
    "RETRYING": "yellow",
    "COMPLETED": "green",
    "FAILED": "bold red",
    "CANCELLED": "dim",
}

# What a job carries comes from anywhere: no control character of it may reach the terminal.
_CONTROL = {
    code: "\N{REPLACEMENT CHARACTER}" for code in (*range(0x20), *range(0x7F, 0xA0)) if code not in (0x09, 0x0A)
}


def exit_code(error: SwitchtowerError) -> int:
    """The exit code that an error ends a command with."""
    if isinstance(error, InvalidInput):
        return EXIT_USAGE
    return EXIT_UNREACHABLE if isinstance(error, StoreUnavailable | Unauthorized | Forbidden) else EXIT_REFUSED


def report(error: SwitchtowerError) -> None:
    """Writes an error to standard error, as JSON where `--json` was given."""
    if "--json" in sys.argv:
        import orjson

        sys.stderr.write(orjson.dumps({"error": {"code": error.code, "message": error.message}}).decode() + "\n")
    else:
        sys.stderr.write(f"Error: {shown(error.message)}\n")


def note(text: str) -> None:
    """Writes a line for a person, beside the results."""
    sys.stderr.write(f"{shown(text)}\n")
    sys.stderr.flush()


def console(*, stderr: bool = False) -> Console:
    """A rich console; off a terminal it has no colour and never cuts or wraps."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=None if stream.isatty() else 10_000)


def print_json(value: Any) -> None:
    """Writes one JSON document, indented."""
    import orjson

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode())


def print_json_line(value: Any) -> None:
    """Writes one JSON document in one line, at once: a program reads along."""
    import orjson

    sys.stdout.write(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE).decode())
    sys.stdout.flush()


def print_text(text: str = "") -> None:
    """Writes one line at once."""
    sys.stdout.write(f"{shown(text)}\n")
    sys.stdout.flush()


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, right: Iterable[str] = ()) -> None:
    """Writes a table; `right` names the columns of numbers. States are coloured."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(
            column, justify="right" if column in right else "left", overflow="fold", no_wrap=column == "ID"
        )
    for row in rows:
        table.add_row(*(Text(shown(cell), style=state_style(cell)) for cell in row))
    console().print(table)


def state_style(cell: Any) -> str:
    """The colour of a state; none for anything else."""
    return STYLES.get(str(cell).upper(), "")


def shown(value: Any) -> str:
    """A value as text that is safe on a terminal; empty for nothing."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else _compact(value)
    return text.translate(_CONTROL).encode("utf-8", "replace").decode()


def age(at: str | None, *, now: datetime | None = None) -> str:
    """How long ago (or ahead) a time of the API is, in its largest unit: `3 m`, `in 2 h`."""
    if at is None:
        return ""
    seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(at)).total_seconds()
    text = _span(abs(seconds))
    return text if seconds >= 0 else f"in {text}"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds / size)} {unit}"
    return f"{int(seconds)} s"


def _compact(value: Any) -> str:
    import orjson

    return orjson.dumps(value).decode()
