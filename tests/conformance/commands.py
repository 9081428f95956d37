"""Which commands did the code under test send, and how does the server plan them?"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

from pymongo import MongoClient
from pymongo.monitoring import CommandFailedEvent, CommandListener, CommandStartedEvent, CommandSucceededEvent

Document = dict[str, Any]
NOT_EXPLAINED = {"lsid", "$db", "$clusterTime", "$readPreference", "txnNumber", "writeConcern", "readConcern"}
HOUSEKEEPING = {"hello", "getMore", "killCursors", "endSessions", "ping"}


class Commands:
    """What was sent to one database, in order."""

    def __init__(self, database: str) -> None:
        self.database = database
        self.sent: list[Document] = []

    def named(self, *names: str) -> list[Document]:
        return [command for command in self.sent if next(iter(command)) in names]

    @property
    def names(self) -> list[str]:
        """The round trips, without what the driver does by itself."""
        return [name for command in self.sent if (name := next(iter(command))) not in HOUSEKEEPING]

    def clear(self) -> None:
        self.sent.clear()


class Recorder(CommandListener):
    def __init__(self) -> None:
        self.recordings: list[Commands] = []

    def started(self, event: CommandStartedEvent) -> None:
        for recording in self.recordings:
            if event.database_name == recording.database:
                recording.sent.append(deepcopy(dict(event.command)))

    def succeeded(self, event: CommandSucceededEvent) -> None: ...

    def failed(self, event: CommandFailedEvent) -> None: ...


RECORDER = Recorder()


def explain(mongo: MongoClient[Document], database: str, command: Mapping[str, Any]) -> Document:
    """The server's plan of a recorded command, with what it examined."""
    plain = {key: value for key, value in command.items() if key not in NOT_EXPLAINED}
    if next(iter(plain)) == "update":
        plain["updates"] = plain["updates"][:1]
    answer: Document = mongo[database].command({"explain": plain, "verbosity": "executionStats"})
    return answer


def stages(plan: Any) -> list[Document]:
    """Every stage of a plan that won, however deep."""
    found: list[Document] = []
    if isinstance(plan, dict):
        if "stage" in plan:
            found.append(plan)
        for key, value in plan.items():
            if key != "rejectedPlans":
                found += stages(value)
    elif isinstance(plan, list):
        for value in plan:
            found += stages(value)
    return found
