"""How do jobs get to workers, and their outcomes back?

Every report carries the lease token of its claim; what does not match writes nothing. A claim or report whose answer
was lost is resolved by reading what its token holds, never by repeating it blindly.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from switchtower.callers import EVERYTHING, Reach
from switchtower.engine.effects import Effects
from switchtower.engine.lanes import Lanes
from switchtower.engine.outcomes import chunks, endings, log_statements, remarks
from switchtower.engine.parking import park_foreign
from switchtower.engine.permits import Permits
from switchtower.errors import LeaseLost
from switchtower.ids import lease_token
from switchtower.jobs import ClaimedJob, Job
from switchtower.limits import Limit
from switchtower.payloads import PAYLOAD_LIMIT, TEXT_LIMIT, check_value
from switchtower.states import JobState
from switchtower.store import changes, permits, queues, transitions
from switchtower.store import claims as commands
from switchtower.store.claims import Statement
from switchtower.store.collections import Store
from switchtower.store.documents import claimed_from, job_from
from switchtower.store.driver import translate_errors, unavailable
from switchtower.store.guards import within
from switchtower.workers import Outcome, OutcomeKind

__all__ = ["Claims"]

Document = dict[str, Any]

FLOOR_SECONDS = 0.5
CONTROLS_SECONDS = 0.5
IN_TURN_TRIES = 3
READ_BACK_SECONDS = 20.0
DOUBT_SECONDS = 60.0


@dataclass(slots=True)
class _Cursor:
    """What this process knows of the head of one queue."""

    hot: bool = False
    contested: bool = False
    floor: tuple[Any, ...] | None = None
    floor_at: float = 0.0
    probed_at: float = 0.0
    controls: queues.AllControls | None = None
    controls_at: float = 0.0
    served: frozenset[str] = field(default_factory=frozenset)


@dataclass(slots=True)
class _Doubt:
    """A claim whose answer was lost: the server may still be carrying it out after its token was first read back."""

    token: str
    worker_id: str
    since: float
    asked_at: float = 0.0
    known: set[str] = field(default_factory=set)


@translate_errors
class Claims:
    """The verbs of workers."""

    def __init__(self, store: Store, effects: Effects, payload_limit: int = PAYLOAD_LIMIT) -> None:
        self._store = store
        self._effects = effects
        self._result_limit = payload_limit
        self._queues: dict[tuple[str, str | None], _Cursor] = defaultdict(_Cursor)
        self._permits = Permits(store)
        self._lanes = Lanes(store, self._permits)
        self._doubts: dict[str, _Doubt] = {}
        self._turn = 0

    async def claim(
        self,
        worker_id: str,
        queues: Sequence[str],
        *,
        names: Sequence[str] | None = None,
        limit: int = 1,
        org: str | None = None,
    ) -> list[ClaimedJob]:
        """Takes up to `limit` jobs, the first in claim order of the first queue that has any; queues take turns.

        `names` are the handlers that the worker has (None: any); `org` is the tenant whose jobs it takes (None: all).
        What is returned is under lease to the worker: start it, or release it. Nothing is returned that was paused
        before this call.

        Raises: StoreUnavailable when it cannot be known what was won; a later call of this worker returns that.
        """
        if not queues or limit < 1:
            return []
        if self._doubts:
            late = await self.late(worker_id)
            if late:
                return late
        self._turn += 1
        start = self._turn % len(queues)
        for queue in [*queues[start:], *queues[:start]]:
            won = await self._claim_from(queue, worker_id, names, limit, org)
            if won:
                return won
        return []

    async def _claim_from(
        self, queue: str, worker_id: str, names: Sequence[str] | None, limit: int, org: str | None
    ) -> list[ClaimedJob]:
        state = self._queues[queue, org]
        now = time.monotonic()
        everybodys = state.controls or await self._read_controls(queue, state)
        # Where nothing held anything, the look after the claim is enough.
        if everybodys.any and now - state.controls_at > CONTROLS_SECONDS:
            everybodys = await self._read_controls(queue, state)
        controls = everybodys.of(org)
        if controls.paused:
            return []
        wanted = _names(names, controls.paused_names)
        if wanted is not None and wanted.get("$in") == []:
            return []
        if org is None and now - state.probed_at > FLOOR_SECONDS and (names is not None or controls.paused_names):
            state.probed_at = now
            await park_foreign(
                self._store,
                queue,
                names,
                lane=self._lanes.last_served(queue),
                controls=everybodys,
                read_controls=lambda: self._read_controls(queue, state),
            )
            everybodys = state.controls or everybodys
        if not everybodys.in_turn:
            with self.claiming(worker_id) as token:
                won = await self._win(queue, state, wanted, everybodys.condition(org), limit, token, worker_id)
            if won or state.controls is None or not state.controls.in_turn:
                return won
            # Lanes or limits came meanwhile.
        return await self._win_in_turn(queue, state, wanted, org, limit, worker_id)

    @contextmanager
    def claiming(self, worker_id: str) -> Iterator[str]:
        """A token for one try of a claim. Where the try is cancelled or fails half-way, nobody was told of what it won:
        a later claim of the worker finds that."""
        token = lease_token()
        try:
            yield token
        except BaseException:
            self._doubts[token] = _Doubt(token, worker_id, time.monotonic())
            raise

    async def _win(
        self,
        queue: str,
        state: _Cursor,
        names: Document | None,
        condition: Document,
        limit: int,
        token: str,
        worker_id: str,
    ) -> list[ClaimedJob]:
        if limit == 1 or not state.hot:
            row = await self.settled(
                commands.claim_one(
                    self._store, queue, names=names, condition=condition, token=token, worker_id=worker_id
                ),
                token,
                worker_id,
            )
            rows = [row] if isinstance(row, dict) else row or []
            state.hot = bool(rows)
        else:
            rows = await self._batch(queue, state, names, condition, limit, token, worker_id)
        if not rows:
            return []
        return await self.allowed(rows, await self._read_controls(queue, state))

    async def _win_in_turn(
        self,
        queue: str,
        state: _Cursor,
        names: Document | None,
        org: str | None,
        limit: int,
        worker_id: str,
    ) -> list[ClaimedJob]:
        """From a queue that tenants or groups share, or that has limits: room first, then the jobs."""
        for _ in range(IN_TURN_TRIES):
            with self.claiming(worker_id) as token:
                controls = state.controls or await self._read_controls(queue, state)
                grant = await self._lanes.choose(queue, controls, org, names, limit, token=token)
                if not grant.jobs and not grant.contested:
                    # What held everything back may have been ended since the controls were read.
                    if await self._read_controls(queue, state) == controls:
                        return []
                    continue
                won = await self.settled(
                    permits.claim(
                        self._store, permits.grouped(grant.jobs), token=token, worker_id=worker_id, before=grant.before
                    ),
                    token,
                    worker_id,
                )
                if isinstance(won, list):
                    # Its answer was lost: until it is certain what it won, the room stays reserved.
                    rows = won
                else:
                    rows = await self._read_back(token, worker_id, acknowledged=True) if won else []
                    await self._permits.settle(grant, {row["_id"] for row in rows})
                if rows:
                    place = {id: position for position, id in enumerate(grant.jobs)}
                    rows.sort(key=lambda row: place[row["_id"]])
                    return await self.allowed(rows, await self._read_controls(queue, state), grant.limits)
        return []

    async def _batch(
        self,
        queue: str,
        state: _Cursor,
        names: Document | None,
        condition: Document,
        limit: int,
        token: str,
        worker_id: str,
    ) -> list[Document]:
        now = time.monotonic()
        if now - state.floor_at > FLOOR_SECONDS:
            state.floor, state.floor_at = None, now
        # Alone, it reads all that it will win; among others, whom most of that would be read for in vain, only ids.
        whole = not state.contested
        head = await commands.head(
            self._store, queue, limit, names=names, condition=condition, floor=state.floor, whole=whole
        )
        if len(head.rows) < limit and state.floor is not None:
            state.floor, state.floor_at = None, now
            head = await commands.head(self._store, queue, limit, names=names, condition=condition, whole=whole)
        state.hot = len(head.rows) > 1
        if not head.rows:
            return []
        state.floor = head.last
        rows = await self.settled(
            commands.claim_batch(self._store, head, token=token, worker_id=worker_id), token, worker_id
        )
        if rows is None:
            rows = await self._read_back(token, worker_id, acknowledged=True)
        state.contested = len(rows) < len(head.rows)
        place = {id: position for position, id in enumerate(head.ids)}
        return sorted(rows, key=lambda row: place[row["_id"]])

    async def settled(self, claim: Any, token: str, worker_id: str) -> Any:
        """The claim's answer; when the answer was lost, what its token holds."""
        try:
            return await claim
        except Exception as error:
            if not unavailable(error):
                raise
            rows = await self._read_back(token, worker_id)
            self._doubts[token] = _Doubt(token, worker_id, time.monotonic(), known={row["_id"] for row in rows})
            return rows

    async def late(self, worker_id: str) -> list[ClaimedJob]:
        """What claims of this worker won whose answers were lost, and which nobody was told of."""
        now = time.monotonic()
        self._doubts = {token: doubt for token, doubt in self._doubts.items() if now - doubt.since < DOUBT_SECONDS}
        for doubt in tuple(self._doubts.values()):
            if doubt.worker_id != worker_id or now - doubt.asked_at < 1:
                continue
            doubt.asked_at = now
            rows = await self._read_back(doubt.token, worker_id)
            rows = [row for row in rows if row["_id"] not in doubt.known]
            if rows:
                queue = rows[0]["queue"]
                jobs = await self.allowed(rows, await self._read_controls(queue, self._queues[queue, None]))
                # Not before: where that fails, they are found again.
                doubt.known.update(row["_id"] for row in rows)
                return jobs
        return []

    async def _read_back(self, token: str, worker_id: str, *, acknowledged: bool = False) -> list[Document]:
        deadline = time.monotonic() + READ_BACK_SECONDS
        while True:
            try:
                return await commands.read_back(self._store, token, worker_id, acknowledged=acknowledged)
            except Exception as error:
                if not unavailable(error) or time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)

    async def _read_controls(self, queue: str, state: _Cursor) -> queues.AllControls:
        state.controls_at = time.monotonic()
        state.controls = await queues.all_controls(self._store, queue)
        return state.controls

    async def allowed(
        self, rows: list[Document], controls: queues.AllControls, granted: Mapping[str, Limit] | None = None
    ) -> list[ClaimedJob]:
        """Gives back what was paused, or limited otherwise than it was `granted`, before it was won: nothing starts on
        a check made before the change."""
        jobs = [claimed_from(row) for row in rows]
        if not controls.any and not any(job.org or job.group for job in jobs):
            return jobs
        needs = await self._permits.needs(((job.id, job.org, job.name, job.group) for job in jobs), controls)
        under = {row["_id"]: row.get("limited", ()) for row in rows}
        held = [
            job
            for job in jobs
            if controls.holds(job.org, job.name, job.group)
            or any(
                key not in under[job.id] or (granted is not None and granted.get(key) != limit)
                for key, limit in needs[job.id].items()
            )
        ]
        if held:
            await self.report([Outcome(job.id, job.token, OutcomeKind.RELEASE, started=False) for job in held])
        if not controls.laned and any(job.org or job.group for job in jobs):
            await self._lanes.found_some(jobs[0].queue)
        return [job for job in jobs if job not in held]

    async def start(self, jobs: Iterable[ClaimedJob | tuple[str, str]]) -> set[str]:
        """Marks runs as begun and charges their attempts. Returns: the ids whose lease is lost; stop those."""
        by_token: dict[str, list[str]] = defaultdict(list)
        for job in jobs:
            id, token = (job.id, job.token) if isinstance(job, ClaimedJob) else job
            by_token[token].append(id)
        statements = [
            Statement("start", token, ids, transitions.start(), {"started": {"$ne": True}})
            for token, ids in by_token.items()
        ]
        if await commands.flush(self._store, statements):
            return set()
        tokens = {id: token for token, ids in by_token.items() for id in ids}
        rows = await self._store.jobs.find({"_id": {"$in": list(tokens)}}, {"token": 1, "started": 1}).to_list(None)
        held = {row["_id"] for row in rows if row.get("token") == tokens[row["_id"]]}
        return set(tokens) - held

    async def report(self, outcomes: Sequence[Outcome]) -> set[str]:
        """Writes how runs ended, in one command.

        Repeating a report is harmless: what landed is recognised by the token that the job keeps of it.
        Returns: the ids that were fenced off, because their lease was no longer the reporter's.
        """
        if not outcomes:
            return set()
        for chunk in chunks(remarks(outcomes)):
            await commands.flush(self._store, chunk)
        whole = True
        for chunk in chunks(endings(outcomes, result_limit=self._result_limit)):
            whole &= await commands.flush(self._store, chunk)
        self._effects.kick()
        if whole:
            return set()
        tokens = {outcome.job_id: outcome.token for outcome in outcomes}
        return set(tokens) - (await commands.winners(self._store, tokens)).keys()

    async def report_one(self, outcome: Outcome, *, reach: Reach = EVERYTHING) -> Job:
        """Writes how one run ended and returns the job after it; a repeat by the winner gets the same answer.

        Raises: LeaseLost; nothing was written then.
        """
        scope = within(reach)
        (statement,) = endings([outcome], result_limit=self._result_limit)
        filter = {**statement.document()["q"], **scope}
        row = await self._store.jobs.find_one_and_update(filter, statement.pipeline, return_document=True)
        if row is not None:
            self._effects.kick()
            return job_from(row)
        said = (await commands.winners(self._store, {outcome.job_id: outcome.token})).get(outcome.job_id)
        if said in _RECORDED.get(outcome.kind, _FAILED):
            row = await self._store.jobs.find_one({"_id": outcome.job_id, **scope})
            if row is not None:
                return job_from(row)
        raise LeaseLost(outcome.job_id)

    async def leased(self, job_id: str, token: str) -> Job:
        """The job that this token holds. Raises: LeaseLost."""
        row = await self._store.jobs.find_one({"_id": job_id, "state": "active", "token": token})
        if row is None:
            raise LeaseLost(job_id)
        return job_from(row)

    async def progress(self, job_id: str, token: str, progress: Any) -> None:
        """Sets the progress of a running job, and tells subscribers. Raises: InvalidInput, LeaseLost."""
        check_value("progress", progress, limit=TEXT_LIMIT)
        await self._fenced([Statement("progress", token, [job_id], transitions.progress(progress))])

    async def log(self, job_id: str, token: str, lines: Sequence[tuple[str, str]]) -> None:
        """Appends (level, line) pairs to a running job's log; the last 1,000 are kept. Raises: LeaseLost."""
        await self._fenced(log_statements(job_id, token, lines))

    async def _fenced(self, statements: list[Statement]) -> None:
        for chunk in chunks(statements):
            if not await commands.flush(self._store, chunk):
                raise LeaseLost(chunk[0].ids[0])

    async def cancel_requests(self, worker_id: str) -> set[str]:
        """The worker's active jobs that somebody asked to stop."""
        match = {"worker_id": worker_id, "state": "active", "cancel_requested_at": {"$exists": True}}
        return {row["_id"] async for row in self._store.jobs.find(match, {"_id": 1})}

    async def active_count(self, worker_id: str) -> int:
        """How many jobs a worker holds now."""
        return int(await self._store.jobs.count_documents({"worker_id": worker_id, "state": JobState.ACTIVE.value}))

    def wakes(self, queues: Sequence[str]) -> AsyncIterator[str]:
        """Yields the name of a queue ("" when it may be any) whenever one of its jobs may have become claimable.

        Raises: StoreUnavailable, HistoryLost: open it again, and claim once without being woken.
        """
        return self._permits.timely(changes.wakes(self._store, queues), queues)


_FAILED = frozenset({"failed", "cancelled", "expired"})
_RECORDED = {
    OutcomeKind.COMPLETE: frozenset({"completed"}),
    OutcomeKind.RELEASE: frozenset({"released"}),
    OutcomeKind.SNOOZE: frozenset({"snoozed"}),
    OutcomeKind.SUSPEND: frozenset({"suspended"}),
}
"""What is kept of each report: another one under the same token is no repeat of it."""


def _names(names: Sequence[str] | None, paused: Sequence[str]) -> Document | None:
    if names is not None:
        return {"$in": [name for name in names if name not in paused]}
    return {"$nin": list(paused)} if paused else None
