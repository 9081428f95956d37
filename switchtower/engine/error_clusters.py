"""Which faults are behind the jobs that failed?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from switchtower.jobs import JobError
from switchtower.store import listing
from switchtower.store.collections import Store
from switchtower.store.documents import error_from
from switchtower.store.driver import time_limit

__all__ = ["ErrorCluster", "HourCount", "error_clusters"]

Document = dict[str, Any]

TREND_HOURS = 24
LOOKED_AT = 10_000


@dataclass(frozen=True, slots=True)
class HourCount:
    """How many jobs failed in the hour that began at `at`."""

    at: datetime
    count: int


@dataclass(frozen=True, slots=True)
class ErrorCluster:
    """Failed jobs with the same fault: how many (of the newest 10,000), where, since when, and how many in each of the
    last 24 hours that had one, oldest first."""

    fingerprint: str
    error: JobError
    count: int
    queues: list[str]
    names: list[str]
    first_seen: datetime
    last_seen: datetime
    sample_job_id: str
    trend: list[HourCount] = field(default_factory=list)


async def error_clusters(store: Store, match: Document, *, limit: int) -> list[ErrorCluster]:
    """The errors of the newest 10,000 jobs that match, grouped by fault, the largest group first."""
    with time_limit(listing.TIME_LIMIT_MS):
        rows = await store.database.aggregate(
            store.jobs.name,
            [
                {"$match": {"$and": [match, {"error": {"$exists": True}}]}},
                {"$sort": {"_id": -1}},
                {"$limit": LOOKED_AT},
                {
                    "$project": {
                        "error": 1,
                        "queue": 1,
                        "name": 1,
                        "at": {"$ifNull": ["$finished_at", "$updated_at"]},
                    }
                },
                {
                    "$group": {
                        "_id": {
                            "fingerprint": "$error.fingerprint",
                            "hour": {"$dateTrunc": {"date": "$at", "unit": "hour"}},
                        },
                        "error": {"$first": "$error"},
                        "sample": {"$first": "$_id"},
                        "count": {"$sum": 1},
                        "queues": {"$addToSet": "$queue"},
                        "names": {"$addToSet": "$name"},
                        "first": {"$min": "$at"},
                        "last": {"$max": "$at"},
                    }
                },
                {"$sort": {"sample": -1}},
                {
                    "$group": {
                        "_id": "$_id.fingerprint",
                        "error": {"$first": "$error"},
                        "sample": {"$first": "$sample"},
                        "count": {"$sum": "$count"},
                        "queues": {"$push": "$queues"},
                        "names": {"$push": "$names"},
                        "first": {"$min": "$first"},
                        "last": {"$max": "$last"},
                        "hours": {"$push": {"at": "$_id.hour", "count": "$count"}},
                    }
                },
                {"$sort": {"count": -1, "last": -1}},
                {"$limit": limit},
            ],
        )
    since = store.clock.now() - timedelta(hours=TREND_HOURS)
    clusters = []
    for row in rows:
        error = error_from(row["error"])
        assert error is not None
        clusters.append(
            ErrorCluster(
                row["_id"],
                error,
                row["count"],
                sorted(set().union(*row["queues"])),
                sorted(set().union(*row["names"])),
                row["first"],
                row["last"],
                row["sample"],
                _trend(row["hours"], since),
            )
        )
    return clusters


def _trend(hours: Sequence[Document], since: datetime) -> list[HourCount]:
    counts = [HourCount(hour["at"], hour["count"]) for hour in hours if hour["at"] > since]
    return sorted(counts, key=lambda hour: hour.at)
