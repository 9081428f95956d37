"""Where are jobs delivered that no worker runs, how is a delivery signed, and what is kept of one?"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from switchtower.errors import InvalidInput
from switchtower.payloads import check_text
from switchtower.retry import Backoff, BackoffKind

__all__ = [
    "ANSWER_LIMIT",
    "COURIER",
    "MAX_SECRETS",
    "WEBHOOK_BACKOFF",
    "Address",
    "Delivery",
    "SetWebhook",
    "Target",
    "Webhook",
    "WebhookSecret",
    "WebhookWithSecret",
    "check_url",
    "message_id",
    "new_secret",
    "signature",
]

COURIER = "courier"
"""The executor of jobs that are delivered instead of run, and the kind of the worker that delivers them."""
WEBHOOK_BACKOFF = Backoff(BackoffKind.TABLE, jitter=0.0, waits_ms=(30_000, 120_000, 300_000))
ANSWER_LIMIT = 64 * 1024
"""How many bytes of an answer are read and kept."""
MAX_SECRETS = 2
SECRET_BYTES = 32
PREFIX = "whsec_"
URL_LIMIT = 2_048
PRINTABLE = range(0x21, 0x7F)
_HOST = re.compile(r"(?:\[[0-9A-Za-z:.%]+\]|[0-9A-Za-z._%-]+)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Target:
    """Whose webhook: that of an API key, or else of a project, which is an application of a tenant ("" of either: the
    operator's own, jobs without an application)."""

    key_id: str | None = None
    org: str = ""
    app: str = ""

    def check(self) -> None:
        """Raises InvalidInput, naming the field."""
        if self.key_id is not None:
            check_text("keyId", self.key_id, limit=256)
        check_text("org", self.org, limit=256, empty=True)
        check_text("app", self.app, limit=256, empty=True)
        if self.key_id is not None and (self.org or self.app):
            raise InvalidInput("keyId", "give a key, or the org and app of a project, not both.")


@dataclass(frozen=True, slots=True)
class WebhookSecret:
    """A secret as it can be shown: everything but its text."""

    id: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where jobs of a key or project are delivered. Without a `url` they wait. `secrets` are those that are valid, the
    oldest first: two while they are rotated."""

    id: str
    target: Target
    url: str | None
    secrets: Sequence[WebhookSecret]
    created_at: datetime
    updated_at: datetime
    org: str = ""


@dataclass(frozen=True, slots=True)
class WebhookWithSecret:
    """A webhook, and the text of a secret that was made just now, which nobody can read again."""

    webhook: Webhook
    secret: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Address:
    """Where a job goes now: the address of a webhook, and the texts of its valid secrets, the oldest first."""

    url: str
    secrets: Sequence[str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class SetWebhook:
    """What to set for a target; `url` None leaves the address as it is (none, where there was none)."""

    target: Target
    url: str | None = None

    def check(self) -> None:
        """Raises InvalidInput, naming the field."""
        self.target.check()
        if self.url is not None:
            check_url("url", self.url)


@dataclass(frozen=True, slots=True)
class Delivery:
    """What came of one attempt to deliver: the status and the beginning of the answer where there was one.

    `latency_ms` runs from the request to the end of the answer, or to what went wrong. `truncated` says that the answer
    was longer than the 64 KB that are kept.
    """

    status_code: int | None
    latency_ms: int
    answer: str | None = None
    truncated: bool = False


def check_url(field: str, url: str) -> str:
    """Checks the form of an address to deliver to; where it leads is decided at each delivery. Returns: it.

    Raises:
        InvalidInput: it is no absolute http or https address, or has credentials, a fragment or odd characters.
    """
    check_text(field, url, limit=URL_LIMIT)
    if any(ord(character) not in PRINTABLE or character in '\\"<>^`{|}' for character in url):
        raise InvalidInput(field, "must be an address of visible ASCII characters; percent-encode others.")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidInput(field, "is no address: its host or port cannot be read.") from None
    if parts.scheme not in ("http", "https") or not url.lower().startswith(("http://", "https://")):
        raise InvalidInput(field, "must be an http or https address.")
    if "@" in parts.netloc:
        raise InvalidInput(field, "must not carry credentials; deliveries are signed with the webhook's secret.")
    if not _HOST.fullmatch(parts.netloc) or not parts.hostname or port == 0:
        raise InvalidInput(field, "names no host to deliver to.")
    if "#" in url:
        raise InvalidInput(field, "must not have a fragment (#…), which is never sent.")
    return url


def new_secret() -> str:
    """The text of a new secret: 256 random bits in the form of Standard Webhooks."""
    return PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()


def message_id(job_id: str, generation: int) -> str:
    """The `webhook-id` of a job's deliveries: the same on every attempt until an operator makes it run anew."""
    return job_id if generation == 1 else f"{job_id}_{generation}"


def signature(secret: str, id: str, timestamp: int, body: bytes) -> str:
    """The signature of a message under one secret, as Standard Webhooks has it (HMAC-SHA256, version 1)."""
    key = base64.b64decode(secret.removeprefix(PREFIX))
    digest = hmac.new(key, b"%s.%d." % (id.encode(), timestamp) + body, hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
