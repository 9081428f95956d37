"""The queue against the model: random operations on the real engine and database, compared after each of them.

Invariants are those of the reliability rules: I1 a token exactly while active; I2 legal edges only; I3 one completion
per generation; I4 attempts bounded; I5 nothing acknowledged is lost; I6 nothing rescued in grace; I7 one open job per
unique key; I8 one dead letter per failed generation; I9 a parent runs after its children, and nobody waits for what has
ended and told it; I10 counters equal a scan; I11 events without gaps; I12 claim order; I13 cancelled jobs do not start;
I14 one job per schedule and slot; I15 effects exactly once; I16 tombstones go last; I18 a winner's repeat gets the same
answer; I19 limits hold. What is not checked by itself, such as that an event is given to one step alone and recorded
steps stay, the comparison with the model covers.
"""

from __future__ import annotations

from tests.model.rules.bulk import BulkRules
from tests.model.rules.crons import CronRules
from tests.model.rules.flows import FlowRules
from tests.model.rules.groups import GroupRules
from tests.model.rules.invariants import Invariants
from tests.model.rules.jobs import JobRules
from tests.model.rules.queues import QueueRules
from tests.model.rules.races import Races
from tests.model.rules.runs import RunRules
from tests.model.rules.workers import WorkerRules
from tests.model.world import World

__all__ = ["BulkJobs", "Flows", "Groups", "QueueMachine", "Runs", "Schedules", "SingleJobs", "World"]


class SingleJobs(JobRules, WorkerRules, QueueRules, Races, Invariants):
    """The rules of jobs, workers and queues."""


class Flows(FlowRules, Invariants):
    """The rules of jobs that wait for each other."""


class BulkJobs(BulkRules, Invariants):
    """The rules of verbs by filter."""


class Schedules(CronRules, Invariants):
    """The rules of crons."""


class Runs(RunRules, Invariants):
    """The rules of workflow runs and events."""


class Groups(GroupRules, Invariants):
    """The rules of a queue that tenants and groups share."""


class QueueMachine(SingleJobs, Flows, BulkJobs, Schedules, Runs, Groups):
    """All rules. Set `world` on a subclass before running it."""
