"""A search is literal, bounded, says how far it came, and shows nobody another tenant's jobs."""

from __future__ import annotations

from typing import Any

import pytest

from switchtower.callers import Caller
from switchtower.engine import Engine, Found, Retention, SearchType
from switchtower.errors import ConfigurationError, InvalidInput
from switchtower.jobs import ErrorKind, JobError, NewJob
from switchtower.payloads import PAYLOAD_LIMIT
from switchtower.store import search as commands
from switchtower.store.collections import Store
from switchtower.workers import Outcome, OutcomeKind, WorkerInfo
from tests.conformance.situations import fresh

CALLER = Caller("olga")


async def _new(engine: Engine, payload: Any = None, *, caller: Caller = CALLER, **fields: Any) -> str:
    new = NewJob(**{"name": "work", "payload": payload, **fields})
    return (await engine.jobs.enqueue(new, caller=caller)).job.id


async def _ids(engine: Engine, query: str, type: SearchType = SearchType.ALL, **how: Any) -> list[str]:
    return [job.id for job in (await engine.search.find(query, **{"caller": CALLER, **how}, type=type)).jobs]


async def test_ids(engine: Engine) -> None:
    id = await _new(engine)
    own = await _new(engine, job_id="order-17")
    assert await _ids(engine, id) == [id]
    assert await _ids(engine, id[:-2], SearchType.ID) == [id]
    assert await _ids(engine, "order-1", SearchType.ID) == [own]
    assert await _ids(engine, "rder-1", SearchType.ID) == []
    found = await engine.search.find("order-17", caller=CALLER)
    assert [job.id for job in found.jobs] == [own] and found.exhaustive and found.indexed


async def test_names_queues_errors_and_payloads(engine: Engine) -> None:
    id = await _new(engine, {"a": [{"b": "Straße 5 (left)"}], "n": 42}, name="ship.Parcel", queue="Parcels")
    await _new(engine, {"a": "nothing"})
    assert await _ids(engine, "parcel") == [id]
    assert (await engine.search.find("PARCEL", caller=CALLER)).queues == []
    assert await _ids(engine, "straße 5 (", SearchType.PAYLOAD) == [id]
    assert await _ids(engine, ".*", SearchType.ALL) == []
    assert await _ids(engine, "parcel", SearchType.PAYLOAD) == []
    await engine.queues.pause("Parcels", caller=CALLER)
    found = await engine.search.find("PARCEL", caller=CALLER, type=SearchType.QUEUE)
    assert (found.queues, found.jobs, found.exhaustive) == (["Parcels"], [], True)
    await engine.queues.resume("Parcels", caller=CALLER)
    await engine.workers.register(WorkerInfo(id="wkr_a", queues=["Parcels"]))
    (claimed,) = await engine.claims.claim("wkr_a", ["Parcels"])
    error = JobError(ErrorKind.FATAL, "Boom", "Door 5 closed")
    assert await _ids(engine, "ship", SearchType.NAME, queue="Parcels") == [id]
    await engine.claims.report([Outcome(id, claimed.token, OutcomeKind.BURY, error=error)])
    assert await _ids(engine, "door 5", SearchType.ERROR) == [id]
    assert await _ids(engine, "boom", SearchType.ERROR) == [id]
    assert await _ids(engine, "door 5", SearchType.NAME) == []


PATHS: list[tuple[str, list[int]]] = [
    ("user.id:42", [0, 1, 4]),
    ('user.id:"42"', [1]),
    ("user.id:true", [2]),
    ("user.id:null", [3]),
    ("user.id:7", [4]),
    ("user.id:4", []),
    ("user.name:ann", []),
    ("user.id:{}", []),
]
VALUES: list[Any] = [42, "42", True, None, [42, 7]]


@pytest.mark.parametrize("declared", [False, True])
async def test_payload_paths(store: Store, declared: bool) -> None:
    paths = ("user.id", "user.name") if declared else ()
    engine = Engine(store, url="", payload_limit=PAYLOAD_LIMIT, retention=Retention(), search_paths=paths)
    await engine.prepare()
    try:
        ids = [await _new(engine, {"user": {"id": value}}) for value in VALUES]
        await _new(engine, {"user": {}})
        for query, expected in PATHS:
            found = await engine.search.find(query, caller=CALLER, type=SearchType.PAYLOAD)
            assert sorted(job.id for job in found.jobs) == sorted(ids[number] for number in expected), query
            assert (found.exhaustive, found.indexed) == (True, declared)
    finally:
        await engine.effects.close()
        for name in await store.jobs.index_information():
            if name.startswith("payload:"):
                await store.jobs.drop_index(name)


async def test_pages_go_on_where_the_last_one_stopped(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "FIRST_WINDOW", 4)
    ids = [await _new(engine, {"k": "yes" if number % 3 == 0 else "no"}) for number in range(30)]
    wanted = [id for number, id in enumerate(ids) if number % 3 == 0]
    for type, query in ((SearchType.PAYLOAD, "k:yes"), (SearchType.ALL, "yes")):
        seen: list[str] = []
        after = None
        for _ in range(50):
            found = await engine.search.find(query, caller=CALLER, type=type, first=3, after=after)
            seen += [job.id for job in found.jobs]
            assert len(found.jobs) <= 3
            assert found.exhaustive is (found.cursor is None)
            after = found.cursor
            if after is None:
                break
        assert seen == wanted[::-1]


async def test_a_search_without_time_says_so_and_can_go_on(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commands, "FIRST_WINDOW", 4)
    monkeypatch.setattr(commands.look_through, "__kwdefaults__", {**commands.look_through.__kwdefaults__, "seconds": 0})
    oldest = await _new(engine, {"k": "here"})
    for _ in range(20):
        await _new(engine, {"k": "elsewhere"})
    found = await engine.search.find("k:here", caller=CALLER)
    assert (found.jobs, found.scanned, found.exhaustive) == ([], 4, False)
    pages = 1
    while not found.jobs:
        assert found.cursor is not None
        found = await engine.search.find("k:here", caller=CALLER, after=found.cursor)
        pages += 1
    assert [job.id for job in found.jobs] == [oldest] and pages == 6


async def test_a_tenant_finds_its_own_jobs(engine: Engine) -> None:
    acme, other = Caller("ann", org="acme"), Caller("bob", org="other")
    mine = await _new(engine, {"key": "common"}, caller=acme, queue="shared", job_id="own-1")
    await _new(engine, {"key": "common"}, caller=other, queue="shared-too")
    await engine.queues.pause("shared-too", caller=other)
    for query, type in (
        ("common", SearchType.ALL),
        ("key:common", SearchType.PAYLOAD),
        ("work", SearchType.NAME),
        (mine, SearchType.ALL),
        (mine[:20], SearchType.ID),
        ("own-1", SearchType.ID),
    ):
        assert await _ids(engine, query, type, caller=acme) == [mine]
        assert mine not in await _ids(engine, query, type, caller=other)
    names: Found = await engine.search.find("shared", caller=acme, type=SearchType.QUEUE)
    assert "shared-too" not in names.queues


async def test_bad_texts(engine: Engine) -> None:
    for query in ["", " ", "x" * 257, "a\0b"]:
        with pytest.raises(InvalidInput):
            await engine.search.find(query, caller=CALLER)


async def test_bad_cursors(engine: Engine) -> None:
    for cursor in ["x", "WzEsMl0", "", "W10"]:
        with pytest.raises(InvalidInput):
            await engine.search.find("text", caller=CALLER, after=cursor)


async def test_odd_paths_are_texts(engine: Engine) -> None:
    for query in ("$where:1", "a.$b:1", "a..b:1", ".a:1", "a.:1", ":1", "a:", "x:", "http://x", "12:30"):
        queue = fresh("queue")
        id = await _new(engine, {"text": f"so {query} it is"}, queue=queue)
        assert await _ids(engine, query, SearchType.PAYLOAD, queue=queue) == [id]


def test_bad_paths_to_index(store: Store) -> None:
    for paths in (["$a"], ["a..b"], [""], ["a b"], ["a" * 101], [f"p{n}" for n in range(21)]):
        with pytest.raises(ConfigurationError):
            Engine(store, url="", payload_limit=PAYLOAD_LIMIT, retention=Retention(), search_paths=paths)


async def test_payload_texts_four_levels_deep(engine: Engine) -> None:
    deep = await _new(engine, {"a": {"b": [{"needle": "hay", "n": 1234.5}]}})
    await _new(engine, {"a": {"b": [[{"c": "needle"}]]}})
    for text in ("NEEDLE", "hay", "1234.5", "b"):
        assert deep in await _ids(engine, text, SearchType.PAYLOAD)
    assert await _ids(engine, "hay n", SearchType.PAYLOAD) == []
    assert await _ids(engine, "eedl", SearchType.PAYLOAD) == [deep]


async def test_scalar_payloads(engine: Engine) -> None:
    for payload in ("a text", ["a text"], 17, None, True):
        await _new(engine, payload)
    assert len(await _ids(engine, "a text", SearchType.PAYLOAD)) == 2
    assert len(await _ids(engine, "17", SearchType.PAYLOAD)) == 1
