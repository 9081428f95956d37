"""What is a cron, to a GraphQL client?"""

from collections.abc import AsyncGenerator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import strawberry

from schema import loaders
from schema.enums import described
from schema.errors import Conflict, NotFound, result
from schema.events import AT, CURSOR, StreamGap
from schema.fields import mutation, query, resolved, subscription
from schema.inputs import BackoffInput, given
from schema.jobs import EnqueuedJob, Job
from schema.node import Node, Scope
from schema.paging import AFTER, FIRST, Connection
from schema.resolvers import crons as resolvers
from schema.resolvers.bounds import Listing, bounded, window
from schema.scalars import JSON, int32
from schema.selection import Info, heavy
from switchtower import crons as records
from switchtower import jobs as job_records
from switchtower.errors import InvalidInput
from switchtower.events import Event, Topic

__all__ = ["Cron", "CronConnection", "CronMutation", "CronQuery", "CronSubscription"]

described(
    records.Overlap,
    "What happens to a slot while the job of the slot before is still open.",
    {
        "ALLOW": "It makes its job all the same.",
        "SKIP": "It makes none.",
        "REPLACE": "The open job is cancelled, and it makes its own.",
    },
)
described(
    records.CatchUp,
    "What happens to slots that passed while nobody scheduled.",
    {"SKIP": "None fires.", "ONE": "The last one fires.", "ALL": "All fire, up to 1,000."},
)


async def _job(root: strawberry.Parent[records.Fire], info: Info) -> job_records.Job | None:
    if root.job_id is None:
        return None
    return await loaders.loader(info.context, loaders.jobs).load((root.job_id, heavy(info)))


@strawberry.type(description="A slot that was dealt with.")
class CronFire:
    """`switchtower.crons.Fire`."""

    slot: datetime = strawberry.field(description="The moment at which it was to fire.")
    at: datetime = strawberry.field(description="When it was dealt with.")
    outcome: str = strawberry.field(description="`fired` or `skipped`.")
    job_id: strawberry.ID | None = strawberry.field(description="The job that it made.")
    job: Job | None = resolved(
        resolver=_job, graphql_type=Job | None, description="The job as it is now; null when it was removed."
    )
    reason: str | None = strawberry.field(description="Why it was skipped.")


def _expression(root: strawberry.Parent[records.Cron]) -> str | None:
    return root.schedule.expression


def _every(root: strawberry.Parent[records.Cron]) -> int | None:
    return int32(root.schedule.every_ms)


def _timezone(root: strawberry.Parent[records.Cron]) -> str:
    return root.schedule.timezone


def _template(root: strawberry.Parent[records.Cron]) -> job_records.NewJob:
    return root.job


def _fires(
    root: strawberry.Parent[records.Cron],
    last: Annotated[int, strawberry.argument(description="At most so many, 1 to 50.")] = 10,
) -> list[records.Fire]:
    bounded("last", last, 1, 50)
    return root.fires[: -last - 1 : -1]


def _next_runs(
    root: strawberry.Parent[records.Cron],
    info: Info,
    count: Annotated[int, strawberry.argument(description="How many, 1 to 100.")] = 10,
) -> list[datetime]:
    return resolvers.next_runs(info.context, root, count)


def _scope(root: strawberry.Parent[records.Cron]) -> records.Cron:
    return root


def _job_timeout(root: strawberry.Parent[job_records.NewJob]) -> int | None:
    return int32(root.timeout_ms)


def _job_ttl(root: strawberry.Parent[job_records.NewJob]) -> int | None:
    return int32(root.ttl_ms)


@strawberry.type(description="What every slot of a cron enqueues.")
class CronJob:
    """`switchtower.jobs.NewJob`, without what is a slot's own."""

    name: str = strawberry.field(description="The name of its handler.")
    queue: str = strawberry.field(description="Its queue.")
    payload: JSON | None = strawberry.field(description="What its handler is given.")
    priority: int = strawberry.field(description="Lower numbers run first.")
    max_attempts: int = strawberry.field(description="How often it may start before it fails.")
    timeout_ms: int | None = resolved(resolver=_job_timeout, description="How long one attempt may run.")
    ttl_ms: int | None = resolved(resolver=_job_ttl, description="It fails if it is not finished so long after.")
    group: str | None = strawberry.field(description="Its group.")
    unique_key: str | None = strawberry.field(description="A slot makes no job while an open job holds this key.")
    tags: list[str] = strawberry.field(description="Its tags.")
    webhook: bool = strawberry.field(description="Whether it is delivered to a webhook instead of run by a worker.")


@strawberry.type(description="A schedule, and the job that each of its slots makes: one, however many schedulers run.")
class Cron(Node):
    """`switchtower.crons.Cron`."""

    name: str = strawberry.field(description="Its name, unique in its tenant.")
    enabled: bool = strawberry.field(description="Whether it fires.")
    expression: str | None = resolved(
        resolver=_expression,
        description="Its cron expression: 5 fields, 6 with seconds in front, 7 with a year at the end, or `@daily` …",
    )
    every_ms: int | None = resolved(resolver=_every, description="Its interval in milliseconds.")
    timezone: str = resolved(resolver=_timezone, description="The time zone of its expression.")
    job: CronJob = resolved(resolver=_template, graphql_type=CronJob, description="What each slot enqueues.")
    overlap: records.Overlap = strawberry.field(description="What a slot does while the job before it is open.")
    catch_up: records.CatchUp = strawberry.field(description="What becomes of slots that nobody scheduled in time.")
    jitter_ms: int = strawberry.field(description="Each job is delayed by up to this, in milliseconds.")
    starts_at: datetime | None = strawberry.field(description="No slot before this.")
    ends_at: datetime | None = strawberry.field(description="No slot after this.")
    limit: int | None = strawberry.field(description="How many slots fire in all.")
    fired: int = strawberry.field(description="How many slots have fired.")
    last_fired_at: datetime | None = strawberry.field(description="The last slot that fired.")
    next_at: datetime | None = strawberry.field(
        name="nextRunAt", description="The next slot; null while it is disabled, and when there is none any more."
    )
    next_runs: list[datetime] = resolved(
        resolver=_next_runs, graphql_type=list[datetime], description="The next slots."
    )
    fires: list[CronFire] = resolved(
        resolver=_fires, graphql_type=list[CronFire], description="The last slots, the newest first; 50 are kept."
    )
    created_at: datetime = strawberry.field(description="When it was created.")
    updated_at: datetime = strawberry.field(description="When it last changed.")
    scope: Scope = resolved(resolver=_scope, graphql_type=Scope, description="Whose it is.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.Cron)


CronConnection = Connection[Cron]


@strawberry.input(description="What every slot enqueues.")
class CronJobInput:
    """`switchtower.jobs.NewJob`, without what is a slot's own."""

    name: str = strawberry.field(description="The name of its handler, at most 256 characters.")
    queue: str | None = strawberry.field(default=None, description="Its queue; `default` where not given.")
    payload: JSON | None = strawberry.field(default=None, description="What its handler is given.")
    priority: int | None = strawberry.field(default=None, description="Lower numbers run first.")
    max_attempts: int | None = strawberry.field(default=None, description="How often it may start before it fails.")
    backoff: BackoffInput | None = strawberry.field(default=None, description="How long it waits between attempts.")
    timeout_ms: int | None = strawberry.field(default=None, description="How long one attempt may run.")
    ttl_ms: int | None = strawberry.field(default=None, description="It fails if it is not finished so long after.")
    group: str | None = strawberry.field(default=None, description="Its group.")
    tags: list[str] | None = strawberry.field(default=None, description="At most 50 tags.")
    unique_key: str | None = strawberry.field(
        default=None, description="A slot makes no job while an open job holds this key."
    )
    remove_on_complete: bool | None = strawberry.field(default=None, description="Removes each when it completes.")
    remove_on_fail: bool | None = strawberry.field(default=None, description="Removes each when it fails.")
    webhook: bool | None = strawberry.field(
        default=None, description="Delivers each to the webhook of your key or project instead of a worker."
    )

    def record(self) -> job_records.NewJob:
        """As the engine knows it. Raises InvalidInput."""
        chosen = given(self, *_JOB_FIELDS)
        if self.backoff is not None:
            chosen["backoff"] = self.backoff.record()
        return job_records.NewJob(**chosen)


_JOB_FIELDS = (
    "name",
    "queue",
    "payload",
    "priority",
    "max_attempts",
    "timeout_ms",
    "ttl_ms",
    "group",
    "tags",
    "unique_key",
    "remove_on_complete",
    "remove_on_fail",
    "webhook",
)
_PLAIN = ("name", "starts_at", "ends_at", "limit", "overlap", "catch_up", "jitter_ms", "enabled")


@strawberry.input(description="A cron to create: give an expression or an interval.")
class CreateCronInput:
    """`switchtower.crons.NewCron`."""

    name: str = strawberry.field(description="Its name, unique in its tenant.")
    job: CronJobInput = strawberry.field(description="What each slot enqueues.")
    expression: str | None = strawberry.field(default=None, description="A cron expression of 5 to 7 fields.")
    every_ms: int | None = strawberry.field(default=None, description="An interval in milliseconds, 100 at least.")
    timezone: str | None = strawberry.field(default=None, description="A time zone; UTC where not given.")
    enabled: bool | None = strawberry.field(default=None, description="Whether it fires; it does where not given.")
    starts_at: datetime | None = strawberry.field(default=None, description="No slot before this.")
    ends_at: datetime | None = strawberry.field(default=None, description="No slot after this.")
    limit: int | None = strawberry.field(default=None, description="How many slots fire in all.")
    overlap: records.Overlap | None = strawberry.field(default=None, description="`ALLOW` where not given.")
    catch_up: records.CatchUp | None = strawberry.field(default=None, description="`ONE` where not given.")
    jitter_ms: int | None = strawberry.field(default=None, description="Delays each job by up to this.")

    def record(self) -> records.NewCron:
        """As the engine knows it. Raises InvalidInput."""
        schedule = records.Schedule(self.expression, self.every_ms, self.timezone or "UTC")
        return records.NewCron(schedule=schedule, job=self.job.record(), **given(self, *_PLAIN))


@strawberry.input(description="What to change of a cron; what is left out stays.")
class UpdateCronInput:
    """Fields of `switchtower.crons.NewCron`."""

    name: str | None = strawberry.field(default=None, description="Its name.")
    job: CronJobInput | None = strawberry.field(default=None, description="What each slot enqueues, as a whole.")
    expression: str | None = strawberry.field(default=None, description="A cron expression, in place of any schedule.")
    every_ms: int | None = strawberry.field(default=None, description="An interval, in place of any schedule.")
    timezone: str | None = strawberry.field(default=None, description="The time zone of the new expression.")
    starts_at: datetime | None = strawberry.field(default=strawberry.UNSET, description="No slot before this.")
    ends_at: datetime | None = strawberry.field(default=strawberry.UNSET, description="No slot after this.")
    limit: int | None = strawberry.field(default=strawberry.UNSET, description="How many slots fire in all.")
    overlap: records.Overlap | None = strawberry.field(default=None, description="What a slot does while one is open.")
    catch_up: records.CatchUp | None = strawberry.field(default=None, description="What becomes of missed slots.")
    jitter_ms: int | None = strawberry.field(default=None, description="Delays each job by up to this.")

    def changes(self) -> dict[str, Any]:
        """What is given, as the engine knows it. Raises InvalidInput."""
        chosen = given(self, "name", "overlap", "catch_up", "jitter_ms")
        for name in ("starts_at", "ends_at", "limit"):
            if (value := getattr(self, name)) is not strawberry.UNSET:
                chosen[name] = value
        if self.job is not None:
            chosen["job"] = self.job.record()
        if self.expression is not None or self.every_ms is not None:
            chosen["schedule"] = records.Schedule(self.expression, self.every_ms, self.timezone or "UTC")
        elif self.timezone is not None:
            raise InvalidInput("timezone", "goes with an expression; give both.")
        return chosen


class CronEventType(StrEnum):
    """The types of events of crons."""

    CREATE = "create"
    UPDATE = "update"
    ENABLE = "enable"
    DISABLE = "disable"
    DELETE = "delete"
    FIRE = "fire"
    SKIP = "skip"


described(
    CronEventType,
    "What happened to a cron.",
    {
        "CREATE": "It was created.",
        "UPDATE": "It was changed.",
        "ENABLE": "It was enabled.",
        "DISABLE": "It was disabled.",
        "DELETE": "It was deleted.",
        "FIRE": "A slot made its job.",
        "SKIP": "A slot made none.",
    },
)


def _event_slot(root: strawberry.Parent[Event]) -> Any:
    return root.data.get("slot")


def _event_job(root: strawberry.Parent[Event]) -> Any:
    return root.data.get("job")


@strawberry.type(description="Something happened to a cron.")
class CronEvent:
    """`switchtower.events.Event` of a cron."""

    cursor: str = strawberry.field(description=CURSOR)
    at: datetime = strawberry.field(description=AT)
    type: CronEventType = strawberry.field(description="What happened.")
    id: strawberry.ID = strawberry.field(name="cronId", description="The cron.")
    name: str = strawberry.field(name="cronName", description="Its name.")
    slot: datetime | None = resolved(resolver=_event_slot, description="The slot that fired or was skipped.")
    job_id: strawberry.ID | None = resolved(resolver=_event_job, description="The job that the slot made.")
    actor: str | None = strawberry.field(description="Who did it.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, Event) and obj.topic is Topic.CRON


CronStreamItem = Annotated[
    CronEvent | StreamGap, strawberry.union("CronStreamItem", description="What `cronEvents` delivers.")
]
CreateCronResult = result("CreateCronResult", Cron, NotFound, Conflict)
UpdateCronResult = result("UpdateCronResult", Cron, NotFound, Conflict)
EnableCronResult = result("EnableCronResult", Cron, NotFound, Conflict)
DisableCronResult = result("DisableCronResult", Cron, NotFound, Conflict)
DeleteCronResult = result("DeleteCronResult", Cron, NotFound)
TriggerCronResult = result("TriggerCronResult", Job, NotFound, Conflict)

ID = strawberry.argument(description="The cron's id.")


@strawberry.type
class CronQuery:
    """Queries about crons."""

    @query(graphql_type=Cron | None, description="The cron with this id; null where there is none.")
    async def cron(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.get(info.context, id)

    @query(graphql_type=CronConnection, description="All crons, oldest first.")
    async def crons(
        self, info: Info, first: Annotated[int | None, FIRST] = None, after: Annotated[str | None, AFTER] = None
    ) -> Listing[Any]:
        return await resolvers.page(info.context, window(info.context, first, after))


@strawberry.type
class CronMutation:
    """What can be done to crons."""

    @mutation(
        graphql_type=CreateCronResult,
        description="Creates a cron. The same one again answers with the one that is there.",
    )
    async def create_cron(
        self, info: Info, input: Annotated[CreateCronInput, strawberry.argument(description="The cron.")]
    ) -> Any:
        return await resolvers.create(info.context, input.record())

    @mutation(graphql_type=UpdateCronResult, description="Changes a cron; its next slot is computed afresh.")
    async def update_cron(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        input: Annotated[UpdateCronInput, strawberry.argument(description="What to change.")],
    ) -> Any:
        return await resolvers.update(info.context, id, input.changes())

    @mutation(graphql_type=EnableCronResult, description="Lets a cron fire from its next slot on; idempotent.")
    async def enable_cron(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.switch(info.context, id, on=True)

    @mutation(graphql_type=DisableCronResult, description="Stops a cron; its jobs stay; idempotent.")
    async def disable_cron(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.switch(info.context, id, on=False)

    @mutation(graphql_type=DeleteCronResult, description="Deletes a cron for good; its jobs stay.")
    async def delete_cron(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.delete(info.context, id)

    @mutation(graphql_type=TriggerCronResult, description="Enqueues the cron's job now, beside its slots.")
    async def trigger_cron(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        idempotency_key: Annotated[
            str | None, strawberry.argument(description="The same key gives the same job for 24 hours.")
        ] = None,
    ) -> EnqueuedJob:
        return EnqueuedJob(await resolvers.trigger(info.context, id, idempotency_key=idempotency_key))


@strawberry.type
class CronSubscription:
    """Streams about crons."""

    @subscription(graphql_type=CronStreamItem, description="Crons as they fire and change.")
    async def cron_events(
        self,
        info: Info,
        after: Annotated[
            str | None, strawberry.argument(description="Begin behind this cursor, with nothing missed.")
        ] = None,
    ) -> AsyncGenerator[Any, None]:
        async for item in resolvers.events(info.context, after=after):
            yield item
