"""How does a job stand in the database, and how is it read back?

Fields that do not apply are absent, not null: documents stay small and partial indexes stay exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Any

from bson.timestamp import Timestamp

from switchtower.clock import from_ms, to_ms
from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
from switchtower.dialects import Dialect, whole_priority
from switchtower.ids import attempt_id
from switchtower.jobs import Attempt, ChildFailure, ClaimedJob, ErrorKind, Job, JobError, LogLine, NewJob, TimelineEntry
from switchtower.repeats import Repeat
from switchtower.retry import DEFAULT_BACKOFF, Backoff, BackoffKind
from switchtower.states import JobState
from switchtower.store.lanes import lane_of
from switchtower.store.lines import line_of
from switchtower.webhooks import COURIER, Delivery

__all__ = [
    "CLAIM_FIELDS",
    "HEAVY",
    "IDEMPOTENCY_MS",
    "backoff_from",
    "claimed_from",
    "error_document",
    "error_from",
    "job_document",
    "job_from",
]

Document = dict[str, Any]

IDEMPOTENCY_MS = 24 * 3600 * 1000
HEAVY = ("payload", "result", "logs", "attempts", "timeline", "opts")
"""What a list need not read unless it is asked for."""


def job_document(
    new: NewJob,
    *,
    id: str,
    org: str,
    app: str,
    actor: str,
    now_ms: int,
    pending: list[str],
    source: str | None = None,
    key_id: str | None = None,
    traceparent: str | None = None,
) -> Document:
    """The document of a new job. Inserts cannot use `$$NOW`: `now_ms` is the database's clock as measured."""
    run_ms = now_ms + (new.delay_ms or 0) if new.run_at is None else to_ms(new.run_at)
    run_ms = max(run_ms, now_ms)
    state = JobState.BLOCKED if pending else JobState.SCHEDULED if run_ms > now_ms else JobState.WAITING
    now = from_ms(now_ms)
    document: Document = {
        "_id": id,
        "name": new.name,
        "queue": new.queue,
        "org": org,
        "state": state.value,
        "lane": lane_of(org, new.group),
        "rank": new.priority,
        "order": -run_ms if new.lifo else run_ms,
        "seq": Timestamp(0, 0),
        "priority": new.priority,
        "payload": new.payload,
        "attempt": 0,
        "claims": 0,
        "max_attempts": new.max_attempts,
        "generation": 1,
        "run_at": from_ms(run_ms),
        "created_at": now,
        "updated_at": now,
        "event_seq": 1,
    }
    if app:
        document["app"] = app
    if new.rank is not None:
        document["rank"], document["priority"] = new.rank, whole_priority(new.rank)
    if new.dialect is not None:
        document["dialect"] = new.dialect.value
        if new.opts is not None:
            document["opts"] = dict(new.opts)
    if new.backoff != DEFAULT_BACKOFF:
        document["backoff"] = _backoff_document(new.backoff)
    for field in (
        "timeout_ms",
        "ttl_ms",
        "group",
        "unique_key",
        "unique_for_ms",
        "parent_id",
        "cron_id",
        "on_child_failure",
    ):
        value = getattr(new, field)
        if value is not None:
            document[field] = value
    if (trace := new.traceparent or traceparent) is not None:
        document["traceparent"] = trace
    for field in ("lifo", "remove_on_complete", "remove_on_fail"):
        if getattr(new, field):
            document[field] = True
    if run_ms > now_ms:
        document["scheduled_for"] = from_ms(run_ms)
    if new.webhook:
        key_id = new.webhook_key or key_id
        document["executor"] = COURIER
        document["line"] = line_of(new.queue, org, new.group, app, key_id)
        if key_id is not None:
            document["webhook_key"] = key_id
    if new.repeat is not None:
        document["repeat"] = _repeat_document(new.repeat)
        # Its end is relayed, as if somebody waited for it: then the next run is enqueued.
        document["awaited"] = True
    if new.workflow is not None:
        document["run"] = {"workflow": new.workflow[0], "version": new.workflow[1]}
    if new.tags:
        document["tags"] = list(new.tags)
    if new.depends_on:
        document["depends_on"] = list(new.depends_on)
    if pending:
        document["pending"] = pending
    if new.job_id is not None:
        document["custom_id"] = new.job_id
    if new.ttl_ms is not None:
        document["expires_at"] = from_ms(now_ms + new.ttl_ms)
    if new.unique_key is not None:
        document["unique_hold"] = new.unique_key
        if new.unique_for_ms is not None:
            document["unique_until"] = from_ms(now_ms + new.unique_for_ms)
    if new.idempotency_key is not None:
        document["idempotency_key"] = new.idempotency_key
        document["idempotency_until"] = document["release_at"] = from_ms(now_ms + IDEMPOTENCY_MS)
    if new.deduplication is not None:
        _deduplicate(document, new.deduplication, now_ms)
    event: Document = {"type": "enqueue", "queue": new.queue, "name": new.name, "to": state.value, "at": now}
    event |= {"attempt": 0, "actor": actor, "org": org}
    if app:
        event["app"] = app
    if new.group is not None:
        event["group"] = new.group
    if new.parent_id is not None:
        event["parent"] = new.parent_id
    if new.job_id is not None:
        event["custom"] = new.job_id
    if new.cron_id is not None and source is not None:
        # Somebody triggered the cron.
        event |= {"source": source, "cron": new.cron_id}
    if new.tags:
        event["tags"] = document["tags"]
    document["event"] = {"1": event}
    document["timeline"] = [{"type": "enqueue", "to": state.value, "at": now, "actor": actor, "attempt": 0}]
    return document


def _deduplicate(document: Document, options: DeduplicationOptions, now_ms: int) -> None:
    key = document["unique_key"] = options.key_of(document["name"], document["payload"])
    # No unique key has a control character: the two kinds of holds cannot meet.
    hold = document["unique_hold"] = f"{document['queue']}\x1f{key}"
    document["dedup"] = {"mode": options.mode.value, "hold": hold, "by_payload": options.key is None}
    document["dedup"] |= {name: True for name in ("replace", "extend") if getattr(options, name)}
    if options.ttl_ms is not None:
        document["dedup"]["ttl_ms"] = options.ttl_ms
        until = document["unique_until"] = from_ms(now_ms + options.ttl_ms)
        document["release_at"] = min(until, document.get("release_at", until))


def _deduplication_from(document: Mapping[str, Any]) -> DeduplicationOptions | None:
    row = document.get("dedup")
    if row is None:
        return None
    return DeduplicationOptions(
        mode=DeduplicationMode(row["mode"]),
        key=None if row["by_payload"] else document["unique_key"],
        ttl_ms=row.get("ttl_ms"),
        replace=row.get("replace", False),
        extend=row.get("extend", False),
    )


def _repeat_document(repeat: Repeat) -> Document:
    return {key: value for key, value in asdict(repeat).items() if value is not None}


def _backoff_document(backoff: Backoff) -> Document:
    return {
        "kind": backoff.kind.value,
        "base_ms": backoff.base_ms,
        "cap_ms": backoff.cap_ms,
        "jitter": backoff.jitter,
        "waits_ms": list(backoff.waits_ms),
    }


def backoff_from(document: Mapping[str, Any] | None) -> Backoff:
    """The backoff as it stands in a job or dead letter; absent means the default."""
    if document is None:
        return DEFAULT_BACKOFF
    return Backoff(
        BackoffKind(document["kind"]),
        document["base_ms"],
        document["cap_ms"],
        document["jitter"],
        tuple(document["waits_ms"]),
    )


def error_document(error: JobError) -> Document:
    """An error as it stands in jobs, attempts and dead letters."""
    return {
        "kind": error.kind.value,
        "type": error.type,
        "message": error.message,
        "stack": error.stack,
        "fingerprint": error.fingerprint,
    }


def error_from(document: Mapping[str, Any] | None) -> JobError | None:
    """The error that `error_document` wrote."""
    if document is None:
        return None
    return JobError(
        ErrorKind(document["kind"]),
        document["type"],
        document["message"],
        document.get("stack"),
        document.get("fingerprint", ""),
    )


def _attempt_from(id: str, row: Mapping[str, Any]) -> Attempt:
    return Attempt(
        id=attempt_id(id, row["generation"], row["number"]),
        number=row["number"],
        generation=row["generation"],
        worker_id=row.get("worker_id"),
        started_at=row.get("started_at"),
        ended_at=row.get("ended_at"),
        outcome=row["outcome"],
        error=error_from(row.get("error")),
        delivery=_delivery_from(row) if "latency_ms" in row else None,
    )


def _delivery_from(row: Mapping[str, Any]) -> Delivery:
    return Delivery(row.get("status_code"), row["latency_ms"], row.get("answer"), row.get("truncated", False))


def _last_attempt(d: Mapping[str, Any], worker_id: str | None, started_at: datetime | None, outcome: str) -> Attempt:
    """The run that stands in the job itself, not in its `attempts` yet."""
    return Attempt(
        id=attempt_id(d["_id"], d["generation"], d["attempt"]),
        number=d["attempt"],
        generation=d["generation"],
        worker_id=worker_id,
        started_at=started_at,
        ended_at=d.get("finished_at"),
        outcome=outcome,
    )


def _timeline_from(d: Mapping[str, Any]) -> list[TimelineEntry]:
    """The kept history, in order. A claim's row is written by the transition after it; until then it is told by the
    lease itself. So are both rows of a plain run (`store.plain`) until something follows it."""
    rows = d.get("timeline")
    if rows is None:
        return []
    ran = d.get("ran")
    if ran is not None or (d["state"] == "active" and not d.get("started")):
        lease = {"at": d["claimed_at"], "actor": d["worker_id"] if ran is None else ran["worker_id"]}
        attempt = d["attempt"] if ran is None else d["attempt"] - 1
        rows = [*rows, {"type": "claim", "from": "waiting", "to": "active", "attempt": attempt, **lease}]
    if ran is not None:
        end = {"at": d["finished_at"], "actor": ran["worker_id"], "attempt": d["attempt"]}
        rows = [*rows, {"type": "complete", "from": "active", "to": "completed", **end}]
    entries = [
        TimelineEntry(row["type"], row["at"], row.get("from"), row.get("to"), row.get("actor"), row.get("attempt", 0))
        for row in rows
    ]
    if len(entries) > 1:
        # What came first is dated by the clock of whoever enqueued it, which may be ahead of the database's.
        entries.sort(key=lambda entry: (entry.type != "enqueue", entry.at))
    return entries


def job_from(d: Mapping[str, Any]) -> Job:
    """A job as it was read; fields that were projected away come back empty. A tombstone shows its last real state."""
    get = d.get
    id = d["_id"]
    created: datetime = d["created_at"]
    attempts = [_attempt_from(id, row) for row in get("attempts", ())]
    started_at: datetime | None = get("started_at")
    ran = get("ran")
    if ran is not None:
        started_at = d["finished_at"] - timedelta(milliseconds=ran["ms"])
        attempts.append(_last_attempt(d, ran["worker_id"], started_at, "completed"))
    elif get("started"):
        attempts.append(_last_attempt(d, get("worker_id"), started_at, "running"))
    return Job(
        id=id,
        name=d["name"],
        queue=d["queue"],
        state=JobState(get("last_state", "completed") if d["state"] == "removed" else d["state"]),
        org=d["org"],
        app=get("app", ""),
        custom_id=get("custom_id"),
        priority=d["priority"],
        payload=get("payload"),
        result=get("result"),
        error=error_from(get("error")),
        attempt=d["attempt"],
        claims=d["claims"],
        max_attempts=d["max_attempts"],
        generation=d["generation"],
        attempts=attempts,
        progress=get("progress"),
        logs=[LogLine(row["at"], row["line"], row["level"], row["attempt"]) for row in get("logs", ())],
        tags=get("tags") or [],
        group=get("group"),
        unique_key=get("unique_key"),
        unique_for_ms=get("unique_for_ms"),
        deduplication=_deduplication_from(d),
        run_at=d["run_at"],
        created_at=created,
        updated_at=d["updated_at"],
        started_at=started_at,
        finished_at=get("finished_at"),
        expires_at=get("expires_at"),
        timeout_ms=get("timeout_ms"),
        ttl_ms=get("ttl_ms"),
        backoff=backoff_from(get("backoff")),
        lifo=get("lifo", False),
        worker_id=get("worker_id"),
        cancel_requested_at=get("cancel_requested_at"),
        parked=get("parked"),
        retry_pending=get("retry_pending", False),
        parent_id=get("parent_id"),
        pending=get("pending") or [],
        depends_on=get("depends_on") or [],
        remove_on_complete=get("remove_on_complete", False),
        remove_on_fail=get("remove_on_fail", False),
        event_seq=d["event_seq"],
        cron_id=get("cron_id"),
        flow_id=get("flow_id"),
        on_child_failure=ChildFailure(get("on_child_failure", "fail")),
        timeline=_timeline_from(d),
        traceparent=get("traceparent"),
        dialect=Dialect(d["dialect"]) if "dialect" in d else None,
        rank=get("rank", 0),
        opts=get("opts"),
        webhook=get("executor") == COURIER,
        webhook_key=get("webhook_key"),
        scheduled_for=get("scheduled_for"),
        repeats="repeat" in d,
    )


_HANGING = ("unique_hold", "awaited", "pending", "flow_id", "remove_on_complete", "outbox")
NOT_PLAIN = frozenset({*_HANGING, "parent_id", "custom_id"})
"""With any of these the end of a job is more than its own, or the like of no other's."""
CLAIM_FIELDS = {
    field: 1
    for field in [
        "name",
        "queue",
        "payload",
        "token",
        "attempt",
        "claims",
        "generation",
        "max_attempts",
        "backoff",
        "event_seq",
        "org",
        "app",
        "timeout_ms",
        "expires_at",
        "created_at",
        "run_at",
        "custom_id",
        "group",
        "tags",
        "parent_id",
        "priority",
        "on_child_failure",
        "traceparent",
        "limited",
        "worker_id",
        *_HANGING,
    ]
}


def claimed_from(d: Mapping[str, Any]) -> ClaimedJob:
    """A claimed job as its worker needs it. The event sequence at the claim is the fencing number."""
    get = d.get
    attempt = d["attempt"]
    return ClaimedJob(
        id=d["_id"],
        name=d["name"],
        queue=d["queue"],
        payload=get("payload"),
        token=d["token"],
        number=attempt + 1,
        generation=d["generation"],
        max_attempts=d["max_attempts"],
        backoff=backoff_from(get("backoff")),
        fence=d["event_seq"],
        org=d["org"],
        app=get("app", ""),
        timeout_ms=get("timeout_ms"),
        expires_at=get("expires_at"),
        created_at=d["created_at"],
        run_at=d["run_at"],
        custom_id=get("custom_id"),
        group=get("group"),
        tags=get("tags") or [],
        parent_id=get("parent_id"),
        priority=d["priority"],
        traceparent=get("traceparent"),
        on_child_failure=ChildFailure(get("on_child_failure", "fail")),
        recovered=d["claims"] - 1 > attempt,
        worker_id=d["worker_id"],
        plain=d.keys().isdisjoint(NOT_PLAIN),
    )
