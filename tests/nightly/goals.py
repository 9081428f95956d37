"""The counts that a release is held to: goals G1–G17 and faults F1–F28, with what the nightly run must reach."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["GOALS", "Goal"]


@dataclass(frozen=True)
class Goal:
    """One promise, and how much of it has to be tried in a night. `what` names the count that a test notes."""

    id: str
    says: str
    what: str
    wanted: int


GOALS = (
    Goal("G1", "Killed workers lose and double nothing", "workers killed", 1_000),
    Goal("G1", "Killed workers lose and double nothing", "jobs", 50_000),
    Goal("G2", "A frozen worker that comes back is refused", "zombies refused", 10_000),
    Goal("G3", "Failovers lose nothing and execute nothing twice", "failovers", 30),
    Goal("G4", "Change streams resume without a gap", "cursors killed", 100),
    Goal("G7", "One job per cron and slot", "slots", 1_000),
    Goal("G8", "No input is a 500", "requests", 2_000_000),
    Goal("G9", "The engine does what its model says", "steps", 5_000_000),
    Goal("G12", "A subscriber that stops reading costs others nothing", "stalled subscribers", 200),
    Goal("G16", "No interleaving breaks the rules of a lease", "states", 100_000),
    Goal("F2", "A worker that dies at a point of its work", "deaths at a point", 600),
    Goal("F3", "A server killed amid enqueues and flows", "servers killed", 40),
    Goal("F10", "A call that is replayed with its token changes nothing", "tokens replayed", 10_000),
    Goal("F17", "Jobs that kill their process end in the dead letters", "poison jobs", 30),
    Goal("F22", "Rescue and completion exclude each other", "rescues raced", 100_000),
    Goal("F23", "A cancel answers what becomes of the job", "cancels raced", 50_000),
    Goal("F24", "One key makes one replay", "storms of replays", 40),
    Goal("F27", "Lost replies of each write command", "replies lost", 600),
)
