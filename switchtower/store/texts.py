"""Which jobs have a text in them, literally? Never a pattern of a caller's, and without server-side code."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from switchtower.errors import InvalidInput

__all__ = ["TEXTS", "contains", "holds", "text_condition"]

Document = dict[str, Any]

TEXT_LIMIT = 256
TEXTS = ("id", "name", "error", "payload")
"""Where a text is looked for."""
LEVELS = 4
"""How deep in a payload."""


def contains(text: str) -> Document:
    """A condition on a field: whether it has a text in it, whatever its case.

    Raises: InvalidInput for a text that is too long.
    """
    if len(text) > TEXT_LIMIT:
        raise InvalidInput("text", f"is longer than {TEXT_LIMIT} characters.")
    if "\0" in text:
        raise InvalidInput("text", "must not contain NUL.")
    return {"$regex": re.escape(text), "$options": "i"}


def text_condition(text: str, within: Collection[str] = TEXTS) -> Document:
    """Jobs that have a text, whatever its case, in their ids, names, errors or payloads; `within` says in which.

    Raises: InvalidInput for a text that is too long.
    """
    pattern = contains(text)
    inside = holds("$payload", text)
    conditions: dict[str, list[Document]] = {
        "id": [{"_id": text}, {"custom_id": pattern}],
        "name": [{"name": pattern}],
        "error": [{"error.message": pattern}, {"error.type": pattern}],
        "payload": [{"$expr": inside}],
    }
    return {"$or": [condition for where in TEXTS if where in within for condition in conditions[where]]}


def holds(value: str, text: str) -> Document:
    """An expression: whether a text, whatever its case, is in a key or a scalar of a value, so many levels deep."""
    return _holds(value, {"regex": re.escape(text), "options": "i"}, LEVELS)


def _holds(value: str, pattern: Document, levels: int) -> Document:
    """Whether a key or a scalar of a value, so many levels deep, matches: what a literal search can see without
    server-side code."""
    scalar = {"$convert": {"input": value, "to": "string", "onError": "", "onNull": ""}}
    plain = {"$regexMatch": {"input": scalar, **pattern}}
    if not levels:
        return plain
    each = f"level{levels}"
    pair = {
        "$or": [
            {"$regexMatch": {"input": f"$${each}.k", **pattern}},
            _holds(f"$${each}.v", pattern, levels - 1),
        ]
    }
    within = {
        "object": {"$map": {"input": {"$objectToArray": value}, "as": each, "in": pair}},
        "array": {"$map": {"input": value, "as": each, "in": _holds(f"$${each}", pattern, levels - 1)}},
    }
    branches = [
        {"case": {"$eq": [{"$type": value}, kind]}, "then": {"$anyElementTrue": [matches]}}
        for kind, matches in within.items()
    ]
    return {"$switch": {"branches": branches, "default": plain}}
