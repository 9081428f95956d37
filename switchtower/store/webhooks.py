"""Which commands keep webhooks and their secrets?

The texts of secrets are needed to sign with, so that they are kept as they are; one command alone reads them, for the
courier.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError

from switchtower.callers import Caller
from switchtower.ids import WEBHOOK, WEBHOOK_SECRET, new_id
from switchtower.store import transitions
from switchtower.store.collections import Store
from switchtower.store.guards import parked
from switchtower.webhooks import Address, Target, Webhook, WebhookSecret

__all__ = ["add_secret", "addresses", "delete", "drop_secret", "find", "of_targets", "put", "unpark"]

Document = dict[str, Any]
_SHOWN = {"secrets.text": 0}
NO_WEBHOOK = "no_webhook"


def _owner(target: Target) -> str:
    if target.key_id is not None:
        return f"key\x1f{target.key_id}"
    return f"project\x1f{target.org}\x1f{target.app}"


def _webhook_from(d: Document) -> Webhook:
    key_id = d.get("key_id")
    target = Target(None, d["org"], d["app"]) if key_id is None else Target(key_id)
    secrets = tuple(WebhookSecret(row["id"], row["created_at"]) for row in d["secrets"])
    return Webhook(d["_id"], target, d.get("url"), secrets, d["created_at"], d["updated_at"], d["org"])


def _visible(caller: Caller) -> Document:
    """Whoever sees some queues only sees the webhook of its own key: others' are for other queues too."""
    own = {} if caller.queues is None else {"key_id": caller.key_id}
    return own if caller.org is None else {"org": caller.org, **own}


def _secret(text: str, at: datetime) -> Document:
    return {"id": new_id(WEBHOOK_SECRET), "text": text, "created_at": at}


async def put(
    store: Store, target: Target, org: str, url: str | None, *, secret: str, actor: str
) -> tuple[Webhook, bool]:
    """Sets where a target's jobs go, and makes its webhook where there was none, with this secret; `org` is the tenant
    that sees it. Returns: it, and whether the secret is its own."""
    now = store.clock.now()
    made = _secret(secret, now)
    sets: Document = {"updated_at": now, "changed_by": actor} | ({} if url is None else {"url": url})
    owner: Document = {"org": org, "app": target.app} | ({} if target.key_id is None else {"key_id": target.key_id})
    first = {"_id": new_id(WEBHOOK), **owner, "secrets": [made], "created_at": now}
    for last in (False, True):
        try:
            row = await store.webhooks.find_one_and_update(
                {"owner": _owner(target)},
                {"$set": sets, "$setOnInsert": first},
                _SHOWN,
                upsert=True,
                return_document=ReturnDocument.AFTER,
            )
            break
        except DuplicateKeyError:  # two first calls at once
            if last:
                raise
    return _webhook_from(row), any(each["id"] == made["id"] for each in row["secrets"])


async def add_secret(store: Store, id: str, caller: Caller, secret: str) -> Webhook | None:
    """Adds a valid secret. Guard: it has one. Returns: the webhook, or None where the guard refused."""
    now = store.clock.now()
    row = await store.webhooks.find_one_and_update(
        {"_id": id, "secrets.1": {"$exists": False}, **_visible(caller)},
        {"$push": {"secrets": _secret(secret, now)}, "$set": {"updated_at": now, "changed_by": caller.actor}},
        _SHOWN,
        return_document=ReturnDocument.AFTER,
    )
    return None if row is None else _webhook_from(row)


async def drop_secret(store: Store, id: str, secret_id: str, caller: Caller) -> Webhook | None:
    """Takes a secret away for good. Guard: there is another. Returns: the webhook, or None where the guard refused."""
    sets = {"updated_at": store.clock.now(), "changed_by": caller.actor}
    row = await store.webhooks.find_one_and_update(
        {"_id": id, "secrets.id": secret_id, "secrets.1": {"$exists": True}, **_visible(caller)},
        {"$pull": {"secrets": {"id": secret_id}}, "$set": sets},
        _SHOWN,
        return_document=ReturnDocument.AFTER,
    )
    return None if row is None else _webhook_from(row)


async def delete(store: Store, id: str, caller: Caller) -> Webhook | None:
    """Deletes a webhook with its secrets. Returns: it as it was."""
    row = await store.webhooks.find_one_and_delete({"_id": id, **_visible(caller)}, _SHOWN)
    return None if row is None else _webhook_from(row)


async def find(store: Store, caller: Caller, ids: Sequence[str] | None = None) -> list[Webhook]:
    """The webhooks that a caller may see, oldest first; of these ids where given."""
    match = _visible(caller) | ({} if ids is None else {"_id": {"$in": list(ids)}})
    return [_webhook_from(row) async for row in store.webhooks.find(match, _SHOWN, sort=[("_id", 1)], limit=10_000)]


async def of_targets(store: Store, targets: Collection[Target]) -> dict[Target, Webhook]:
    """The webhooks of these targets."""
    match = {"owner": {"$in": [_owner(target) for target in targets]}}
    found = [_webhook_from(row) async for row in store.webhooks.find(match, _SHOWN)]
    return {webhook.target: webhook for webhook in found}


async def addresses(store: Store, targets: Collection[Target]) -> dict[Target, Address]:
    """Where deliveries for these targets go, of those whose webhook has an address; with the texts of secrets."""
    match = {"owner": {"$in": [_owner(target) for target in targets]}, "url": {"$exists": True}}
    rows = await store.webhooks.find(match).to_list(None)
    return {
        _webhook_from(row).target: Address(row["url"], tuple(each["text"] for each in row["secrets"])) for row in rows
    }


async def unpark(store: Store, target: Target) -> int:
    """Makes jobs claimable again that waited for this target's webhook. Returns: how many."""
    match = parked(NO_WEBHOOK)
    if target.key_id is not None:
        match["webhook_key"] = target.key_id
    else:
        match |= {"org": target.org, "app": target.app or {"$exists": False}}
    result = await store.jobs.update_many(match, transitions.unpark())
    return int(result.modified_count)
