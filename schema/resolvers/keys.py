"""What can be asked of API keys and tenants, and done to them?"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from schema.context import Context
from schema.resolvers.auditing import audited
from schema.resolvers.authority import needs
from switchtower.access import ApiKey, CreatedKey, NewApiKey, Scope, TenantLimits, Usage
from switchtower.callers import Caller

__all__ = ["Viewer", "are_asked_for", "create", "get", "list_all", "revoke", "set_tenant_limits", "usage", "viewer"]

USAGE_DAYS = 30


async def are_asked_for(context: Context) -> bool:
    """Whether callers need a key; everybody may know that."""
    return not await context.engine.keys.none_exists()


@dataclass(frozen=True, slots=True)
class Viewer:
    """The one who asks: the caller, and its key where it came with one."""

    caller: Caller
    key: ApiKey | None
    limits: TenantLimits | None
    read_only: bool


@audited("key.create")
@needs(Scope.ADMIN)
async def create(context: Context, new: NewApiKey) -> CreatedKey:
    """Creates a key and answers with its text, once. Raises InvalidInput, Forbidden."""
    return await context.engine.keys.create(new, caller=context.caller)


@audited("key.revoke", target="id")
@needs(Scope.ADMIN)
async def revoke(context: Context, id: str) -> ApiKey:
    """Revokes a key for good. Raises NotFound."""
    return await context.engine.keys.revoke(id, caller=context.caller)


@needs(Scope.ADMIN)
async def list_all(context: Context) -> list[ApiKey]:
    """The keys of the caller's tenant; an operator's are all."""
    return await context.engine.keys.list(caller=context.caller)


@needs(Scope.ADMIN)
async def get(context: Context, id: str) -> ApiKey | None:
    """The key with this id."""
    return await context.engine.keys.get(id, caller=context.caller)


@audited("tenant.limits", leaves_event=False)
@needs(Scope.ADMIN)
async def set_tenant_limits(context: Context, limits: TenantLimits) -> TenantLimits:
    """Sets what a tenant may use. Raises InvalidInput, Forbidden."""
    return await context.engine.keys.set_tenant_limits(limits, caller=context.caller)


@needs(Scope.READ)
async def usage(context: Context, since: date | None, until: date | None) -> list[Usage]:
    """Jobs enqueued per day and key; the last 30 days where no days are given. Raises InvalidInput."""
    last = context.engine.clock.now().date() if until is None else until
    first = last - timedelta(days=USAGE_DAYS) if since is None else since
    return await context.engine.keys.usage(first, last, caller=context.caller)


async def viewer(context: Context) -> Viewer:
    """Who asks; every caller may know that of itself."""
    caller = context.caller
    keys = context.engine.keys
    key = None if caller.key_id is None else await keys.get(caller.key_id, caller=caller)
    limits = None if caller.org is None else await keys.tenant_limits(caller.org)
    return Viewer(caller, key, limits, context.read_only)
