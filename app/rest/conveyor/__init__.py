"""What is the Conveyor dialect? `/api/queues` and its like: JSON and event streams of a queue's dashboard."""

from app.rest.conveyor.errors import envelope, refusal
from app.rest.conveyor.routes import ROUTES
from app.rest.conveyor.schemas import SCHEMAS
from app.rest.dialect import Dialect

__all__ = ["CONVEYOR"]

CONVEYOR = Dialect(
    name="conveyor",
    title="Conveyor dashboard API",
    prefixes=("/api", "/api/jobs/search", "/openapi.json"),
    routes=ROUTES,
    refusal=refusal,
    envelope=envelope,
    schemas=SCHEMAS,
    any_media=True,
    cors=True,
    described_at="/openapi.json",
)
