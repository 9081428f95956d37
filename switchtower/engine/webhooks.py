"""Whose webhook goes where, and with which secrets is it signed?"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from switchtower.callers import Caller
from switchtower.errors import Conflict, Forbidden, NotFound
from switchtower.store import keys
from switchtower.store import webhooks as commands
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors
from switchtower.webhooks import MAX_SECRETS, SetWebhook, Target, Webhook, WebhookWithSecret, new_secret

__all__ = ["Webhooks"]

_WebhookList = list[Webhook]


@translate_errors
class Webhooks:
    """The verbs on webhooks."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def set(self, new: SetWebhook, *, caller: Caller) -> WebhookWithSecret:
        """Sets where the jobs of a key or project are delivered; jobs that waited for that go there. The first time it
        makes a secret, whose text is in the answer and nowhere else.

        Raises: InvalidInput; NotFound: no such key; Forbidden: another tenant's project.
        """
        new.check()
        target, org = new.target, await self._tenant_of(new.target, caller)
        if target.key_id is None:
            target = Target(None, org, target.app)
        text = new_secret()
        webhook, made = await commands.put(self._store, target, org, new.url, secret=text, actor=caller.actor)
        if webhook.url is not None:
            await commands.unpark(self._store, target)
        return WebhookWithSecret(webhook, text if made else None)

    async def _tenant_of(self, target: Target, caller: Caller) -> str:
        if target.key_id is not None:
            found = await keys.find_many(self._store, caller, [target.key_id])
            if not found:
                raise NotFound("API key", target.key_id)
            return found[0].org or ""
        if caller.queues is not None:
            raise Forbidden("A project's webhook is for all of its queues; set it with a key that sees all of them.")
        if caller.org is not None and target.org not in ("", caller.org):
            raise Forbidden("A tenant's key can set webhooks of its own tenant only; leave org out.")
        return target.org if caller.org is None else caller.org

    async def rotate(self, id: str, *, caller: Caller) -> WebhookWithSecret:
        """Makes a second secret, whose text is in the answer and nowhere else; from half a second later on, deliveries
        are signed with both until one of them is revoked. Raises: NotFound, Conflict: there are two already."""
        text = new_secret()
        webhook = await commands.add_secret(self._store, id, caller, text)
        if webhook is None:
            await self._found(id, caller)
            raise Conflict(f"This webhook has {MAX_SECRETS} valid secrets already; revoke one of them first.")
        return WebhookWithSecret(webhook, text)

    async def revoke_secret(self, id: str, secret_id: str, *, caller: Caller) -> Webhook:
        """Ends a secret for good: no delivery that begins more than half a second later is signed with it.

        Raises: NotFound, Conflict: it is the only one.
        """
        webhook = await commands.drop_secret(self._store, id, secret_id, caller)
        if webhook is None:
            there = await self._found(id, caller)
            if all(secret.id != secret_id for secret in there.secrets):
                raise NotFound("Webhook secret", secret_id)
            raise Conflict("This is the webhook's only secret; rotate it first, or remove the webhook.")
        return webhook

    async def remove(self, id: str, *, caller: Caller) -> Webhook:
        """Deletes a webhook and its secrets; jobs for it wait, or go to their project's. Raises: NotFound."""
        webhook = await commands.delete(self._store, id, caller)
        if webhook is None:
            raise NotFound("Webhook", id)
        return webhook

    async def _found(self, id: str, caller: Caller) -> Webhook:
        found = await commands.find(self._store, caller, [id])
        if not found:
            raise NotFound("Webhook", id)
        return found[0]

    async def get(self, id: str, *, caller: Caller) -> Webhook | None:
        """The webhook with this id; None when the caller sees none."""
        found = await commands.find(self._store, caller, [id])
        return found[0] if found else None

    async def list(self, *, caller: Caller) -> _WebhookList:
        """All webhooks of the caller's tenant (an operator: of all), oldest first."""
        return await commands.find(self._store, caller)

    async def of_keys(self, key_ids: Collection[str]) -> dict[str, Webhook]:
        """The webhooks of these keys, by the keys' ids."""
        found = await commands.of_targets(self._store, [Target(id) for id in key_ids]) if key_ids else {}
        return {target.key_id: webhook for target, webhook in found.items() if target.key_id is not None}

    async def lacking(self, targets: Sequence[Sequence[Target]]) -> Sequence[bool]:
        """For each of these lists of targets, whether none of them has an address."""
        every = {target for each in targets for target in each}
        there = {t for t, webhook in (await commands.of_targets(self._store, every)).items() if webhook.url is not None}
        return [not there & set(each) for each in targets]
