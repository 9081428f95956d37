"""No interleaving of a small scope breaks a rule, and each guard that is taken away is missed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from switchtower.states import TRANSITIONS, JobState
from tests.nightly.counting import count
from tests.scope.search import PRODUCT, Rules, Scope, Violation, search

SMALL = Scope(workers=2, jobs=1, failovers=1, tokens=2)


def test_no_interleaving_breaks_a_rule() -> None:
    found = search(SMALL)
    assert found.states > 1_000


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
def test_no_interleaving_of_the_whole_scope_breaks_a_rule() -> None:
    found = search(Scope())
    count("G16", "states", found.states)
    print(f"{found.states:,} states, {found.steps:,} steps, depth {found.depth}")
    assert found.states > 100_000


def unfenced(verb: str) -> Rules:
    return Rules({**TRANSITIONS, verb: replace(TRANSITIONS[verb], fenced=False)})


def also_from(verb: str, state: JobState) -> Rules:
    transition = TRANSITIONS[verb]
    return Rules({**TRANSITIONS, verb: replace(transition, sources=transition.sources | {state})})


BROKEN: dict[str, Callable[[], Rules]] = {
    **{f"{verb} without the token": lambda verb=verb: unfenced(verb) for verb in ("start", "complete", "backoff")},
    **{f"{verb} without the token": lambda verb=verb: unfenced(verb) for verb in ("bury", "release", "abort")},
    "rescue without the seen token": lambda: unfenced("rescue"),
    "rescue of whom nobody declared lost": lambda: replace(PRODUCT, only_the_lost=False),
    "no grace after a failover": lambda: replace(PRODUCT, grace=False),
    "claim of a job that runs": lambda: also_from("claim", JobState.ACTIVE),
    "claim of a job that failed": lambda: also_from("claim", JobState.FAILED),
    "cancel of a completed job": lambda: also_from("cancel", JobState.COMPLETED),
    "stage of a cancelled job": lambda: also_from("stage", JobState.CANCELLED),
}


@pytest.mark.parametrize("guard", BROKEN)
def test_each_guard_is_missed(guard: str) -> None:
    with pytest.raises(Violation):
        search(SMALL, BROKEN[guard]())
