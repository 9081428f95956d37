"""How do jobs leave as a stream of lines, as many as there are, at the reader's own pace?"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Final

import strawberry
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from app.auth import Gate, bearer
from app.limits import Refused
from app.sessions import session_of
from app.strict import MalformedJson, parse_object
from schema.context import Context
from schema.ndjson import job_filter, job_line
from schema.resolvers import export as resolvers
from switchtower.errors import Forbidden, InvalidInput
from switchtower.jobs import Job, JobFilter

__all__ = ["Export", "Interrupted"]

MEDIA_TYPE: Final = "application/x-ndjson"
HEADERS: Final = {"Content-Disposition": 'attachment; filename="jobs.ndjson"'}


class Interrupted(Exception):
    """A stream that had begun cannot go on: its connection is cut, so that what came does not look like all."""


class Export:
    """The ASGI application behind `/export/jobs.ndjson`: `?filter=` is a `JobFilter` of the schema as JSON.

    A stream counts as one of its key's connections; it is cut when the key is revoked and when the server closes.
    """

    def __init__(
        self, schema: strawberry.Schema, *, context: Callable[[Request], Context], gate: Gate, closing: asyncio.Event
    ) -> None:
        self._schema = schema
        self._context = context
        self._gate = gate
        self._closing = closing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        caller = scope["state"]["caller"] = await self._gate.admit(bearer(request) or session_of(request))
        await self._gate.charge(caller, writes=False)
        try:
            filter = self._filter(request)
            sizes = resolvers.Sizes()
            pages = resolvers.jobs(self._context(request), filter, sizes)
        except InvalidInput as error:
            raise Refused(400, error.code, error.message) from None
        except Forbidden as error:
            raise Refused(403, error.code, error.message) from None
        session = self._gate.open(caller, lambda: 0)
        try:
            async with aclosing(pages):
                # Until the first page is there, what goes wrong can still be said with a status.
                try:
                    first: list[Job] = await anext(pages, [])
                except InvalidInput as error:
                    raise Refused(400, error.code, error.message) from None

                async def lines() -> AsyncGenerator[bytes, None]:
                    jobs = first
                    while jobs:
                        chunk = b"".join(map(job_line, jobs))
                        sizes.observe(len(jobs), len(chunk))
                        yield chunk
                        if session.ended.is_set() or self._closing.is_set():
                            raise Interrupted("The key was revoked, or the server closes.")
                        jobs = await anext(pages, [])

                body = lines() if request.method == "GET" else iter(())
                await StreamingResponse(body, headers=HEADERS, media_type=MEDIA_TYPE)(scope, receive, send)
        finally:
            self._gate.close(session)

    def _filter(self, request: Request) -> JobFilter:
        given = request.query_params.multi_items()
        unknown = next((name for name, _ in given if name != "filter"), None)
        if unknown is not None:
            raise InvalidInput(unknown[:100], "is not known here; there is only filter, a JobFilter as JSON.")
        if len(given) > 1:
            raise InvalidInput("filter", "is given twice.")
        if not given:
            return JobFilter()
        try:
            return job_filter(self._schema, parse_object(given[0][1]))
        except MalformedJson as error:
            raise InvalidInput("filter", str(error)) from None
