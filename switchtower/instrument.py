"""How do our processes log?

Libraries log through the standard library's `logging`; the processes that we start call `configure_logging` once, and
every line, ours or a handler's, comes out on standard error in one form.
"""

from __future__ import annotations

import logging
import os
import sys

import structlog

__all__ = ["configure_logging"]


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
        else [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
            )
        ]
    )
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
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
    root.setLevel(chosen if chosen in logging.getLevelNamesMapping() else logging.INFO)
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
