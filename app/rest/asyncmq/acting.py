"""What do AsyncMQ's forms do? Each answers with what the browser is to be told, and where it goes on."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import orjson

from app.strict import MalformedJson, parse_object
from app.visit import Flash
from schema.context import Context
from schema.resolvers import actions, crons, queues
from schema.resolvers.bounds import MAX_IDS, MAX_LIMIT
from switchtower.crons import Cron, NewCron, Schedule
from switchtower.errors import Forbidden, InvalidInput, NotFound, RateLimited, StoreUnavailable, SwitchtowerError
from switchtower.jobs import NewJob
from switchtower.retry import Backoff, BackoffKind

__all__ = ["Done", "act", "act_on_many", "act_on_repeatable", "create_repeatable", "switch_queue"]

ALIASES: Final = {"delete": "remove"}
ONE_RUN: Final = 1
AT_ONCE: Final = Backoff(BackoffKind.NONE)
MAX_NAME: Final = 256
MAX_EVERY: Final = 366 * 24 * 3600
PASSED_ON: Final = (Forbidden, RateLimited, StoreUnavailable)
"""What concerns the whole request, and not what the form says."""


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a form: what to say, and whether it did what it asked for."""

    flash: Flash | None
    well: bool = True


def _done(text: str) -> Done:
    return Done(Flash("done", text))


def _failed(text: str) -> Done:
    return Done(Flash("failed", text), well=False)


async def switch_queue(context: Context, name: str, action: str) -> Done:
    """Pauses or resumes a queue; any other action is none."""
    match action:
        case "pause":
            await queues.pause(context, name)
            return _done(f"Queue {name} is paused: what runs goes on, nothing new starts.")
        case "resume":
            await queues.resume(context, name)
            return _done(f"Queue {name} goes on.")
        case _:
            return Done(None)


async def act(context: Context, name: str, job_id: str, action: str) -> Done:
    """Retries, removes or cancels one job. Raises InvalidInput for an action that there is not."""
    verb = ALIASES.get(action, action)
    await actions.act(context, verb, job_id, queue=name)
    return _done(f"Job {job_id}: {verb} done.")


async def act_on_many(context: Context, name: str, action: str, ids: Sequence[str], noun: str) -> Done:
    """The same for each of these jobs; one that is refused is in the audit trail, and the others go on."""
    verb = ALIASES.get(action, action)
    if not ids:
        return _failed("No jobs selected.")
    if len(ids) > MAX_IDS:
        return _failed(f"At most {MAX_IDS:,} jobs at once; nothing was done.")
    done, refused = 0, []
    for id in ids:
        try:
            done += await actions.act(context, verb, id, queue=name, noun=noun)
        except PASSED_ON:
            raise
        except SwitchtowerError as error:
            refused.append(error.message)
    if refused:
        return _failed(f"{done} of {len(ids)} jobs: {verb} done. {refused[0]}")
    return _done(f"{done} of {len(ids)} jobs: {verb} done.")


def name_of(task_id: str, queue: str, period: str) -> str:
    """The name of a repeatable, equal for equal definitions: asking for it twice makes one."""
    name = f"{task_id} · {queue} · {period}"
    if len(name) <= MAX_NAME:
        return name
    return f"repeatable:{hashlib.sha1(orjson.dumps([task_id, queue, period]), usedforsecurity=False).hexdigest()}"


async def create_repeatable(context: Context, name: str, task_id: str, every: str, cron: str) -> Done:
    """Creates a repeatable of a task, by seconds or by a cron expression; what makes no sense is said, and nothing is
    created."""
    try:
        schedule = _schedule(every, cron)
        period = f"every {every} s" if every else cron
        job = NewJob(name=task_id, queue=name, max_attempts=ONE_RUN, backoff=AT_ONCE)
        if not task_id:
            raise InvalidInput("task_id", "names the task to run; it must not be empty.")
        await crons.create(context, NewCron(name=name_of(task_id, name, period), schedule=schedule, job=job))
    except PASSED_ON:
        raise
    except SwitchtowerError as error:
        return _failed(error.message)
    return _done(f"Repeatable {task_id} was created.")


def _schedule(every: str, cron: str) -> Schedule:
    if bool(every) == bool(cron):
        raise InvalidInput("every", "give the seconds between two runs, or a cron expression; one of the two.")
    if cron:
        return Schedule(cron)
    if not (every.isascii() and every.isdigit() and len(every) <= 10 and 0 < int(every) <= MAX_EVERY):
        raise InvalidInput("every", f"must be a whole number of seconds between 1 and {MAX_EVERY:,}.")
    return Schedule(every_ms=int(every) * 1_000)


async def _pause(context: Context, cron: Cron) -> Any:
    return await crons.switch(context, cron.id, on=False)


async def _resume(context: Context, cron: Cron) -> Any:
    return await crons.switch(context, cron.id, on=True)


async def _remove(context: Context, cron: Cron) -> Any:
    return await crons.delete(context, cron.id)


REPEATABLES: Final[dict[str, tuple[Callable[[Context, Cron], Awaitable[Any]], str]]] = {
    "pause": (_pause, "is paused"),
    "resume": (_resume, "goes on"),
    "remove": (_remove, "was removed"),
}


async def act_on_repeatable(context: Context, name: str, action: str, job_def: str) -> Done:
    """Pauses, resumes or removes the repeatable that a definition means; one that cannot be read, or that there is not,
    is said and written down."""
    verb = ALIASES.get(action, action)
    try:
        if verb not in REPEATABLES:
            raise InvalidInput("action", f"{verb[:64]!r} is not known here; use {', '.join(REPEATABLES)}.")
        cron = await _meant(context, name, job_def)
    except (InvalidInput, NotFound) as error:
        await actions.refuse(context, f"repeatable.{verb}", error, queue=name)
        unreadable = isinstance(error, InvalidInput) and error.field == "job_def"
        return _failed("Invalid repeatable job definition." if unreadable else error.message)
    do, done = REPEATABLES[verb]
    try:
        await do(context, cron)
    except NotFound as error:
        return _failed(error.message)
    return _done(f"Repeatable {cron.job.name} {done}.")


async def _meant(context: Context, name: str, job_def: str) -> Cron:
    """The repeatable with the id of a definition, else the one with its task and period."""
    try:
        given = parse_object(job_def)
    except MalformedJson as error:
        raise InvalidInput("job_def", str(error)) from None
    found = await crons.offset_page(context, offset=0, limit=MAX_LIMIT, queue=name)
    ids = {given.get("id"), given.get("repeat_id")} if _is_text(given.get("id"), given.get("repeat_id")) else set()
    for cron in found:
        if cron.id in ids:
            return cron
    for cron in found:
        schedule = cron.schedule
        same = (
            _milliseconds(given.get("every")) == schedule.every_ms
            if schedule.every_ms is not None
            else given.get("cron") == schedule.expression
        )
        if given.get("task_id") == cron.job.name and same:
            return cron
    raise NotFound("Repeatable", str(given.get("task_id") or given.get("id") or ""))


def _is_text(*values: Any) -> bool:
    return all(value is None or isinstance(value, str) for value in values)


def _milliseconds(every: Any) -> int | None:
    """The milliseconds of a period in seconds, as a number or as its text."""
    try:
        return round(float(every) * 1_000) if isinstance(every, int | float | str) else None
    except (ValueError, OverflowError):
        return None
