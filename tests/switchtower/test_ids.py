"""Ids and tokens."""

from __future__ import annotations

import re

import pytest

from switchtower.ids import ATTEMPT, BULK, CRON, DEAD_LETTER, JOB, WORKER, attempt_id, lease_token, new_id


@pytest.mark.parametrize("prefix", [JOB, DEAD_LETTER, WORKER, CRON, BULK])
def test_id_has_its_prefix_and_form(prefix: str) -> None:
    assert re.fullmatch(rf"{prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}", new_id(prefix))


def test_ids_of_a_process_are_unique_and_sort_by_creation() -> None:
    ids = [new_id(JOB) for _ in range(5_000)]
    assert ids == sorted(set(ids))


def test_attempt_has_one_id_for_everyone() -> None:
    job = new_id(JOB)
    assert attempt_id(job, 2, 3) == attempt_id(job, 2, 3) == f"{ATTEMPT}_{job[4:]}_2_3"
    assert len({attempt_id(job, generation, number) for generation in (1, 11) for number in (1, 11)}) == 4
    assert attempt_id("plain", 1, 1) == f"{ATTEMPT}_plain_1_1"


def test_tokens_cannot_be_guessed() -> None:
    tokens = {lease_token() for _ in range(1_000)}
    assert len(tokens) == 1_000
    assert all(len(token) >= 27 for token in tokens)
