"""What is a webhook, to a GraphQL client?"""

from datetime import datetime
from typing import Annotated, Any

import strawberry

from schema.errors import Conflict, NotFound, result
from schema.fields import mutation, query, resolved
from schema.resolvers import webhooks as resolvers
from schema.selection import Info
from switchtower import webhooks as records

__all__ = ["Delivery", "WebhookMutation", "WebhookQuery"]

ID = strawberry.argument(description="The webhook's id.")


@strawberry.type(description="What came of one attempt to deliver a job.")
class Delivery:
    """`switchtower.webhooks.Delivery`."""

    status_code: int | None = strawberry.field(description="The status of the answer; null where there was none.")
    latency_ms: int = strawberry.field(
        description="From the request to the end of the answer, or to what went wrong, in milliseconds."
    )
    answer: str | None = strawberry.field(
        description="The body of the answer, its first 64 KB; kept for the last 10 attempts of a job."
    )
    truncated: bool = strawberry.field(description="Whether the answer was longer than what is kept.")


@strawberry.type(description="A valid secret of a webhook, without its text, which nobody can read again.")
class WebhookSecret:
    """`switchtower.webhooks.WebhookSecret`."""

    id: strawberry.ID = strawberry.field(description="Its id.")
    created_at: datetime = strawberry.field(description="When it was made.")


def _key_id(root: strawberry.Parent[records.Webhook]) -> str | None:
    return root.target.key_id


def _org(root: strawberry.Parent[records.Webhook]) -> str | None:
    return root.org or None


def _app(root: strawberry.Parent[records.Webhook]) -> str | None:
    return root.target.app or None


# No Node: whatever has an id that `node` answers for can be looked up with the scope READ.
@strawberry.type(description="Where the jobs of a key, or of a project, are delivered that are webhooks.")
class Webhook:
    """`switchtower.webhooks.Webhook`."""

    id: strawberry.ID = strawberry.field(description="Its id.")
    key_id: strawberry.ID | None = resolved(
        resolver=_key_id,
        graphql_type=strawberry.ID | None,
        description="The key whose jobs go there; null where they are a project's.",
    )
    org: str | None = resolved(resolver=_org, description="The tenant; null for the operator's own.")
    app: str | None = resolved(resolver=_app, description="The application, of a project that is one.")
    url: str | None = strawberry.field(description="The address; null while jobs wait for one.")
    secrets: list[WebhookSecret] = strawberry.field(
        description="The secrets that deliveries are signed with, oldest first; two while they are rotated."
    )
    created_at: datetime = strawberry.field(description="When it was first set.")
    updated_at: datetime = strawberry.field(description="When it was last changed.")

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.Webhook)


@strawberry.type(description="A webhook, and the text of a secret that was made just now.")
class WebhookWithSecret:
    """`switchtower.webhooks.WebhookWithSecret`."""

    webhook: Webhook = strawberry.field(description="The webhook.")
    secret: str | None = strawberry.field(
        description="The secret's text, the only time that it is shown; null where no secret was made."
    )

    @classmethod
    def is_type_of(cls, obj: object, info: object) -> bool:
        """Whether a record is shown as this type."""
        return isinstance(obj, records.WebhookWithSecret)


@strawberry.input(description="Where jobs are to be delivered: those of a key, or of a project where none is given.")
class SetWebhookInput:
    """`switchtower.webhooks.SetWebhook`."""

    key_id: strawberry.ID | None = strawberry.field(
        default=None, description="The key whose jobs go there; your own can be set with the scope `OPERATE`."
    )
    org: str | None = strawberry.field(
        default=None, description="The tenant of a project: your own where you have one, else the operator's."
    )
    app: str | None = strawberry.field(
        default=None, description="The application that is the project; none: the jobs that name no application."
    )
    url: str | None = strawberry.field(
        default=None,
        description="An http or https address; left out it stays as it is, which for a new webhook is none.",
    )

    def record(self) -> records.SetWebhook:
        """As the engine knows it."""
        return records.SetWebhook(records.Target(self.key_id, self.org or "", self.app or ""), self.url)


SetWebhookResult = result("SetWebhookResult", WebhookWithSecret, NotFound)
RotateWebhookSecretResult = result("RotateWebhookSecretResult", WebhookWithSecret, NotFound, Conflict)
RevokeWebhookSecretResult = result("RevokeWebhookSecretResult", Webhook, NotFound, Conflict)
RemoveWebhookResult = result("RemoveWebhookResult", Webhook, NotFound)


@strawberry.type
class WebhookQuery:
    """Queries about webhooks."""

    @query(graphql_type=list[Webhook], description="All webhooks that you may see, oldest first.")
    async def webhooks(self, info: Info) -> Any:
        return await resolvers.list_all(info.context)


@strawberry.type
class WebhookMutation:
    """What can be done to webhooks."""

    @mutation(
        graphql_type=SetWebhookResult,
        description=(
            "Sets where the jobs of a key or project are delivered. The first time it makes the secret that deliveries "
            "are signed with, which is shown this once."
        ),
    )
    async def set_webhook(
        self, info: Info, input: Annotated[SetWebhookInput, strawberry.argument(description="Whose, and where to.")]
    ) -> Any:
        return await resolvers.set_webhook(info.context, input.record())

    @mutation(
        graphql_type=RotateWebhookSecretResult,
        description="Makes a second secret, shown this once; both are valid until one of them is revoked.",
    )
    async def rotate_webhook_secret(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.rotate(info.context, id)

    @mutation(
        graphql_type=RevokeWebhookSecretResult, description="Ends one of two secrets; the last one cannot be ended."
    )
    async def revoke_webhook_secret(
        self,
        info: Info,
        id: Annotated[strawberry.ID, ID],
        secret_id: Annotated[strawberry.ID, strawberry.argument(description="The secret's id.")],
    ) -> Any:
        return await resolvers.revoke_secret(info.context, id, secret_id)

    @mutation(
        graphql_type=RemoveWebhookResult,
        description="Removes a webhook and its secrets; its jobs wait, or go where their project's do.",
    )
    async def remove_webhook(self, info: Info, id: Annotated[strawberry.ID, ID]) -> Any:
        return await resolvers.remove(info.context, id)
