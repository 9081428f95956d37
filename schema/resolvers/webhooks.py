"""What can be asked of webhooks, and done to them?"""

from __future__ import annotations

from schema.context import Context
from schema.resolvers import jobs
from schema.resolvers.auditing import audited
from schema.resolvers.authority import authorise, needs
from schema.resolvers.bounds import check_horizon
from switchtower.access import MAX_RETRIES, Scope
from switchtower.errors import NotFound
from switchtower.jobs import Enqueued, NewJob
from switchtower.webhooks import SetWebhook, Target, Webhook, WebhookWithSecret

__all__ = ["dispatch", "list_all", "remove", "revoke_secret", "rotate", "set_webhook"]


@needs(Scope.OPERATE)
async def dispatch(
    context: Context, new: NewJob, *, max_retries: int | None, horizon_ms: int, field: str = "runAt"
) -> Enqueued:
    """Stores one job to deliver, to be repeated `max_retries` times at most and no more often than its tenant's may
    (None: as often as they may). `field` is what an error calls its time.

    Raises:
        InvalidInput: it is due in more than `horizon_ms`; RateLimited: the tenant has no more jobs this month.
    """
    check_horizon(context, field, new.run_at, horizon_ms)
    limits = await context.engine.keys.tenant_limits(context.caller.owner)
    most = MAX_RETRIES if limits.max_retries is None else limits.max_retries
    new.max_attempts = 1 + (most if max_retries is None else min(max_retries, most))
    return await jobs.enqueue(context, new)


@needs(Scope.ADMIN)
async def list_all(context: Context) -> list[Webhook]:
    """The webhooks of the caller's tenant; an operator's are all."""
    return await context.engine.webhooks.list(caller=context.caller)


@audited("webhook.set", leaves_event=False)
@needs(Scope.OPERATE)
async def set_webhook(context: Context, new: SetWebhook) -> WebhookWithSecret:
    """Sets where jobs of a key or project are delivered; a key may set its own with the scope operate.

    Raises InvalidInput, NotFound, Forbidden.
    """
    _check_own(context, new.target)
    return await context.engine.webhooks.set(new, caller=context.caller)


@audited("webhook.rotate", target="id", leaves_event=False)
@needs(Scope.OPERATE)
async def rotate(context: Context, id: str) -> WebhookWithSecret:
    """Makes a second valid secret. Raises NotFound, Forbidden, Conflict."""
    await _check_own_id(context, id)
    return await context.engine.webhooks.rotate(id, caller=context.caller)


@audited("webhook.revoke_secret", target="id", leaves_event=False)
@needs(Scope.OPERATE)
async def revoke_secret(context: Context, id: str, secret_id: str) -> Webhook:
    """Ends one of two secrets. Raises NotFound, Forbidden, Conflict."""
    await _check_own_id(context, id)
    return await context.engine.webhooks.revoke_secret(id, secret_id, caller=context.caller)


@audited("webhook.remove", target="id", leaves_event=False)
@needs(Scope.OPERATE)
async def remove(context: Context, id: str) -> Webhook:
    """Deletes a webhook. Raises NotFound, Forbidden."""
    await _check_own_id(context, id)
    return await context.engine.webhooks.remove(id, caller=context.caller)


async def _check_own_id(context: Context, id: str) -> None:
    webhook = await context.engine.webhooks.get(id, caller=context.caller)
    if webhook is None:
        raise NotFound("Webhook", id)
    _check_own(context, webhook.target)


def _check_own(context: Context, target: Target) -> None:
    """Whatever is not the caller's own key's is an administrator's. Raises Forbidden."""
    if target.key_id is None or target.key_id != context.caller.key_id:
        authorise(context, Scope.ADMIN)
