"""What must be done now and then so that nothing is left lying?

Each duty is one method, idempotent, safe to run in two processes at once and to be killed in. `switchtower.maintenance`
decides who runs them and when.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from switchtower.engine.audit import Audit
from switchtower.engine.bulk import Bulk
from switchtower.engine.effects import Effects
from switchtower.engine.metrics import Metrics
from switchtower.engine.workers import Workers
from switchtower.events import Event, HistoryLost
from switchtower.failpoints import die_at
from switchtower.jobs import ErrorKind, JobError, fingerprint
from switchtower.store import changes, counters, leases, listing, operations, outbox, queues, transitions
from switchtower.store import jobs as commands
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors
from switchtower.store.guards import parked, starts_from
from switchtower.store.skew import TOLERATED_SECONDS

__all__ = ["Retention", "Upkeep"]

log = logging.getLogger(__name__)

Document = dict[str, Any]

CHUNK = 1_000
_NOT_SEEN = object()


@dataclass(frozen=True, slots=True)
class Retention:
    """How long final jobs, and rows of the audit trail, are kept, in seconds; None keeps them for ever."""

    completed_seconds: int | None = 7 * 24 * 3600
    failed_seconds: int | None = 30 * 24 * 3600
    cancelled_seconds: int | None = 7 * 24 * 3600
    tombstone_seconds: int = 60
    audit_seconds: int | None = 90 * 24 * 3600


@translate_errors
class Upkeep:
    """The duties of maintenance."""

    def __init__(
        self,
        store: Store,
        effects: Effects,
        workers: Workers,
        bulk: Bulk,
        retention: Retention,
        metrics: Metrics,
        audit: Audit,
    ) -> None:
        self._store = store
        self._audit = audit
        self._metrics = metrics
        self._effects = effects
        self._workers = workers
        self._bulk = bulk
        self._retention = retention
        self._primary: Any = _NOT_SEEN
        self._skewed = False
        self._healthy_since = time.monotonic()
        self._blocked_from = ""

    async def elect(self, duty: str, holder: str, term_ms: int) -> int | None:
        """Takes or renews a duty; returns the term, or None when another process holds it."""
        return await leases.acquire(self._store, duty, holder, term_ms)

    async def resign(self, duty: str, holder: str) -> None:
        """Gives a duty up at once."""
        await leases.resign(self._store, duty, holder)

    async def observe(self) -> None:
        """Pings the primary; a change of primary, or a ping that failed, begins the rescuer's grace anew. Logs when the
        members' clocks come to differ."""
        try:
            await self._store.database.ping()
        except Exception:
            self._primary = None
            raise
        primary = self._store.database.primary
        if primary != self._primary:
            # The grace of the first one seen began with this process.
            if self._primary is not _NOT_SEEN:
                self._healthy_since = time.monotonic()
            self._primary = primary
        skew = self._store.database.members.skew_seconds
        if (skew > TOLERATED_SECONDS) is not self._skewed:
            self._skewed = not self._skewed
            if self._skewed:
                log.warning("the clocks of the replica set's members are %.1f s apart: set them by NTP", skew)
            else:
                log.info("the clocks of the replica set's members agree again")

    async def stage(self) -> int:
        """Makes due jobs claimable. Returns: how many."""
        staged = 0
        while True:
            due = {"state": {"$in": ["scheduled", "retrying"]}, "$expr": {"$lte": ["$run_at", "$$NOW"]}}
            rows = (
                await self._store.jobs.find(due, {"_id": 1}, sort=[("run_at", 1)], limit=CHUNK)
                .hint("due")
                .to_list(None)
            )
            if not rows:
                return staged
            staged += await commands.move_many(
                self._store, "stage", [row["_id"] for row in rows], transitions.stage(), guard=_due()
            )
            if len(rows) < CHUNK:
                return staged

    async def expire(self) -> int:
        """Fails jobs whose TTL passed before they ran. Returns: how many."""
        now = self._store.clock.now()
        rows = await self._store.jobs.find(
            {"expires_at": {"$lte": now}, "state": {"$in": ["scheduled", "waiting", "blocked", "retrying"]}},
            {"_id": 1},
            limit=CHUNK,
        ).to_list(None)
        if not rows:
            return 0
        message = "The job's time to live passed before it could finish."
        error = JobError(ErrorKind.EXPIRED, "Expired", message, None, fingerprint("Expired", ""))
        moved = await commands.move_many(
            self._store,
            "expire",
            [row["_id"] for row in rows],
            transitions.expire(error),
            guard={
                "state": {"$in": ["scheduled", "waiting", "blocked", "retrying"]},
                "$expr": {"$lte": ["$expires_at", "$$NOW"]},
            },
        )
        self._effects.kick()
        return moved

    async def rescue(self) -> int:
        """Declares workers lost whose lease has passed, and takes back the jobs of every worker that is gone.

        Not within one heartbeat interval of a change of primary or a lost connection: the new primary's clock may be
        ahead, and live workers must be able to renew first. Returns: how many jobs moved.
        """
        moved = 0
        passed = await leases.lost_candidates(self._store)
        if passed:
            # Asked after the read: the driver may have carried that over to a new primary without an error.
            await self.observe()
        healthy = time.monotonic() - self._healthy_since
        for row in passed:
            if healthy >= row["lease_ms"] / 3000:
                await leases.lose(self._store, row["_id"])
        for worker_id in await leases.stray_holders(self._store):
            moved += await self._workers.take_back(worker_id)
        return moved

    async def relay(self) -> int:
        """Carries out effects that a dead process declared. Returns: how many jobs had some."""
        relayed = 0
        while (now := await self._effects.relay()) > 0:
            relayed += now
        return relayed

    async def let_go(self) -> int:
        """Frees idempotency keys and unique keys whose time has passed. Returns: how many jobs."""
        return await commands.let_go(self._store)

    async def repair_blocked(self) -> None:
        """Looks after blocked jobs whose dependencies ended without telling; goes round in portions."""
        self._blocked_from = await outbox.repair_blocked(self._store, after=self._blocked_from, limit=CHUNK)

    async def unpark(self) -> int:
        """Unparks jobs whose cause has gone without whoever ended it getting to it. Returns: how many."""
        freed = 0
        causes = await self._store.database.aggregate(
            self._store.jobs.name,
            [
                {"$match": parked("paused", "no_handler")},
                {"$group": {"_id": {"queue": "$queue", "name": "$name", "parked": "$parked"}}},
                {"$limit": CHUNK},
            ],
        )
        for cause in causes:
            queue, name, reason = (cause["_id"][key] for key in ("queue", "name", "parked"))
            if reason == "paused":
                gone = not await queues.holds_name(self._store, queue, name)
            else:
                served = {"state": {"$in": leases.PRESENT}, "queues": queue, "names": {"$in": [name, []]}}
                gone = await self._store.workers.find_one(served, {"_id": 1}) is not None
            if gone:
                result = await self._store.jobs.update_many(
                    {**parked(reason), "queue": queue, "name": name}, transitions.unpark()
                )
                freed += result.modified_count
        return freed

    async def resume_bulk(self) -> int:
        """Takes up bulk operations whose process died. Returns: how many ended."""
        return await self._bulk.resume()

    async def prune(self) -> int:
        """Removes final jobs past their retention; deletes tombstones that nothing refers to. Returns: deletions."""
        now = self._store.clock.now()
        for state, seconds in (
            ("completed", self._retention.completed_seconds),
            ("failed", self._retention.failed_seconds),
            ("cancelled", self._retention.cancelled_seconds),
        ):
            if seconds is not None:
                await self._retire(state, now - timedelta(seconds=seconds))
        old = now - timedelta(seconds=self._retention.tombstone_seconds)
        match: Document = {
            "state": "removed",
            "removed_at": {"$lt": old},
            "outbox": {"$exists": False},
            "idempotency_key": {"$exists": False},
            "unique_hold": {"$exists": False},
        }
        deleted = 0
        while True:
            rows = await self._store.jobs.find(match, {"_id": 1}, limit=CHUNK).hint("removed_at").to_list(None)
            ids = [row["_id"] for row in rows]
            awaited: Sequence[str] = (
                await self._store.jobs.distinct("pending", {"pending": {"$in": ids}}) if ids else []
            )
            free = [id for id in ids if id not in set(awaited)]
            if not free:
                return deleted
            result = await self._store.jobs.delete_many({**match, "_id": {"$in": free}})
            deleted += int(result.deleted_count)
            if len(ids) < CHUNK:
                return deleted

    async def _retire(self, state: str, before: Any) -> None:
        for queue in await listing.queue_names(self._store):
            after = ""
            while True:
                rows = (
                    await self._store.jobs.find(
                        {"queue": queue, "state": state, "_id": {"$gt": after}},
                        {"created_at": 1, "finished_at": 1, "updated_at": 1},
                        sort=[("_id", 1)],
                        limit=CHUNK,
                    )
                    .hint("listing")
                    .to_list(None)
                )
                if not rows:
                    break
                after = rows[-1]["_id"]
                ids = [row["_id"] for row in rows if row.get("finished_at", row["updated_at"]) < before]
                if ids:
                    await commands.move_many(
                        self._store,
                        "remove",
                        ids,
                        operations.remove("retention"),
                        guard={"state": state, "finished_at": {"$lt": before}, "outbox": {"$exists": False}},
                    )
                # Ids sort by creation: behind a whole portion of younger jobs there is nothing old enough.
                if all(row["created_at"] >= before for row in rows):
                    break

    async def fold_position(self) -> tuple[str | None, int]:
        """Up to which cursor and cluster time events are counted; (None, 0) before the first count."""
        return await counters.position(self._store)

    async def fold(self, events: Sequence[Event], *, reached: str, seen: str | None, counted: int = 0) -> bool:
        """Writes the audit rows of a batch of events, then counts it in one transaction, save the events up to the
        cluster time `counted`; False when another folder has gone on meanwhile.

        Rows before cursor: a folder that dies in between writes the same rows again, under the same ids.
        """
        await self._audit.relay(events)
        die_at("after_relay")
        delta = counters.fold(event for event in events if event.clock > counted)
        return await counters.commit(self._store, delta, reached=reached, seen=seen, series=self._metrics.enabled)

    async def relay_unseen(self, *, after: str, until: str) -> None:
        """Writes the audit rows of what happened between two cursors, which no folder saw event by event.

        Where the history is lost, a row of the action `audit.gap` says so.
        """
        try:
            async with contextlib.aclosing(changes.read(self._store, after=after)) as batches:  # type: ignore[type-var]
                async for batch, cursor in batches:
                    await self._audit.relay([event for event in batch if event.cursor <= until])
                    if cursor >= until:
                        return
        except HistoryLost as lost:
            await self._audit.missed(str(lost))

    async def recount(self, *, reached: str) -> int:
        """Counts everything afresh; returns the cluster time that the count stands for."""
        return await counters.recount(self._store, reached=reached)


def _due() -> Document:
    return {**starts_from("stage"), "$expr": {"$lte": ["$run_at", "$$NOW"]}}
