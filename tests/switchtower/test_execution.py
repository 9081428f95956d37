"""Classification is a pure function: every way that a run can end, and what is reported of it."""

from __future__ import annotations

import asyncio
import logging
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from switchtower.context import Cancel, Fail, JobContext, RetryAt, Signal, Snooze, Stop
from switchtower.errors import InvalidInput, LeaseLost
from switchtower.execution import (
    HandlerError,
    classify,
    describe_error,
    misfit,
    tell_of_failure,
)
from switchtower.jobs import ClaimedJob, ErrorKind, JobError
from switchtower.retry import Backoff, BackoffKind
from switchtower.workers import Outcome, OutcomeKind

NOW = datetime(2026, 1, 1, tzinfo=UTC)
K = OutcomeKind


def claimed(**fields: Any) -> ClaimedJob:
    given: dict[str, Any] = {
        "id": "job_1",
        "name": "t",
        "queue": "default",
        "payload": None,
        "token": "tok",
        "number": 3,
        "generation": 1,
        "max_attempts": 4,
        "backoff": Backoff(BackoffKind.FIXED, base_ms=700, jitter=0),
        "fence": 7,
        "org": "",
        "app": "",
        "timeout_ms": None,
        "expires_at": None,
        "created_at": NOW,
        "run_at": NOW,
    }
    return ClaimedJob(**(given | fields))


def ended(error: BaseException | None = None, *, stop: Stop | None = None, result: Any = None) -> Outcome | None:
    return classify(claimed(), result=result, error=error, stop=stop, now=NOW, ran_ms=1500)


def raised(error: BaseException) -> BaseException:
    try:
        raise error
    except BaseException as caught:
        return caught


ERROR = ValueError("bad")
ENDINGS: list[tuple[BaseException | None, Stop | None, OutcomeKind | None, ErrorKind | None, int]] = [
    (None, None, K.COMPLETE, None, 0),
    (None, Stop.CANCEL, K.COMPLETE, None, 0),
    (None, Stop.TIMEOUT, K.COMPLETE, None, 0),
    (None, Stop.DRAIN, K.COMPLETE, None, 0),
    (None, Stop.LEASE_LOST, None, None, 0),
    (ERROR, None, K.FAIL, ErrorKind.EXCEPTION, 700),
    (SystemExit(3), None, K.FAIL, ErrorKind.EXCEPTION, 700),
    (KeyboardInterrupt(), None, K.FAIL, ErrorKind.EXCEPTION, 700),
    (asyncio.CancelledError(), None, K.FAIL, ErrorKind.EXCEPTION, 700),
    (LeaseLost("job_2"), None, K.FAIL, ErrorKind.EXCEPTION, 700),
    (asyncio.CancelledError(), Stop.CANCEL, K.ABORT, None, 0),
    (ERROR, Stop.CANCEL, K.ABORT, None, 0),
    (asyncio.CancelledError(), Stop.TIMEOUT, K.FAIL, ErrorKind.TIMEOUT, 700),
    (ERROR, Stop.TIMEOUT, K.FAIL, ErrorKind.TIMEOUT, 700),
    (asyncio.CancelledError(), Stop.EXPIRED, K.EXPIRE, ErrorKind.EXPIRED, 0),
    (asyncio.CancelledError(), Stop.DRAIN, K.RELEASE, None, 0),
    (ERROR, Stop.DRAIN, K.RELEASE, None, 0),
    (asyncio.CancelledError(), Stop.LEASE_LOST, None, None, 0),
    (Fail("no"), Stop.LEASE_LOST, None, None, 0),
    (RetryAt(90.0), None, K.RETRY_AT, ErrorKind.EXCEPTION, 90_000),
    (RetryAt(NOW + timedelta(seconds=2)), None, K.RETRY_AT, ErrorKind.EXCEPTION, 2_000),
    (RetryAt(NOW - timedelta(seconds=2)), None, K.RETRY_AT, ErrorKind.EXCEPTION, 0),
    (RetryAt(1.0), Stop.DRAIN, K.RETRY_AT, ErrorKind.EXCEPTION, 1_000),
    (RetryAt(float("inf")), None, K.RETRY_AT, ErrorKind.EXCEPTION, 366 * 24 * 3600 * 1000),
    (RetryAt(float("nan")), None, K.FAIL, ErrorKind.EXCEPTION, 700),
    (Snooze(5), None, K.SNOOZE, None, 5_000),
    (Snooze(-5), Stop.DRAIN, K.SNOOZE, None, 0),
    (Fail("no"), None, K.BURY, ErrorKind.FATAL, 0),
    (Fail("no"), Stop.CANCEL, K.BURY, ErrorKind.FATAL, 0),
    (Cancel(), None, K.ABORT, None, 0),
    (Cancel(), Stop.TIMEOUT, K.FAIL, ErrorKind.TIMEOUT, 700),
    (Cancel(), Stop.DRAIN, K.RELEASE, None, 0),
]


@pytest.mark.parametrize(("error", "stop", "kind", "error_kind", "wait_ms"), ENDINGS)
def test_every_ending_has_one_outcome(
    error: BaseException | None,
    stop: Stop | None,
    kind: OutcomeKind | None,
    error_kind: ErrorKind | None,
    wait_ms: int,
) -> None:
    outcome = ended(raised(error) if error is not None else None, stop=stop)
    if kind is None:
        assert outcome is None
        return
    assert outcome is not None
    assert (outcome.kind, outcome.job_id, outcome.token, outcome.ran_ms, outcome.started) == (
        kind,
        "job_1",
        "tok",
        1500,
        True,
    )
    assert (outcome.error.kind if outcome.error else None, outcome.wait_ms) == (error_kind, wait_ms)


def test_an_error_from_another_process_is_kept_as_it_was_described_there() -> None:
    described = JobError(ErrorKind.EXCEPTION, "ValueError", "there", "stack", "f" * 16)
    outcome = ended(HandlerError(described))
    assert outcome is not None and outcome.error is described


def test_a_misfit_fails_for_good() -> None:
    outcome = misfit(claimed(), InvalidInput("payload.to", "is required."))
    assert (outcome.kind, outcome.error and outcome.error.kind) == (K.BURY, ErrorKind.FATAL)
    assert outcome.error is not None and outcome.error.message == "payload.to: is required."


def fail_with(message: str, depth: int = 0) -> None:
    if depth:
        fail_with(message, depth - 1)
    raise RuntimeError(message)


def caught(message: str, depth: int = 0) -> JobError:
    try:
        fail_with(message, depth)
    except RuntimeError as error:
        return describe_error(error)
    raise AssertionError


def test_equal_faults_have_equal_fingerprints() -> None:
    assert caught("order 17 not found").fingerprint == caught("order 99 not found").fingerprint
    assert caught("order 17 not found").fingerprint != caught("order 17 lost").fingerprint
    try:
        raise RuntimeError("order 17 not found")
    except RuntimeError as error:
        elsewhere = describe_error(error)
    assert elsewhere.fingerprint != caught("order 17 not found").fingerprint


def test_an_error_keeps_its_traceback_within_bounds() -> None:
    error = caught("deep", 400)
    assert error.stack is not None and error.stack.startswith("Traceback") and error.stack.endswith("deep\n")
    assert "fail_with" in error.stack and len(error.stack) <= 16 * 1024
    huge = caught("x" * 100_000)
    assert huge.stack is not None and len(huge.stack) <= 16 * 1024 + 100 and len(huge.message) < 9_000
    assert (caught("m").type, describe_error(asyncio.QueueEmpty()).type) == (
        "RuntimeError",
        "asyncio.queues.QueueEmpty",
    )


def test_errors_that_resist_description_are_described_all_the_same() -> None:
    class Rude(Exception):
        def __str__(self) -> str:
            raise ValueError("no")

    error = describe_error(raised(Rude()))
    assert error.type.endswith("Rude") and "cannot be shown" in error.message
    assert describe_error(Exception("lone \ud800 surrogate")).message == "lone ? surrogate"


@pytest.mark.parametrize("signal", [RetryAt(2.5), RetryAt(NOW, "later"), Snooze(3), Fail("no"), Cancel()])
def test_signals_travel_between_processes(signal: Signal) -> None:
    copy = pickle.loads(pickle.dumps(signal))
    assert (type(copy), str(copy), vars(copy)) == (type(signal), str(signal), vars(signal))


class Silent:
    loop = None

    def __init__(self) -> None:
        self.touches = 0

    def touched(self, context: JobContext) -> None:
        self.touches += 1

    async def enqueue(self, *arguments: Any) -> Any:
        raise AssertionError


def context() -> tuple[JobContext, Silent]:
    channel = Silent()
    return JobContext(claimed(), channel), channel


def test_progress_is_coalesced_and_logs_are_kept_in_order() -> None:
    ctx, channel = context()
    for percent in range(100):
        ctx.progress(percent)
    ctx.progress(100, "done")
    ctx.log("one")
    ctx.log("two", level="error")
    assert channel.touches == 1
    assert ctx.drain_reports() == ([("info", "one"), ("error", "two")], {"percent": 100, "message": "done"})
    assert ctx.drain_reports() == ([], ...)
    ctx.progress({"step": 1}, "first")
    ctx.log("three")
    lines, progress = ctx.drain_reports()
    ctx.log("four")
    ctx.put_back(lines, progress)
    assert ctx.drain_reports() == ([("info", "three"), ("info", "four")], {"value": {"step": 1}, "message": "first"})


def test_a_flood_of_lines_is_cut_with_a_word() -> None:
    ctx, _ = context()
    for number in range(5_000):
        ctx.log(f"line {number}")
    lines, _ = ctx.drain_reports()
    assert lines[0] == ("warning", "4,000 lines are missing: they came faster than they could be stored.")
    assert [line for _, line in lines[1:]] == [f"line {number}" for number in range(4_000, 5_000)]
    ctx.log("x" * 100_000)
    assert len(ctx.drain_reports()[0][0][1]) < 9_000


def test_bad_reports_are_refused_by_name() -> None:
    ctx, _ = context()
    with pytest.raises(InvalidInput, match="level"):
        ctx.log("x", level="loud")
    with pytest.raises(InvalidInput, match="message"):
        ctx.progress(50, 7)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="progress"):
        ctx.progress(float("nan"))
    with pytest.raises(InvalidInput, match="progress"):
        ctx.progress({"x": "y" * 70_000})
    with pytest.raises(InvalidInput, match="when"):
        RetryAt(datetime(2026, 1, 1))


async def test_a_stop_reaches_every_way_of_looking() -> None:
    ctx, _ = context()
    waiting = asyncio.create_task(ctx.wait_cancelled())
    await asyncio.sleep(0)
    assert not ctx.cancelled and not ctx.cancel_event.is_set()
    ctx.raise_if_cancelled()
    ctx.stop(Stop.TIMEOUT)
    ctx.stop(Stop.CANCEL)
    assert await waiting is Stop.TIMEOUT
    assert ctx.cancelled and ctx.cancel_event.is_set() and ctx.stop_reason is Stop.TIMEOUT
    with pytest.raises(Cancel):
        ctx.raise_if_cancelled()


async def test_after_a_lost_lease_nothing_is_reported() -> None:
    ctx, _ = context()
    ctx.stop(Stop.CANCEL)
    ctx.stop(Stop.LEASE_LOST)
    with pytest.raises(LeaseLost):
        ctx.progress(1)
    with pytest.raises(LeaseLost):
        ctx.log("x")
    with pytest.raises(LeaseLost):
        await ctx.enqueue("child")


def test_a_context_knows_its_job() -> None:
    ctx, _ = context()
    assert (ctx.id, ctx.name, ctx.queue, ctx.attempt, ctx.max_attempts) == ("job_1", "t", "default", 3, 4)
    assert (ctx.generation, ctx.fence, ctx.idempotency_key, ctx.attempt_id) == (1, 7, "job_1:1", "att_1_1_3")
    assert ctx.deadline is None and ctx.remaining_seconds is None


@pytest.mark.parametrize(
    ("number", "error", "level", "following"),
    [
        (1, ValueError("no luck"), logging.WARNING, "the next one in 0.7 s"),
        (4, ValueError("no luck"), logging.ERROR, "it has failed"),
        (1, Fail("no luck"), logging.ERROR, "it has failed"),
    ],
)
def test_a_failed_attempt_is_in_the_log(
    caplog: pytest.LogCaptureFixture, number: int, error: Exception, level: int, following: str
) -> None:
    job = claimed(number=number)
    raised(error)
    outcome = classify(job, result=None, error=error, stop=None, now=NOW, ran_ms=1)
    assert outcome is not None
    tell_of_failure(job, outcome, error)
    (record,) = caplog.records
    assert (record.levelno, record.exc_info and record.exc_info[1]) == (level, error)
    assert f"{job.name} ({job.id}): attempt {number} of 4 failed, {following}: " in record.getMessage()
    assert record.getMessage().endswith(": no luck")
