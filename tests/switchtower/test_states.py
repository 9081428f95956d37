"""The one table: closed, reachable, and the documentation says what it says."""

from __future__ import annotations

import pytest

from switchtower.states import FINAL, OPEN, REMOVED, TRANSITIONS, JobState, allowed_from, documentation
from switchtower.store.guards import by_token, starts_from


def test_every_state_is_open_or_final() -> None:
    assert set(JobState) == OPEN | FINAL
    assert not OPEN & FINAL


def test_targets_are_states() -> None:
    known = {*JobState, REMOVED, "same"}
    assert all(transition.targets <= known and transition.targets for transition in TRANSITIONS.values())


def test_every_state_is_reached_from_a_new_job_and_can_be_left() -> None:
    reached: set[str] = set(TRANSITIONS["enqueue"].targets)
    while True:
        more = {
            target
            for transition in TRANSITIONS.values()
            if transition.sources & reached
            for target in transition.targets - {"same"}
        }
        if more <= reached:
            break
        reached |= more
    assert reached == {*JobState, REMOVED}
    left = {
        source for transition in TRANSITIONS.values() if transition.targets != {"same"} for source in transition.sources
    }
    assert left == set(JobState)


def test_final_states_are_left_by_operators_only() -> None:
    leaving = {name for name, t in TRANSITIONS.items() if t.sources & FINAL and t.targets != {"same"}}
    assert leaving == {"retry", "remove"}


def test_only_fenced_verbs_end_a_run() -> None:
    ending = {
        name
        for name, t in TRANSITIONS.items()
        if JobState.ACTIVE in t.sources and t.targets - {"same"} and JobState.ACTIVE not in t.targets
    }
    assert {name for name in ending if not TRANSITIONS[name].fenced} == {"expire"}


def test_allowed_states_are_named_in_the_order_of_a_life() -> None:
    assert allowed_from("cancel") == ("scheduled", "waiting", "blocked", "retrying")
    assert allowed_from("enqueue") == ()


@pytest.mark.parametrize("verb", sorted(TRANSITIONS.keys() - {"enqueue"}))
def test_guard_names_the_states_of_the_table(verb: str) -> None:
    condition = starts_from(verb)["state"]
    states = condition["$in"] if isinstance(condition, dict) else [condition]
    assert set(states) == TRANSITIONS[verb].sources
    if TRANSITIONS[verb].fenced:
        assert by_token(verb, "t") == {"state": condition, "token": "t"}
    else:
        with pytest.raises(AssertionError):
            by_token(verb, "t")


def test_documentation_has_every_transition_and_edge() -> None:
    page = documentation()
    for name, transition in TRANSITIONS.items():
        assert f"| {name} |" in page
        for source in transition.sources:
            for target in transition.targets - {"same", REMOVED}:
                assert f"    {source} --> {target}: {name}" in page
