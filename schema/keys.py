"""What is an API key, to a GraphQL client?"""

from datetime import date, datetime
from typing import Annotated, Any

import strawberry

from schema.enums import described
from schema.errors import NotFound, result
from schema.fields import mutation, query, resolved
from schema.inputs import given
from schema.job_limits import JobLimit, JobLimitInput, limit_of
from schema.resolvers import keys as resolvers
from schema.scalars import int32
from schema.selection import Info
from switchtower import access as records
from switchtower.limits import UNLIMITED

__all__ = ["ApiKey", "KeyMutation", "KeyQuery"]

described(
    records.Scope,
    "What a key is for.",
    {
        "READ": "Queries and subscriptions.",
        "OPERATE": "What can be done to jobs, queues, flows, crons, workflows and dead letters; includes `READ`.",
        "ADMIN": "Keys, the limits of tenants, and what cannot be undone; includes `OPERATE` and `READ`.",
        "WORK": "Claiming jobs and reporting on them; includes nothing else.",
    },
    name="KeyScope",
)


def _scopes(root: strawberry.Parent[records.ApiKey]) -> list[records.Scope]:
    return sorted(root.scopes)


def _app(root: strawberry.Parent[records.ApiKey]) -> str | None:
    return root.app or None


@strawberry.type(description="At most so many requests in an interval, over all servers together.")
class RateLimit:
    """`switchtower.access.RateLimit`."""

    requests: int = strawberry.field(description="How many.")
    per_ms: int = strawberry.field(description="The interval in milliseconds.")


def _queues(root: strawberry.Parent[records.ApiKey]) -> list[str] | None:
    return None if root.queues is None else sorted(root.queues)


# No Node: whatever has an id that `node` answers for can be looked up with the scope READ.
@strawberry.type(description="An API key, without its secret, which nobody can read again.")
class ApiKey:
    """`switchtower.access.ApiKey`."""

    id: strawberry.ID = strawberry.field(description="Its id; part of its text.")
    name: str = strawberry.field(description="What it is called.")
    env: str = strawberry.field(description="The environment that its text names.")
    scopes: list[records.Scope] = resolved(resolver=_scopes, description="What it is for.")
    org: str | None = strawberry.field(description="The tenant that it sees; null for an operator's.")
    app: str | None = resolved(resolver=_app, description="The application that its jobs are marked with.")
    queue: str | None = strawberry.field(description="Where jobs go that are enqueued with it and name no queue.")
    queues: list[str] | None = resolved(
        resolver=_queues, description="The only queues that exist for it; null: all do."
    )
    webhook_url: str | None = strawberry.field(
        description="Where jobs go that are enqueued with it as webhooks; null where nobody has said so."
    )
    rate: RateLimit | None = strawberry.field(description="How many requests it may send; null for any number.")
    created_at: datetime = strawberry.field(description="When it was created.")
    created_by: str = strawberry.field(description="Who created it.")
    expires_at: datetime | None = strawberry.field(description="When it ends by itself.")
    revoked_at: datetime | None = strawberry.field(description="When it was revoked.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.ApiKey)


@strawberry.type(description="A new key, and its text: the only time that it is shown.")
class CreatedApiKey:
    """`switchtower.access.CreatedKey`."""

    key: ApiKey = strawberry.field(description="The key.")
    secret: str = strawberry.field(description="Its whole text; send it as `Authorization: Bearer …`.")
    webhook_secret: str | None = strawberry.field(
        description="What deliveries to its webhook are signed with; null where it has no webhook."
    )

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.CreatedKey)


def _monthly(root: strawberry.Parent[records.TenantLimits]) -> int | None:
    return int32(root.jobs_per_month)


def _jobs(root: strawberry.Parent[records.TenantLimits]) -> JobLimit:
    return limit_of(root.jobs)


@strawberry.type(description="What a tenant may use.")
class TenantLimits:
    """`switchtower.access.TenantLimits`."""

    org: str = strawberry.field(description="The tenant.")
    jobs_per_month: int | None = resolved(
        resolver=_monthly, description="Jobs enqueued in a calendar month (UTC); null for any number."
    )
    rate: RateLimit | None = strawberry.field(description="Requests of all of its keys together; null for any number.")
    jobs: JobLimit = resolved(
        resolver=_jobs, graphql_type=JobLimit, description="What its jobs may run, in all queues together."
    )
    max_retries: int | None = strawberry.field(
        description="How often a delivery of the Dispatched dialect is repeated at most; null for three times."
    )

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.TenantLimits)


def _enqueued(root: strawberry.Parent[records.Usage]) -> int:
    return int32(root.enqueued) or 0


@strawberry.type(description="How much was enqueued with one key on one day (UTC); some seconds behind.")
class Usage:
    """`switchtower.access.Usage`."""

    day: date = strawberry.field(description="The day.")
    org: str = strawberry.field(description="The tenant; empty for the operator's own.")
    key_id: strawberry.ID | None = strawberry.field(description="The key; null for jobs that came without one.")
    enqueued: int = resolved(
        resolver=_enqueued, description="Jobs enqueued, those that were cancelled or removed later too."
    )


def _seen(root: strawberry.Parent[resolvers.Viewer]) -> list[str] | None:
    return None if root.caller.queues is None else sorted(root.caller.queues)


def _actor(root: strawberry.Parent[resolvers.Viewer]) -> str:
    return root.caller.actor


def _org(root: strawberry.Parent[resolvers.Viewer]) -> str | None:
    return root.caller.org


def _grants(root: strawberry.Parent[resolvers.Viewer]) -> list[records.Scope]:
    return sorted(root.caller.scopes)


@strawberry.type(description="Who asks.")
class Viewer:
    """`schema.resolvers.keys.Viewer`."""

    actor: str = resolved(resolver=_actor, description="As whom you are written down on what you change.")
    org: str | None = resolved(resolver=_org, description="The tenant that you see; null when you see all.")
    queues: list[str] | None = resolved(resolver=_seen, description="The only queues that exist for you; null: all.")
    scopes: list[records.Scope] = resolved(resolver=_grants, description="What you may do, included scopes too.")
    key: ApiKey | None = strawberry.field(description="The key that you came with.")
    limits: TenantLimits | None = strawberry.field(description="What your tenant may use; null for an operator.")
    read_only: bool = strawberry.field(description="Whether this server refuses every mutation.")


@strawberry.input(description="At most so many requests in an interval.")
class RateLimitInput:
    """`switchtower.access.RateLimit`."""

    requests: int = strawberry.field(description="How many.")
    per_ms: int = strawberry.field(default=60_000, description="The interval in milliseconds; a minute by default.")

    def record(self) -> records.RateLimit:
        """As the engine knows it."""
        return records.RateLimit(self.requests, self.per_ms)


@strawberry.input(description="A key to create.")
class CreateApiKeyInput:
    """`switchtower.access.NewApiKey`."""

    name: str = strawberry.field(description="What it is called.")
    scopes: list[records.Scope] = strawberry.field(description="What it is for.")
    org: str | None = strawberry.field(
        default=None, description="The tenant that it sees: your own where you have one; otherwise an operator's key."
    )
    app: str | None = strawberry.field(default=None, description="The application that its jobs are marked with.")
    env: str | None = strawberry.field(default=None, description="The environment that its text names; `live`.")
    queue: str | None = strawberry.field(default=None, description="Where its jobs go that name no queue.")
    queues: list[str] | None = strawberry.field(
        default=None,
        description="The only queues that exist for it: every other one is unknown to it; all, unless given.",
    )
    webhook_url: str | None = strawberry.field(
        default=None, description="Where its jobs go that are webhooks; see `setWebhook`."
    )
    rate: RateLimitInput | None = strawberry.field(default=None, description="How many requests it may send.")
    expires_in_ms: float | None = strawberry.field(
        default=None, description="When it ends by itself, in milliseconds from now, up to ten years."
    )

    def record(self) -> records.NewApiKey:
        """As the engine knows it."""
        chosen = given(self, "org", "app", "env", "queue", "queues", "webhook_url")
        if self.expires_in_ms is not None:
            chosen["expires_in_ms"] = int(self.expires_in_ms)
        if self.rate is not None:
            chosen["rate"] = self.rate.record()
        return records.NewApiKey(name=self.name, scopes=self.scopes, **chosen)


@strawberry.input(description="What a tenant may use; what is left out has no limit.")
class TenantLimitsInput:
    """`switchtower.access.TenantLimits`."""

    org: str = strawberry.field(description="The tenant.")
    jobs_per_month: int | None = strawberry.field(
        default=None, description="Jobs enqueued in a calendar month (UTC); what would enqueue more is refused."
    )
    rate: RateLimitInput | None = strawberry.field(default=None, description="Requests of all of its keys together.")
    jobs: JobLimitInput | None = strawberry.field(
        default=None, description="What its jobs may run, in all queues together."
    )
    max_retries: int | None = strawberry.field(
        default=None,
        description="How often a delivery of the Dispatched dialect is repeated at most, 0 to 3; 3 where not given.",
    )

    def record(self) -> records.TenantLimits:
        """As the engine knows it."""
        rate = self.rate.record() if self.rate else None
        jobs = self.jobs.record() if self.jobs else UNLIMITED
        return records.TenantLimits(self.org, self.jobs_per_month, rate, jobs, self.max_retries)


CreateApiKeyResult = result("CreateApiKeyResult", CreatedApiKey)
RevokeApiKeyResult = result("RevokeApiKeyResult", ApiKey, NotFound)
SetTenantLimitsResult = result("SetTenantLimitsResult", TenantLimits)


@strawberry.type
class KeyQuery:
    """Queries about keys."""

    @query(graphql_type=list[ApiKey], description="All keys that you may see, revoked ones too, oldest first.")
    async def api_keys(self, info: Info) -> Any:
        return await resolvers.list_all(info.context)

    @query(graphql_type=Viewer, description="Who asks, and what they may do.")
    async def viewer(self, info: Info) -> Any:
        return await resolvers.viewer(info.context)

    @query(graphql_type=list[Usage], description="How much was enqueued, per day and key, oldest first.")
    async def usage(
        self,
        info: Info,
        from_: Annotated[
            date | None, strawberry.argument(name="from", description="The first day; 30 before the last by default.")
        ] = None,
        to: Annotated[date | None, strawberry.argument(description="The last day; today by default.")] = None,
    ) -> Any:
        return await resolvers.usage(info.context, from_, to)


@strawberry.type
class KeyMutation:
    """What can be done to keys."""

    @mutation(graphql_type=CreateApiKeyResult, description="Creates a key; its secret is shown this once.")
    async def create_api_key(
        self, info: Info, input: Annotated[CreateApiKeyInput, strawberry.argument(description="The key.")]
    ) -> Any:
        return await resolvers.create(info.context, input.record())

    @mutation(
        graphql_type=RevokeApiKeyResult,
        description="Revokes a key for good: refused within a second, its streams closed within two. Idempotent.",
    )
    async def revoke_api_key(
        self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="The key's id.")]
    ) -> Any:
        return await resolvers.revoke(info.context, id)

    @mutation(graphql_type=SetTenantLimitsResult, description="Sets what a tenant may use; an operator's to set.")
    async def set_tenant_limits(
        self, info: Info, input: Annotated[TenantLimitsInput, strawberry.argument(description="The limits.")]
    ) -> Any:
        return await resolvers.set_tenant_limits(info.context, input.record())
