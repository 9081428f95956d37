"""What has this run recorded, and how does its call end when it cannot go on here?

The worker's side of a run's checkpoints. A step's name finds its row again; what could not be written to the database
is tried again as long as the lease lasts, so that a finished step is recorded whatever the database does meanwhile.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from switchtower.context import Fail, JobContext, Snooze, Stop, WaitForChildren
from switchtower.errors import InvalidInput, LeaseLost, StoreUnavailable
from switchtower.failpoints import die_at
from switchtower.jobs import NewJob
from switchtower.payloads import check_text
from switchtower.retry import Backoff
from switchtower.workflows import MAX_STEPS, RunState, Step, StepKind, StepStatus, WorkflowRun

if TYPE_CHECKING:
    from switchtower.callers import Caller
    from switchtower.engine import Engine

__all__ = ["UNDO", "Halt", "Journal", "Pause", "Undo", "WorkflowChanged", "in_step"]

T = TypeVar("T")
Pause = float | timedelta | datetime

in_step: ContextVar[bool] = ContextVar("switchtower_in_step", default=False)
_branch: ContextVar[Branch | None] = ContextVar("switchtower_branch", default=None)

UNDO = "compensate"
"""The name of the row that says why a run compensates; with ":" and a step's name, that of the step's compensation."""

IN_PLACE_SECONDS = 1.0
"""A shorter wait is waited for here; a longer one gives the job back."""
MIXED_SECONDS = 5.0
"""How often a run looks that waits for children and, beside them, for an event or a time."""
NEVER_SECONDS = 365.0 * 24 * 3600


class Halt(BaseException):
    """Ends this call of a workflow's function: the run goes on from its checkpoints in a later one.

    Not an Exception: a workflow's own `except Exception` must not swallow it. `until`, `children` and `events` say what
    the run waits for there; `others` are the halts of branches beside it.
    """

    def __init__(self, until: datetime | None = None, *, children: bool = False, events: bool = False) -> None:
        super().__init__()
        self.until = until
        self.children = children
        self.events = events
        self.others: Sequence[Halt] = ()


@dataclass(frozen=True, slots=True)
class Undo:
    """How a step that has completed is compensated."""

    step: str
    call: Callable[[], Any]
    max_attempts: int
    backoff: Backoff


class Branch:
    """One line of a workflow's function: the function itself, or a branch of `parallel` in it.

    Once it is put aside, no call of its context does anything but end it: what the function does on its way out, in a
    `finally` or a context manager, is done when the line truly ends.
    """

    __slots__ = ("_parent", "put_aside")

    def __init__(self, parent: Branch | None = None) -> None:
        self._parent = parent
        self.put_aside = False

    @property
    def over(self) -> bool:
        """Whether it, or a line that it is a part of, is put aside."""
        return self.put_aside or (self._parent is not None and self._parent.over)


class WorkflowChanged(Fail):
    """Fails the run: the function's steps are not the ones that it recorded. Give a changed workflow a new version."""


class Journal:
    """One call of a workflow's function, its recorded steps, and what it waits for when it halts."""

    def __init__(self, context: JobContext, engine: Engine, caller: Caller, run: WorkflowRun) -> None:
        self.context = context
        self.engine = engine
        self.caller = caller
        self.run = run
        self.rows = {step.name: step for step in run.steps}
        self.compensating = run.state is RunState.COMPENSATING
        self.rewinding = self.compensating
        self._task = asyncio.current_task()
        self._unseen = {step.name for step in run.steps if step.kind is not StepKind.COMPENSATE}
        self._names: set[str] = set()
        self._asked: Counter[str] = Counter()
        self._fault: BaseException | None = None
        self._halts: list[Halt] = []
        self._root = Branch()
        self.undo: list[Undo] = []
        self._closed = False

    @property
    def branch(self) -> Branch:
        """The line of the function that asks."""
        return _branch.get() or self._root

    async def branched(self, awaitable: Awaitable[T]) -> T:
        """Awaits a branch of the line that asks; to be run in a task of its own."""
        _branch.set(Branch(self.branch))
        return await awaitable

    @property
    def halted(self) -> bool:
        """Whether this call ends with `ending()`, whatever its function made of that."""
        return self._fault is not None or bool(self._halts)

    def now(self) -> datetime:
        """The database's time."""
        return self.engine.clock.now()

    def moment(self, pause: Pause) -> datetime:
        """When a pause from now ends. Raises: InvalidInput."""
        if isinstance(pause, datetime):
            if pause.tzinfo is None:
                raise InvalidInput("until", "needs a time zone.")
            return pause
        try:
            return self.now() + (pause if isinstance(pause, timedelta) else timedelta(seconds=pause))
        except (OverflowError, ValueError):
            raise InvalidInput("pause", "is longer than time is.") from None

    # Names.

    def name(self, wanted: str) -> str:
        """A step's name in this run: the one wanted, with `#2`, `#3` … for those that are wanted again."""
        check_text("step", wanted, limit=256)
        if wanted == UNDO or wanted.startswith(f"{UNDO}:"):
            raise InvalidInput("step", f"{wanted!r} is the name of a compensation; choose another.")
        while True:
            self._asked[wanted] += 1
            count = self._asked[wanted]
            name = wanted if count == 1 else f"{wanted}#{count}"
            if name not in self._names:
                self._names.add(name)
                return name

    def recall(self, name: str, kind: StepKind) -> Step | None:
        """The row of this step, if it has one.

        Raises: Halt when the run cannot go on here, also for a step that does not fit what was recorded.
        """
        if in_step.get():
            raise RuntimeError(f"{name!r} is inside of a step, and a step has no steps: use a child workflow.")
        self.require_open()
        if self.branch.over:
            raise Halt
        row = self.rows.get(name)
        if row is not None and row.kind is not kind:
            raise self.changed(f"step {name!r} is now of the kind {kind}, and was recorded as {row.kind}")
        if self.rewinding and kind is not StepKind.COMPENSATE and (row is None or row.status is StepStatus.WAITING):
            raise Halt
        self._unseen.discard(name)
        # Steps of concurrent tasks are recorded in the order in which they end; only the function's own have an order.
        if row is None and kind is not StepKind.COMPENSATE and self._unseen and asyncio.current_task() is self._task:
            raise self.changed(f"it comes to the new step {name!r} before {self._unvisited()}, recorded earlier")
        return row

    def finish(self) -> None:
        """The function returned. Raises: Halt when recorded steps were never come to."""
        if self._unseen:
            raise self.changed(f"it ends without {self._unvisited()}, recorded earlier")

    def _unvisited(self) -> str:
        return ", ".join(repr(name) for name in self.rows if name in self._unseen)

    # Recording.

    async def record(self, step: Step, *, adopt: Sequence[str] = ()) -> Step:
        """Checkpoints a step, until the database has it. Raises: Halt."""
        if len(self.rows) >= MAX_STEPS and step.name not in self.rows:
            raise self.fail(Fail(f"A run has at most {MAX_STEPS:,} steps; let a child workflow do a part."))
        if step.status is not StepStatus.WAITING:
            step = replace(step, ended_at=self.now())
            die_at("before_checkpoint")

        async def write() -> None:
            await self.engine.workflows.checkpoint(
                self.run.id, self.context.lease_token, step, compensating=self.compensating, adopt=adopt
            )

        try:
            await self.ask(write)
        except InvalidInput as error:
            raise self.fail(Fail(str(error))) from error
        self.rows.pop(step.name, None)
        self.rows[step.name] = step
        if step.status is not StepStatus.WAITING:
            die_at("after_checkpoint")
        return step

    async def enqueue(self, jobs: Sequence[tuple[str, NewJob]], *, linked: bool) -> None:
        """Creates jobs whose ids are recorded. Raises: Halt."""
        await self.ask(
            lambda: self.engine.workflows.enqueue_children(self.run, jobs, caller=self.caller, linked=linked)
        )

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """The engine's answer; asked again while the database is away. Raises: Halt, InvalidInput."""
        wait = 0.1
        while True:
            self.require_open()
            try:
                return await call()
            except StoreUnavailable as error:
                if self.context.cancelled:
                    raise self.fail(error) from error
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)
            except LeaseLost as error:
                self.context.stop(Stop.LEASE_LOST)
                raise self.fail(error) from error
            except InvalidInput:
                raise
            except Exception as error:
                raise self.fail(error) from error

    # Ending this call.

    def require_open(self) -> None:
        """Raises Halt when this call has ended, or is to end."""
        if self._fault is not None or self._closed:
            raise Halt

    def close(self) -> None:
        """The function has ended: what it left running must begin no step any more."""
        self._closed = True

    def reopen(self) -> None:
        """For the compensations, after the function has ended."""
        self._closed = self.rewinding = False

    def fail(self, error: BaseException) -> Halt:
        """Ends this call with an error that is the run's, not the step's."""
        self._fault = self._fault or error
        return Halt()

    def changed(self, what: str) -> Halt:
        """Ends the run: its code is another one."""
        return self.fail(
            WorkflowChanged(
                f"The code of workflow {self.run.workflow!r} version {self.run.version} changed under this run: "
                f"{what}. "
                f"Keep version {self.run.version} as it was, beside a new one: "
                f"@app.workflow(version={self.run.version + 1})."
            )
        )

    def suspend(self, until: datetime | None = None, *, children: bool = False, events: bool = False) -> Halt:
        """Gives the job back until a time, an event or the end of children."""
        halt = Halt(until, children=children, events=events)
        self._halts.append(halt)
        self.branch.put_aside = True
        return halt

    def withdraw(self, halt: Halt) -> None:
        """The run does not wait there after all: a branch beside it has failed."""
        for one in (halt, *halt.others):
            if one in self._halts:
                self._halts.remove(one)
            if one is not halt:
                self.withdraw(one)

    async def rest(self, until: datetime) -> None:
        """Waits here when it is short. Raises: Halt for a longer wait."""
        seconds = (until - self.now()).total_seconds()
        if seconds > IN_PLACE_SECONDS:
            raise self.suspend(until)
        if seconds > 0:
            await asyncio.sleep(seconds)

    def ending(self) -> BaseException:
        """What a halted call ends with: its fault, or the signal that gives the job back."""
        if self._fault is not None:
            return self._fault
        children = any(halt.children for halt in self._halts)
        timed = [halt for halt in self._halts if not halt.children]
        if children and not timed:
            return WaitForChildren()
        ends = [halt.until for halt in timed if halt.until is not None]
        seconds = (min(ends) - self.now()).total_seconds() if ends else NEVER_SECONDS
        if children:
            seconds = min(seconds, MIXED_SECONDS)
        signal = Snooze(max(0.0, seconds))
        if any(halt.events for halt in timed):
            signal.recorded = self._recheck
        return signal

    async def _recheck(self) -> None:
        await self.engine.workflows.recheck(self.run.id)
