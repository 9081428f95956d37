"""F25: heartbeats that fail. A short hiccup costs nothing; past its lease a worker stops itself before others begin."""

from __future__ import annotations

from datetime import UTC
from typing import Any

import pytest
from pymongo.database import Database

from switchtower.engine import Engine
from switchtower.jobs import NewJob
from tests.faults.conftest import CALLER, maintained, struck
from tests.faults.oracle import Ledger
from tests.faults.processes import Nursery
from tests.mongod import fail_command
from tests.nightly.counting import count
from tests.waiting import until

# A worker renews every third of it, and stops itself a sixth before its end: so long may anything be held up here.
LEASE_SECONDS = 12.0
FAILING = {"errorCode": 8000, "appName": "switchtower-heartbeat"}


def lease_of(view: Database[dict[str, Any]]) -> Any:
    row = view["workers"].find_one({"state": "live"})
    return row and row["expires_at"]


@pytest.mark.nightly
async def test_hiccup_of_the_heartbeat_interrupts_nothing(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, mongodb_url: str
) -> None:
    job = (await engine.jobs.enqueue(NewJob(name="linger"), caller=CALLER)).job
    # Two renewals in a row fail, a second apart: the third comes long before the lease's end.
    worker = nursery.start(lease_seconds=9, grace_seconds=1)
    ledger = Ledger(nursery.ledger)
    await until(lambda: len(ledger.read().of("begin")) == 1, timeout_seconds=60)
    async with maintained(engine):
        for hiccup in range(4):
            renewed = lease_of(view)
            if hiccup:
                with fail_command(mongodb_url, ["findAndModify"], **FAILING):
                    await until(lambda: struck(view) >= 2)
            # A hiccup begins when the lease has just been renewed.
            await until(lambda before=renewed: lease_of(view) > before)
    assert worker.alive
    row = view["jobs"].find_one({"_id": job.id})
    assert row is not None
    assert (row["state"], row["token"]) == ("active", ledger.notes[0].token)
    assert [note.what for note in ledger.read().notes] == ["begin"]
    count("F25", "heartbeats cut off", 3)


@pytest.mark.nightly
async def test_worker_whose_heartbeats_fail_past_the_lease_stops_itself_first(
    engine: Engine, view: Database[dict[str, Any]], nursery: Nursery, mongodb_url: str
) -> None:
    job = (await engine.jobs.enqueue(NewJob(name="linger"), caller=CALLER)).job
    worker = nursery.start(lease_seconds=LEASE_SECONDS, grace_seconds=1)
    ledger = Ledger(nursery.ledger)
    await until(lambda: len(ledger.read().of("begin")) == 1, timeout_seconds=60)
    async with maintained(engine):
        with fail_command(mongodb_url, ["findAndModify"], **FAILING):
            stopped = "stopped lease_lost"
            await until(lambda: ledger.read().of(stopped), timeout_seconds=60)
            expires_at = view["workers"].find_one({"_id": worker.worker_id})["expires_at"]  # type: ignore[index]
            await until(lambda: not worker.alive, timeout_seconds=60)
        [note] = ledger.of(stopped)[job.id]
        # Both clocks are this machine's. It stopped while the job was surely its own.
        assert note.at < expires_at.replace(tzinfo=UTC).timestamp()
        free = {"_id": job.id, "state": "waiting", "attempts.outcome": "lost"}
        await until(lambda: view["jobs"].count_documents(free) == 1, timeout_seconds=60)
    assert not [note for note in ledger.read().notes if note.what == "child accepted"]
    count("F25", "heartbeats cut off", 1)
