"""Is this database fit to keep our promises?"""

from __future__ import annotations

from dataclasses import dataclass

from pymongo.errors import OperationFailure, PyMongoError

from switchtower.store.collections import Store
from switchtower.store.driver import Database
from switchtower.store.indexes import missing_indexes
from switchtower.store.skew import TOLERATED_SECONDS

__all__ = ["Finding", "examine"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at: `level` is ok, warn or error; the message says what to do."""

    name: str
    level: str
    message: str


async def examine(store: Store) -> list[Finding]:
    """Looks at server, replica set, indexes, oplog, clocks and scripting; changes nothing."""
    database = store.database
    findings = []
    round_trip = await database.ping()
    version = (await database.admin_command("buildInfo"))["version"]
    findings.append(Finding("server", "ok", f"MongoDB {version} answers in {round_trip * 1000:.1f} ms."))
    findings += await _members(database)
    findings.append(_clocks(database.members.skew_seconds))
    missing = await missing_indexes(store)
    if missing:
        shown = ", ".join(missing[:5])
        findings.append(
            Finding("indexes", "error", f"{len(missing)} are missing ({shown}); start the server once to create them.")
        )
    else:
        findings.append(Finding("indexes", "ok", "All are there."))
    findings.append(await _oplog(database, store.clock.now_ms()))
    try:
        parameters = await database.admin_command("getCmdLineOpts")
        scripting = parameters.get("parsed", {}).get("security", {}).get("javascriptEnabled", True)
        if scripting:
            message = "Server-side JavaScript is on; nothing here uses it. Set security.javascriptEnabled: false."
            findings.append(Finding("javascript", "warn", message))
        else:
            findings.append(Finding("javascript", "ok", "Server-side JavaScript is off."))
    except OperationFailure:
        findings.append(Finding("javascript", "warn", "This user may not read the server's options."))
    return findings


async def _members(database: Database) -> list[Finding]:
    try:
        config = (await database.admin_command("replSetGetConfig"))["config"]
    except OperationFailure:
        return [Finding("replica set", "warn", "This user may not read the replica set's status.")]
    found = []
    data = [member for member in config["members"] if not member.get("arbiterOnly")]
    if len(data) < 3:
        message = (
            f"{len(data)} data-bearing member(s): jobs survive the process, not the disk. Use three in production."
        )
        found.append(Finding("replica set", "warn", message))
    else:
        found.append(Finding("replica set", "ok", f"{len(data)} data-bearing members."))
    if len(data) < len(config["members"]):
        found.append(Finding("arbiter", "warn", "An arbiter votes and holds no data; use a third data-bearing member."))
    if config.get("settings", {}).get("electionTimeoutMillis", 10_000) > 10_000:
        found.append(
            Finding(
                "election", "warn", "electionTimeoutMillis is over 10 s: a failover takes longer than a worker waits."
            )
        )
    return found


def _clocks(skew_seconds: float) -> Finding:
    if skew_seconds > TOLERATED_SECONDS:
        message = (
            f"The members' clocks are {skew_seconds:.1f} s apart: a failover shifts time by that. Set them by NTP."
        )
        return Finding("clocks", "warn", message)
    return Finding("clocks", "ok", "The members' clocks agree within a second.")


async def _oplog(database: Database, now_ms: int) -> Finding:
    try:
        first, last = await database.oplog_ends()
        hours = (last["ts"].time - first["ts"].time) / 3600
        full = now_ms / 1000 - first["ts"].time > 24 * 3600
    except (PyMongoError, TypeError):
        return Finding("oplog", "warn", "This user may not read the oplog.")
    if full and hours < 24:
        message = f"The oplog reaches back {hours:.1f} h; subscribers resume only inside it. Make it hold 24 h."
        return Finding("oplog", "warn", message)
    return Finding("oplog", "ok", f"The oplog reaches back {hours:.1f} h.")
