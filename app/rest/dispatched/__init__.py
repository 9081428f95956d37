"""What is the Dispatched dialect? `/api/jobs`: jobs that are delivered to a webhook, for whoever has an API key."""

from app.rest.dialect import Dialect
from app.rest.dispatched.errors import envelope, refusal
from app.rest.dispatched.routes import ROUTES
from app.rest.dispatched.schemas import SCHEMAS

__all__ = ["DISPATCHED"]

MAX_BODY = 128 * 1024
"""A payload of 10 KB may be written with spaces and escapes."""

DISPATCHED = Dialect(
    name="dispatched",
    title="Dispatched API",
    prefixes=("/api/jobs",),
    routes=ROUTES,
    refusal=refusal,
    envelope=envelope,
    schemas=SCHEMAS,
    requires_key=True,
    body_bytes=MAX_BODY,
)
