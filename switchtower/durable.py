"""How is a workflow written, and how is a run of it driven?

A workflow is a coroutine function over a `WorkflowContext`. It is called from its start whenever its run goes on; a
step that has ended answers from its checkpoint, and the first that has not is run. So the function itself must be
deterministic, and everything that is not belongs into a step:

    @app.workflow
    async def close_month(ctx: WorkflowContext, month: str) -> dict:
        ledger = await ctx.step("lock-ledger", lock, month, compensate=unlock)
        await ctx.wait_for_event("approved", match={"month": month}, timeout=timedelta(days=3))
        return await ctx.step("post", post, ledger)

A step runs at least once: a worker may die between a step's effect and its checkpoint. Once the checkpoint is there,
it never runs again.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, cast

from switchtower.context import JobContext
from switchtower.errors import InvalidInput
from switchtower.ids import JOB, new_id, run_id
from switchtower.jobs import Job, NewJob
from switchtower.journal import Halt, Journal, Pause, WorkflowChanged
from switchtower.retry import DEFAULT_BACKOFF, Backoff
from switchtower.states import FINAL
from switchtower.steps import StepFailed, WaitTimeout, child_failed, children_ended, run_step, timeout_error
from switchtower.workflows import RUN_ATTEMPTS, Step, StepKind, StepStatus, handler_name

if TYPE_CHECKING:
    from switchtower.tasks import Task

__all__ = ["RunHandle", "StepFailed", "WaitTimeout", "WorkflowChanged", "WorkflowContext"]


@dataclass(frozen=True, slots=True)
class RunHandle:
    """A run (or job) that `spawn` started: `id` is the run's, `result()` waits for its output."""

    id: str
    _name: str
    _job_id: str
    _context: WorkflowContext

    def result(self) -> Coroutine[Any, Any, Any]:
        """Its output, once it has ended. Raises: ChildFailed."""
        return self._context._result_of(self._name, self._job_id)


class WorkflowContext:
    """One run of a workflow, as its function sees it: every method that waits is a step with a name of its own.

    Names are what steps are found by when the run goes on. The same name again becomes `name#2`; in branches that run
    at the same time, give each step its own.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    @property
    def run_id(self) -> str:
        """The run's id."""
        return self._journal.run.id

    @property
    def workflow(self) -> str:
        """The workflow's name."""
        return self._journal.run.workflow

    @property
    def version(self) -> int:
        """The version that the run was started on."""
        return self._journal.run.version

    @property
    def job(self) -> JobContext:
        """The run's job: its log, its progress, its idempotency key, whether it should stop."""
        return self._journal.context

    def log(self, line: str, *, level: str = "info") -> None:
        """Adds a line to the run's log; written again whenever the function comes here again."""
        self._journal.context.log(line, level=level)

    def step(
        self,
        name: str,
        function: Callable[..., Any],
        /,
        *args: Any,
        compensate: Callable[[Any], Any] | None = None,
        max_attempts: int = 4,
        backoff: Backoff = DEFAULT_BACKOFF,
        **kwargs: Any,
    ) -> Coroutine[Any, Any, Any]:
        """Calls `function(*args, **kwargs)` once it has not ended yet, and records its result as JSON.

        A coroutine function runs on the event loop, a plain one in a thread. It is tried `max_attempts` times; a wait
        of more than a second between two attempts gives the job back. When the run fails later, `compensate(result)`
        undoes the step: compensations run in reverse order, each as a step `compensate:<name>`, and one that fails
        does not keep the others from running.

        Raises:
            StepFailed: its attempts are spent, it raised Fail, or its result cannot be stored.
        """
        if max_attempts < 1:
            raise InvalidInput("max_attempts", "must be at least 1.")
        call = functools.partial(function, *args, **kwargs)
        return run_step(self._journal, self._journal.name(name), call, compensate, max_attempts, backoff)

    def sleep(self, pause: Pause, *, name: str = "sleep") -> Coroutine[Any, Any, None]:
        """Waits: seconds, a timedelta, or until a time with a zone. More than a second gives the job back, so that a
        sleep of a month costs nothing."""
        return self._sleep(self._journal.name(name), pause)

    def wait_for_event(
        self, event: str, *, match: Mapping[str, Any] | None = None, timeout: Pause | None = None
    ) -> Coroutine[Any, Any, Any]:
        """The payload of the next event of this name that nobody has consumed, published before or after; `match` is
        {dotted path: value} of its payload.

        Raises:
            WaitTimeout: none came in time.
        """
        name = self._journal.name(f"{'waitmatch' if match else 'wait'}:{event}")
        return self._payload(self._wait(name, (event,), match, timeout))

    def wait_for_any(
        self, events: Sequence[str], *, match: Mapping[str, Any] | None = None, timeout: Pause | None = None
    ) -> Coroutine[Any, Any, tuple[str, Any]]:
        """The name and payload of the first event of any of these names. Raises: WaitTimeout."""
        return self._wait(self._journal.name(f"waitany:{','.join(events)}"), tuple(events), match, timeout)

    def wait_for_all(
        self, events: Sequence[str], *, match: Mapping[str, Any] | None = None, timeout: Pause | None = None
    ) -> Coroutine[Any, Any, dict[str, Any]]:
        """One event of each of these names: {name: payload}. Each is consumed as it comes, also when another does not.

        Raises:
            WaitTimeout: one did not come in time.
        """
        waits = {
            event: self._payload(self._wait(self._journal.name(f"waitall:{event}"), (event,), match, timeout))
            for event in events
        }
        return self.parallel(waits)

    def child(self, target: Task[..., Any] | str, input: Any = None, *, name: str | None = None) -> Any:
        """Runs another workflow (or a task) as a child, and waits for its output.

        `target` is what `@app.workflow` or `@app.task` made, or the name of a workflow.

        Raises:
            ChildFailed: it did not complete.
        """
        return self._child(self._journal.name(f"child:{name or _label(target)}"), target, [input], StepKind.CHILD)

    def fan_out(self, target: Task[..., Any] | str, inputs: Sequence[Any], *, name: str | None = None) -> Any:
        """Runs one child for each input at the same time, and waits for all: their outputs, in the order of the inputs.

        Raises:
            ChildFailed: at least one did not complete; all have ended by then.
        """
        return self._child(
            self._journal.name(f"fanout:{name or _label(target)}"), target, list(inputs), StepKind.FAN_OUT
        )

    def spawn(
        self, target: Task[..., Any] | str, input: Any = None, *, name: str | None = None
    ) -> Coroutine[Any, Any, RunHandle]:
        """Starts another workflow (or a task) that goes on by itself: it is no child, and this run does not wait for
        it unless it awaits the handle's `result()`."""
        return self._spawn(self._journal.name(f"spawn:{name or _label(target)}"), target, input)

    async def parallel(self, *branches: Awaitable[Any] | Mapping[str, Awaitable[Any]]) -> Any:
        """Runs branches at the same time: a list of their results, or, of a mapping, {key: result}.

        All branches go as far as they can; each step in them is recorded by itself. Then an error of one is raised (the
        first in order), or, while one waits, the run is put aside.
        """
        if len(branches) == 1 and isinstance(branches[0], Mapping):
            keys = list(branches[0])
            values = await self.parallel(*branches[0].values())
            return dict(zip(keys, values, strict=True))
        tasks = [self._journal.branched(cast(Awaitable[Any], branch)) for branch in branches]
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        halts = [outcome for outcome in ended if isinstance(outcome, Halt)]
        errors = [outcome for outcome in ended if isinstance(outcome, BaseException) and not isinstance(outcome, Halt)]
        if errors:
            for halt in halts:
                self._journal.withdraw(halt)
            raise next((error for error in errors if not isinstance(error, Exception)), errors[0])
        if halts:
            halts[0].others = halts[1:]
            self._journal.branch.put_aside = True
            raise halts[0]
        return ended

    # What each is.

    async def _sleep(self, name: str, pause: Pause) -> None:
        row = self._journal.recall(name, StepKind.SLEEP)
        if row is None:
            row = Step(
                name=name,
                kind=StepKind.SLEEP,
                status=StepStatus.WAITING,
                started_at=self._journal.now(),
                until=self._journal.moment(pause),
            )
            row = await self._journal.record(row)
        if row.status is StepStatus.WAITING:
            assert row.until is not None
            await self._journal.rest(row.until)
            await self._journal.record(replace(row, status=StepStatus.COMPLETED))

    async def _wait(
        self, name: str, events: tuple[str, ...], match: Mapping[str, Any] | None, limit: Pause | None
    ) -> tuple[str, Any]:
        journal = self._journal
        row = self._journal.recall(name, StepKind.WAIT)
        if row is None:
            conditions = journal.engine.workflows.conditions(dict(match or {}))
            row = Step(
                name=name,
                kind=StepKind.WAIT,
                status=StepStatus.WAITING,
                started_at=journal.now(),
                until=None if limit is None else self._journal.moment(limit),
                events=events,
                match=conditions,
            )
            if not await self._consumed(row):
                # What it waits for is written before it looks again: a publisher sees one or the other.
                await journal.record(row)
        row = journal.rows.get(name, row)
        if row.status is StepStatus.WAITING and not await self._consumed(row):
            if row.until is None or row.until > journal.now():
                raise journal.suspend(row.until, events=True)
            await journal.record(replace(row, status=StepStatus.FAILED, error=timeout_error(name)))
        row = journal.rows[name]
        if row.status is StepStatus.FAILED:
            raise WaitTimeout(name)
        return row.result["name"], row.result["payload"]

    async def _consumed(self, row: Step) -> bool:
        journal = self._journal
        token = journal.context.lease_token
        found = await journal.ask(lambda: journal.engine.workflows.consume(journal.run, token, row))
        if found is None:
            return False
        result = {"name": found[0], "payload": found[1]}
        await journal.record(replace(row, status=StepStatus.COMPLETED, result=result))
        return True

    async def _payload(self, wait: Awaitable[tuple[str, Any]]) -> Any:
        return (await wait)[1]

    async def _child(self, name: str, target: Task[..., Any] | str, inputs: list[Any], kind: StepKind) -> Any:
        journal = self._journal
        row = self._journal.recall(name, kind)
        if row is None:
            jobs = [(new_id(JOB), job) for job in await self._jobs(target, inputs)]
            ids = tuple(id for id, _ in jobs)
            row = Step(name=name, kind=kind, status=StepStatus.WAITING, started_at=journal.now(), children=ids)
            await journal.record(row, adopt=ids)
            await journal.enqueue(jobs, linked=True)
            if ids:
                raise journal.suspend(children=True)
        if row.status is StepStatus.WAITING:
            found = await self._read(row.children)
            # Still waited for and not there: the worker died between the checkpoint and the creation.
            lost = [id for id in row.children if id not in found and id in journal.run.job.pending]
            if lost:
                news = dict(zip(row.children, await self._jobs(target, inputs), strict=True))
                await journal.enqueue([(id, news[id]) for id in lost], linked=True)
            if lost or any(job.state not in FINAL for job in found.values()):
                raise journal.suspend(children=True)
            row = await journal.record(children_ended(row, found))
        if row.status is StepStatus.FAILED:
            raise child_failed(row)
        return row.result[0] if kind is StepKind.CHILD else row.result

    async def _spawn(self, name: str, target: Task[..., Any] | str, input: Any) -> RunHandle:
        journal = self._journal
        row = self._journal.recall(name, StepKind.SPAWN)
        if row is None or row.status is StepStatus.WAITING:
            (job,) = await self._jobs(target, [input])
            if row is None:
                ids = (new_id(JOB),)
                row = Step(
                    name=name,
                    kind=StepKind.SPAWN,
                    status=StepStatus.WAITING,
                    started_at=journal.now(),
                    children=ids,
                )
                await journal.record(row)
            await journal.enqueue([(row.children[0], job)], linked=False)
            row = await journal.record(replace(row, status=StepStatus.COMPLETED))
        id = row.children[0]
        return RunHandle(run_id(id), name, id, self)

    def _result_of(self, spawned: str, id: str) -> Coroutine[Any, Any, Any]:
        return self._await_spawned(self._journal.name(f"await:{spawned}"), id)

    async def _await_spawned(self, name: str, id: str) -> Any:
        journal = self._journal
        row = self._journal.recall(name, StepKind.CHILD)
        if row is None or row.status is StepStatus.WAITING:
            found = await self._read((id,))
            if id in found and found[id].state not in FINAL:
                if row is None:
                    row = Step(
                        name=name,
                        kind=StepKind.CHILD,
                        status=StepStatus.WAITING,
                        started_at=journal.now(),
                        children=(id,),
                    )
                    await journal.record(row, adopt=(id,))
                    await journal.ask(lambda: journal.engine.workflows.settle((id,)))
                raise journal.suspend(children=True)
            row = row or Step(
                name=name,
                kind=StepKind.CHILD,
                status=StepStatus.WAITING,
                started_at=journal.now(),
                children=(id,),
            )
            row = await journal.record(children_ended(row, found))
        if row.status is StepStatus.FAILED:
            raise child_failed(row)
        return row.result[0]

    async def _read(self, ids: Sequence[str]) -> dict[str, Job]:
        jobs = self._journal.engine.jobs
        return await self._journal.ask(
            lambda: jobs.get_many(ids, caller=self._journal.caller, with_=frozenset({"result"}))
        )

    async def _jobs(self, target: Task[..., Any] | str, inputs: Sequence[Any]) -> list[NewJob]:
        """The jobs of children, checked: what cannot be stored must be told before anybody waits for it."""
        job = self._journal.context.job
        if isinstance(target, str):
            name = await self._journal.ask(lambda: self._newest(target))
            queue = job.queue
            news = [
                NewJob(name=handler_name(*name), workflow=name, payload=input, queue=queue, max_attempts=RUN_ATTEMPTS)
                for input in inputs
            ]
        else:
            news = [target.job(**_arguments(target, input)) for input in inputs]
        for new in news:
            new.remove_on_complete = new.remove_on_fail = False
            new.check(payload_limit=self._journal.engine.payload_limit)
        return news

    async def _newest(self, workflow: str) -> tuple[str, int]:
        versions = (await self._journal.engine.workflows.names()).get(workflow)
        if not versions:
            raise InvalidInput("workflow", f"no live worker has {workflow[:100]!r}.")
        return workflow, versions[-1]


def _arguments(target: Task[..., Any], input: Any) -> dict[str, Any]:
    if input is None:
        return {}
    if not isinstance(input, Mapping):
        raise InvalidInput("input", f"must be a mapping of the arguments of {target.name!r}.")
    return dict(input)


def _label(target: Task[..., Any] | str) -> str:
    return target if isinstance(target, str) else target.name.partition("#")[0]
