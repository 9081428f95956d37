"""How do the parts become one schema?"""

from collections.abc import Iterable
from typing import Annotated, Any

import strawberry
from strawberry.schema.config import StrawberryConfig

from schema.audit import AuditQuery, AuditSubscription
from schema.bulk import BulkMutation, BulkQuery, BulkSubscription
from schema.claims import ClaimMutation
from schema.crons import Cron, CronMutation, CronQuery, CronSubscription
from schema.dead_letters import DeadLetter, DeadLetterMutation, DeadLetterQuery, DeadLetterSubscription
from schema.errors import HANDLERS
from schema.execution import Executor
from schema.fields import query
from schema.flows import FlowMutation, FlowQuery, FlowSubscription
from schema.job_operations import JobMutation, JobQuery, JobSubscription
from schema.jobs import Job
from schema.keys import KeyMutation, KeyQuery
from schema.metrics import MetricQuery, MetricSubscription
from schema.node import Node
from schema.queues import QueueMutation, QueueQuery, QueueSubscription
from schema.resolvers import nodes
from schema.scalars import SCALARS
from schema.search import SearchQuery
from schema.selection import Info, heavy
from schema.stats import StatsQuery
from schema.webhooks import WebhookMutation, WebhookQuery
from schema.workers import Worker, WorkerQuery, WorkerSubscription
from schema.workflows import WorkflowMutation, WorkflowQuery, WorkflowRun, WorkflowSubscription

__all__ = ["build_schema"]


@strawberry.type(description="What can be asked.")
class Query(
    JobQuery,
    QueueQuery,
    DeadLetterQuery,
    WorkerQuery,
    BulkQuery,
    StatsQuery,
    CronQuery,
    FlowQuery,
    MetricQuery,
    AuditQuery,
    SearchQuery,
    WorkflowQuery,
    KeyQuery,
    WebhookQuery,
):
    """The queries of every noun."""

    @query(graphql_type=Node | None, description="The thing with this id, whatever it is; null where there is none.")
    async def node(self, info: Info, id: Annotated[strawberry.ID, strawberry.argument(description="Its id.")]) -> Any:
        return await nodes.get(info.context, id, with_=heavy(info))


@strawberry.type(description="What can be done.")
class Mutation(
    JobMutation,
    BulkMutation,
    QueueMutation,
    DeadLetterMutation,
    ClaimMutation,
    CronMutation,
    FlowMutation,
    WorkflowMutation,
    KeyMutation,
    WebhookMutation,
):
    """The mutations of every noun."""


@strawberry.type(description="What can be followed.")
class Subscription(
    JobSubscription,
    QueueSubscription,
    DeadLetterSubscription,
    WorkerSubscription,
    BulkSubscription,
    CronSubscription,
    FlowSubscription,
    MetricSubscription,
    AuditSubscription,
    WorkflowSubscription,
):
    """The subscriptions of every noun."""


def build_schema(extensions: Iterable[Any] = (), *, suggestions: bool = True) -> strawberry.Schema:
    """The schema. Build it once: extensions are classes or factories that every operation makes an instance of.

    `suggestions` is whether an unknown field's error names similar ones.
    """
    return strawberry.Schema(
        Query,
        Mutation,
        Subscription,
        types=[Job, DeadLetter, Worker, Cron, WorkflowRun],
        extensions=extensions,
        exception_handlers=HANDLERS,
        execution_context_class=Executor,
        config=StrawberryConfig(scalar_map=SCALARS, disable_field_suggestions=not suggestions),
    )
