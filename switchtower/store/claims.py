"""Which commands hand jobs to workers and take their reports?

Claiming many is always: read the head, move it with one guarded update under a fresh token, and know what the token
won: everything when the update says so and nothing had changed since the read, else what is read back by the token.
The token is what makes it safe, not the driver's retries.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson.max_key import MaxKey
from pymongo import ASCENDING, ReturnDocument
from pymongo.errors import OperationFailure, WriteConcernError
from pymongo.read_concern import ReadConcern

from switchtower.store import plain, transitions
from switchtower.store.collections import Store
from switchtower.store.documents import CLAIM_FIELDS
from switchtower.store.expressions import token_hash
from switchtower.store.guards import by_token, claimable
from switchtower.store.indexes import HOT

__all__ = ["Head", "Quick", "Statement", "claim_batch", "claim_one", "flush", "head", "read_back", "winners"]

Document = dict[str, Any]

ORDER = [("rank", ASCENDING), ("order", ASCENDING), ("seq", ASCENDING)]
INDEX_ORDER = [("queue", ASCENDING), ("lane", ASCENDING), *ORDER]
"""The same order as the index spells it: behind `min`, the server cannot tell that the first two are constant."""
_PLACE = {"rank": 1, "order": 1, "seq": 1}
_HEAD_FIELDS = {"_id": 1, "name": 1, **_PLACE}
_WHOLE_FIELDS = {**CLAIM_FIELDS, **_PLACE}
_KINDS = 16
"""So many statements a claim may have."""


def _bound(queue: str, tail: tuple[Any, ...]) -> list[tuple[str, Any]]:
    rank, order, seq, name = tail
    return [("queue", queue), ("lane", ""), ("rank", rank), ("order", order), ("seq", seq), ("name", name)]


@dataclass(slots=True)
class Head:
    """The first claimable jobs of a queue in order, and the index tuple of the last one."""

    rows: list[Document] = field(default_factory=list)
    last: tuple[Any, ...] | None = None
    whole: bool = False

    @property
    def ids(self) -> list[str]:
        return [row["_id"] for row in self.rows]


async def head(
    store: Store,
    queue: str,
    limit: int,
    *,
    names: Document | None,
    condition: Document | None = None,
    floor: tuple[Any, ...] | None = None,
    whole: bool = False,
    lane: str = "",
) -> Head:
    """Reads ids and names at the head of a lane of a queue (with `whole`, all that a worker needs), from `floor` (an
    index tuple of `Head.last`) on where one is given.

    The floor spares the walk over index entries of jobs that were just claimed, which costs more than contention: a
    60,000-job drain fell from 19,800/s to 9,000/s without it (docs/benchmarks.md).
    """
    bounds = {}
    if floor is not None:
        bounds = {"min": dict(_bound(queue, floor)), "max": dict(_bound(queue, (MaxKey(),) * 4))}
    rows = await store.jobs.find(
        claimable(queue, names, condition, lane=lane),
        _WHOLE_FIELDS if whole else _HEAD_FIELDS,
        limit=limit,
        sort=INDEX_ORDER,
        batch_size=limit + 1,
        hint=HOT,
        **bounds,
    ).to_list(limit)
    if not rows:
        return Head()
    tail = rows[-1]
    return Head(rows, (tail["rank"], tail["order"], tail["seq"], tail["name"]), whole)


async def claim_one(
    store: Store,
    queue: str,
    *,
    names: Document | None,
    condition: Document | None = None,
    lane: str | None = None,
    token: str,
    worker_id: str,
) -> Document | None:
    """waiting → active for the first claimable job of a lane (None: of the first lane that has one). Returns: it, or
    None."""
    document: Document | None = await store.jobs.find_one_and_update(
        claimable(queue, names, condition, lane=lane),
        transitions.claim(token, worker_id),
        CLAIM_FIELDS,
        sort=[("lane", ASCENDING), *ORDER],
        hint=HOT,
        return_document=ReturnDocument.AFTER,
    )
    return document


async def claim_batch(store: Store, head: Head, *, token: str, worker_id: str) -> list[Document] | None:
    """waiting → active for those of a head that are still claimable.

    Guard: where the head was read whole, also that nothing happened to a job since: every change raises `event_seq`.
    Returns: the jobs as they are now, where that is known without another read; else None: ask `read_back`.
    """
    known = _of_kinds(head.rows, token, worker_id, store.clock.now_ms()) if head.whole else None
    updates = known or [(head.ids, {}, transitions.claim(token, worker_id))]
    answer = await _update(
        store,
        [
            {"q": {"_id": {"$in": ids}, "state": "waiting", "parked": None, **seen}, "u": update, "multi": True}
            for ids, seen, update in updates
        ],
    )
    if answer == 0:
        return []
    if answer < len(head.rows) or known is None:
        return None
    for row in head.rows:
        row["token"], row["worker_id"] = token, worker_id
        row["claims"] += 1
        row["event_seq"] += 1
    return head.rows


def _of_kinds(
    rows: Sequence[Document], token: str, worker_id: str, now_ms: int
) -> list[tuple[list[str], Document, Any]] | None:
    """Ids, guards and updates that claim these jobs as they were seen: by a plain update for each kind of job, else by
    a pipeline for each `event_seq`; None when there are too many of both."""
    kinds: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for row in rows:
        kinds[plain.claim_kind(row, now_ms)].append(row["_id"])
    if len(kinds) <= _KINDS:
        return [(ids, {"event_seq": kind[0]}, plain.claim(kind, token, worker_id)) for kind, ids in kinds.items()]
    histories: dict[int, list[str]] = defaultdict(list)
    for row in rows:
        histories[row["event_seq"]].append(row["_id"])
    if len(histories) > _KINDS:
        return None
    pipeline = transitions.claim(token, worker_id)
    return [(ids, {"event_seq": seen}, pipeline) for seen, ids in histories.items()]


async def read_back(store: Store, token: str, worker_id: str, *, acknowledged: bool = False) -> list[Document]:
    """What a claim token holds now; after a lost answer this, not a second claim, tells what was won.

    Linearizable: a claim whose answer was lost may not be on a majority yet, and a majority read would miss it. Such a
    read waits for the journal, up to 100 ms; a claim that was `acknowledged` is on a majority and is read at once.
    """
    concern = ReadConcern("majority" if acknowledged else "linearizable")
    jobs = store.jobs.with_options(read_concern=concern)
    match = {"state": "active", "worker_id": worker_id, "token": token}
    found: list[Document] = await jobs.find(match, CLAIM_FIELDS, batch_size=1_000).to_list(None)
    return found


@dataclass(frozen=True, slots=True)
class Quick:
    """A plain update of `store.plain` that does what a pipeline does, where its guard holds."""

    guard: Mapping[str, Any]
    update: Document


@dataclass(slots=True)
class Statement:
    """One guarded update of a flush: the jobs (all under one token), the verb and the pipeline for them, and roughly
    how many bytes it takes. `quick` is tried before the pipeline."""

    verb: str
    token: str
    ids: list[str]
    pipeline: list[Document]
    guard: Mapping[str, Any] = field(default_factory=dict)
    size: int = 4_000
    quick: Quick | None = None

    def document(self) -> Document:
        """The update statement as the `update` command takes it."""
        key: Any = self.ids[0] if len(self.ids) == 1 else {"$in": self.ids}
        return {
            "q": {"_id": key, **by_token(self.verb, self.token), **self.guard},
            "u": self.pipeline,
            "multi": len(self.ids) > 1,
        }

    def first_try(self) -> Document:
        """The statement to begin with: the quick one, where there is one."""
        document = self.document()
        if self.quick is not None:
            document["q"].update(self.quick.guard)
            document["u"] = self.quick.update
        return document


async def flush(store: Store, statements: Sequence[Statement]) -> bool:
    """Writes many reports in one raw `update` command (21,000 jobs/s where `bulk_write` gave 15,000:
    docs/benchmarks.md).

    Guard: each statement's own. Jobs that a quick statement did not find as it was told are moved by its pipeline.
    Returns: whether every job of every statement was moved. When not, ask `winners`.
    """
    expected = sum(len(statement.ids) for statement in statements)
    moved = await _update(store, [statement.first_try() for statement in statements])
    again = [statement.document() for statement in statements if statement.quick is not None]
    if moved < expected and again:
        moved += await _update(store, again)
    return moved == expected


async def _update(store: Store, updates: list[Document]) -> int:
    """One `update` command, journaled on a majority. Returns: how many jobs matched."""
    answer = await store.database.command(
        {
            "update": store.jobs.name,
            "updates": updates,
            "ordered": False,
            "writeConcern": {"w": "majority", "j": True},
        }
    )
    if answer.get("writeConcernError"):
        raise WriteConcernError("the update is not on a majority yet", details=answer)
    if answer.get("writeErrors"):
        first = answer["writeErrors"][0]
        raise OperationFailure(first.get("errmsg", "update failed"), first.get("code"), answer)
    return int(answer["n"])


async def winners(store: Store, tokens: Mapping[str, str]) -> dict[str, str]:
    """Of {job id: token}, the jobs whose last report carried that very token: an earlier try had landed.

    Returns: what it said: completed, failed, expired, cancelled, snoozed or released.
    """
    match = {"_id": {"$in": list(tokens)}, "reported": {"$exists": True}}
    rows = await store.jobs.find(match, {"reported": 1}).to_list(None)
    said = {row["_id"]: row["reported"] for row in rows}
    return {id: last["as"] for id, last in said.items() if last["token"] == token_hash(tokens[id])}
