"""The writes that a report becomes, without a database."""

from __future__ import annotations

from switchtower.engine.outcomes import log_statements
from switchtower.store.transitions import KEPT_LOGS


def test_of_many_log_lines_the_last_ones_are_written() -> None:
    lines = [("info", f"line {number}") for number in range(KEPT_LOGS + 50)]
    statements = log_statements("job_1", "token", lines)
    written = str([statement.pipeline for statement in statements])
    assert f"'line {KEPT_LOGS + 49}'" in written and "'line 50'" in written
    assert "'line 49'" not in written
    assert all(statement.token == "token" and statement.ids == ["job_1"] for statement in statements)
