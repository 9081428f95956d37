"""Is this text JSON that every part of the system can keep exactly?

One parser stands before every surface: request bodies, query parameters and WebSocket frames. It accepts an object of
UTF-8 JSON and refuses what JSON parsers disagree about or what the database would refuse or distort much later:
byte-order marks, NaN and Infinity, numbers beyond 64 bits, lone surrogates, duplicate keys, NUL in keys, deep nesting.

Two parsers read every text: orjson, the strict one, and the standard library's, which reports every key and the digits
of every number. Both are C; looking for suspicious bytes first, to spare the second, was measured slower.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final, NoReturn

import orjson

__all__ = ["MAX_CONTAINERS", "MAX_DEPTH", "MAX_KEYS", "MAX_KEY_BYTES", "MalformedJson", "parse_object"]

MAX_DEPTH: Final = 64
MAX_KEYS: Final = 10_000
MAX_KEY_BYTES: Final = 256
# An empty container costs some thirty times its two bytes of text: a body within its size could still fill the memory.
MAX_CONTAINERS: Final = 200_000
MAX_DIGITS: Final = 40
INT64: Final = range(-(2**63), 2**63)

_BRACKETS = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|([\[{])', re.DOTALL)


class MalformedJson(ValueError):
    """The text is not acceptable JSON; the message says what is wrong with it, without repeating it."""


def parse_object(data: bytes | str, *, max_depth: int = MAX_DEPTH, max_keys: int = MAX_KEYS) -> dict[str, Any]:
    """Parses one JSON object.

    Raises:
        MalformedJson: it is not UTF-8, not JSON, not an object, or breaks one of the module's rules.
    """
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError:
            raise MalformedJson("The text has lone surrogates, which are not UTF-8.") from None
    brackets = data.count(b"{") + data.count(b"[")
    if brackets > MAX_CONTAINERS and sum(1 for match in _BRACKETS.finditer(data) if match.lastindex) > MAX_CONTAINERS:
        raise MalformedJson(f"The object holds more than {MAX_CONTAINERS:,} objects and lists.")
    try:
        value = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise MalformedJson(f"The text is not valid JSON: {error}.") from None
    if type(value) is not dict:
        raise MalformedJson(f"The top level must be an object, not {_kind(value)}.")
    if brackets > max_depth:
        _check_depth(value, max_depth)
    keys = 0

    def counted(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal keys
        keys += len(pairs)
        return _object(pairs)

    value = json.loads(
        data.decode(), object_pairs_hook=counted, parse_int=_integer, parse_float=_float, parse_constant=_constant
    )
    if keys > max_keys:
        raise MalformedJson(f"The object has more than {max_keys:,} keys.")
    assert isinstance(value, dict)
    return value


def _check_depth(value: dict[str, Any], max_depth: int) -> None:
    level: list[Any] = [value]
    for _ in range(max_depth):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return
    raise MalformedJson(f"The object is nested deeper than {max_depth} levels.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise MalformedJson(f"The key {key[:100]!r} occurs twice in one object.")
            seen.add(key)
    for key in found:
        if "\0" in key:
            raise MalformedJson("A key contains NUL.")
        if len(key) > MAX_KEY_BYTES // 4 and len(key.encode()) > MAX_KEY_BYTES:
            raise MalformedJson(f"A key is longer than {MAX_KEY_BYTES} bytes.")
    return found


def _integer(text: str) -> int:
    if len(text) > MAX_DIGITS or (value := int(text)) not in INT64:
        raise MalformedJson("An integer is outside 64 bits; send it as text.")
    return value


def _float(text: str) -> float:
    if len(text) > MAX_DIGITS and sum(map(str.isdigit, text)) > MAX_DIGITS:
        raise MalformedJson(f"A number has more than {MAX_DIGITS} digits; send it as text.")
    return float(text)


def _constant(text: str) -> NoReturn:
    raise MalformedJson(f"{text} is not JSON.")


def _kind(value: Any) -> str:
    return {list: "a list", str: "text", bool: "a boolean", type(None): "null"}.get(type(value), "a number")
