"""What happened over time?"""

from __future__ import annotations

from datetime import datetime, timedelta

from switchtower.callers import EVERYTHING, SYSTEM, Caller
from switchtower.engine.stats import Stats
from switchtower.errors import InvalidInput
from switchtower.metrics import Granularity, MetricBucket, Snapshot, check_range, merged
from switchtower.store import counters
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors

__all__ = ["Metrics"]

SNAPSHOT_SECONDS = 10
MAX_HISTORY = 2_000
SPARKLINE = timedelta(hours=1)


@translate_errors
class Metrics:
    """Reads of the folded series; `enabled` is whether they are folded at all."""

    def __init__(self, store: Store, stats: Stats, *, enabled: bool) -> None:
        self._store = store
        self._stats = stats
        self.enabled = enabled

    def _required(self) -> None:
        if not self.enabled:
            raise InvalidInput("metrics", "are turned off (SWITCHTOWER_METRICS=false).")

    async def buckets(
        self,
        queue: str | None,
        *,
        caller: Caller,
        name: str | None = None,
        by_name: bool = False,
        granularity: Granularity = Granularity.MINUTE,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> list[MetricBucket]:
        """The buckets of a queue, or of all together, whose queue is then "" (of one job name; or, with `by_name`, of
        each), from an hour ago until now by default, oldest first; times without jobs are left out.

        Raises: InvalidInput for a range of more than 10,000 buckets, and when metrics are turned off.
        """
        self._required()
        until = until or self._store.clock.now()
        since = since or until - timedelta(hours=1)
        check_range(granularity, since, until)
        if queue is None:
            return await counters.totals(
                self._store,
                since=since,
                until=until,
                reach=caller.reach,
                name=name,
                by_name=by_name,
                granularity=granularity,
            )
        found = await counters.series(
            self._store,
            queues=[queue],
            since=since,
            until=until,
            reach=caller.reach,
            name=name,
            granularity=granularity,
        )
        return found if by_name or name is not None else merged(found)

    async def sparklines(self, queues: list[str], *, caller: Caller) -> dict[str, list[int]]:
        """Per queue, how many jobs ended (completed or failed) in each of the last 60 minutes, the present one last."""
        self._required()
        now = Granularity.MINUTE.start_of(self._store.clock.now())
        since = now - SPARKLINE + Granularity.MINUTE.span
        lines = {queue: [0] * 60 for queue in queues}
        for bucket in await counters.series(self._store, queues=queues, since=since, reach=caller.reach):
            place = int((bucket.at - since) / Granularity.MINUTE.span)
            if 0 <= place < 60:
                lines[bucket.queue][place] += bucket.completed + bucket.failed
        return lines

    async def history(self, *, limit: int = 120) -> list[Snapshot]:
        """The last snapshots of the totals, the newest first; one every ten seconds for a week."""
        self._required()
        return await counters.snapshots(self._store, max(1, min(limit, MAX_HISTORY)))

    async def snapshot(self) -> bool:
        """Takes a snapshot when the last one is ten seconds old. Returns: whether it did."""
        if not self.enabled:
            return False
        now = self._store.clock.now()
        at = now.replace(second=now.second // SNAPSHOT_SECONDS * SNAPSHOT_SECONDS, microsecond=0)
        last = await counters.last_snapshot(self._store)
        if last is not None and last >= at:
            return False
        totals = await self._stats.totals(caller=SYSTEM)
        queues = sorted(await counters.by_queue(self._store, reach=EVERYTHING))
        minute = Granularity.MINUTE.start_of(now)
        whole = MetricBucket(minute, Granularity.MINUTE, "", None)
        for bucket in await counters.series(self._store, queues=queues, since=minute, reach=EVERYTHING):
            whole.add(bucket)
        await counters.take_snapshot(
            self._store,
            Snapshot(
                at=at,
                counts={state.value: n for state, n in totals.counts.items()},
                queues=totals.queues,
                workers=totals.workers,
                completed=whole.completed,
                failed=whole.failed,
                retried=whole.retried,
                mean_ms=whole.run_ms / whole.runs if whole.runs else None,
            ),
        )
        return True
