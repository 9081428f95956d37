"""How do our processes log?

Libraries log through the standard library's `logging`; the processes that we start call `configure_logging` once, and
every line, ours or a handler's, comes out on standard error in one form.
"""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TextIO

import structlog

__all__ = ["configure_logging"]

MOST_SHOWN = 4_000
"""How many characters of one text are shown."""
_QUOTED = frozenset(" \t=\r\n\"'")
"""With one of these in it, structlog quotes a value, and escapes what is in it."""
_ESCAPED = {code: repr(chr(code))[1:-1] for code in (*range(32), *range(127, 160))}


def configure_logging(*, level: str | None = None, as_json: bool | None = None) -> None:
    """Sends all logs of this process to standard error, one line each.

    `level` and `as_json` default to SWITCHTOWER_LOG_LEVEL (info) and SWITCHTOWER_LOG_JSON (false).
    """
    if as_json is None:
        as_json = os.environ.get("SWITCHTOWER_LOG_JSON", "").lower() in ("1", "true", "yes")
    chosen = (level or os.environ.get("SWITCHTOWER_LOG_LEVEL") or "info").upper()
    renderer: list[structlog.typing.Processor] = (
        [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=_traceback, pad_event_to=0)]
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        _harmless,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer], foreign_pre_chain=shared
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Each command of the driver's is a line of its own at this level, thousands a second.
    for name in ("pymongo", "motor", "asyncio", "httpcore2", "httpx2"):
        logging.getLogger(name).setLevel(logging.INFO)
    root.setLevel(chosen if chosen in logging.getLevelNamesMapping() else logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )


def _traceback(output: TextIO, error: structlog.typing.ExcInfo) -> None:
    written = io.StringIO()
    structlog.dev.plain_traceback(written, error)
    output.write("\n".join(line.translate(_ESCAPED) for line in written.getvalue().split("\n")))


def _harmless(logger: object, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """One line of bounded length whatever texts of users are in it: no line breaks, no escapes for a terminal."""
    for key, value in event.items():
        if not isinstance(value, str):
            continue
        if len(value) > MOST_SHOWN:
            value = event[key] = f"{value[:MOST_SHOWN]}…"
        if not value.isprintable() and (key == "event" or not _QUOTED.intersection(value)):
            event[key] = value.translate(_ESCAPED)
    return event
