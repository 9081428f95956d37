"""Who holds a key, and how much may each of them use?"""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, timedelta

from switchtower.access import (
    ApiKey,
    CreatedKey,
    NewApiKey,
    RateLimit,
    TenantLimits,
    Usage,
    digest_of,
    is_session,
    mint,
    mint_session,
    well_formed,
)
from switchtower.callers import EVERYTHING, SYSTEM, Caller
from switchtower.engine.permits import tenant_key
from switchtower.engine.webhooks import Webhooks
from switchtower.errors import Forbidden, InvalidInput, NotFound, RateLimited, Unauthorized
from switchtower.ids import API_KEY, new_id
from switchtower.store import keys as commands
from switchtower.store import permits, sessions
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors
from switchtower.store.keys import Portion
from switchtower.webhooks import SetWebhook, Target

__all__ = ["Keys", "Portion"]

PORTIONS = 20
MAX_PORTION = 200
SESSION = timedelta(hours=12)
MAX_USAGE_DAYS = 400
MAX_USAGE_ROWS = 10_000

_KeyList = list[ApiKey]
_Usages = list[Usage]


@translate_errors
class Keys:
    """The verbs on API keys and tenants."""

    def __init__(self, store: Store, webhooks: Webhooks) -> None:
        self._store = store
        self._webhooks = webhooks

    async def create(self, new: NewApiKey, *, caller: Caller) -> CreatedKey:
        """Creates a key, with a `webhook_url` its webhook too. Its text, and that of the webhook's secret, are in the
        answer and nowhere else. A tenant's caller creates keys of its tenant, with no scope that it has not itself, for
        no queue that it does not see.

        Raises: InvalidInput, Forbidden.
        """
        new.check()
        if caller.org is not None and new.org not in (None, caller.org):
            raise Forbidden("A tenant's key can create keys of its own tenant only; leave org out.")
        queues = caller.queues if new.queues is None else frozenset(new.queues)
        if queues is not None and caller.queues is not None and not queues <= caller.queues:
            raise Forbidden("A key can pass on only queues that it sees.")
        now = self._store.clock.now()
        key = ApiKey(
            new_id(API_KEY),
            new.name,
            new.env,
            frozenset(new.scopes),
            now,
            caller.actor,
            org=new.org if caller.org is None else caller.org,
            app=new.app,
            queue=new.queue,
            queues=queues,
            dev=new.dev,
            rate=new.rate,
            expires_at=None if new.expires_in_ms is None else now + timedelta(milliseconds=new.expires_in_ms),
        )
        beyond = key.grants - caller.scopes
        if beyond:
            raise Forbidden(f"A key can pass on only scopes that it has; it lacks {', '.join(sorted(beyond))}.")
        text = mint(key.id, key.env)
        await commands.insert(self._store, key, digest_of(text))
        if new.webhook_url is None and not new.dev:
            return CreatedKey(key, text)
        set = await self._webhooks.set(SetWebhook(Target(key.id), new.webhook_url), caller=caller)
        return CreatedKey(replace(key, webhook_url=set.webhook.url), text, set.secret)

    async def list(self, *, caller: Caller) -> _KeyList:
        """All keys of the caller's tenant (an operator: of all), revoked ones too, oldest first."""
        return await self._with_webhooks(await commands.find_many(self._store, caller))

    async def get(self, id: str, *, caller: Caller) -> ApiKey | None:
        """The key with this id; None when the caller sees none."""
        found = await self._with_webhooks(await commands.find_many(self._store, caller, [id]))
        return found[0] if found else None

    async def _with_webhooks(self, keys: Sequence[ApiKey]) -> _KeyList:
        webhooks = await self._webhooks.of_keys([key.id for key in keys])
        return [replace(key, webhook_url=webhooks[key.id].url) if key.id in webhooks else key for key in keys]

    async def revoke(self, id: str, *, caller: Caller) -> ApiKey:
        """Revokes a key for good: servers refuse it within a second and close what it holds open. Idempotent.

        Raises: NotFound.
        """
        key = await commands.revoke(self._store, id, caller)
        if key is None:
            raise NotFound("API key", id)
        return (await self._with_webhooks([key]))[0]

    async def verify(self, text: str) -> ApiKey:
        """The key with this text, or that this session was opened with.

        Raises: Unauthorized when there is none, or it is revoked or has expired.
        """
        if is_session(text):
            return await self._of_session(text)
        if not well_formed(text):
            raise Unauthorized()
        digest = digest_of(text)
        found = await commands.by_digest(self._store, digest)
        if found is None or not hmac.compare_digest(found[1], digest) or not self.valid(found[0]):
            raise Unauthorized()
        return found[0]

    async def _of_session(self, text: str) -> ApiKey:
        id = await sessions.key_id(self._store, digest_of(text))
        found = [] if id is None else await commands.find_many(self._store, SYSTEM, [id])
        if not found or not self.valid(found[0]):
            raise Unauthorized("The session has ended, or its key was revoked; sign in again.")
        return found[0]

    async def open_session(self, text: str) -> str:
        """Opens a session for whoever has a key: a text that stands for the key for twelve hours, or until the key is
        revoked.

        Raises: Unauthorized.
        """
        if not well_formed(text):
            raise Unauthorized()
        key = await self.verify(text)
        session = mint_session()
        await sessions.open(self._store, digest_of(session), key.id, keep=SESSION)
        return session

    async def close_session(self, text: str) -> None:
        """Ends a session; idempotent."""
        if is_session(text):
            await sessions.close(self._store, digest_of(text))

    def valid(self, key: ApiKey) -> bool:
        """Whether a key that was read opens anything now, by the database's clock."""
        return key.is_valid(self._store.clock.now())

    async def still_valid(self, ids: Sequence[str]) -> set[str]:
        """Which of these keys open anything now."""
        return {key.id for key in await commands.find_many(self._store, SYSTEM, ids) if self.valid(key)}

    async def none_exists(self) -> bool:
        """Whether no key was ever created that asks everyone for one; a revoked key is one that was."""
        return await commands.none_exists(self._store)

    async def take(self, owner: str, rate: RateLimit, *, spent: Portion | None = None, used: int = 0) -> Portion:
        """Takes the next portion of a rate for this process: a twentieth of it, so that many requests share one
        write. `spent` is the portion that it had, and `used` how much of that: the rest is given back. A rate is never
        exceeded in any interval; by what is held and not used it may be missed."""
        size = max(1, min(MAX_PORTION, rate.requests // PORTIONS))
        return await commands.take(self._store, owner, rate, size, spent=spent, used=used)

    async def set_tenant_limits(self, limits: TenantLimits, *, caller: Caller) -> TenantLimits:
        """Sets what a tenant may use. Raises: InvalidInput; Forbidden: a caller who does not see everything."""
        limits.check()
        if caller.reach != EVERYTHING:
            raise Forbidden("The limits of tenants are for an operator to set who sees every tenant and queue.")
        await commands.insert_tenant(self._store, limits, actor=caller.actor)
        if limits.jobs:
            await permits.adopt(self._store, {"org": limits.org}, [tenant_key(limits.org)])
        return limits

    async def tenant_limits(self, org: str) -> TenantLimits:
        """What a tenant may use; a tenant that nobody limited has no limits."""
        return await commands.tenant(self._store, org)

    async def usage(self, since: date, until: date, *, caller: Caller) -> _Usages:
        """Jobs enqueued per day and key, both days included; some seconds behind. Raises: InvalidInput."""
        if until < since:
            raise InvalidInput("to", "must not be before from.")
        if (until - since).days > MAX_USAGE_DAYS:
            raise InvalidInput("from", f"at most {MAX_USAGE_DAYS} days at once.")
        return await commands.usage(self._store, caller, since, until, MAX_USAGE_ROWS)

    async def check_quota(self, jobs: int, *, caller: Caller) -> None:
        """Raises RateLimited when so many more jobs are beyond what the caller's tenant may enqueue this month."""
        if caller.org is None or (limit := (await self.tenant_limits(caller.org)).jobs_per_month) is None:
            return
        if await self.jobs_this_month(caller.org) + jobs > limit:
            now = self._store.clock.now()
            following = (now.replace(day=1) + timedelta(days=32)).replace(day=1, hour=0, minute=0, second=0)
            raise RateLimited(
                f"Your tenant may enqueue {limit:,} jobs in a calendar month (UTC); this is beyond them.",
                retry_after_seconds=(following - now).total_seconds(),
                limit=limit,
            )

    async def jobs_this_month(self, org: str) -> int:
        """How many jobs a tenant enqueued in this calendar month (UTC); some seconds behind."""
        return await commands.used_jobs(self._store, org, self._store.clock.now().date().replace(day=1))
