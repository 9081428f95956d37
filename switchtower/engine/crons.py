"""What can be asked of a cron, and done with it? And who makes its jobs?"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from switchtower.callers import SYSTEM, Caller
from switchtower.clock import from_ms, to_ms
from switchtower.crons import CatchUp, Cron, Fire, NewCron, Overlap, Schedule
from switchtower.engine.jobs import Jobs
from switchtower.errors import Conflict, InvalidInput, InvalidTransition, NotFound, StoreUnavailable, SwitchtowerError
from switchtower.ids import CRON, JOB, new_id, settled_id
from switchtower.jobs import Enqueued, Job, NewJob
from switchtower.pages import Count, Page
from switchtower.states import FINAL
from switchtower.store import crons as commands
from switchtower.store import jobs as job_commands
from switchtower.store.collections import Store
from switchtower.store.driver import DriverError, translate_errors
from switchtower.store.scans import scan

__all__ = ["Crons"]

Document = dict[str, Any]

log = logging.getLogger(__name__)

ON_TIME = timedelta(seconds=60)
KEEPING_UP = timedelta(seconds=10)
"""Schedulers that are no further behind have not been away: their slots fire whatever the catch-up policy is."""
STALE_SECONDS = 20.0
CATCH_UP_LIMIT = 1_000
TICK_LIMIT = 200
FIELDS = frozenset(
    {"name", "schedule", "job", "starts_at", "ends_at", "limit", "overlap", "catch_up", "jitter_ms", "enabled"}
)


@translate_errors
class Crons:
    """The verbs on crons."""

    def __init__(self, store: Store, jobs: Jobs, payload_limit: int) -> None:
        self._store = store
        self._jobs = jobs
        self._payload_limit = payload_limit

    async def create(self, new: NewCron, *, caller: Caller) -> Cron:
        """Creates a cron. Creating it again under its name with the same definition answers with the one that is there.

        Raises: InvalidInput, NotFound (the queue), Conflict when the name stands for another definition.
        """
        new.check(payload_limit=self._payload_limit)
        caller.check_queue(new.job.queue)
        document = self._document(new, caller)
        try:
            await commands.insert(self._store, document, actor=caller.actor, source=caller.surface)
        except job_commands.Duplicate:
            there = await commands.by_name(self._store, new.name, caller.owner)
            if there is not None and _definition(there) == _definition(document):
                return commands.cron_from(there)
            holder = there["_id"] if there else None
            raise Conflict(
                f"A cron named {new.name!r} exists with another definition; update it, or choose another name.",
                holder=holder,
            ) from None
        return commands.cron_from({**document, "fired": 0, "fires": [], "updated_at": document["created_at"]})

    async def declare(self, new: NewCron, *, caller: Caller) -> Cron:
        """Makes the cron of this name be as the code says: creates it, or changes what differs; whether it is enabled
        is left to operators once it exists. Harmless in any number of processes at once."""
        try:
            return await self.create(new, caller=caller)
        except Conflict:
            there = await commands.by_name(self._store, new.name, caller.owner)
            if there is None:
                return await self.create(new, caller=caller)
            given = {field: getattr(new, field) for field in FIELDS - {"name", "enabled"}}
            return await self.update(there["_id"], given, caller=caller)

    def _document(self, new: NewCron, caller: Caller) -> Document:
        now = self._store.clock.now()
        schedule = self._anchored(new.schedule, _stored(new.starts_at) or now)
        document: Document = {
            "_id": new_id(CRON),
            "name": new.name,
            "org": caller.owner,
            "schedule": commands.schedule_document(schedule),
            "job": commands.job_template(_addressed(new.job, caller)),
            "enabled": new.enabled,
            "overlap": new.overlap.value,
            "catch_up": new.catch_up.value,
            "jitter_ms": new.jitter_ms,
            "starts_at": _stored(new.starts_at),
            "ends_at": _stored(new.ends_at),
            "limit": new.limit,
            "created_at": now,
        }
        if caller.app:
            document["app"] = caller.app
        cron = commands.cron_from({**document, "fired": 0, "fires": [], "updated_at": now})
        document["next_at"] = cron.following(now) if new.enabled else None
        return document

    @staticmethod
    def _anchored(schedule: Schedule, anchor: datetime) -> Schedule:
        return (
            replace(schedule, anchor=anchor) if schedule.every_ms is not None and schedule.anchor is None else schedule
        )

    async def get(self, id: str, *, caller: Caller) -> Cron | None:
        """The cron with this id; None when the caller sees none."""
        row = await commands.find(self._store, id, caller)
        return None if row is None else commands.cron_from(row)

    async def get_many(self, ids: Sequence[str], *, caller: Caller) -> dict[str, Cron]:
        """Crons by id; those that are not visible are left out."""
        match = {"_id": {"$in": list(ids)}, **commands.visible_to(caller)}
        return {row["_id"]: commands.cron_from(row) async for row in self._store.crons.find(match)}

    async def page(self, *, caller: Caller, first: int = 50, after: str | None = None) -> Page[Cron]:
        """Crons, oldest first. The cursor is the id."""
        rows = await commands.page(self._store, caller, after=after, limit=first + 1)
        shown = rows[:first]
        items = [commands.cron_from(row) for row in shown]
        return Page(items, [row["_id"] for row in shown], has_next=len(rows) > first, has_previous=after is not None)

    async def offset_page(
        self, *, caller: Caller, offset: int = 0, limit: int = 50, queue: str | None = None
    ) -> list[Cron]:
        """A page by offset, the oldest first, as the REST dialects ask for it; with `queue`, of that queue's."""
        rows = await commands.page(self._store, caller, after=None, limit=limit, skip=offset, queue=queue)
        return [commands.cron_from(row) for row in rows]

    async def count(self, *, caller: Caller, queue: str | None = None) -> Count:
        """How many crons there are (of one queue)."""
        match = {"$and": [commands.visible_to(caller), {} if queue is None else {"job.queue": queue}]}
        return Count(await self._store.crons.count_documents(match, hint=scan("crons.count")), True)

    async def update(self, id: str, given: Mapping[str, Any], *, caller: Caller) -> Cron:
        """Changes what is given of a cron (fields as `NewCron` has them); its next slot is computed afresh.

        Raises: NotFound, InvalidInput, Conflict (the name is taken, or somebody else changed it at the same time).
        """
        unknown = set(given) - FIELDS
        if unknown:
            raise InvalidInput("input", f"has no field {sorted(unknown)[0]!r}.")
        if not given:
            raise InvalidInput("input", "changes nothing; give at least one field.")
        return await self._change(id, "update", given, caller)

    async def enable(self, id: str, *, caller: Caller) -> Cron:
        """Lets a cron fire again, from its next slot on; slots that passed meanwhile are not made up for. Idempotent.

        Raises: NotFound.
        """
        return await self._change(id, "enable", {"enabled": True}, caller)

    async def disable(self, id: str, *, caller: Caller) -> Cron:
        """Stops a cron; its jobs stay. Idempotent. Raises: NotFound."""
        return await self._change(id, "disable", {"enabled": False}, caller)

    async def _change(self, id: str, type: str, given: Mapping[str, Any], caller: Caller) -> Cron:
        for _ in range(10):
            row = await commands.find(self._store, id, caller)
            if row is None:
                raise NotFound("Cron", id)
            if type in ("enable", "disable") and row["enabled"] is given["enabled"]:
                return commands.cron_from(row)
            cron = commands.cron_from(row)
            wanted = NewCron(
                **{field: given.get(field, getattr(cron, field)) for field in FIELDS},
            )
            wanted.check(payload_limit=self._payload_limit)
            caller.check_queue(wanted.job.queue)
            now = self._store.clock.now()
            if "schedule" in given and given["schedule"].every_ms is not None:
                same = cron.schedule.every_ms == given["schedule"].every_ms
                wanted.schedule = self._anchored(given["schedule"], (cron.schedule.anchor if same else None) or now)
            if "job" in given:
                wanted.job = _addressed(wanted.job, caller)
            changed: Document = {
                "name": wanted.name,
                "schedule": commands.schedule_document(wanted.schedule),
                "job": commands.job_template(wanted.job),
                "enabled": wanted.enabled,
                "overlap": wanted.overlap.value,
                "catch_up": wanted.catch_up.value,
                "jitter_ms": wanted.jitter_ms,
                "starts_at": _stored(wanted.starts_at),
                "ends_at": _stored(wanted.ends_at),
                "limit": wanted.limit,
            }
            if (
                type == "update"
                and _definition({**row, **changed}) == _definition(row)
                and wanted.enabled is cron.enabled
            ):
                return cron
            following = commands.cron_from({**row, **changed}).following(now)
            changed["next_at"] = following if wanted.enabled else None
            try:
                after = await commands.change(self._store, id, caller, type, changed, seen=row["event_seq"])
            except job_commands.Duplicate:
                raise Conflict(f"Another cron is named {wanted.name!r}.") from None
            if after is not None:
                return commands.cron_from(after)
        raise Conflict(f"Cron {id!r} kept changing meanwhile; try again.")

    async def delete(self, id: str, *, caller: Caller) -> Cron:
        """Deletes a cron for good; returns it as it was. Its jobs stay. Raises: NotFound."""
        row = await commands.delete(self._store, id, caller)
        if row is None:
            raise NotFound("Cron", id)
        return commands.cron_from(row)

    async def trigger(self, id: str, *, caller: Caller, idempotency_key: str | None = None) -> Enqueued:
        """Enqueues the cron's job now, beside its slots; disabled crons can be triggered too. Raises: NotFound."""
        row = await commands.find(self._store, id, caller)
        if row is None:
            raise NotFound("Cron", id)
        cron = commands.cron_from(row)
        job = replace(cron.job, idempotency_key=idempotency_key, cron_id=cron.id)
        owner = Caller(caller.actor, cron.org, cron.app, caller.source)
        return await self._jobs.enqueue(job, caller=owner)

    async def tick(self) -> int:
        """Makes the jobs of every slot that has come. Safe in any number of schedulers at once, and to be killed in.

        Returns: how many slots were dealt with.
        """
        done = 0
        read_at = time.monotonic()
        for row in await commands.due(self._store, TICK_LIMIT):
            try:
                taken = row if row["due"] else await self._take(row)
                if taken is not None:
                    done += await self._fire(taken, read_at)
            except StoreUnavailable:
                raise
            except SwitchtowerError as error:
                log.warning("cron %s could not fire: %s", row["_id"], error)
            except DriverError:
                raise
            except Exception:
                log.exception("cron %s could not fire; the others go on", row["_id"])
        return done

    async def _take(self, row: Document) -> Document | None:
        cron = commands.cron_from(row)
        now = self._store.clock.now()
        first: datetime = row["next_at"]
        if first > now:
            # Our reading of the database's clock is a moment behind the clock itself.
            return None
        slots = self._come(cron, first, now)
        following = cron.following(now)
        if cron.limit is not None:
            slots = slots[: max(0, cron.limit - cron.fired)]
            if cron.fired + len(slots) >= cron.limit:
                following = None
        return await commands.take_slots(self._store, row, slots, next_at=following)

    @staticmethod
    def _come(cron: Cron, first: datetime, now: datetime) -> list[datetime]:
        """The slots that fire now, of those from `first` on: all while schedulers keep up; after an outage what the
        cron's policy says."""
        slots: list[datetime] = []
        if now - first <= KEEPING_UP or cron.catch_up is CatchUp.ALL:
            slot: datetime | None = first
            while slot is not None and slot <= now and len(slots) < CATCH_UP_LIMIT:
                slots.append(slot)
                slot = cron.following(slot)
            if slot is not None and slot <= now:
                log.warning("cron %s: slots from %s on are left out; %d were made up for", cron.name, slot, len(slots))
            return slots
        last = cron.schedule.latest(min(now, cron.ends_at or now), behind=first) or first
        return [] if cron.catch_up is CatchUp.SKIP and now - last > ON_TIME else [last]

    async def _fire(self, row: Document, read_at: float) -> int:
        cron = commands.cron_from(row)
        previous: str | None = row.get("last_job_id")
        for done, entry in enumerate(row["due"]):
            slot: datetime = entry["slot"]
            if time.monotonic() - read_at > STALE_SECONDS:
                # This process stood still, maybe for so long that the slot's job is done and forgotten.
                return done
            fire = await self._make(cron, slot, previous, entry.get("skip"))
            behind = await self._behind(cron, slot) if cron.limit is not None and row["next_at"] is None else None
            await commands.settle(self._store, cron.id, slot, fire, actor="system", behind=behind)
            previous = fire.job_id or previous
        return len(row["due"])

    async def _behind(self, cron: Cron, slot: datetime) -> datetime | None:
        """The slot behind another, whatever the cron's limit is: one that was skipped does not count."""
        row = await commands.find(self._store, cron.id, SYSTEM)
        return None if row is None else replace(commands.cron_from(row), limit=None).following(slot)

    async def _make(self, cron: Cron, slot: datetime, previous: str | None, skip: str | None) -> Fire:
        """The job of one slot: found, where an earlier try made it, else made as the overlap policy allows."""
        owner = Caller(f"cron:{cron.name}", cron.org, cron.app, "cron")
        now = self._store.clock.now()
        id = settled_id(JOB, to_ms(slot), f"{cron.id}@{to_ms(slot)}")
        if previous is not None and cron.overlap is Overlap.SKIP and skip is None:
            if not await job_commands.find_by_ids(self._store, [id], fields={"_id": 1}):
                open_ = await self._open(previous)
                reason = None if open_ is None else f"Job {previous} of the slot before was still {open_.state}."
                skip = await commands.decide(self._store, cron.id, slot, reason)
        elif previous is not None and previous != id and cron.overlap is Overlap.REPLACE:
            try:
                await self._jobs.cancel(previous, caller=owner)
            except (InvalidTransition, NotFound):
                log.debug("job %s had ended before it was to be replaced", previous)
        if skip:
            return Fire(slot, now, "skipped", None, skip)
        job = replace(cron.job, job_id=f"{cron.id}@{to_ms(slot)}", run_at=slot + cron.delay_of(slot), cron_id=cron.id)
        answer = await self._jobs.enqueue_as(id, job, caller=owner)
        if answer.job.id != id:
            return Fire(slot, now, "skipped", None, f"Job {answer.job.id} holds its unique key.")
        return Fire(slot, now, "fired", id)

    async def _open(self, job_id: str) -> Job | None:
        job = await self._jobs.get(job_id, caller=SYSTEM, with_=frozenset())
        return None if job is None or job.state in FINAL else job


def _stored(at: datetime | None) -> datetime | None:
    """A time as the database gives it back."""
    return None if at is None else from_ms(to_ms(at))


def _definition(d: Mapping[str, Any]) -> tuple[Any, ...]:
    """What makes two crons the same: everything but ids, times and whether it is enabled."""
    schedule = {key: value for key, value in d["schedule"].items() if key != "anchor"}
    rest = ("name", "job", "overlap", "catch_up", "jitter_ms", "starts_at", "ends_at", "limit")
    return (repr(sorted(schedule.items())), *(repr(d.get(key)) for key in rest))


def _addressed(job: NewJob, caller: Caller) -> NewJob:
    """A job to deliver goes to the webhook of the key that made the cron, whoever fires it."""
    return replace(job, webhook_key=job.webhook_key or caller.key_id) if job.webhook else job
