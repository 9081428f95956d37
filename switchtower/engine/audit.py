"""What was done to the queue, by whom?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from switchtower.audit import AuditFilter, AuditRow, AuditStatus, row_of
from switchtower.callers import SYSTEM, Caller
from switchtower.errors import InvalidInput, SwitchtowerError
from switchtower.events import Event
from switchtower.ids import AUDIT, new_id
from switchtower.pages import Count, Page
from switchtower.store import audit as commands
from switchtower.store.collections import Store
from switchtower.store.driver import translate_errors

__all__ = ["Audit"]

log = logging.getLogger(__name__)

ERROR_CHARACTERS = 1_000
ID_CHARACTERS = 300


@translate_errors
class Audit:
    """The audit trail: what operators did, and what they were refused."""

    def __init__(self, store: Store, keep_seconds: int | None) -> None:
        self._store = store
        self._keep_seconds = keep_seconds

    async def page(
        self, filter: AuditFilter, *, caller: Caller, first: int = 50, after: str | None = None
    ) -> Page[AuditRow]:
        """One keyset page, the newest first; the cursor is the id. Raises: InvalidInput."""
        if after is not None and not after.startswith(f"{AUDIT}_"):
            raise InvalidInput("after", "is not a cursor of this list.")
        rows = await commands.page(self._store, filter, reach=caller.reach, after=after, limit=first + 1)
        shown = rows[:first]
        return Page(shown, [row.id for row in shown], has_next=len(rows) > first, has_previous=after is not None)

    async def count(self, filter: AuditFilter, *, caller: Caller, cap: int = 10_000) -> Count:
        """How many rows match, counted up to `cap`."""
        return Count(*await commands.count(self._store, filter, reach=caller.reach, cap=cap))

    async def get(self, id: str, *, caller: Caller) -> AuditRow | None:
        """The row with this id; None when the caller sees none."""
        return await commands.find(self._store, id, reach=caller.reach)

    async def relay(self, events: Sequence[Event]) -> int:
        """Writes the rows of these events, those that are there already excepted. Returns: how many there are."""
        rows = [row for event in events if (row := row_of(event)) is not None]
        if rows:
            await commands.put(self._store, rows, keep_seconds=self._keep_seconds)
        return len(rows)

    async def refused(
        self,
        action: str,
        error: SwitchtowerError,
        *,
        caller: Caller,
        queue: str | None = None,
        job_id: str | None = None,
        target: str | None = None,
    ) -> None:
        """Writes down an action that was refused; a database that does not answer now is only logged."""
        row = self._row(action, caller, queue=queue, job_id=job_id, target=target, error=error.message, details={})
        try:
            await commands.put(self._store, [row], keep_seconds=self._keep_seconds)
        except Exception:
            log.warning("the audit row of a refused %s could not be written", action, exc_info=True)

    async def noted(
        self, action: str, *, caller: Caller, details: Mapping[str, Any], queue: str | None, job_id: str | None
    ) -> None:
        """Writes down an action that was done although there was nothing to do, so that no event tells of it."""
        row = self._row(action, caller, queue=queue, job_id=job_id, details=details)
        await commands.put(self._store, [row], keep_seconds=self._keep_seconds)

    async def missed(self, reason: str) -> None:
        """Writes down that the history of changes was lost: rows of actions in it may be missing."""
        row = self._row("audit.gap", SYSTEM, error=reason, details={})
        await commands.put(self._store, [row], keep_seconds=self._keep_seconds)

    async def begin(self, action: str, *, caller: Caller, details: Mapping[str, Any], **named: str | None) -> AuditRow:
        """Writes an action down before it begins, for those that leave no event, such as deletions.

        `named` are `queue`, `job_id` and `target`.
        """
        row = self._row(action, caller, details=details, **named)
        if caller.surface is not None:
            await commands.put(self._store, [row], keep_seconds=self._keep_seconds, live=False)
        return row

    async def end(self, row: AuditRow, *, details: Mapping[str, Any] | None = None, error: str | None = None) -> None:
        """Adds how it ended."""
        await commands.settle(self._store, row, details=details or {}, error=error and error[:ERROR_CHARACTERS])

    def _row(
        self,
        action: str,
        caller: Caller,
        *,
        details: Mapping[str, Any],
        queue: str | None = None,
        job_id: str | None = None,
        target: str | None = None,
        error: str | None = None,
    ) -> AuditRow:
        return AuditRow(
            id=new_id(AUDIT),
            at=self._store.clock.now(),
            action=action,
            source=caller.source,
            status=AuditStatus.SUCCESS if error is None else AuditStatus.FAILED,
            actor=caller.actor,
            org=caller.owner,
            queue=_short(queue),
            job_id=_short(job_id),
            target=_short(target),
            details=details,
            error=None if error is None else error[:ERROR_CHARACTERS],
        )


def _short(text: str | None) -> str | None:
    """What came from outside, cut, and with nothing in it that cannot be stored."""
    if text is None:
        return None
    return text[:ID_CHARACTERS].encode("utf-8", "replace").decode()
