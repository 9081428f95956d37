"""When does a task run by itself, as its program says?"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypedDict

from switchtower.crons import CatchUp, NewCron, Overlap, Schedule
from switchtower.errors import ConfigurationError, InvalidInput
from switchtower.jobs import NewJob

if TYPE_CHECKING:
    from switchtower.engine import Engine
    from switchtower.handlers import App
    from switchtower.tasks import Task

__all__ = ["CronOptions", "declare", "declared"]


class CronOptions(TypedDict, total=False):
    """What `App.cron` takes beside the schedule; what is left out is as in `NewCron`.

    `name` is the cron's (the task's, where left out), `payload` the handler's arguments, `queue` and `priority` those
    of the jobs in place of the task's own.
    """

    name: str
    payload: Mapping[str, Any]
    queue: str
    priority: int
    overlap: Overlap | str
    catch_up: CatchUp | str
    jitter_seconds: float
    starts_at: datetime
    ends_at: datetime
    limit: int


def declared(
    task: Task[..., Any],
    expression: str | None,
    *,
    tz: str,
    every_seconds: float | None,
    options: CronOptions,
) -> NewCron:
    """The cron that a decorator means, checked. Raises: InvalidInput."""
    unknown = options.keys() - CronOptions.__annotations__.keys()
    if unknown:
        known = ", ".join(sorted(CronOptions.__annotations__))
        raise InvalidInput(min(unknown), f"is not an option of a cron; there are {known}.")
    arguments = dict(options.get("payload") or {})
    chosen = {key: value for key, value in options.items() if key in ("queue", "priority")}
    job: NewJob = task.app.new_job(task, task.arguments.dump(arguments), chosen)
    rest: dict[str, Any] = {k: v for k, v in options.items() if k in ("starts_at", "ends_at", "limit")}
    new = NewCron(
        name=options.get("name") or task.name,
        schedule=Schedule(expression, _ms("every_seconds", every_seconds), tz),
        job=job,
        overlap=_member(Overlap, "overlap", options.get("overlap", Overlap.ALLOW)),
        catch_up=_member(CatchUp, "catch_up", options.get("catch_up", CatchUp.ONE)),
        jitter_ms=_ms("jitter_seconds", options.get("jitter_seconds")) or 0,
        **rest,
    )
    new.check()
    return new


def _ms(name: str, seconds: float | None) -> int | None:
    if seconds is None:
        return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not -1e12 < seconds < 1e12:
        raise InvalidInput(name, "must be a number of seconds.")
    return round(seconds * 1000)


def _member(kind: type[Any], name: str, value: Any) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise InvalidInput(name, f"must be one of {', '.join(member.value for member in kind)}.") from None


async def declare(app: App, engine: Engine) -> None:
    """Makes the crons of this program be in the database as they are in its code; harmless in many workers at once.

    Raises: ConfigurationError, naming the cron that the database refuses; StoreUnavailable.
    """
    for new in app.crons.values():
        try:
            await engine.crons.declare(new, caller=app.caller)
        except InvalidInput as error:
            raise ConfigurationError(f"The cron {new.name!r} cannot be: {error}") from None
