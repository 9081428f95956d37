"""What is the Dispatch dialect? `/v1`: the HTTP admin API of a job and workflow engine, in bare objects and arrays."""

from app.rest.dialect import Dialect
from app.rest.dispatch.errors import envelope, refusal
from app.rest.dispatch.routes import ROUTES
from app.rest.dispatch.schemas import SCHEMAS

__all__ = ["DISPATCH"]

DISPATCH = Dialect(
    name="dispatch",
    title="Dispatch HTTP Admin API",
    prefixes=("/v1",),
    routes=ROUTES,
    refusal=refusal,
    envelope=envelope,
    schemas=SCHEMAS,
)
