"""How does a trace go through the queue?

A job carries the W3C `traceparent` of whoever enqueued it, and its run goes on in that trace. OpenTelemetry itself is
the `otel` extra, and what it exports to is the program's own affair.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from switchtower.callers import Caller
from switchtower.context import Fail, JobContext, Signal
from switchtower.errors import ConfigurationError

if TYPE_CHECKING:
    from opentelemetry.trace import TracerProvider

__all__ = ["Tracing", "traceparent_of"]

SYSTEM = "switchtower"
_TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII)


def traceparent_of(header: str | None) -> str | None:
    """The header of a request where it is one that W3C Trace Context knows; what is malformed counts as absent."""
    text = (header or "").strip()
    return text if _TRACEPARENT.fullmatch(text) else None


class Tracing:
    """Spans of an application: `App(tracing=Tracing())`.

    Each call that enqueues is a span of the kind PRODUCER, each run one of the kind CONSUMER in the trace of the job;
    their attributes are those of OpenTelemetry's conventions for messaging. `provider` is the program's own where it is
    not given.

    Raises:
        ConfigurationError: OpenTelemetry is not installed.
    """

    def __init__(self, provider: TracerProvider | None = None) -> None:
        try:
            from opentelemetry import trace
            from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
        except ImportError:
            raise ConfigurationError("Tracing needs OpenTelemetry: pip install 'switchtower[otel]'.") from None
        self._trace = trace
        self._w3c = TraceContextTextMapPropagator()
        self._tracer = trace.get_tracer("switchtower", tracer_provider=provider)

    def traceparent(self) -> str | None:
        """That of the span that is open here; None where none is."""
        carrier: dict[str, str] = {}
        self._w3c.inject(carrier)
        return carrier.get("traceparent")

    @contextmanager
    def enqueuing(self, caller: Caller, what: str, *, queue: str | None = None, jobs: int = 1) -> Iterator[Caller]:
        """A span around an enqueue; yields the caller whose jobs carry it. `jobs` is how many there are."""
        attributes: dict[str, Any] = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "enqueue",
            "messaging.operation.type": "send",
        }
        if queue is not None:
            attributes["messaging.destination.name"] = queue
        if jobs != 1:
            attributes["messaging.batch.message_count"] = jobs
        with self._tracer.start_as_current_span(
            f"enqueue {what}", kind=self._trace.SpanKind.PRODUCER, attributes=attributes
        ):
            yield replace(caller, traceparent=self.traceparent())

    async def run(self, context: JobContext, call_next: Callable[[], Awaitable[Any]]) -> Any:
        """The middleware: a span around one run. A handler that puts its job aside or retries it has not failed."""
        job = context.job
        carrier = {} if job.traceparent is None else {"traceparent": job.traceparent}
        attributes: dict[str, Any] = {
            "messaging.system": SYSTEM,
            "messaging.operation.name": "run",
            "messaging.operation.type": "process",
            "messaging.destination.name": job.queue,
            "messaging.message.id": job.id,
            "switchtower.job.name": job.name,
            "switchtower.job.attempt": job.number,
        }
        with self._tracer.start_as_current_span(
            f"run {job.name}",
            context=self._w3c.extract(carrier),
            kind=self._trace.SpanKind.CONSUMER,
            attributes=attributes,
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                return await call_next()
            except Exception as error:
                if not isinstance(error, Signal) or isinstance(error, Fail):
                    span.record_exception(error)
                    span.set_status(self._trace.StatusCode.ERROR, str(error)[:200])
                raise
