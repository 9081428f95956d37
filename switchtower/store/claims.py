"""Which commands hand jobs to workers and take their reports?

Claiming many is always: read ids, move them with one guarded update under a fresh token, read back what the token won.
The token is what makes it safe, not the driver's retries.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bson.max_key import MaxKey
from pymongo import ASCENDING, ReturnDocument
from pymongo.read_concern import ReadConcern

from switchtower.store import transitions
from switchtower.store.collections import Store
from switchtower.store.documents import CLAIM_FIELDS
from switchtower.store.expressions import token_hash
from switchtower.store.guards import by_token, claimable
from switchtower.store.indexes import HOT

__all__ = ["Head", "Statement", "claim_batch", "claim_one", "flush", "head", "read_back", "winners"]

Document = dict[str, Any]

ORDER = [("rank", ASCENDING), ("order", ASCENDING), ("seq", ASCENDING)]
INDEX_ORDER = [("queue", ASCENDING), ("lane", ASCENDING), *ORDER]
"""The same order as the index spells it: behind `min`, the server cannot tell that the first two are constant."""
_HEAD_FIELDS = {"_id": 1, "rank": 1, "order": 1, "seq": 1, "name": 1}


def _bound(queue: str, tail: tuple[Any, ...]) -> list[tuple[str, Any]]:
    rank, order, seq, name = tail
    return [("queue", queue), ("lane", ""), ("rank", rank), ("order", order), ("seq", seq), ("name", name)]


@dataclass(slots=True)
class Head:
    """The first claimable jobs of a queue: their ids and names in order, and the index tuple of the last one."""

    ids: list[str] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    last: tuple[Any, ...] | None = None


async def head(
    store: Store,
    queue: str,
    limit: int,
    *,
    names: Document | None,
    condition: Document | None = None,
    floor: tuple[Any, ...] | None = None,
) -> Head:
    """Reads the ids at the head of a queue, from `floor` (an index tuple of `Head.last`) on where one is given.

    The floor spares the walk over index entries of jobs that were just claimed, which costs more than contention: a
    60,000-job drain fell from 19,800/s to 9,000/s without it (docs/benchmarks.md).
    """
    cursor = store.jobs.find(
        claimable(queue, names, condition), _HEAD_FIELDS, limit=limit, sort=INDEX_ORDER, batch_size=limit + 1
    ).hint(HOT)
    if floor is not None:
        cursor = cursor.min(_bound(queue, floor)).max(_bound(queue, (MaxKey(),) * 4))
    rows = await cursor.to_list(limit)
    if not rows:
        return Head()
    tail = rows[-1]
    return Head(
        [row["_id"] for row in rows],
        [row["name"] for row in rows],
        (tail["rank"], tail["order"], tail["seq"], tail["name"]),
    )


async def claim_one(
    store: Store, queue: str, *, names: Document | None, condition: Document | None = None, token: str, worker_id: str
) -> Document | None:
    """waiting → active for the first claimable job of a queue. Returns: it, or None."""
    document: Document | None = await store.jobs.find_one_and_update(
        claimable(queue, names, condition),
        transitions.claim(token, worker_id),
        CLAIM_FIELDS,
        sort=ORDER,
        hint=HOT,
        return_document=ReturnDocument.AFTER,
    )
    return document


async def claim_batch(store: Store, ids: Sequence[str], *, token: str, worker_id: str) -> int:
    """waiting → active for those of `ids` that are still claimable. Returns how many; ask `read_back` which."""
    result = await store.jobs.update_many(
        {"_id": {"$in": list(ids)}, "state": "waiting", "parked": None}, transitions.claim(token, worker_id)
    )
    return int(result.modified_count)


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


@dataclass(slots=True)
class Statement:
    """One guarded update of a flush: the jobs (all under one token), the verb and the pipeline for them, and roughly
    how many bytes it takes."""

    verb: str
    token: str
    ids: list[str]
    pipeline: list[Document]
    guard: Mapping[str, Any] = field(default_factory=dict)
    size: int = 4_000

    def document(self) -> Document:
        """The update statement as the `update` command takes it."""
        key: Any = self.ids[0] if len(self.ids) == 1 else {"$in": self.ids}
        return {
            "q": {"_id": key, **by_token(self.verb, self.token), **self.guard},
            "u": self.pipeline,
            "multi": len(self.ids) > 1,
        }


async def flush(store: Store, statements: Sequence[Statement]) -> bool:
    """Writes many reports in one raw `update` command (21,000 jobs/s where `bulk_write` gave 15,000:
    docs/benchmarks.md).

    Guard: each statement's own. Returns: whether every job of every statement was moved. When not, ask `winners`.
    """
    expected = sum(len(statement.ids) for statement in statements)
    answer = await store.database.command(
        {
            "update": store.jobs.name,
            "updates": [statement.document() for statement in statements],
            "ordered": False,
            "writeConcern": {"w": "majority", "j": True},
        }
    )
    if answer.get("writeErrors") or answer.get("writeConcernError"):
        from pymongo.errors import OperationFailure, WriteConcernError

        if answer.get("writeConcernError"):
            raise WriteConcernError("the reports are not on a majority yet", details=answer)
        first = answer["writeErrors"][0]
        raise OperationFailure(first.get("errmsg", "update failed"), first.get("code"), answer)
    return int(answer["n"]) == expected


async def winners(store: Store, tokens: Mapping[str, str]) -> dict[str, str]:
    """Of {job id: token}, the jobs whose last report carried that very token: an earlier try had landed.

    Returns: what it said: completed, failed, expired, cancelled, snoozed or released.
    """
    match = {"_id": {"$in": list(tokens)}, "reported": {"$exists": True}}
    rows = await store.jobs.find(match, {"reported": 1}).to_list(None)
    said = {row["_id"]: row["reported"] for row in rows}
    return {id: last["as"] for id, last in said.items() if last["token"] == token_hash(tokens[id])}
