"""How soon does a search among a million jobs answer? `python -m bench.searching [--jobs N]`."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from switchtower import embedded
from switchtower.callers import Caller
from switchtower.engine import Engine, SearchType
from switchtower.ids import JOB, new_id
from switchtower.jobs import NewJob
from switchtower.store.collections import Store
from switchtower.store.documents import job_document

CALLER = Caller("bench")
ROUNDS = 5
SEARCHES: list[tuple[str, str, SearchType, str | None]] = [
    ("indexed path, 1 match", "order.id:31", SearchType.PAYLOAD, None),
    ("indexed path, a tenth matches", "order.shop:3", SearchType.PAYLOAD, None),
    ("indexed path, none", "order.id:-1", SearchType.PAYLOAD, None),
    ("path without index, oldest job", "customer.id:7", SearchType.PAYLOAD, None),
    ("payload text, none", "no such text", SearchType.PAYLOAD, None),
    ("payload text, one queue", "no such text", SearchType.PAYLOAD, "rare"),
    ("name, none", "no such name", SearchType.NAME, None),
    ("error, none", "no such error", SearchType.ERROR, None),
    ("everywhere, none", "no such text", SearchType.ALL, None),
]


async def fill(store: Store, jobs: int, change: Callable[[int, dict[str, Any]], None] | None = None) -> str:
    """Jobs of ten shops, one in a thousand in the queue `rare`; returns an id of the middle. `change` is called with
    the number and the document of each before it is inserted."""
    middle = ""
    draw = random.Random(7)
    for start in range(0, jobs, 5_000):
        documents = []
        for i in range(start, min(jobs, start + 5_000)):
            payload = {
                "order": {"id": i, "shop": i % 10, "lines": [{"sku": f"sku-{draw.randrange(10_000)}", "n": 2}]},
                "customer": {"id": i, "email": f"user{i}@example.org", "note": "please leave it at the door"},
            }
            new = NewJob(name="ship", queue="rare" if i % 1_000 == 0 else "orders", payload=payload)
            id = new_id(JOB)
            middle = id if i == jobs // 2 else middle
            document = job_document(new, id=id, org="", app="", actor="b", now_ms=_now(), pending=[])
            if change is not None:
                change(i, document)
            documents.append(document)
        await store.jobs.insert_many(documents, ordered=False)
    return middle


def _now() -> int:
    return int(time.time() * 1000)


async def measure(url: str, jobs: int) -> None:
    """Fills a database, indexes two paths, and prints the slowest first page of each search."""
    engine = await Engine.connect(url, database="searching", search_paths=("order.id", "order.shop"))
    began = time.monotonic()
    middle = await fill(engine._store, jobs)
    filled = time.monotonic()
    await engine.prepare()
    print(f"{jobs:,} jobs in {filled - began:.0f} s, indexes in {time.monotonic() - filled:.0f} s", flush=True)
    searches = [
        ("id", middle, SearchType.ALL, None),
        ("beginning of an id", middle[:20], SearchType.ID, None),
        *SEARCHES,
    ]
    for name, query, type, queue in searches:
        times = []
        for _ in range(ROUNDS):
            started = time.monotonic()
            found = await engine.search.find(query, caller=CALLER, type=type, queue=queue, with_=frozenset())
            times.append((time.monotonic() - started) * 1000)
        whole = "all" if found.exhaustive else "not exhaustive"
        shown = f"{len(found.jobs)} jobs, {found.scanned:,} looked at, {whole}"
        print(f"{name:<32} slowest {max(times):7.1f} ms  fastest {min(times):7.1f} ms  {shown}", flush=True)
    await engine.close()


def main() -> int:
    """Measures on a database of its own."""
    parser = argparse.ArgumentParser(prog="python -m bench.searching", description=__doc__)
    parser.add_argument("--jobs", type=int, default=1_000_000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch, embedded.start(Path(scratch)) as database:
        asyncio.run(measure(database.url, options.jobs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
