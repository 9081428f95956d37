"""How is a dialect described? As OpenAPI 3.1, made from the same table that serves it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from app.forms import MULTIPART, URLENCODED
from app.rest.dialect import Dialect, Route
from app.rest.streams import EVENT_STREAM

__all__ = ["combined", "document"]

REFERENCE: Final = "#/components/schemas/"
EVERYWHERE: Final = (401, 403, 429, 500, 503)
MEANINGS: Final = {
    200: "Done.",
    201: "Created.",
    204: "Done; there is nothing to show.",
    302: "Done, or not: the page at Location says what became of the form.",
    303: "Done, or not: the page at Location says what became of the form.",
    400: "The request makes no sense, or the state does not allow it.",
    401: "This server asks for an API key, and none that it knows was sent.",
    403: "The key may not do this.",
    404: "There is no such thing, or it is not visible to the key.",
    409: "Something else holds the id, name or unique key.",
    413: "The body is too large.",
    415: "The body has another media type.",
    429: "Too many requests; Retry-After says when there is room again.",
    500: "A fault of the server, logged under the X-Request-ID of the answer.",
    503: "The database cannot answer at the moment.",
}


def document(dialect: Dialect, *, version: str, base: str = "") -> dict[str, Any]:
    """The OpenAPI document of one dialect, whose paths begin behind `base`: the root of the server, unless given."""
    return {
        **_head(dialect.title, version),
        "servers": [{"url": base or "/"}],
        "paths": _paths(dialect, prefix="", schemas=REFERENCE),
        "components": {"schemas": dict(dialect.schemas), "securitySchemes": _SECURITY},
    }


def combined(dialects: Sequence[Dialect], *, version: str) -> dict[str, Any]:
    """One document of all dialects, each under its own prefix (`/dispatch/v1/jobs`), where none is in another's way."""
    paths: dict[str, Any] = {}
    schemas: dict[str, Any] = {}
    for dialect in dialects:
        paths |= _paths(dialect, prefix=f"/{dialect.name}", schemas=f"{REFERENCE}{dialect.name}.")
        schemas |= {
            f"{dialect.name}.{name}": _under(schema, f"{REFERENCE}{dialect.name}.")
            for name, schema in dialect.schemas.items()
        }
    tags = [{"name": dialect.name, "description": dialect.title} for dialect in dialects]
    components = {"schemas": schemas, "securitySchemes": _SECURITY}
    return {**_head("Switchtower's REST dialects", version), "tags": tags, "paths": paths, "components": components}


_SECURITY: Final = {"key": {"type": "http", "scheme": "bearer"}}


def _head(title: str, version: str) -> dict[str, Any]:
    # The empty requirement says that no key is needed as long as none was created.
    return {"openapi": "3.1.0", "info": {"title": title, "version": version}, "security": [{"key": []}, {}]}


def _paths(dialect: Dialect, *, prefix: str, schemas: str) -> dict[str, Any]:
    paths: dict[str, dict[str, Any]] = {}
    for route in dialect.routes:
        operation = _under(_operation(dialect, route), schemas)
        paths.setdefault(prefix + route.path, {})[route.method.lower()] = operation
    return paths


def _operation(dialect: Dialect, route: Route) -> dict[str, Any]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in route.parameters
    ]
    in_query = [
        {"name": each.name, "in": "query", "description": each.description, "schema": dict(each.schema)}
        for each in route.query
    ]
    operation: dict[str, Any] = {
        "operationId": f"{dialect.name}.{route.method.lower()}.{route.path.strip('/').replace('/', '.')}",
        "summary": route.summary,
        "tags": [dialect.name],
        "parameters": in_path + in_query,
        "responses": {str(route.status): _answer(route.status, route.shows, media=_media(route), page=_has_page(route))}
        | {
            str(status): _answer(status, {"$ref": f"{REFERENCE}Error"})
            for status in sorted({*EVERYWHERE, *route.refuses})
        },
    }
    if route.body is not None:
        content = {"application/json": {"schema": dict(route.body)}}
        operation["requestBody"] = {"required": not route.body_optional, "content": content}
    if route.form is not None:
        fields = {"schema": dict(route.form)}
        operation["requestBody"] = {"content": {URLENCODED: fields, MULTIPART: fields}}
    if route.public:
        operation["security"] = [{}]
    elif dialect.requires_key:
        operation["security"] = [{"key": []}]
    return operation


def _media(route: Route) -> str:
    return route.media if route.events is None else EVENT_STREAM


def _has_page(route: Route) -> bool:
    return route.page is not None and route.page_when is None


def _answer(
    status: int, schema: Mapping[str, Any] | None, *, media: str = "application/json", page: bool = False
) -> dict[str, Any]:
    if schema is None:
        return {"description": MEANINGS[status]}
    content = {media: {"schema": dict(schema)}} | ({"text/html": {"schema": {"type": "string"}}} if page else {})
    return {"description": MEANINGS[status], "content": content}


def _under(value: Any, schemas: str) -> Any:
    """The value with its references to schemas moved."""
    if isinstance(value, Mapping):
        return {
            key: each.replace(REFERENCE, schemas, 1) if key == "$ref" else _under(each, schemas)
            for key, each in value.items()
        }
    return [_under(each, schemas) for each in value] if isinstance(value, list | tuple) else value
