"""How are the documents of many new jobs made, when they differ in nothing but ids and payloads?

The part that they share is made and encoded once: building and encoding each by itself took three quarters of a bulk
enqueue (docs/decisions/0010-templates.md).
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from datetime import UTC
from operator import attrgetter
from typing import Any

import bson
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument

from switchtower.jobs import Job, NewJob
from switchtower.store.documents import job_from

__all__ = ["Filled", "Template", "likeness"]

_OWN = ("parent_id", "job_id", "idempotency_key", "unique_key", "deduplication", "opts")
"""What hardly two jobs have in common, or what an enqueue must look at."""
_SHARED = tuple(field for field in NewJob.__slots__ if field not in ("payload", "tags", "depends_on", *_OWN))
_own, _shared = attrgetter(*_OWN), attrgetter(*_SHARED)
_NONE = (None,) * len(_OWN)
_AWARE: CodecOptions[Mapping[str, Any]] = CodecOptions(tz_aware=True, tzinfo=UTC)
_ID = b"\x02_id\0"
"""What stands before the length and the text of an id: type string, name."""
_length = struct.Struct("<i").pack


def likeness(new: NewJob) -> tuple[Any, ...] | None:
    """What jobs must have equal to share a template, types included (True is no priority); None for a job that needs a
    document of its own."""
    if _own(new) != _NONE or new.depends_on:
        return None
    values = _shared(new)
    try:
        kind = (values, tuple(map(type, values)), type(new.depends_on), type(new.tags), tuple(new.tags))
        hash(kind)
    except TypeError:
        return None
    return kind


class Filled(RawBSONDocument):
    """The document of one new job, as it is sent; called, it answers with the job that it makes.

    One object where a document, a function and its arguments would be four: a bulk enqueue keeps thousands of them, and
    Python's collector walks through all that is kept.
    """

    __slots__ = ()

    def __call__(self) -> Job:
        return job_from(bson.decode(self.raw, _AWARE))


class Template:
    """The document of a new job, ready to be completed with an id and a payload."""

    __slots__ = ("_shared",)

    def __init__(self, document: Mapping[str, Any]) -> None:
        self._shared = bson.encode({k: v for k, v in document.items() if k not in ("_id", "payload")})[4:-1]

    def filled(self, id: str, payload: Any) -> Filled:
        """The document of one job of this kind."""
        text = id.encode()
        data = bson.encode({"payload": payload})
        size = 4 + len(_ID) + 5 + len(text) + len(self._shared) + len(data) - 4
        return Filled(b"".join((_length(size), _ID, _length(len(text) + 1), text, b"\0", self._shared, data[4:])))
