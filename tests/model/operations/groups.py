"""How do workers claim from a queue that tenants and groups share?"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import Any

from tests.model.account.entries import Lane, ModelJob, Violation
from tests.model.model import Model
from tests.model.operations.base import SHARED, Answer, Documents
from tests.model.operations.workers import Claim, _remembers


@dataclass
class ClaimInTurn(Claim):
    """A claim of any jobs of the shared queue."""

    queue: str = SHARED

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        self.forget_what_was_given_back(model, settled)
        lanes = self.waiting_lanes(model, settled)
        won = [model.jobs[id] for id, _ in answer.value]
        by_lane: dict[Lane, list[str]] = defaultdict(list)
        for job in won:
            by_lane[job.org, job.group].append(job.id)
        for lane, ids in by_lane.items():
            if ids != [job.id for job in lanes.get(lane, [])[: len(ids)]]:
                raise Violation(f"{self} won {ids} of {lane}, where {lanes.get(lane)} is the order (I12)")
        self.check_room(model, won)
        if self.fresh:
            self.check_share(model, lanes, by_lane)
            model.take_turns(set(lanes), list(by_lane))
        else:
            # On old knowledge some lanes are not seen: whose turn it is begins anew.
            model.passed_over.clear()
        for id, token in answer.value:
            model.claim(id, token, self.worker)

    def forget_what_was_given_back(self, model: Model, settled: Documents) -> None:
        """What was won on old knowledge and given back at once: that is its last report now."""
        for job in model.jobs.values():
            document = settled.get(job.id)
            if document is None or self.fresh or job.queue != self.queue or job.state != "waiting":
                continue
            if job.last_report and not _remembers(document, job.last_report[0]):
                job.last_report = None

    def waiting_lanes(self, model: Model, settled: Documents) -> dict[Lane, list[ModelJob]]:
        """The jobs that may be claimed now, as far as their groups have room, by their lanes and in claim order."""
        place = {id: (document["rank"], document["order"], document["seq"]) for id, document in settled.items()}
        lanes: dict[Lane, list[ModelJob]] = defaultdict(list)
        if model.room(self.queue) == 0:
            return {}
        eligible = [job for job in model.jobs.values() if model.may_claim(job, self.queue, None)]
        for job in sorted(eligible, key=lambda job: place[job.id]):
            if model.room_of(job):
                lanes[job.org, job.group].append(job)
        return dict(lanes)

    def check_room(self, model: Model, won: list[ModelJob]) -> None:
        room = model.room(self.queue)
        if room is not None and len(won) > room:
            raise Violation(f"{self} won {len(won)} jobs, and the queue has room for {room} (I19)")
        for lane, count in Counter((job.org, job.group) for job in won).items():
            first = next(job for job in won if (job.org, job.group) == lane)
            if count > model.room_of(first):
                raise Violation(f"{self} won {count} jobs of {lane}, which has room for {model.room_of(first)} (I19)")

    def check_share(self, model: Model, lanes: dict[Lane, list[ModelJob]], won: dict[Lane, list[str]]) -> None:
        """A claim is split across the lanes that wait."""
        chosen = min(self.limit, len(lanes))
        room = model.room(self.queue)
        most = chosen if room is None else min(chosen, room)
        # Lanes that are full are met too, and stand in the place of others.
        least = min(most, 1) if model.group_limits else most
        if not least <= len(won) <= most:
            raise Violation(f"{self} won jobs of {set(won)}, and there wait {set(lanes)}")
        if most and any(len(ids) > -(-self.limit // chosen) for ids in won.values()):
            raise Violation(f"{self} was not split: {won}")
