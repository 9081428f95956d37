"""The folder is killed between the rows that it wrote and its cursor, again and again: no row is lost, none doubled."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from switchtower.audit import AuditFilter
from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.jobs import NewJob
from switchtower.maintenance import Maintenance
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
OLGA = Caller("olga", source="graphql")
KEEPER = """
import asyncio, os
from switchtower.engine import Engine
from switchtower.maintenance import Maintenance

async def main():
    engine = await Engine.connect(database=os.environ["SWITCHTOWER_DATABASE"], role="server")
    await Maintenance(engine).run(asyncio.Event())

asyncio.run(main())
"""


async def _killed(url: str, database: str) -> None:
    """A folder that dies as soon as it has written rows."""
    environment = os.environ | {
        "SWITCHTOWER_MONGODB_URL": url,
        "SWITCHTOWER_DATABASE": database,
        "SWITCHTOWER_DIE_AT": "after_relay",
    }
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", KEEPER, cwd=ROOT, env=environment)
    try:
        assert await asyncio.wait_for(process.wait(), 60) == 137
    finally:
        if process.returncode is None:
            process.kill()


async def test_killed_folders_lose_and_double_no_row(mongodb_url: str, database_name: str, scale: str) -> None:
    engine = await Engine.connect(mongodb_url, database=database_name)
    await engine.prepare()
    await _fold(engine, rows=0)
    ids = []
    for _ in range(1 if scale == "ci" else 20):
        for _ in range(10):
            id = (await engine.jobs.enqueue(NewJob(name="n", delay_ms=3_600_000), caller=OLGA)).job.id
            await engine.jobs.cancel(id, caller=OLGA)
            ids.append(id)
        # What a dead folder held passes to the next when its term ends.
        await engine._store.leases.delete_many({})
        await _killed(mongodb_url, database_name)
    await engine._store.leases.delete_many({})
    await _fold(engine, rows=len(ids))
    found = []
    after = None
    while True:
        page = await engine.audit.page(AuditFilter(), caller=OLGA, first=100, after=after)
        found += page.items
        if not page.has_next:
            break
        after = page.cursors[-1]
    assert sorted(row.job_id or "" for row in found) == sorted(ids)
    await engine.close()


async def _fold(engine: Engine, *, rows: int) -> None:
    """Folds until the counters stand and all of so many rows are there."""
    stop = asyncio.Event()
    running = asyncio.create_task(Maintenance(engine).run(stop))

    async def there() -> bool:
        position, _ = await engine.upkeep.fold_position()
        counted = await engine.audit.count(AuditFilter(), caller=OLGA)
        cancelled = sum((await engine.jobs.counts(caller=OLGA)).values())
        return position is not None and counted.value >= rows and cancelled >= rows

    await until(lambda: there(), timeout_seconds=60)
    stop.set()
    await running
