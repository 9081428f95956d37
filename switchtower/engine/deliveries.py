"""Which jobs does the courier deliver next, and where to?

Its claims are as any worker's: under lease, by token, within limits and never of what is paused. Only the order is its
own: the lines take turns, and one whose endpoint has no room now is passed over, so that nothing waits behind it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from switchtower.engine.claims import Claims
from switchtower.engine.permits import Permits
from switchtower.jobs import ClaimedJob
from switchtower.store import changes, lines, permits, queues, transitions, webhooks
from switchtower.store.claims import read_back
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors
from switchtower.store.guards import parked
from switchtower.store.lines import Line
from switchtower.store.queues import AllControls
from switchtower.store.webhooks import NO_WEBHOOK
from switchtower.webhooks import Address
from switchtower.workers import Outcome, OutcomeKind

__all__ = ["Deliveries", "Parcel"]

Document = dict[str, Any]

STEPS = 256
"""How many lines one claim looks at."""
ROUNDS = 4
PARKED_AT_ONCE = 1_000
REMEMBERED_SECONDS = 0.5
MAX_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True)
class Parcel:
    """A job under lease to the courier, and where it goes."""

    job: ClaimedJob
    address: Address


_Parcels = list[Parcel]


@dataclass(slots=True)
class _Round:
    """What one claim has won so far, and what it has read."""

    worker_id: str
    limit: int
    parcels: list[Parcel] = field(default_factory=list)
    sent_to: Counter[str] = field(default_factory=Counter)
    controls: dict[str, AllControls] = field(default_factory=dict)


@translate_errors
class Deliveries:
    """The verbs of the courier that other workers do not have."""

    def __init__(self, store: Store, claims: Claims) -> None:
        self._store = store
        self._claims = claims
        self._permits = Permits(store)
        self._last = ""
        self._known: dict[str, tuple[Address | None, float]] = {}

    async def any_waiting(self) -> bool:
        """Whether there is a job to deliver that nothing is known to hold."""
        return await lines.next_line(self._store, after="") is not None

    async def claim(self, worker_id: str, limit: int, *, room: Callable[[str], int]) -> _Parcels:
        """Takes up to `limit` jobs to deliver, the lines in turn, of an address no more than `room` says there is.

        What is returned is under lease to the worker: start it, or release it. Jobs whose target has no webhook are
        parked until it has.

        Raises: StoreUnavailable; what was won then goes back with a later call.
        """
        late = await self._claims.late(worker_id)
        if late:
            # Nobody knows where they go any more: they are claimed once again.
            await self._claims.report([Outcome(job.id, job.token, OutcomeKind.RELEASE, started=False) for job in late])
        turn = _Round(worker_id, limit)
        origin, wrapped = self._last, self._last == ""
        for _ in range(STEPS):
            if len(turn.parcels) >= limit:
                break
            line = await lines.next_line(self._store, after=self._last)
            if line is None or (wrapped and origin and line.text > origin):
                if wrapped:
                    self._last = "" if line is None else origin
                    break
                self._last, wrapped = "", True
                continue
            self._last = line.text
            await self._take(line, turn, room)
        return turn.parcels

    async def _take(self, line: Line, turn: _Round, room: Callable[[str], int]) -> None:
        address = await self._address(line)
        if address is None:
            await self._park(line)
            return
        share = min(turn.limit - len(turn.parcels), room(address.url) - turn.sent_to[address.url])
        if share <= 0:
            return
        controls = turn.controls.get(line.queue)
        if controls is None:
            controls = turn.controls[line.queue] = await queues.all_controls(self._store, line.queue)
        own = controls.tenants.get(line.org)
        if controls.operator.paused or controls.holds_lane(line.org, line.group):
            return
        passed = set(controls.operator.paused_names) | set(own.paused_names if own else ())
        for _ in range(ROUNDS):
            rows = await lines.heads(self._store, line.text, share, without_names=passed)
            if not rows:
                return
            names = {row["name"] for row in rows}
            won, full = await self._win(line.queue, rows, controls, turn.worker_id)
            turn.parcels += [Parcel(job, address) for job in won]
            turn.sent_to[address.url] += len(won)
            if won or not full:
                return
            # What is full may be the limit of a name: behind its jobs there are perhaps others.
            passed |= names

    async def _win(
        self, queue: str, rows: Sequence[Document], controls: AllControls, worker_id: str
    ) -> tuple[list[ClaimedJob], bool]:
        """The jobs that were won, and whether a limit had no room for any."""
        jobs = ((row["_id"], row["org"], row["name"], row.get("group")) for row in rows)
        needed = await self._permits.needs(jobs, controls)
        with self._claims.claiming(worker_id) as token:
            grant = await self._permits.reserve(queue, needed, token=token)
            if not grant.jobs:
                return [], bool(grant.full)
            claim = permits.claim(
                self._store, permits.grouped(grant.jobs), token=token, worker_id=worker_id, before=grant.before
            )
            found = await self._claims.settled(claim, token, worker_id)
            if not isinstance(found, list):
                found = await read_back(self._store, token, worker_id, acknowledged=True) if found else []
                await self._permits.settle(grant, {row["_id"] for row in found})
            if not found:
                return [], False
            place = {id: position for position, id in enumerate(grant.jobs)}
            found.sort(key=lambda row: place[row["_id"]])
            # Nothing is sent on a check made before a pause.
            now = await queues.all_controls(self._store, queue)
            return await self._claims.allowed(found, now, grant.limits), False

    async def _address(self, line: Line) -> Address | None:
        """Where a line's jobs go; read anew after half a second."""
        now = time.monotonic()
        known = self._known.get(line.text)
        if known is None or now > known[1]:
            found = await webhooks.addresses(self._store, line.targets)
            address = next((found[target] for target in line.targets if target in found), None)
            if len(self._known) >= MAX_REMEMBERED:
                self._known.clear()
            known = self._known[line.text] = (address, now + REMEMBERED_SECONDS)
        return known[0]

    async def _park(self, line: Line) -> None:
        """Puts the jobs of a line aside until somebody sets a webhook for it.

        Whoever sets one writes it first and unparks second; here it is read again after parking: one of the two sees
        the other.
        """
        while rows := await lines.heads(self._store, line.text, PARKED_AT_ONCE):
            ids = [row["_id"] for row in rows]
            match = {"_id": {"$in": ids}, "state": "waiting", "parked": None}
            await self._store.jobs.update_many(match, transitions.park(NO_WEBHOOK))
            self._known.pop(line.text, None)
            if await self._address(line) is not None:
                match = {"_id": {"$in": ids}, "state": "waiting", "parked": NO_WEBHOOK}
                await self._store.jobs.update_many(match, transitions.unpark())
                return

    async def unpark_addressed(self) -> int:
        """Unparks jobs whose target has a webhook by now, without whoever set it getting to that. Returns: how many."""
        match = parked(NO_WEBHOOK)
        found = await self._store.database.aggregate(
            self._store.jobs.name, [{"$match": match}, {"$group": {"_id": "$line"}}, {"$limit": PARKED_AT_ONCE}]
        )
        freed = 0
        for row in found:
            line = Line.parsed(row["_id"])
            if await webhooks.addresses(self._store, line.targets):
                result = await self._store.jobs.update_many({**match, "line": line.text}, transitions.unpark())
                freed += result.modified_count
        return freed

    def wakes(self) -> AsyncIterator[None]:
        """Yields whenever a job to deliver may have become claimable, and once at first.

        Raises: StoreUnavailable, HistoryLost: open it again, and claim once without being woken.
        """
        return changes.delivery_wakes(self._store)
