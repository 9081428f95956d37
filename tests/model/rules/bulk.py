"""What happens to many jobs at once?"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import rule

from tests.model.operations.bulk import Bulk, Interrupted
from tests.model.operations.jobs import Enqueue
from tests.model.operations.upkeep import Duty
from tests.model.operations.workers import Claim
from tests.model.rules.base import Comparing, busy_queues

verbs = st.sampled_from(["cancel", "retry", "promote", "remove"])


class BulkRules(Comparing):
    """Verbs by filter, and processes that die between two chunks."""

    @rule(queue=busy_queues, verb=verbs)
    def bulk(self, queue: str, verb: str) -> None:
        self.do(Bulk(verb, queue))

    @rule(verb=verbs, nth=st.integers(0, 2), noting=st.booleans(), delayed=st.booleans(), told=st.booleans())
    def bulk_half_way(self, verb: str, nth: int, noting: bool, delayed: bool, told: bool) -> None:
        """Jobs that are enqueued while nobody goes on with it are not meant."""
        for _ in range(3):
            self.do(Enqueue("left", delayed=delayed, max_attempts=1))
        meanwhile = [Enqueue("left", delayed=delayed), *([Duty("relay")] if told else [])]
        self.do(Interrupted(Bulk(verb, "left"), nth, noting, meanwhile))

    @rule(lag=st.sampled_from([0.0, 0.004, 0.008]))
    def bulk_against_claim(self, lag: float) -> None:
        for _ in range(2):
            self.do(Enqueue("right"))
        self.race(Claim("w0", "right"), Bulk("cancel", "right"), lag_seconds=lag)
