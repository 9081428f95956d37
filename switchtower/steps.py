"""How is a step of a workflow run, tried again and recorded?"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from switchtower.context import Cancel, ChildFailed, Fail, RetryAt
from switchtower.errors import InvalidInput
from switchtower.execution import describe_error
from switchtower.jobs import ErrorKind, Job, JobError, fingerprint
from switchtower.journal import Journal, Undo, in_step
from switchtower.payloads import check_value
from switchtower.retry import Backoff
from switchtower.states import JobState
from switchtower.workflows import Step, StepKind, StepStatus

__all__ = ["StepFailed", "WaitTimeout", "child_failed", "children_ended", "error_of", "run_step", "timeout_error"]


class StepFailed(Exception):
    """A step has failed for good; raised again whenever the run goes on. `error` is the last attempt's."""

    def __init__(self, step: str, error: JobError) -> None:
        super().__init__(f"Step {step!r} failed: {error.message}")
        self.step = step
        self.error = error


class WaitTimeout(TimeoutError):
    """No event came in time."""

    def __init__(self, step: str) -> None:
        super().__init__(f"Nothing came for {step!r} in time.")
        self.step = step


async def run_step(
    journal: Journal,
    name: str,
    call: Callable[[], Any],
    compensate: Callable[[Any], Any] | None,
    max_attempts: int,
    backoff: Backoff,
    kind: StepKind = StepKind.STEP,
) -> Any:
    """The step's recorded result; it is run, and tried again, until there is one. Raises: StepFailed, Halt."""
    row = journal.recall(name, kind)
    if row is None:
        row = Step(name=name, kind=kind, status=StepStatus.WAITING, attempts=0, started_at=journal.now())
    while row.status is StepStatus.WAITING:
        if row.until is not None:
            await journal.rest(row.until)
            journal.require_open()
        row = await journal.record(await _attempt(journal, row, call, max_attempts, backoff))
    if row.status is StepStatus.FAILED:
        raise StepFailed(name, error_of(row))
    if compensate is not None:
        journal.undo.append(Undo(name, functools.partial(compensate, row.result), max_attempts, backoff))
    return row.result


async def _attempt(journal: Journal, row: Step, call: Callable[[], Any], max_attempts: int, backoff: Backoff) -> Step:
    """One attempt at a step, as its next row."""
    row = replace(row, attempts=row.attempts + 1, until=None, result=None, error=None)
    try:
        result = _as_json(await _called(call))
        check_value(f"result of step {row.name!r}", result, limit=journal.engine.payload_limit)
    except Cancel:
        raise
    except Exception as error:
        described = describe_error(error)
        if row.attempts >= max_attempts or isinstance(error, (Fail, InvalidInput)):
            return replace(row, status=StepStatus.FAILED, error=described)
        pause = error.when if isinstance(error, RetryAt) else timedelta(milliseconds=backoff.wait_ms(row.attempts))
        return replace(row, error=described, until=journal.moment(pause))
    return replace(row, status=StepStatus.COMPLETED, result=result, error=None)


async def _called(call: Callable[[], Any]) -> Any:
    """A step's function: awaited if it is a coroutine function's, else in a thread."""
    function = call.func if isinstance(call, functools.partial) else call
    token = in_step.set(True)
    try:
        if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__):
            return await call()
        variables = contextvars.copy_context()
        result = await asyncio.get_running_loop().run_in_executor(None, variables.run, _contained, call)
        return await result if inspect.isawaitable(result) else result
    finally:
        in_step.reset(token)


def _contained(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except StopIteration as error:
        # A future refuses this one exception, and would never be done.
        raise RuntimeError("The step raised StopIteration.") from error


def _as_json(value: Any) -> Any:
    from pydantic_core import PydanticSerializationError, to_jsonable_python

    try:
        return to_jsonable_python(value, inf_nan_mode="constants")
    except (PydanticSerializationError, ValueError) as error:
        raise InvalidInput("result", f"has no JSON form: {error}.") from None


def children_ended(row: Step, found: Mapping[str, Job]) -> Step:
    """The row of children that have all ended: completed with their outputs, or failed."""
    broken = [id for id in row.children if id not in found or found[id].state is not JobState.COMPLETED]
    if not broken:
        return replace(row, status=StepStatus.COMPLETED, result=[found[id].result for id in row.children])
    message = "; ".join(_reason(id, found.get(id)) for id in broken[:5])
    if len(broken) > 5:
        message += f"; and {len(broken) - 5} more"
    error = JobError(ErrorKind.DEPENDENCY, "ChildFailed", message, None, fingerprint("ChildFailed", "", row.name))
    return replace(row, status=StepStatus.FAILED, error=error)


def child_failed(row: Step) -> ChildFailed:
    """What a wait for children raises that did not complete."""
    error = ChildFailed(error_of(row).message)
    error.step = row.name
    return error


def error_of(row: Step) -> JobError:
    """Why a step failed."""
    return row.error or JobError(ErrorKind.EXCEPTION, "Error", "no reason was recorded")


def timeout_error(name: str) -> JobError:
    """The error of a wait whose time is over."""
    return JobError(ErrorKind.TIMEOUT, "WaitTimeout", f"Nothing came for {name!r} in time.", None, "")


def _reason(id: str, job: Job | None) -> str:
    if job is None:
        return f"{id} was removed"
    detail = f": {job.error.message[:500]}" if job.error else ""
    return f"{id} ({job.name}) is {job.state}{detail}"
