"""Which commands look through a whole collection, and why may they?

Every other command is served by an index of its own, so that all of this runs on a mongod with `notablescan=1`, which
refuses what is not. Those named here walk the index of ids: what they look for has no index, because the collection is
small, or because nobody asks often enough for each write to pay for one. They are bounded in time or by a limit.
"""

from __future__ import annotations

from typing import Any

__all__ = ["SCANS", "by_any_id", "scan"]

SCANS: dict[str, str] = {
    "queues.known": "all controls are asked for, and there are as many as somebody ever controlled queues",
    "keys.none_exists": "the first key that it meets answers",
    "crons.count": "crons are made by hand, by thousands at most",
    "jobs.filter": "a list or count by group, text or payload alone, or of one state of all jobs: two seconds at most",
    "dead_letters.count": "a count by name, text or fault alone: two seconds at most",
    "audit.count": "a count by text, status or surface alone: two seconds at most",
}
"""What truly must scan, by the name that its call site gives, with the reason."""


def scan(name: str) -> str:
    """The hint for a look through a whole collection, which stands in `SCANS` under this name."""
    assert name in SCANS, name
    return "_id_"


def by_any_id(name: str) -> dict[str, Any]:
    """The same as a condition, for a filter that an index may serve or not: it lets the planner walk the ids where
    none does."""
    assert name in SCANS, name
    return {"_id": {"$gt": ""}}
