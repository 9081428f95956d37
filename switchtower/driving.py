"""How is one call of a workflow's function driven: resumed, halted, compensated?"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from switchtower.context import ChildFailed, Fail, JobContext, Signal
from switchtower.durable import WorkflowContext
from switchtower.execution import describe_error
from switchtower.jobs import ErrorKind, JobError
from switchtower.journal import UNDO, Halt, Journal
from switchtower.steps import StepFailed, WaitTimeout, error_of, run_step
from switchtower.workflows import Step, StepKind, StepStatus

__all__ = ["driver"]


def driver(function: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The handler that drives runs of a workflow's function."""

    @functools.wraps(function)
    async def drive(context: JobContext, **arguments: Any) -> Any:
        engine, caller = context.engine_and_caller()
        run = await engine.workflows.resume(context.id, context.lease_token)
        journal = Journal(context, engine, caller, run)
        result, failure = await _call(journal, function(WorkflowContext(journal), **arguments))
        if journal.halted:
            raise journal.ending() from None
        if failure is None and not journal.compensating:
            return result
        if isinstance(failure, Signal) and not isinstance(failure, Fail):
            raise failure
        try:
            error = await _compensate(journal, failure)
        except Halt:
            raise journal.ending() from None
        raise Fail(error.message, error=error) from failure

    signature = _signature(function)
    first, *others = signature.parameters.values()
    drive.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[first.replace(name="ctx", annotation=JobContext), *others]
    )
    return drive


async def _call(journal: Journal, call: Coroutine[Any, Any, Any]) -> tuple[Any, Exception | None]:
    """What the function returned, or raised; a halt is told by the journal."""
    try:
        result = await call
        if not journal.halted:
            journal.finish()
        return result, None
    except Exception as error:
        return None, error
    except Halt:
        return None, None
    except BaseExceptionGroup:
        # A task group wraps the halts of its tasks.
        if not journal.halted:
            raise
        return None, None
    finally:
        journal.close()


async def _compensate(journal: Journal, failure: Exception | None) -> JobError:
    """Undoes what was done, the last first; returns what the run fails with. Raises: Halt."""
    journal.reopen()
    why = journal.rows.get(UNDO)
    if why is None:
        assert failure is not None
        journal.compensating = True
        row = Step(name=UNDO, kind=StepKind.COMPENSATE, status=StepStatus.COMPLETED, error=_cause(failure))
        # A retry of the run does this step again, and no other that failed: the function outlived those.
        row = replace(row, result=_fatal_step(failure))
        why = await journal.record(replace(row, started_at=journal.now()))
    place = {name: position for position, name in enumerate(journal.rows)}
    for undo in sorted(journal.undo, key=lambda undo: place[undo.step], reverse=True):
        try:
            name = f"{UNDO}:{undo.step}"
            await run_step(journal, name, undo.call, None, undo.max_attempts, undo.backoff, StepKind.COMPENSATE)
        except StepFailed as error:
            journal.context.log(f"{name} failed: {error.error.message}", level="error")
    return error_of(why)


def _fatal_step(error: BaseException | None) -> str | None:
    while error is not None:
        if isinstance(error, (StepFailed, WaitTimeout, ChildFailed)):
            return error.step
        error = error.__cause__ or error.__context__
    return None


def _cause(error: Exception) -> JobError:
    """What a run fails with: a step's own error, told by the step's name."""
    if isinstance(error, StepFailed):
        return replace(error.error, message=str(error))
    if isinstance(error, ChildFailed):
        return describe_error(error, ErrorKind.DEPENDENCY)
    return describe_error(error, ErrorKind.FATAL if isinstance(error, Fail) else ErrorKind.EXCEPTION)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:
        # A name that only type checkers import: the annotations stay text, and are not checked.
        return inspect.signature(function)
