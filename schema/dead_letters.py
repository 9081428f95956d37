"""What is a dead letter, to a GraphQL client?"""

from collections.abc import AsyncGenerator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

import strawberry

from schema import loaders
from schema.enums import described
from schema.errors import Conflict, Error, InvalidTransition, NotFound, rendered, result
from schema.events import AT, CURSOR, StreamGap
from schema.fields import mutation, query, resolved, subscription
from schema.inputs import given
from schema.jobs import EnqueuedJob, Job, JobError
from schema.node import Node, Scope
from schema.paging import AFTER, BEFORE, FIRST, LAST, Connection, Count
from schema.resolvers import dead_letters as resolvers
from schema.resolvers.bounds import Listing, window
from schema.scalars import JSON
from schema.selection import Info, heavy
from switchtower import engine as records
from switchtower import jobs as job_records
from switchtower.events import Event, Topic

__all__ = ["DeadLetter", "DeadLetterConnection", "DeadLetterMutation", "DeadLetterQuery", "DeadLetterSubscription"]


async def _job(root: strawberry.Parent[records.DeadLetter], info: Info) -> job_records.Job | None:
    return await loaders.loader(info.context, loaders.jobs).load((root.job_id, heavy(info)))


def _scope(root: strawberry.Parent[records.DeadLetter]) -> records.DeadLetter:
    return root


@strawberry.type(description="What is kept of a job that failed for good.")
class DeadLetter(Node):
    """`switchtower.engine.DeadLetter`."""

    job_id: strawberry.ID = strawberry.field(description="The job.")
    job: Job | None = resolved(
        resolver=_job, graphql_type=Job | None, description="The job as it is now; null when it was removed."
    )
    generation: int = strawberry.field(description="The generation of the job that failed.")
    name: str = strawberry.field(description="The job's name.")
    queue: str = strawberry.field(description="The job's queue.")
    payload: JSON | None = strawberry.field(description="What its handler was given.")
    error: JobError | None = strawberry.field(description="The last failure.")
    attempt: int = strawberry.field(description="How many attempts it had.")
    max_attempts: int = strawberry.field(description="How many it could have had.")
    priority: int = strawberry.field(description="The job's priority.")
    tags: list[str] = strawberry.field(description="The job's tags.")
    group: str | None = strawberry.field(description="The job's group.")
    created_at: datetime = strawberry.field(description="When the job was enqueued.")
    failed_at: datetime = strawberry.field(description="When it failed for good.")
    replayed_at: datetime | None = strawberry.field(description="When it was last replayed.")
    replay_job_ids: list[strawberry.ID] = strawberry.field(description="The jobs that replay it, oldest first.")
    scope: Scope = resolved(resolver=_scope, graphql_type=Scope, description="Whose it is.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.DeadLetter)


DeadLetterConnection = Connection[DeadLetter]


@strawberry.input(description="Which dead letters: every given condition must hold.")
class DeadLetterFilter:
    """`switchtower.engine.DeadLetterFilter`."""

    queues: list[str] | None = strawberry.field(default=None, description="Of jobs in any of these queues.")
    names: list[str] | None = strawberry.field(default=None, description="Of jobs with any of these names.")
    job_id: strawberry.ID | None = strawberry.field(default=None, description="Of this job; our id.")
    replayed: bool | None = strawberry.field(
        default=None, description="Only replayed ones, or only those never replayed."
    )
    failed_after: datetime | None = strawberry.field(default=None, description="Failed after this time.")
    failed_before: datetime | None = strawberry.field(default=None, description="Failed before this time.")
    text: str | None = strawberry.field(
        default=None, description="With this text, whatever its case, in its name or error; at most 256 characters."
    )
    fingerprint: str | None = strawberry.field(default=None, description="Whose failure has this fingerprint.")


def dead_letter_filter(filter: DeadLetterFilter | None) -> records.DeadLetterFilter:
    """The filter as the engine knows it; none restricts nothing."""
    if filter is None:
        return records.DeadLetterFilter()
    return records.DeadLetterFilter(
        **given(filter, "queues", "names", "job_id", "replayed", "failed_after", "failed_before", "text", "fingerprint")
    )


class DeadLetterEventType(StrEnum):
    """The types of events of dead letters."""

    BURY = "bury"
    REPLAY = "replay"


described(
    DeadLetterEventType,
    "What happened to a dead letter.",
    {"BURY": "A job failed for good and left it.", "REPLAY": "It was enqueued again."},
)


async def _dead_letter(root: strawberry.Parent[Event], info: Info) -> Any:
    return await loaders.loader(info.context, loaders.dead_letters).load(root.id)


def _event_job(root: strawberry.Parent[Event]) -> Any:
    return root.data.get("job")


@strawberry.type(description="Something happened to a dead letter.")
class DeadLetterEvent:
    """`switchtower.events.Event` of a dead letter."""

    cursor: str = strawberry.field(description=CURSOR)
    at: datetime = strawberry.field(description=AT)
    type: DeadLetterEventType = strawberry.field(description="What happened.")
    id: strawberry.ID = strawberry.field(name="deadLetterId", description="The dead letter.")
    dead_letter: DeadLetter | None = resolved(
        resolver=_dead_letter,
        graphql_type=DeadLetter | None,
        description="The dead letter as it is now; null when it was removed.",
    )
    job_id: strawberry.ID | None = resolved(resolver=_event_job, description="The job that failed, or that replays it.")
    name: str = strawberry.field(name="jobName", description="The job's name.")
    queue: str = strawberry.field(description="The job's queue.")
    actor: str | None = strawberry.field(description="Who did it.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, Event) and obj.topic is Topic.DEAD_LETTER


DeadLetterStreamItem = Annotated[
    DeadLetterEvent | StreamGap, strawberry.union("DeadLetterStreamItem", description="What `deadLetters` delivers.")
]


@strawberry.type(description="What a replay of many dead letters did.")
class ReplayedDeadLetters:
    """The answer of `replayDeadLetters`."""

    replayed: int = strawberry.field(description="How many were enqueued again.")
    errors: list[Error] = strawberry.field(description="Why the others were not; the first 100.")


@strawberry.type(description="What a removal of dead letters did.")
class RemovedDeadLetters:
    """The answer of `removeDeadLetters` and `purgeDeadLetters`."""

    removed: int = strawberry.field(description="How many there were.")


ReplayDeadLetterResult = result("ReplayDeadLetterResult", Job, NotFound, InvalidTransition, Conflict)
ReplayDeadLettersResult = result("ReplayDeadLettersResult", ReplayedDeadLetters)
RemoveDeadLettersResult = result("RemoveDeadLettersResult", RemovedDeadLetters)
PurgeDeadLettersResult = result("PurgeDeadLettersResult", RemovedDeadLetters)

ID = strawberry.argument(description="The dead letter's id.")
FILTER = strawberry.argument(description="Which dead letters; all where not given.")


@strawberry.type
class DeadLetterQuery:
    """Queries about dead letters."""

    @query(graphql_type=DeadLetter | None, description="The dead letter with this id; null where there is none.")
    async def dead_letter(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.get(info.context, id)

    @query(graphql_type=DeadLetterConnection, description="The dead letters that match, newest first.")
    async def dead_letters(
        self,
        info: Info,
        filter: Annotated[DeadLetterFilter | None, FILTER] = None,
        first: Annotated[int | None, FIRST] = None,
        after: Annotated[str | None, AFTER] = None,
        last: Annotated[int | None, LAST] = None,
        before: Annotated[str | None, BEFORE] = None,
    ) -> Listing[Any]:
        part = window(info.context, first, after, last, before)
        return await resolvers.page(info.context, dead_letter_filter(filter), part)

    @query(graphql_type=Count, description="How many dead letters match.")
    async def dead_letter_count(self, info: Info, filter: Annotated[DeadLetterFilter | None, FILTER] = None) -> Any:
        return await resolvers.count(info.context, dead_letter_filter(filter))


@strawberry.type
class DeadLetterMutation:
    """What can be done to dead letters."""

    @mutation(
        graphql_type=ReplayDeadLetterResult,
        description="Enqueues the job again as a new one; the dead letter stays and names it.",
    )
    async def replay_dead_letter(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        idempotency_key: Annotated[
            str | None, strawberry.argument(description="The same key gives the same job for 24 hours.")
        ] = None,
    ) -> EnqueuedJob:
        return EnqueuedJob(await resolvers.replay(info.context, id, idempotency_key=idempotency_key))

    @mutation(
        graphql_type=ReplayDeadLettersResult,
        description=(
            "Replays the dead letters that match and were never replayed, each once: the oldest 1,000; repeat "
            "it while it replays some."
        ),
    )
    async def replay_dead_letters(
        self, info: Info, filter: Annotated[DeadLetterFilter | None, FILTER] = None
    ) -> ReplayedDeadLetters:
        replayed, errors = await resolvers.replay_all(info.context, dead_letter_filter(filter))
        return ReplayedDeadLetters(replayed=replayed, errors=[rendered(error) for error in errors[:100]])

    @mutation(graphql_type=RemoveDeadLettersResult, description="Deletes these dead letters; at most 1,000.")
    async def remove_dead_letters(
        self, info: Info, ids: Annotated[list[strawberry.ID], strawberry.argument(description="Their ids.")]
    ) -> RemovedDeadLetters:
        return RemovedDeadLetters(removed=await resolvers.remove(info.context, ids))

    @mutation(
        graphql_type=PurgeDeadLettersResult, description="Deletes the dead letters that failed longer ago than this."
    )
    async def purge_dead_letters(
        self,
        info: Info,
        older_than_ms: Annotated[
            int, strawberry.argument(description="The least time since they failed, in milliseconds; 0 deletes all.")
        ],
    ) -> RemovedDeadLetters:
        return RemovedDeadLetters(removed=await resolvers.purge(info.context, older_than_ms=older_than_ms))


@strawberry.type
class DeadLetterSubscription:
    """Streams about dead letters."""

    @subscription(
        graphql_type=DeadLetterStreamItem, description="Dead letters as jobs leave them and as they are replayed."
    )
    async def dead_letters(
        self,
        info: Info,
        after: Annotated[
            str | None, strawberry.argument(description="Begin behind this cursor, with nothing missed.")
        ] = None,
    ) -> AsyncGenerator[Any, None]:
        async for item in resolvers.events(info.context, after=after):
            yield item
