"""What do our ids look like?

Every id that Switchtower makes is a TypeID (`<prefix>_` and 26 characters of Crockford base32 that encode a UUIDv7), so
ids sort by creation. Ids that come in from outside are opaque: a look-up that finds nothing is "not found", whatever
the text looks like.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid

from typeid import TypeID

__all__ = [
    "API_KEY",
    "ATTEMPT",
    "AUDIT",
    "BULK",
    "CRON",
    "DEAD_LETTER",
    "JOB",
    "RUN",
    "WEBHOOK",
    "WEBHOOK_SECRET",
    "WORKER",
    "attempt_id",
    "job_of_run",
    "lease_token",
    "new_id",
    "run_id",
    "settled_id",
]

JOB = "job"
DEAD_LETTER = "dlq"
WORKER = "wkr"
CRON = "cron"
RUN = "run"
BULK = "bulk"
AUDIT = "aud"
API_KEY = "key"
WEBHOOK = "whk"
WEBHOOK_SECRET = "whs"
ATTEMPT = "att"


def new_id(prefix: str) -> str:
    """A fresh TypeID with this prefix; later ones sort after earlier ones of the same process."""
    return str(TypeID(prefix=prefix))


def settled_id(prefix: str, at_ms: int, cause: str) -> str:
    """The TypeID that a cause gives, the same whoever asks; it sorts as if it were made at `at_ms`."""
    drawn = bytearray((at_ms & (2**48 - 1)).to_bytes(6, "big") + hashlib.sha256(cause.encode()).digest()[:10])
    drawn[6] = drawn[6] & 0x0F | 0x70
    drawn[8] = drawn[8] & 0x3F | 0x80
    return str(TypeID.from_uuid(uuid.UUID(bytes=bytes(drawn)), prefix=prefix))  # type: ignore[arg-type]


def attempt_id(job_id: str, generation: int, number: int) -> str:
    """The id of one attempt: the same for the worker that runs it and for everyone who reads it later."""
    return f"{ATTEMPT}_{job_id.partition('_')[2] or job_id}_{generation}_{number}"


def run_id(job_id: str) -> str:
    """The id of the workflow run whose job this is: the same id under the prefix of runs."""
    return f"{RUN}_{job_id.partition('_')[2]}"


def job_of_run(id: str) -> str:
    """The id of a run's job, from the run's id (`run_…`, or `wfrun_…` as Dispatch spells it); other ids as they are."""
    prefix, mark, suffix = id.partition("_")
    return f"{JOB}_{suffix}" if mark and prefix in (RUN, "wfrun") else id


def lease_token() -> str:
    """An unguessable token (160 bits) that one claim hands to its worker."""
    return secrets.token_urlsafe(20)
