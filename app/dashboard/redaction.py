"""Which values are nobody's business who only looks at a job?"""

from __future__ import annotations

from typing import Any, Final

__all__ = ["REDACTED", "redacted", "restored"]

REDACTED: Final = "[redacted]"
SECRET: Final = (
    *("authorization", "api_key", "apikey", "credential", "password"),
    *("private_key", "secret", "token"),
)


def redacted(value: Any) -> Any:
    """A JSON value in which every key that sounds like a secret has `[redacted]` for its value, at any depth."""
    if isinstance(value, dict):
        return {key: REDACTED if _is_secret(key) else redacted(each) for key, each in value.items()}
    return [redacted(each) for each in value] if isinstance(value, list) else value


def restored(given: Any, there: Any) -> Any:
    """A value that was shown redacted and came back, with what it hides as it was where that was left alone."""
    if isinstance(given, dict) and isinstance(there, dict):
        return {
            key: there[key] if each == REDACTED and key in there and _is_secret(key) else restored(each, there.get(key))
            for key, each in given.items()
        }
    if isinstance(given, list) and isinstance(there, list) and len(given) == len(there):
        return [restored(each, old) for each, old in zip(given, there, strict=True)]
    return given


def _is_secret(key: str) -> bool:
    plain = key.casefold().replace("-", "_")
    return any(word in plain for word in SECRET)
