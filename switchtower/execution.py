"""How did a run end, and what is to be recorded of it?

First classify, then act: `classify` is a pure function from what happened to the one outcome that is reported.
"""

from __future__ import annotations

import logging
import math
import traceback
from datetime import UTC, datetime, timedelta
from pathlib import PurePath
from types import TracebackType
from typing import Any

from switchtower.context import Cancel, ChildFailed, Fail, RetryAt, Signal, Snooze, Stop, WaitForChildren
from switchtower.errors import InvalidInput
from switchtower.jobs import ClaimedJob, ErrorKind, JobError, fingerprint
from switchtower.payloads import TEXT_LIMIT, truncated_text
from switchtower.results import storable
from switchtower.retry import MAX_WAIT_MS
from switchtower.workers import Outcome, OutcomeKind

__all__ = [
    "HandlerError",
    "InvalidSignal",
    "classify",
    "describe_error",
    "misfit",
    "portable_signal",
    "tell_of_failure",
]

logger = logging.getLogger("switchtower.worker")

STACK_LIMIT = 16 * 1024
MESSAGE_LIMIT = 8 * 1024
RESULT_LIMIT = TEXT_LIMIT

K = OutcomeKind

OURS = ("builtins", "switchtower.context", "switchtower.execution")
"""Modules whose exceptions are told by their name alone."""


class InvalidSignal(Exception):
    """A signal that does not say what its handler wants."""


class HandlerError(Exception):
    """What a handler raised in another process, described there."""

    def __init__(self, error: JobError) -> None:
        super().__init__(error.message)
        self.error = error


def classify(
    job: ClaimedJob, *, result: Any, error: BaseException | None, stop: Stop | None, now: datetime, ran_ms: int
) -> Outcome | None:
    """What to report of a run that returned `result` or raised `error`, after it was told to `stop` (if it was).

    It raises nothing, whatever the handler returned or raised: what cannot be classified is a failed attempt.

    Effect: none; nothing is read but the arguments, and the backoff's random draw.

    Returns:
        The outcome, or None when the lease is lost: then this run has no say any more.
    """
    if stop is Stop.LEASE_LOST:
        return None
    try:
        return _classify(job, result, error, stop, now, ran_ms)
    except Exception as fault:
        # A signal with arguments that mean nothing, above all.
        return Outcome(
            job.id,
            job.token,
            K.FAIL,
            error=describe_error(fault),
            wait_ms=job.backoff.wait_ms(job.number),
            ran_ms=ran_ms,
        )


def _classify(
    job: ClaimedJob, result: Any, error: BaseException | None, stop: Stop | None, now: datetime, ran_ms: int
) -> Outcome:
    if error is None:
        kept, notes = storable(result, limit=RESULT_LIMIT)
        logs = [("warning", note) for note in notes]
        return Outcome(job.id, job.token, K.COMPLETE, result=kept, ran_ms=ran_ms, logs=logs)
    outcome = Outcome(job.id, job.token, K.FAIL, ran_ms=ran_ms)
    if isinstance(error, Signal) and not isinstance(error, Cancel):
        return _signalled(outcome, error, now)
    match stop:
        case Stop.CANCEL:
            outcome.kind = K.ABORT
        case Stop.DRAIN:
            outcome.kind = K.RELEASE
        case Stop.EXPIRED:
            outcome.kind = K.EXPIRE
            outcome.error = _stopped(error, ErrorKind.EXPIRED, "The job's time to live passed while it ran.")
        case Stop.TIMEOUT:
            outcome.error = _stopped(
                error, ErrorKind.TIMEOUT, f"Stopped after {ran_ms / 1000:g} s: its timeout passed."
            )
            outcome.wait_ms = job.backoff.wait_ms(job.number)
        case _ if isinstance(error, Cancel):
            outcome.kind = K.ABORT
        case _:
            outcome.error = error.error if isinstance(error, HandlerError) else describe_error(error)
            outcome.wait_ms = job.backoff.wait_ms(job.number)
    return outcome


def _signalled(outcome: Outcome, signal: Signal, now: datetime) -> Outcome:
    match signal:
        case RetryAt():
            outcome.wait_ms = _wait_ms(signal, "when", now)
            outcome.kind = K.RETRY_AT
            outcome.error = describe_error(signal)
        case Snooze():
            outcome.wait_ms = _wait_ms(signal, "seconds", now)
            outcome.kind = K.SNOOZE
        case WaitForChildren():
            outcome.kind = K.SUSPEND
        case Fail():
            outcome.kind = K.BURY
            kind = ErrorKind.DEPENDENCY if isinstance(signal, ChildFailed) else ErrorKind.FATAL
            outcome.error = signal.error if isinstance(signal.error, JobError) else describe_error(signal, kind)
        case _:
            outcome.error = describe_error(signal)
    return outcome


def _wait_ms(signal: Signal, argument: str, now: datetime) -> int:
    """How long the signal asks to wait. Raises: InvalidSignal when it does not say so."""
    when = getattr(signal, argument, None)
    if isinstance(when, datetime) and when.tzinfo is not None:
        seconds = (when - now).total_seconds()
    elif isinstance(when, timedelta):
        seconds = when.total_seconds()
    elif isinstance(when, (int, float)) and not isinstance(when, bool) and not math.isnan(when):
        seconds = float(max(min(when, MAX_WAIT_MS), 0))
    else:
        what = "nothing (does its __init__ call super().__init__?)" if when is None else f"a {type(when).__name__}"
        raise InvalidSignal(
            f"The handler raised {type(signal).__name__}, whose `{argument}` is {what}: "
            "give seconds, a timedelta" + (", or a datetime with a time zone." if argument == "when" else ".")
        ) from signal
    return int(min(max(seconds, 0.0) * 1000, MAX_WAIT_MS))


def portable_signal(signal: Signal) -> Signal:
    """The signal as one of ours, which any process can read: a class of the user's may exist in its own process only.

    Raises: InvalidSignal when it does not say what its handler wants.
    """
    message = truncated_text(_text(signal), limit=MESSAGE_LIMIT)
    now = datetime.now(UTC)
    match signal:
        case RetryAt():
            return RetryAt(_wait_ms(signal, "when", now) / 1000, message)
        case Snooze():
            return Snooze(_wait_ms(signal, "seconds", now) / 1000, message)
        case WaitForChildren():
            return WaitForChildren(message)
        case Cancel():
            return Cancel(message)
        case Fail():
            error = signal.error if isinstance(signal.error, JobError) else describe_error(signal, ErrorKind.FATAL)
            return Fail(message, error=error)
    raise InvalidSignal(f"{type(signal).__name__} is no signal that says how a run ends.") from signal


def _stopped(error: BaseException, kind: ErrorKind, message: str) -> JobError:
    """A stop by the clock, with the stack of where it found the handler."""
    frame = _user_frame(error.__traceback__)
    return JobError(
        kind,
        "Timeout" if kind is ErrorKind.TIMEOUT else "Expired",
        message,
        _stack(error),
        fingerprint(kind, "", frame),
    )


def tell_of_failure(job: ClaimedJob, outcome: Outcome, error: BaseException | None) -> None:
    """Logs a failed attempt, with what comes next: a warning while there are attempts left, an error at the end."""
    told = outcome.error
    if told is None:
        return
    again = outcome.kind in (K.FAIL, K.RETRY_AT) and job.number < job.max_attempts
    following = f"the next one in {outcome.wait_ms / 1000:g} s" if again else "it has failed"
    line = (logging.WARNING if again else logging.ERROR, "%s (%s): attempt %d of %d failed, %s: %s: %s")
    facts = (job.name, job.id, job.number, job.max_attempts, following, told.type, told.message)
    try:
        logger.log(*line, *facts, exc_info=None if isinstance(error, HandlerError) else error)
    except BaseException:
        # Whoever formats the traceback asks the user's exceptions for their texts.
        logger.log(*line, *facts)


def misfit(job: ClaimedJob, error: InvalidInput) -> Outcome:
    """The outcome of a job whose payload does not fit its handler: failed for good, since no retry can change it."""
    described = JobError(
        ErrorKind.FATAL, "InvalidInput", error.message, None, fingerprint("InvalidInput", error.message)
    )
    return Outcome(job.id, job.token, K.BURY, error=described)


def describe_error(error: BaseException, kind: ErrorKind = ErrorKind.EXCEPTION) -> JobError:
    """An exception as it is stored: type, message, the traceback (at most 16 KB), and a fingerprint from its innermost
    frame of user code, without the line number, so that it survives edits elsewhere in the file."""
    cls = type(error)
    name = cls.__qualname__ if cls.__module__ in OURS else f"{cls.__module__}.{cls.__qualname__}"
    message = truncated_text(_text(error), limit=MESSAGE_LIMIT)
    return JobError(kind, name, message, _stack(error), fingerprint(name, message, _user_frame(error.__traceback__)))


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except BaseException:
        # Whatever the user's own code does: a text does not decide what becomes of the job.
        return "(the error's own text cannot be shown: its __str__ raised)"


def _stack(error: BaseException) -> str | None:
    try:
        text = "".join(traceback.format_exception(type(error), error, _from_user_code(error.__traceback__), limit=-50))
    except BaseException:
        # It asks the exceptions for their texts.
        return None
    if len(text) > STACK_LIMIT:
        # The end names the error, the beginning the way there; the middle of a recursion says nothing new.
        text = f"{text[: STACK_LIMIT // 4]}\n… cut …\n{text[-STACK_LIMIT * 3 // 4 + 16 :]}"
    return truncated_text(text)


def _from_user_code(trace: TracebackType | None) -> TracebackType | None:
    """The traceback without our own frames at its top, unless there are only ours."""
    current = trace
    while current is not None and _is_ours(current):
        current = current.tb_next
    return current or trace


def _is_ours(trace: TracebackType) -> bool:
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] in ("switchtower", "concurrent", "asyncio") and module != "switchtower.demo"


def _user_frame(trace: TracebackType | None) -> str:
    """`folder/file.py:function` of the innermost frame outside installed libraries; of the innermost without one."""
    found = innermost = ""
    while trace is not None:
        code = trace.tb_frame.f_code
        path = PurePath(code.co_filename)
        innermost = f"{'/'.join(path.parts[-2:])}:{code.co_name}"
        if (
            not _is_ours(trace)
            and not {"site-packages", "dist-packages", "lib"} & set(path.parts)
            and path.parts[:1] != ("<frozen",)
        ):
            found = innermost
        trace = trace.tb_next
    return found or innermost
