"""What must hold of the database and of its events, whatever the model says?"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from typing import Any

from hypothesis.stateful import invariant

from switchtower.events import Event
from switchtower.states import TRANSITIONS
from switchtower.store import counters
from tests.histories import runs_of
from tests.model.account.entries import FINAL, OPEN
from tests.model.rules.base import Comparing, to_ms_utc


class Invariants(Comparing):
    """Checked after every step, and of the change stream at the end."""

    @invariant()
    def database_is_sound(self) -> None:
        with self.explained("looking"):
            self.documents_are_sound()
            self.families_are_sound()
            self.slots_are_sound()
            assert set(self.view_letters()) == set(self.model.letters), "I8"

    def documents_are_sound(self) -> None:
        held: dict[str, str] = {}
        for id, job in self.documents.items():
            state = job["state"]
            assert ("token" in job) == ("worker_id" in job) == (state == "active"), f"I1 {job}"
            assert job["attempt"] <= job["max_attempts"] and job["claims"] <= job["max_attempts"] + 5, f"I4 {job}"
            assert job.get("outbox") is None or state in FINAL | {"removed"}, f"I15 {job}"
            if state == "blocked":
                assert job["pending"], f"I9 {job}"
            if state == "waiting":
                at = to_ms_utc(job["run_at"])
                assert abs(job["order"]) == at, f"I12 {job['order']} {at}"
            if state in OPEN and "unique_key" in job and "dedup" not in job:
                assert job.get("unique_hold") == job["unique_key"], f"I7 {job}"
                other = held.setdefault(job["unique_key"], id)
                assert other == id, f"I7 two open jobs for {job['unique_key']}: {other} {id}"
            won = [run.generation for run in runs_of(job) if run.outcome == "completed"]
            assert len(won) == len(set(won)), f"I3 {job}"

    def families_are_sound(self) -> None:
        """I9: whoever waits, waits for jobs that are open, or whose end is not told yet; flows have one root, and it is
        the job that they are known by."""
        for id, job in self.documents.items():
            for other in job.get("pending", ()):
                child = self.documents.get(other)
                assert child is not None and (child["state"] in OPEN or "outbox" in child), f"I9 {job} {child}"
                assert other != id, f"I9 {id} waits for itself"
            if "flow_id" in job:
                assert job.get("flow_root", False) == (job["flow_id"] == id), f"I9 {job}"

    def slots_are_sound(self) -> None:
        """I14: the jobs of a cron are of different slots, and its slots are dealt with in their order."""
        of_slots = [job for job in self.documents.values() if {"cron_id", "custom_id"} <= job.keys()]
        made = [(job["cron_id"], job["custom_id"]) for job in of_slots]
        assert len(made) == len(set(made)), f"I14 {made}"
        for cron in self.crons.values():
            slots = [row["slot"] for row in cron["fires"]]
            assert slots == sorted(set(slots)), f"I14 {cron}"

    def teardown(self) -> None:
        """I10, I11 and the edges of I2 and I13, from the events that the example left in the change stream."""
        with self.explained("the end"):
            self.world.run(self._events_are_here())
            for id, document in self.documents.items():
                self._check_chain(id, document, self.world.events[id])
            self._check_counters()

    async def _events_are_here(self) -> None:
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if all(len(self.world.events[id]) >= document["event_seq"] for id, document in self.documents.items()):
                return
            await asyncio.sleep(0.01)

    def _check_chain(self, id: str, document: dict[str, Any], events: list[Event]) -> None:
        assert len(events) == document["event_seq"], f"I11 {len(events)} events of {document['event_seq']} for {id}"
        state: str | None = None
        stopped = False
        for event in events:
            if event.to_state is None:
                continue
            if event.type != "enqueue":
                assert event.from_state == state, f"I11 {id}: {event.type} from {event.from_state}, was {state}"
                sources = TRANSITIONS[event.type].sources
                assert event.from_state in sources or event.type == "remove", f"I2 {event}"
            if event.type == "retry":
                stopped = False
            assert not (stopped and event.to_state == "active"), f"I13 {id} started after its cancel"
            stopped = stopped or event.to_state == "cancelled"
            state = "removed" if event.data.get("removed") else event.to_state
        assert state == document["state"], f"I11 the last event of {id} says {state}, the job {document['state']}"

    def _check_counters(self) -> None:
        folded = counters.fold([event for events in self.world.events.values() for event in events])
        counted: dict[tuple[str, str], int] = defaultdict(int)
        for job in self.documents.values():
            if job["state"] != "removed":
                counted[(job["queue"], job["state"])] += 1
        found: dict[tuple[str, str], int] = defaultdict(int)
        for (queue, _), row in folded.states.items():
            for state, number in row.items():
                found[(queue, state)] += number
        found = {place: number for place, number in found.items() if number}
        assert found == dict(counted), f"I10 folded {found}, counted {dict(counted)}"
