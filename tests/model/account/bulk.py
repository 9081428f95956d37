"""How does one verb go through many jobs, a few at a time, and through a crash in between?"""

from __future__ import annotations

from dataclasses import dataclass

from tests.model.account.entries import FINAL, OPEN, ModelJob, Refused
from tests.model.account.operators import Operating

CHUNK = 2
"""The engine's, while it is compared: chunks of a thousand would never be left half-way."""
STARTS_FROM = {
    "cancel": OPEN,
    "promote": {"scheduled", "retrying"},
    "retry": FINAL | {"retrying", "scheduled"},
    "remove": (OPEN | FINAL) - {"active"},
}


@dataclass
class ModelBulk:
    """A verb, the jobs that there were when it was asked for, which of them it is for, and how far it came."""

    verb: str
    meant: frozenset[str]
    queue: str | None
    flow: str | None
    after: str = ""
    matched: int = 0
    changed: int = 0
    failed: int = 0
    done: bool = False

    def is_for(self, job: ModelJob) -> bool:
        return job.id in self.meant and self.queue in (None, job.queue) and self.flow in (None, job.flow)


class InBulk(Operating):
    """Verbs by filter."""

    bulk: ModelBulk

    def begin_bulk(self, verb: str, *, queue: str | None = None, flow: str | None = None) -> ModelBulk:
        """Jobs that come later are not meant."""
        self.bulk = ModelBulk(verb, frozenset(self.jobs), queue, flow)
        return self.bulk

    def bulk_chunk(self, *, size: int = CHUNK, until: str = "noted") -> bool:
        """The next few jobs in the order of their ids. With `until`, the process dies behind what came before ("told")
        or behind the jobs ("moved"), and how far it came is not noted. Returns: whether there was a job."""
        bulk = self.bulk
        rows = [
            id
            for id, job in sorted(self.jobs.items())
            if id > bulk.after and bulk.is_for(job) and job.state in STARTS_FROM[bulk.verb]
        ][:size]
        if bulk.verb in ("retry", "remove"):
            while untold := [id for id in rows if self.jobs[id].outbox]:
                for id in untold:
                    self.relay(id)
        if until == "told" and rows:
            return True
        changed = failed = 0
        for id in rows:
            try:
                getattr(self, bulk.verb)(id)
                changed += 1
            except Refused as refused:
                failed += refused.error == "Conflict"
        if until == "noted":
            bulk.matched += len(rows)
            bulk.changed += changed
            bulk.failed += failed
            bulk.after = rows[-1] if rows else bulk.after
            bulk.done = len(rows) < size
        return bool(rows)

    def end_bulk(self) -> None:
        while not self.bulk.done:
            self.bulk_chunk()
