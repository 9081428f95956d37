"""What a handler returned, as JSON that the database keeps: what cannot be kept is replaced alone, and said."""

from __future__ import annotations

import dataclasses
import math
import numbers
from collections.abc import Mapping
from datetime import date, datetime, time
from enum import Enum
from typing import Any

from switchtower.errors import InvalidInput
from switchtower.payloads import INT64, MAX_DEPTH, MAX_KEY_BYTES, MAX_KEYS, check_value, truncated

__all__ = ["storable"]

MAX_NOTES = 20
SHOWN_DIGITS = 80


def storable(value: Any, *, limit: int) -> tuple[Any, list[str]]:
    """The value as JSON, and a sentence for each place whose value was replaced; `limit` is in bytes of JSON.

    It raises nothing: a result must not undo the work that made it. What is no JSON becomes what it stands for (a
    dataclass, a model or a named tuple an object, a set a list, a time its text, a number a number), else its text.
    """
    try:
        check_value("result", value, limit=limit)
        return value, []
    except InvalidInput as error:
        if error.too_large:
            return truncated(value, limit=limit), [f"The result {error.reason}"]
    plain = _Plain()
    made = plain.of(value, "result", 1)
    try:
        check_value("result", made, limit=limit)
    except InvalidInput as error:
        if not error.too_large:
            return {"truncated": True, "reason": error.reason, "head": ascii(type(value))[:1024]}, plain.notes
        plain.notes.append(f"The result {error.reason}")
        made = truncated(made, limit=limit)
    return made, plain.notes


class _Plain:
    """One value on its way to JSON."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self._keys = 0
        self._above: set[int] = set()

    def _replaced(self, path: str, what: str, by: Any) -> Any:
        if len(self.notes) < MAX_NOTES:
            self.notes.append(f"{path} {what}, and was stored as {by!r}.")
        return by

    def of(self, value: Any, path: str, depth: int) -> Any:
        """This part of the value as JSON."""
        try:
            return self._of(value, path, depth)
        except BaseException:
            # Its own code, which may do anything, was asked for its parts or its text.
            return self._replaced(path, f"is a {type(value).__name__} that cannot be read", None)

    def _of(self, value: Any, path: str, depth: int) -> Any:
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, Enum):
            return self.of(value.value, path, depth)
        if isinstance(value, str):
            return self._text(str.__str__(value), path)
        if isinstance(value, numbers.Integral):
            return self._integer(int(value), path)
        if isinstance(value, numbers.Real):
            number = float(value)
            return number if math.isfinite(number) else self._replaced(path, f"is {number}, which is no JSON", None)
        if isinstance(value, (datetime, date, time)):
            return value.isoformat()
        parts = self._parts(value)
        if parts is None:
            return self._text(str(value), path)
        if depth > MAX_DEPTH:
            return self._replaced(path, f"is nested deeper than {MAX_DEPTH} levels", None)
        if id(value) in self._above:
            return self._replaced(path, "holds itself", None)
        self._above.add(id(value))
        try:
            if isinstance(parts, Mapping):
                return self._object(parts, path, depth)
            return [self.of(item, f"{path}[{place}]", depth + 1) for place, item in enumerate(parts)]
        finally:
            self._above.discard(id(value))

    def _parts(self, value: Any) -> Mapping[Any, Any] | list[Any] | None:
        """The parts of what has any."""
        if isinstance(value, Mapping):
            return value
        if isinstance(value, tuple) and hasattr(value, "_asdict"):
            return dict(value._asdict())
        if isinstance(value, (list, tuple, set, frozenset)):
            return list(value)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        dump = getattr(value, "model_dump", None)
        if callable(dump) and not isinstance(value, type):
            found: Mapping[Any, Any] = dump(mode="json")
            return found
        return None

    def _object(self, value: Mapping[Any, Any], path: str, depth: int) -> dict[str, Any]:
        made: dict[str, Any] = {}
        for key, item in value.items():
            self._keys += 1
            if self._keys > MAX_KEYS:
                self._replaced(path, f"has more keys than the {MAX_KEYS:,} that a result may have", "without them")
                break
            name = self._key(key, path)
            made[name] = self.of(item, f"{path}.{name}", depth + 1)
        return made

    def _key(self, key: Any, path: str) -> str:
        if key is None or isinstance(key, bool):
            return {None: "null", True: "true", False: "false"}[key]
        if isinstance(key, Enum):
            key = key.value
        text = str.__str__(key) if isinstance(key, str) else key.isoformat() if isinstance(key, date) else str(key)
        kept = text.replace("\0", "?").encode("utf-8", "replace")[:MAX_KEY_BYTES].decode("utf-8", "ignore")
        return kept if kept == text else self._replaced(f"A key of {path}", "cannot be a key as it is", kept)

    def _text(self, text: str, path: str) -> str:
        kept = text.encode("utf-8", "replace").decode()
        return kept if kept == text else self._replaced(path, "has half a character (a lone surrogate)", kept)

    def _integer(self, number: int, path: str) -> Any:
        if number in INT64:
            return number
        bits = number.bit_length()
        shown = str(number) if bits < 256 else f"an integer of {bits:,} bits"
        return self._replaced(path, "is an integer outside 64 bits", shown[:SHOWN_DIGITS])
