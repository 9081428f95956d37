"""Which values can be stored, and what happens to those that are too large?

The rules (docs/decisions/0003-values.md): UTF-8 text without lone surrogates, finite numbers, 64-bit integers, at most
64 levels and 10,000 keys. The database would refuse or distort anything else, much later.
"""

from __future__ import annotations

import re
from typing import Any

import orjson

from switchtower.errors import InvalidInput

__all__ = [
    "MAX_DEPTH",
    "MAX_KEYS",
    "PAYLOAD_LIMIT",
    "TEXT_LIMIT",
    "check_text",
    "check_value",
    "truncated",
    "truncated_text",
]

PAYLOAD_LIMIT = 1024 * 1024
TEXT_LIMIT = 64 * 1024
MAX_DEPTH = 64
MAX_KEYS = 10_000
MAX_KEY_BYTES = 256
_UNFIT = re.compile("[\x00-\x1f\x7f\ud800-\udfff]")
INT64 = range(-(2**63), 2**63)


def check_value(field: str, value: Any, *, limit: int = PAYLOAD_LIMIT) -> int:
    """Checks a JSON value; returns its size in bytes as compact JSON.

    Raises:
        InvalidInput: it is not JSON that the database can keep exactly, or is larger than `limit` bytes.
    """
    if value is None:
        return 4
    keys = _check(field, value, 1, 0)
    if keys > MAX_KEYS:
        raise InvalidInput(field, f"has more than {MAX_KEYS} keys.")
    try:
        size = len(orjson.dumps(value))
    except (orjson.JSONEncodeError, RecursionError) as error:
        raise InvalidInput(field, f"is not JSON: {error}.") from None
    if size > limit:
        raise InvalidInput(
            field,
            f"is {size:,} bytes of JSON; the limit is {limit:,}. Store it elsewhere and pass a reference.",
            too_large=True,
        )
    return size


def _check(field: str, value: Any, depth: int, keys: int) -> int:
    kind = type(value)
    if kind is str or value is None or kind is bool:
        return keys
    if kind is int:
        if value not in INT64:
            raise InvalidInput(field, "has an integer outside 64 bits; send it as text.")
        return keys
    if kind is float:
        if value != value or value in (float("inf"), float("-inf")):
            raise InvalidInput(field, "has a number that is not finite (NaN or Infinity).")
        return keys
    if depth > MAX_DEPTH:
        raise InvalidInput(field, f"is nested deeper than {MAX_DEPTH} levels.")
    if kind is dict:
        for key, item in value.items():
            if type(key) is not str:
                raise InvalidInput(field, f"has a key that is not text ({type(key).__name__}).")
            if "\0" in key or len(key) > MAX_KEY_BYTES or len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
                raise InvalidInput(field, f"has a key with NUL or over {MAX_KEY_BYTES} bytes.")
            keys = _check(field, item, depth + 1, keys + 1)
        return keys
    if kind is list or kind is tuple:
        for item in value:
            keys = _check(field, item, depth + 1, keys)
        return keys
    if isinstance(value, int):
        # The database driver reads large integers as a class of its own.
        return _check(field, int(value), depth, keys)
    raise InvalidInput(field, f"has a {kind.__name__}, which is not a JSON value.")


def check_text(field: str, value: str, *, limit: int, empty: bool = False) -> str:
    """Checks a name-like text: no NUL or other control characters, UTF-8, at most `limit` characters; returns it."""
    if not isinstance(value, str):
        raise InvalidInput(field, f"must be text, not {type(value).__name__}.")
    if not value and not empty:
        raise InvalidInput(field, "must not be empty.")
    if len(value) > limit:
        raise InvalidInput(field, f"is {len(value):,} characters; the limit is {limit}.")
    if _UNFIT.search(value):
        raise InvalidInput(field, "must not contain control characters or lone surrogates.")
    return value


def truncated(value: Any, *, limit: int) -> Any:
    """The value itself, or, where its JSON is over `limit` bytes, an object that says so and shows its beginning.

    A handler's oversized result must not undo the work that made it: the job completes, the marker says what is lost.
    """
    data = orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS)
    if len(data) <= limit:
        return value
    return {"truncated": True, "bytes": len(data), "head": data[:1024].decode("utf-8", "replace")}


def truncated_text(text: str, *, limit: int = TEXT_LIMIT) -> str:
    """The text, cut to `limit` characters with a marker, and free of what UTF-8 cannot carry."""
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= limit else f"{text[:limit]}… [{len(text) - limit:,} characters cut]"
