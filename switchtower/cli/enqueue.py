"""`switchtower enqueue`: one job from the command line."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from switchtower.cli.follow import follow, outcome_code, outcome_text
from switchtower.cli.options import AsJson, Url, call, duration_ms, moment, parse_payload
from switchtower.cli.output import note, print_json, print_json_line, print_text
from switchtower.deduplication import DeduplicationMode, DeduplicationOptions
from switchtower.errors import InvalidInput

__all__ = ["enqueue"]


def enqueue(
    name: Annotated[str, typer.Argument(help="The task.")],
    pairs: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=TEXT | KEY:=JSON]...", help="The fields of its payload.")
    ] = None,
    payload: Annotated[str | None, typer.Option("--payload", help="The payload: JSON, @file, or - for stdin.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until it ends.")] = False,
    queue: Annotated[str | None, typer.Option("--queue", "-q", help="Its queue (default if left out).")] = None,
    priority: Annotated[int | None, typer.Option("--priority", help="Lower numbers run first.")] = None,
    delay: Annotated[str | None, typer.Option("--delay", help="Run it after this long: 30s, 5m, 2h.")] = None,
    at: Annotated[str | None, typer.Option("--at", metavar="TIME", help="Run it then: 2026-01-31T12:00Z.")] = None,
    max_attempts: Annotated[int | None, typer.Option("--max-attempts", help="How often it may start.")] = None,
    timeout: Annotated[str | None, typer.Option("--timeout", help="How long one attempt may run.")] = None,
    ttl: Annotated[str | None, typer.Option("--ttl", help="Fail it if it has not ended by then.")] = None,
    group: Annotated[str | None, typer.Option("--group", help="Its group.")] = None,
    unique_key: Annotated[str | None, typer.Option("--unique-key", help="No second open job with this key.")] = None,
    unique_for: Annotated[str | None, typer.Option("--unique-for", help="Hold the key at least this long.")] = None,
    deduplicate: Annotated[
        str | None,
        typer.Option(
            "--deduplicate",
            metavar="MODE",
            help="simple, throttle (first of --dedup-ttl wins) or debounce (last wins).",
        ),
    ] = None,
    dedup_key: Annotated[
        str | None, typer.Option("--dedup-key", help="What makes jobs equal (task and payload if left out).")
    ] = None,
    dedup_ttl: Annotated[str | None, typer.Option("--dedup-ttl", help="How long at most: 30s, 5m, 2h.")] = None,
    tag: Annotated[list[str] | None, typer.Option("--tag", "-t", help="A tag; can be repeated.")] = None,
    lifo: Annotated[bool, typer.Option("--lifo", help="Before the other jobs of its priority.")] = False,
    parent: Annotated[str | None, typer.Option("--parent", help="The job that waits for this one.")] = None,
    depends_on: Annotated[
        list[str] | None, typer.Option("--depends-on", metavar="JOB", help="Run it after this job; can be repeated.")
    ] = None,
    job_id: Annotated[str | None, typer.Option("--job-id", help="An id of your own.")] = None,
    idempotency_key: Annotated[
        str | None, typer.Option("--idempotency-key", help="The same key gives the same job for 24 h.")
    ] = None,
    remove_on_complete: Annotated[
        bool, typer.Option("--remove-on-complete", help="Keep nothing of a success.")
    ] = False,
    remove_on_fail: Annotated[bool, typer.Option("--remove-on-fail", help="Keep nothing of a failure.")] = False,
    url: Url = None,
    as_json: AsJson = False,
) -> None:
    """Store a job: `switchtower enqueue send_email to=a@b.c n:=5 --watch`."""
    options: dict[str, Any] = {
        "queue": queue,
        "priority": priority,
        "delay_ms": duration_ms("--delay", delay),
        "run_at": moment("--at", at),
        "max_attempts": max_attempts,
        "timeout_ms": duration_ms("--timeout", timeout),
        "ttl_ms": duration_ms("--ttl", ttl),
        "group": group,
        "unique_key": unique_key,
        "unique_for_ms": duration_ms("--unique-for", unique_for),
        "deduplication": _deduplication(deduplicate, dedup_key, dedup_ttl),
        "tags": tag,
        "lifo": lifo or None,
        "parent_id": parent,
        "depends_on": depends_on,
        "job_id": job_id,
        "idempotency_key": idempotency_key,
        "remove_on_complete": remove_on_complete or None,
        "remove_on_fail": remove_on_fail or None,
    }
    given = {key: value for key, value in options.items() if value is not None}
    body = parse_payload(pairs or [], payload)
    raise typer.Exit(call(url, lambda client: _enqueue(client, name, body, given, watch=watch, as_json=as_json)))


def _deduplication(mode: str | None, key: str | None, ttl: str | None) -> DeduplicationOptions | None:
    if mode is None and key is None and ttl is None:
        return None
    if mode is not None and mode not in tuple(DeduplicationMode):
        raise InvalidInput("--deduplicate", f"{mode!r} is none of {', '.join(DeduplicationMode)}.")
    chosen = DeduplicationMode(mode or "simple")
    return DeduplicationOptions(mode=chosen, key=key, ttl_ms=duration_ms("--dedup-ttl", ttl))


async def _enqueue(client: Any, name: str, payload: Any, options: dict[str, Any], *, watch: bool, as_json: bool) -> int:
    handle = await client.enqueue(name, payload, **options)
    answer = {
        "id": handle.id,
        "name": handle.name,
        "queue": handle.queue,
        "state": handle.state,
        "deduplication": handle.deduplication,
    }
    if handle.deduplication == "REPLACED":
        note(f"{handle.id} was waiting for its time; it was replaced.")
    elif handle.deduplication:
        note(
            f"{handle.id} was there already (same {handle.deduplication.lower().replace('_', ' ')}); nothing was added."
        )
    if not watch:
        if as_json:
            print_json(answer)
        else:
            print_text(handle.id)
        return 0
    if as_json:
        print_json_line(answer)
    job = await follow(client, handle.id, as_json=as_json)
    if not as_json:
        print_text(outcome_text(job))
    # A failure would have stayed to be seen, unless that was to be removed too.
    kept = not options.get("remove_on_fail")
    return outcome_code(job, removed_means_completed=bool(options.get("remove_on_complete")) and kept)
