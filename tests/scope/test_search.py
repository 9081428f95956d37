"""No interleaving of a small scope breaks a rule, and whatever the table loses is missed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from switchtower.states import TRANSITIONS, JobState
from tests.nightly.counting import count
from tests.scope.search import GUARDS, WORKERS_WRITES, Rules, Scope, Violation, search

SMALL = Scope(workers=2, jobs=1, failovers=1)
VERBS = ("claim", "stage", "cancel", "request_cancel", "retry", *WORKERS_WRITES, "rescue")
# Nothing changes a job in the first two; no verb of the search leads to a blocked job.
HARMLESS = {("stage", JobState.WAITING), ("retry", JobState.WAITING), ("cancel", JobState.CANCELLED)}


def test_no_interleaving_breaks_a_rule() -> None:
    found = search(SMALL)
    assert found.states > 3_000, found


@pytest.mark.nightly
@pytest.mark.timeout(3_600)
def test_no_interleaving_of_the_whole_scope_breaks_a_rule() -> None:
    found = search(Scope())
    print(found)
    count("G16", "states", found.states)
    count("G16", "transitions", found.transitions)
    assert found.states > 100_000, found


def changed(verb: str, **parts: Any) -> Rules:
    return Rules({**TRANSITIONS, verb: replace(TRANSITIONS[verb], **parts)})


def broken_tables() -> Iterator[tuple[str, Rules]]:
    for guard in GUARDS:
        yield f"without the guard {guard!r}", Rules(without=frozenset({guard}))
    for verb in VERBS:
        transition = TRANSITIONS[verb]
        if transition.fenced:
            # The token says more than the state does, which only an active job has: alone it is not enough either way.
            yield f"{verb} without the token", changed(verb, fenced=False)
            everywhere = frozenset(JobState)
            yield f"{verb} from anywhere without the token", changed(verb, fenced=False, sources=everywhere)
        else:
            for state in set(JobState) - transition.sources - {JobState.BLOCKED}:
                if (verb, state) not in HARMLESS:
                    yield f"{verb} from {state}", changed(verb, sources=transition.sources | {state})
        for target in transition.targets - {"same"}:
            yield f"{verb} not to {target}", changed(verb, targets=transition.targets - {target})


def test_whatever_the_table_loses_is_missed() -> None:
    unnoticed = []
    for name, rules in broken_tables():
        try:
            unnoticed.append(f"{name}: {search(SMALL, rules)}")
        except Violation:
            continue
    assert unnoticed == []
