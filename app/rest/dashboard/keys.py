"""How are API keys listed, made and revoked from a page, and where do webhooks go?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from starlette.responses import Response

from app.dashboard.rendering import page
from app.rest.dashboard import fields
from app.rest.dialect import Given, Route
from app.visit import Flash, Visit
from schema.context import Context
from schema.resolvers import keys, webhooks
from switchtower.access import ApiKey, CreatedKey, NewApiKey, Scope
from switchtower.errors import InvalidInput
from switchtower.webhooks import Webhook

__all__ = ["ROUTES"]

SOURCE: Final = "dashboard"
DAY_MS: Final = 24 * 3600 * 1000


@dataclass(frozen=True, slots=True)
class Shown:
    """The keys and webhooks that the caller may see, and the key that was just made, with its text."""

    keys: list[ApiKey]
    webhooks: list[Webhook]
    created: CreatedKey | None = None


async def _list(context: Context) -> Shown:
    return Shown(await keys.list_all(context), await webhooks.list_all(context))


def _shown(found: Shown, visit: Visit) -> Response:
    return page("keys.html", visit, shown=found, scopes=list(Scope))


def _new(given: Given) -> dict[str, Any]:
    form = given.form
    chosen = form.texts("scope")
    scopes = [scope for scope in Scope if scope.value in chosen]
    days = fields.whole_of("days", form.text("days"))
    return {
        "new": NewApiKey(
            name=form.text("name"),
            scopes=scopes,
            org=form.text("org") or None,
            queue=form.text("queue") or None,
            expires_in_ms=None if days is None else days * DAY_MS,
        )
    }


async def _create(context: Context, new: NewApiKey) -> Shown:
    created = await keys.create(context, new)
    return Shown(await keys.list_all(context), await webhooks.list_all(context), created)


def _asked(given: Given) -> dict[str, Any]:
    return {"id": given.path["id"], "confirmed": given.form.text("confirmed") == "yes"}


async def _revoke(context: Context, id: str, confirmed: bool) -> str:
    if not confirmed:
        raise InvalidInput("confirmed", "must be ticked: a revoked key never opens anything again.")
    return (await keys.revoke(context, id)).name


def _revoked(name: str, visit: Visit) -> Response:
    return visit.redirect(visit.url("keys"), flash=Flash("done", f"The key {name} was revoked."))


ROUTES: Final = (
    Route(method="GET", path="/keys", summary="API keys and webhooks", resolver=_list, page=_shown),
    Route(
        method="POST",
        path="/keys",
        summary="Create an API key, whose text is shown once",
        parse=_new,
        resolver=_create,
        page=_shown,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: "key.create",
        again="/keys",
    ),
    Route(
        method="POST",
        path="/keys/{id}/revoke",
        summary="Revoke an API key",
        parse=_asked,
        resolver=_revoke,
        page=_revoked,
        form={"type": "object"},
        source=SOURCE,
        action=lambda given: "key.revoke",
        again="/keys",
    ),
)
