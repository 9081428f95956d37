"""What must hold after any fault has healed and the queue has drained (N2 of the reliability rules).

Nothing acknowledged is lost; no generation completes twice; every effect happened exactly once; whoever saw a handler
run twice can see why; the counters equal a fresh count; nothing is left half done.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pymongo.database import Database

from switchtower.engine import Engine
from tests.databases import anywhere
from tests.histories import runs_of, steps_of
from tests.waiting import until

FINAL = ("completed", "failed", "cancelled")
PRESENT = ["live", "draining"]


@dataclass(frozen=True)
class Note:
    """One line that a handler wrote outside the database: `begin` before its work, `effect` after it."""

    what: str
    job: str
    attempt: int
    fence: int
    token: str
    pid: int
    at: float


@dataclass
class Ledger:
    """What handlers did in the world, told by a file that they append to."""

    path: Path
    notes: list[Note] = field(default_factory=list)

    def read(self) -> Ledger:
        text = self.path.read_text() if self.path.exists() else ""
        # What stands behind the last line's end is still being written.
        lines = text.rpartition("\n")[0].splitlines()
        self.notes = [Note(*json.loads(line)) for line in lines]
        return self

    def of(self, what: str) -> dict[str, list[Note]]:
        found: dict[str, list[Note]] = defaultdict(list)
        for note in self.notes:
            if note.what == what:
                found[note.job].append(note)
        return found


async def drained(engine: Engine, *, timeout_seconds: float, blocked: bool = False) -> None:
    """Waits until no job is open and every declared effect was carried out."""
    open_states = ["scheduled", "waiting", "active", "retrying", *(["blocked"] if not blocked else [])]

    left = anywhere({"$or": [{"state": {"$in": open_states}}, {"outbox": {"$exists": True}}]})

    async def nothing_left() -> bool:
        return await engine._store.jobs.find_one(left, {"_id": 1}) is None

    try:
        await until(nothing_left, timeout_seconds=timeout_seconds)
    except AssertionError as error:
        raise AssertionError(f"not drained: {await engine._store.jobs.find(left, limit=3).to_list(None)}") from error


def verify(
    view: Database[dict[str, Any]],
    acknowledged: Iterable[str],
    *,
    ledger: Ledger | None = None,
    removed: Iterable[str] = (),
) -> Counter[str]:
    """Asserts all of it, once the queue is drained; `removed` were removed by a request that was answered.

    Returns: how many jobs ended in which state.
    """
    jobs = {job["_id"]: job for job in view["jobs"].find()}
    gone = set(removed)
    lost = [id for id in acknowledged if id not in jobs and id not in gone]
    assert not lost, f"{len(lost)} acknowledged jobs are lost: {lost[:5]}"
    unfinished = {id: job["state"] for id, job in jobs.items() if job["state"] not in (*FINAL, "removed")}
    assert not unfinished, f"{len(unfinished)} jobs did not end: {dict(list(unfinished.items())[:5])}"
    _completions(jobs)
    _letters(view, jobs)
    if ledger is not None:
        _effects(jobs, ledger)
    left = {"$or": [{"outbox": {"$exists": True}}, {"token": {"$exists": True}}, {"worker_id": {"$exists": True}}]}
    assert view["jobs"].count_documents(left) == 0, "leases or effects are left behind"
    return Counter(job["state"] for job in jobs.values())


def _completions(jobs: Mapping[str, dict[str, Any]]) -> None:
    for id, job in jobs.items():
        won = Counter(run.generation for run in runs_of(job) if run.outcome == "completed")
        assert all(n == 1 for n in won.values()), f"job {id} completed twice: {runs_of(job)}"
        if job["state"] == "completed":
            assert won.get(job["generation"]) == 1, f"job {id} is completed without a completion"
            assert runs_of(job)[-1].outcome == "completed", f"job {id} went on after its completion"


def _letters(view: Database[dict[str, Any]], jobs: Mapping[str, dict[str, Any]]) -> None:
    letters = Counter((row["job_id"], row["generation"]) for row in view["dead_letters"].find())
    assert all(n == 1 for n in letters.values()), "a failed generation has two dead letters"
    failed = {(id, job["generation"]) for id, job in jobs.items() if job["state"] == "failed"}
    assert failed <= set(letters), f"failed jobs without a dead letter: {failed - set(letters)}"


def _effects(jobs: Mapping[str, dict[str, Any]], ledger: Ledger) -> None:
    """What the world saw: a completed job's effect at least once, and again only where the attempts show why."""
    effects = ledger.of("effect")
    for id, job in jobs.items():
        seen = effects.get(id, [])
        if job["state"] == "completed":
            assert seen, f"job {id} is completed, and its handler never did its work"
        if len(seen) > 1:
            # A run that was cut off within its first milliseconds, before its start was marked, shows as a rescue only.
            rescues = [entry for entry in steps_of(job) if entry.type == "rescue"]
            shown = max(len(runs_of(job)), len(rescues) + 1)
            assert shown >= len(seen), f"job {id} ran {len(seen)} times, shown: {runs_of(job)} {rescues}"
        fences = [note.fence for note in sorted(seen, key=lambda note: note.at)]
        assert len(set(fences)) == len(fences), f"two runs of job {id} had one fencing number: {fences}"


async def counters_equal_a_count(
    engine: Engine, view: Database[dict[str, Any]], *, timeout_seconds: float = 60
) -> None:
    """The folded counters, per queue and state, come to equal a fresh count, and none is ever negative."""

    def counted() -> dict[tuple[str, str], int]:
        rows = view["jobs"].aggregate(
            [
                {"$match": anywhere(state={"$ne": "removed"})},
                {"$group": {"_id": ["$queue", "$state"], "n": {"$sum": 1}}},
            ]
        )
        return {(row["_id"][0], row["_id"][1]): row["n"] for row in rows}

    def folded() -> dict[tuple[str, str], int]:
        found: Counter[tuple[str, str]] = Counter()
        for row in view["counters"].find({"_id": {"$gte": "", "$not": {"$regex": "^#"}}}):
            for state, n in row.get("counts", {}).items():
                assert n >= 0, f"a counter fell below zero: {row}"
                found[(row["queue"], state)] += n
        return {key: n for key, n in found.items() if n}

    deadline = time.monotonic() + timeout_seconds
    while time.monotonic() < deadline:
        if folded() == counted():
            return
        await asyncio.sleep(0.1)
    assert folded() == counted(), "the counters do not equal a count"


def holders_are_present(view: Database[dict[str, Any]]) -> bool:
    """Whether every active job belongs to a worker that is present."""
    present = {row["_id"] for row in view["workers"].find({"state": {"$in": PRESENT}}, {"_id": 1})}
    return all(row["worker_id"] in present for row in view["jobs"].find({"state": "active"}, {"worker_id": 1}))
