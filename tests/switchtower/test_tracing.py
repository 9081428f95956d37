"""A trace goes from whoever enqueues a job to its run, and on to the jobs that the run enqueues."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from switchtower import App, Backoff, BackoffKind, Fail, JobContext, Snooze, node, testing
from switchtower.errors import ConfigurationError
from switchtower.states import JobState
from switchtower.tracing import Tracing, traceparent_of
from tests.switchtower.working import reaches, read

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"


class Spans:
    """What a program exports."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def named(self, name: str) -> list[ReadableSpan]:
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def one(self, name: str) -> ReadableSpan:
        (span,) = self.named(name)
        return span


def ids(span: ReadableSpan) -> tuple[str, str]:
    assert span.context is not None
    return f"{span.context.trace_id:032x}", f"{span.context.span_id:016x}"


def carried(span: ReadableSpan) -> str:
    """What a job of this span carries, save the flags."""
    return "00-{}-{}-".format(*ids(span))


def parent(span: ReadableSpan) -> str | None:
    return None if span.parent is None else f"{span.parent.span_id:016x}"


def attributes(span: ReadableSpan) -> Mapping[str, Any]:
    assert span.attributes is not None
    return span.attributes


@pytest.fixture
def spans() -> Spans:
    return Spans()


@pytest.fixture
def traced(app: App, spans: Spans) -> App:
    return App(mongodb_url=app.mongodb_url, database=app.database, tracing=Tracing(spans.provider))


async def test_run_is_in_the_trace_of_its_enqueue_and_children_in_that_of_the_run(traced: App, spans: Spans) -> None:
    @traced.task(queue="mail")
    async def send(ctx: JobContext) -> str:
        with spans.provider.get_tracer("user").start_as_current_span("inside"):
            return (await ctx.enqueue("note", queue="mail")).job.id

    @traced.task(queue="mail")
    def note() -> None:
        spans.provider.get_tracer("user").start_span("in a thread").end()

    with spans.provider.get_tracer("user").start_as_current_span("request"):
        job = (await send.enqueue()).job
    async with testing.worker(traced) as worker:
        await worker.until_idle()
    request, enqueued, ran = (spans.one(name) for name in ("request", "enqueue send", "run send"))
    trace, _ = ids(request)
    assert parent(enqueued) == ids(request)[1] and enqueued.kind is SpanKind.PRODUCER
    assert parent(ran) == ids(enqueued)[1] and ran.kind is SpanKind.CONSUMER
    assert job.traceparent is not None and job.traceparent.startswith(carried(enqueued))
    inside, noted, thread = (spans.one(name) for name in ("inside", "run note", "in a thread"))
    assert (parent(inside), parent(noted), parent(thread)) == (ids(ran)[1], ids(inside)[1], ids(noted)[1])
    assert {ids(span)[0] for span in (enqueued, ran, inside, noted, thread)} == {trace}
    assert attributes(ran) == {
        "messaging.system": "switchtower",
        "messaging.operation.name": "run",
        "messaging.operation.type": "process",
        "messaging.destination.name": "mail",
        "messaging.message.id": job.id,
        "switchtower.job.name": "send",
        "switchtower.job.attempt": 1,
    }
    assert attributes(enqueued)["messaging.destination.name"] == "mail"
    assert ran.status.status_code is StatusCode.UNSET
    await traced.close()


async def test_what_fails_is_an_error_and_what_is_put_aside_is_none(traced: App, spans: Spans) -> None:
    @traced.task(max_attempts=2, backoff=Backoff(BackoffKind.NONE))
    async def flaky(ctx: JobContext) -> None:
        if ctx.attempt == 1:
            raise ValueError("not yet")

    @traced.task
    async def later(ctx: JobContext) -> None:
        raise Snooze(3600)

    @traced.task
    async def hopeless(ctx: JobContext) -> None:
        raise Fail("never")

    jobs = [(await task.enqueue()).job.id for task in (flaky, later, hopeless)]
    async with testing.worker(traced) as worker:
        await worker.until_idle()
        await reaches(traced, jobs[0], JobState.COMPLETED)
    failed, again = spans.named("run flaky")
    assert (failed.status.status_code, failed.status.description) == (StatusCode.ERROR, "not yet")
    assert [attributes(event)["exception.type"] for event in failed.events] == ["ValueError"]  # type: ignore[arg-type]
    assert again.status.status_code is StatusCode.UNSET
    assert spans.one("run later").status.status_code is StatusCode.UNSET
    assert spans.one("run hopeless").status.status_code is StatusCode.ERROR
    await traced.close()


async def test_many_and_flows_carry_one_enqueue(traced: App, spans: Spans) -> None:
    @traced.task
    async def part() -> None: ...

    answers = await traced.enqueue_many([part.job(), part.options(priority=3).job()])
    many = spans.one("enqueue many")
    traces = [answer.job.traceparent or "" for answer in answers if not isinstance(answer, Exception)]
    assert [trace[:-2] for trace in traces] == [carried(many)] * 2
    assert attributes(many)["messaging.batch.message_count"] == 2
    flow = await traced.enqueue_flow(node(part.job(), part.job()))
    whole = spans.one("enqueue flow part")
    assert ((await read(traced, flow.id)).traceparent or "").startswith(carried(whole))
    await traced.close()


async def test_without_tracing_a_job_and_its_children_carry_what_they_are_given(app: App) -> None:
    @app.task
    async def send(ctx: JobContext) -> str:
        return (await ctx.enqueue("note")).job.id

    job = (await app.enqueue("send", traceparent=GIVEN)).job
    async with testing.worker(app):
        child = (await reaches(app, job.id, JobState.COMPLETED)).result
    assert (job.traceparent, (await read(app, child)).traceparent) == (GIVEN, GIVEN)


def test_without_opentelemetry_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'switchtower\[otel\]'"):
        Tracing()


def test_only_a_well_formed_header_counts() -> None:
    assert traceparent_of(f" {GIVEN} ") == GIVEN
    for wrong in (
        None,
        "",
        "x",
        GIVEN.upper(),
        f"ff{GIVEN[2:]}",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
    ):
        assert traceparent_of(wrong) is None, wrong
