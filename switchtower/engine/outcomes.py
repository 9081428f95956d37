"""Which writes does a worker's report become?

Equal outcomes of one claim share a statement, and statements share commands. What a worker says is cut to what a job's
document can hold; nothing it says can stop the reports of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import orjson

from switchtower.jobs import HUNDRED_YEARS_MS, ErrorKind, JobError
from switchtower.metrics import rounded_ms
from switchtower.payloads import TEXT_LIMIT, truncated
from switchtower.store import plain, transitions
from switchtower.store.claims import Quick, Statement
from switchtower.store.expressions import literal
from switchtower.store.lines import delivered
from switchtower.workers import Outcome, OutcomeKind

__all__ = ["chunks", "endings", "log_statements", "remarks"]

STATEMENT_JOBS = 500
STATEMENT_LINES = 100
LINE_LIMIT = 4 * 1024
ERROR_LIMIT = 16 * 1024
"""Of a message or a stack: fifty attempts keep one each."""
COMMAND_BYTES = 8 * 1024 * 1024
COMMAND_STATEMENTS = 1_000
"""The server takes 48 MB and 100,000 statements in one command; fewer keep others from waiting."""


def remarks(outcomes: Iterable[Outcome]) -> list[Statement]:
    """The statements for the log lines and the progress that came with these outcomes."""
    statements = []
    for o in outcomes:
        if o.logs:
            statements += log_statements(o.job_id, o.token, o.logs)
        if o.progress is not ...:
            shown = truncated(o.progress, limit=TEXT_LIMIT)
            statements.append(
                Statement("progress", o.token, [o.job_id], transitions.progress(shown), size=2 * TEXT_LIMIT)
            )
    return statements


def log_statements(job_id: str, token: str, lines: Sequence[tuple[str, str]]) -> list[Statement]:
    """The statements that append (level, line) pairs to a job's log; what would be cut off at once is left out."""
    kept = [(cut(level, 16), cut(line, LINE_LIMIT)) for level, line in lines[-transitions.KEPT_LOGS :]]
    return [
        Statement(
            "log",
            token,
            [job_id],
            transitions.log(part),
            size=sum(500 + 2 * len(line) for _, line in part),
        )
        for start in range(0, max(1, len(kept)), STATEMENT_LINES)
        for part in [kept[start : start + STATEMENT_LINES]]
    ]


def endings(outcomes: Iterable[Outcome], *, result_limit: int) -> list[Statement]:
    """The statements that end these runs."""
    groups: dict[tuple[Any, ...], Statement] = {}
    statements = []
    for outcome in outcomes:
        if outcome.delivery is not None:
            statements.append(_ending(outcome, result_limit))
            continue
        if outcome.kind is OutcomeKind.COMPLETE and outcome.result is None:
            key: tuple[Any, ...] = (outcome.token, rounded_ms(_duration(outcome.ran_ms)), *_plain_kind(outcome))
        elif outcome.kind is OutcomeKind.RELEASE:
            key = (outcome.token, "release")
        else:
            statements.append(_ending(outcome, result_limit))
            continue
        group = groups.get(key)
        if group is None or len(group.ids) >= STATEMENT_JOBS:
            groups[key] = group = _ending(outcome, result_limit)
            statements.append(group)
        else:
            group.ids.append(outcome.job_id)
    return statements


def _ending(o: Outcome, result_limit: int) -> Statement:
    ran_ms, wait_ms = _duration(o.ran_ms), _duration(o.wait_ms)
    size = 4_000
    quick = None
    match o.kind:
        case OutcomeKind.COMPLETE if o.result is None:
            ran_ms = rounded_ms(ran_ms)
            verb, pipeline = "complete", transitions.complete(o.token, ran_ms, None)
            quick = _plain_completion(o, ran_ms, None)
        case OutcomeKind.COMPLETE:
            result = truncated(o.result, limit=result_limit)
            verb, pipeline = "complete", transitions.complete(o.token, ran_ms, literal(result))
            quick = _plain_completion(o, ran_ms, result)
            size += len(orjson.dumps(result, default=str, option=orjson.OPT_NON_STR_KEYS))
        case OutcomeKind.SNOOZE:
            verb, pipeline = "snooze", transitions.give_back("snooze", o.token, wait_ms=wait_ms)
        case OutcomeKind.SUSPEND:
            verb, pipeline = "suspend", transitions.give_back("suspend", o.token)
        case OutcomeKind.RELEASE:
            verb, pipeline = "release", transitions.give_back("release", o.token)
        case OutcomeKind.ABORT:
            verb, pipeline = "abort", transitions.abort(o.token, ran_ms)
        case OutcomeKind.FAIL | OutcomeKind.RETRY_AT | OutcomeKind.BURY | OutcomeKind.EXPIRE:
            error = _error(o)
            size += 3 * (len(error.message) + len(error.stack or ""))
            fatal = o.kind in (OutcomeKind.BURY, OutcomeKind.EXPIRE)
            verb = "bury" if fatal else "backoff"
            pipeline = transitions.fail(
                o.token,
                ran_ms,
                error,
                wait_ms=0 if fatal else wait_ms,
                fatal=fatal,
                outcome="expired" if o.kind is OutcomeKind.EXPIRE else "failed",
            )
    if o.delivery is not None:
        pipeline = [*pipeline, *delivered(o.delivery)]
        quick = None
        size += 3 * len(o.delivery.answer or "")
    return Statement(verb, o.token, [o.job_id], pipeline, size=size, quick=quick)


def _plain_kind(o: Outcome) -> tuple[Any, ...]:
    """What jobs must have in common, beyond their token, to be completed by one plain update; () for a pipeline."""
    job = o.claimed
    if job is None or not job.plain:
        return ()
    return job.fence, job.number, job.queue, job.name, job.org, job.app, job.group, tuple(job.tags)


def _plain_completion(o: Outcome, ran_ms: int, result: Any) -> Quick | None:
    job = o.claimed
    if job is None or not job.plain:
        return None
    return Quick(plain.completion_guard(job), plain.complete(job, ran_ms, result))


def chunks(statements: Iterable[Statement]) -> Iterable[list[Statement]]:
    """The statements in commands of a bounded size."""
    chunk: list[Statement] = []
    size = 0
    for statement in statements:
        if chunk and (size + statement.size > COMMAND_BYTES or len(chunk) >= COMMAND_STATEMENTS):
            yield chunk
            chunk, size = [], 0
        chunk.append(statement)
        size += statement.size
    if chunk:
        yield chunk


def _duration(ms: int) -> int:
    """A duration that time can hold: a date beyond the year 9999 could be stored and never be read again."""
    return min(max(0, ms), HUNDRED_YEARS_MS)


def _error(outcome: Outcome) -> JobError:
    error = outcome.error or JobError(ErrorKind.EXCEPTION, "Error", "no reason was given")
    stack = None if error.stack is None else cut(error.stack, ERROR_LIMIT)
    return JobError(
        error.kind, cut(error.type, 256), cut(error.message, ERROR_LIMIT), stack, cut(error.fingerprint, 256)
    )


def cut(text: str, limit: int) -> str:
    """The text in at most `limit` bytes of UTF-8 and a marker, free of what UTF-8 cannot carry."""
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return data.decode()
    return f"{data[:limit].decode('utf-8', 'ignore')}… [{len(data) - limit:,} bytes cut]"
