"""Who may do what? Scopes, API keys and the limits of tenants.

The text of a key is `swt_<env>_<id>_<secret>_<checksum>`: the id under which it is revoked, 32 random bytes in base62,
and a CRC-32 over the rest, so that a scanner of leaked secrets, or we, can tell a key from a typing error without a
database. Only the SHA-256 of the whole text is kept.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import zlib
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum

from switchtower.errors import InvalidInput
from switchtower.ids import API_KEY
from switchtower.limits import UNLIMITED, Limit
from switchtower.payloads import check_text
from switchtower.webhooks import check_url

__all__ = [
    "EVERY_SCOPE",
    "ApiKey",
    "CreatedKey",
    "NewApiKey",
    "RateLimit",
    "Scope",
    "TenantLimits",
    "Usage",
    "digest_of",
    "is_session",
    "mint",
    "mint_session",
    "well_formed",
]

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
SECRET_BYTES = 32
SECRET_LENGTH = 43
CHECKSUM_LENGTH = 6
MAX_NAME = 256
MAX_QUEUES = 100
DAY_MS = 24 * 3600 * 1000
MAX_RETRIES = 3
"""How often a delivery of Dispatched is repeated, where the tenant's limit says no less."""

SESSION = "sws_"

_ENV = re.compile(r"[a-z0-9]{1,16}")
_SESSION = re.compile(rf"{SESSION}[0-9A-Za-z]{{43}}")
_TEXT = re.compile(r"swt_[a-z0-9]{1,16}_[0-9a-hjkmnp-tv-z]{26}_[0-9A-Za-z]{43}_[0-9A-Za-z]{6}")


class Scope(StrEnum):
    """What a key is for. `operate` includes `read`, `admin` includes both; `work` is a worker's, and nothing else."""

    READ = "read"
    OPERATE = "operate"
    ADMIN = "admin"
    WORK = "work"


EVERY_SCOPE: frozenset[Scope] = frozenset(Scope)
_INCLUDED = {
    Scope.READ: frozenset({Scope.READ}),
    Scope.OPERATE: frozenset({Scope.OPERATE, Scope.READ}),
    Scope.ADMIN: frozenset({Scope.ADMIN, Scope.OPERATE, Scope.READ}),
    Scope.WORK: frozenset({Scope.WORK}),
}


@dataclass(frozen=True, slots=True)
class RateLimit:
    """At most `requests` in any `per_ms` milliseconds, over all servers together."""

    requests: int
    per_ms: int = 60_000

    def check(self, field: str = "rate") -> None:
        """Raises InvalidInput."""
        if not 1 <= self.requests <= 10_000_000:
            raise InvalidInput(f"{field}.requests", "must be between 1 and 10,000,000.")
        if not 1_000 <= self.per_ms <= DAY_MS:
            raise InvalidInput(f"{field}.perMs", "must be between one second and one day.")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as it can be shown: everything but its secret. `org` None is an operator's key, which sees all tenants;
    `queues` are the only ones that exist for it, None for all.

    `dev` marks one that `switchtower dev` made: it opens what asks for a key always, and by itself asks nobody for one.
    """

    id: str
    name: str
    env: str
    scopes: frozenset[Scope]
    created_at: datetime
    created_by: str
    org: str | None = None
    app: str = ""
    queue: str | None = None
    queues: frozenset[str] | None = None
    webhook_url: str | None = None
    rate: RateLimit | None = None
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    dev: bool = False

    @property
    def grants(self) -> frozenset[Scope]:
        """Its scopes with those that they include."""
        return frozenset[Scope]().union(*(_INCLUDED[scope] for scope in self.scopes))

    def is_valid(self, now: datetime) -> bool:
        """Whether it opens anything at this time of the database's clock."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key and its text, and that of its webhook's secret where it has a webhook; nobody can read them again."""

    key: ApiKey
    secret: str = field(repr=False)
    webhook_secret: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key to create. `queue` is where its jobs go that name none, `queues` are the only ones that exist for it
    (None: all do); `webhook_url` is where those of its jobs are delivered that are webhooks."""

    name: str
    scopes: Collection[Scope]
    org: str | None = None
    app: str = ""
    env: str = "live"
    queue: str | None = None
    queues: Collection[str] | None = None
    webhook_url: str | None = None
    rate: RateLimit | None = None
    expires_in_ms: int | None = None
    dev: bool = False

    def check(self) -> None:
        """Raises InvalidInput, naming the field."""
        for name, text in (("name", self.name), ("org", self.org), ("queue", self.queue)):
            if text is not None:
                check_text(name, text, limit=MAX_NAME)
        check_text("app", self.app, limit=MAX_NAME, empty=True)
        if not self.scopes:
            raise InvalidInput("scopes", "name at least one; a key without any opens nothing.")
        if _ENV.fullmatch(self.env) is None:
            raise InvalidInput("env", "takes 1 to 16 small letters and digits, such as live or test.")
        if self.queue is not None and "/" in self.queue:
            raise InvalidInput("queue", "must not contain '/'.")
        if self.queues is not None:
            if not 1 <= len(self.queues) <= MAX_QUEUES:
                raise InvalidInput("queues", f"names between 1 and {MAX_QUEUES} queues; leave it out for all.")
            for name in self.queues:
                check_text("queues", name, limit=MAX_NAME)
            if self.queue is not None and self.queue not in self.queues:
                raise InvalidInput("queue", "must be one of its queues.")
        if self.webhook_url is not None:
            check_url("webhookUrl", self.webhook_url)
        if self.rate is not None:
            self.rate.check()
        if self.expires_in_ms is not None and not 1_000 <= self.expires_in_ms <= 3650 * DAY_MS:
            raise InvalidInput("expiresInMs", "must be between one second and ten years.")


@dataclass(frozen=True, slots=True)
class TenantLimits:
    """What a tenant may use: jobs in a calendar month (UTC), requests of all of its keys together, and what its jobs
    may run in all queues together, and how often a delivery of Dispatched is repeated (None: three times)."""

    org: str
    jobs_per_month: int | None = None
    rate: RateLimit | None = None
    jobs: Limit = UNLIMITED
    max_retries: int | None = None

    def check(self) -> None:
        """Raises InvalidInput, naming the field."""
        check_text("org", self.org, limit=MAX_NAME)
        if self.jobs_per_month is not None and not 0 <= self.jobs_per_month <= 10**12:
            raise InvalidInput("jobsPerMonth", "must be between 0 and 10^12.")
        if self.rate is not None:
            self.rate.check()
        self.jobs.check("jobs")
        if self.max_retries is not None and not 0 <= self.max_retries <= MAX_RETRIES:
            raise InvalidInput("maxRetries", f"must be between 0 and {MAX_RETRIES}.")


@dataclass(frozen=True, slots=True)
class Usage:
    """How many jobs one key of a tenant enqueued on one day (UTC), the cancelled ones too; `key_id` None: not by a
    key."""

    day: date
    org: str
    key_id: str | None
    enqueued: int


def mint(id: str, env: str) -> str:
    """The text of a new key with this id; its secret part is 256 random bits."""
    secret = _base62(int.from_bytes(secrets.token_bytes(SECRET_BYTES)), SECRET_LENGTH)
    head = f"swt_{env}_{id.removeprefix(f'{API_KEY}_')}_{secret}"
    return f"{head}_{_checksum(head)}"


def well_formed(text: str) -> bool:
    """Whether a text is a key by its form and checksum; says nothing of whether it opens anything."""
    return _TEXT.fullmatch(text) is not None and text[-CHECKSUM_LENGTH:] == _checksum(text[: -CHECKSUM_LENGTH - 1])


def mint_session() -> str:
    """The text of a new session of a browser: 256 random bits that stand for the key it was opened with."""
    return f"{SESSION}{_base62(int.from_bytes(secrets.token_bytes(SECRET_BYTES)), SECRET_LENGTH)}"


def is_session(text: str) -> bool:
    """Whether a text is a session by its form; says nothing of whether it opens anything."""
    return _SESSION.fullmatch(text) is not None


def digest_of(text: str) -> bytes:
    """What is kept of a key's text. The secret is random, so a slow hash would add nothing but work."""
    return hashlib.sha256(text.encode()).digest()


def _checksum(head: str) -> str:
    return _base62(zlib.crc32(head.encode()), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))
