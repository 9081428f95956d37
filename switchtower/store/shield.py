"""Operations of the driver that run to their end, whoever stops waiting for them.

PyMongo's connection pool stays locked for good when an operation is cancelled twice while it takes a connection or
gives one back, and graphql-core cancels the siblings of a failed field once more than whoever cancelled the request. So
no cancellation reaches the driver: each operation is a task of its own, and what is cancelled is the waiting. It ends
within the client's `timeoutMS`.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from switchtower.errors import StoreUnavailable

__all__ = ["Collection", "Cursor", "Operations"]

Run = Callable[[Any], Awaitable[Any]]
"""Awaits an operation that nobody's cancellation reaches."""

FETCHED = 100
"""Documents that an iteration reads at once: about the server's first batch."""


class Operations:
    """What one client was asked to do and has not ended yet."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()

    async def run(self, operation: Any) -> Any:
        """What the operation returns. It goes on when the caller is cancelled.

        Raises: what the operation raises; StoreUnavailable when its client was given up.
        """
        task = self._begin(operation)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise StoreUnavailable("The database did not answer; the connections to it are made anew.") from None
            raise

    async def run_in_session(self, operation: Any) -> Any:
        """What the operation returns. A cancellation of the caller is raised when it has ended, since the next
        operation of the session may not begin before."""
        task = self._begin(operation)
        cancelled: asyncio.CancelledError | None = None
        while not task.done():
            try:
                await asyncio.wait({task})
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled
        return task.result()

    def give_up(self) -> None:
        """Ends what is under way: its client is of no more use."""
        for task in tuple(self._running):
            task.cancel()

    async def settle(self, seconds: float) -> None:
        """Waits until all that is under way has ended, at most so long."""
        if self._running:
            await asyncio.wait(tuple(self._running), timeout=seconds)

    def _begin(self, operation: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.ensure_future(operation)
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            # Where nobody waits any more, nobody asks for its error either, which Python would remark upon.
            task.exception()


_OPERATIONS = frozenset(
    {
        "bulk_write",
        "count_documents",
        "create_indexes",
        "delete_many",
        "delete_one",
        "distinct",
        "drop_index",
        "estimated_document_count",
        "find_one",
        "find_one_and_delete",
        "find_one_and_update",
        "index_information",
        "insert_many",
        "insert_one",
        "replace_one",
        "update_many",
        "update_one",
    }
)


class Collection:
    """A collection of the driver's, by the same methods."""

    def __init__(self, raw: Any, operations: Operations) -> None:
        self.raw = raw
        self._operations = operations

    def find(self, *args: Any, **options: Any) -> Cursor:
        """The documents that match; nothing is asked before they are read."""
        return Cursor(self.raw.find(*args, **options), self._runner(options))

    def with_options(self, **options: Any) -> Collection:
        """The same collection with other concerns."""
        return Collection(self.raw.with_options(**options), self._operations)

    async def aggregate(self, pipeline: list[Any], **options: Any) -> Cursor:
        """The documents that the pipeline makes."""
        run = self._runner(options)
        found = self.raw.aggregate(pipeline, **options)
        # Motor returns the cursor, PyMongo what has to be awaited for it.
        return Cursor(await run(found) if inspect.isawaitable(found) else found, run)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.raw, name)
        return functools.partial(self._call, found) if name in _OPERATIONS else found

    async def _call(self, method: Any, *args: Any, **options: Any) -> Any:
        return await self._runner(options)(method(*args, **options))

    def _runner(self, options: Mapping[str, Any]) -> Run:
        return self._operations.run if options.get("session") is None else self._operations.run_in_session


class Cursor:
    """A cursor of the driver's: read whole, or iterated over."""

    __slots__ = ("_raw", "_run")

    def __init__(self, raw: Any, run: Run) -> None:
        self._raw = raw
        self._run = run

    def hint(self, index: str) -> Cursor:
        """Reads by this index."""
        self._raw.hint(index)
        return self

    async def to_list(self, length: int | None) -> list[Any]:
        """All documents that are left, or so many of them."""
        found: list[Any] = await self._run(self._raw.to_list(length))
        return found

    async def __aiter__(self) -> AsyncIterator[Any]:
        while rows := await self.to_list(FETCHED):
            for row in rows:
                yield row
