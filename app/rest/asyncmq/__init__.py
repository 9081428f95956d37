"""What is the AsyncMQ dialect? The dashboard of a Python queue: pages, forms, a little JSON, and a stream of events."""

from app.rest.asyncmq import runtime
from app.rest.asyncmq.errors import envelope, refusal
from app.rest.asyncmq.pages import refused
from app.rest.asyncmq.routes import ROUTES
from app.rest.asyncmq.schemas import SCHEMAS
from app.rest.dashboard import PAGES
from app.rest.dialect import Dialect

__all__ = ["ASYNCMQ"]

ASYNCMQ = Dialect(
    name="asyncmq",
    title="AsyncMQ dashboard",
    prefixes=("",),
    routes=(*ROUTES, *runtime.ROUTES),
    refusal=refusal,
    envelope=envelope,
    error_page=refused,
    schemas=SCHEMAS,
    pages=PAGES,
)
