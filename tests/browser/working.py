"""A worker in a few lines, over GraphQL: what it does is what the pages must show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx2

from tests.app.product import ENQUEUE, execute

# The lease outlives whatever a browser on a busy machine takes.
CLAIM = """
mutation ($queues: [String!]!) {
  claimJobs(input: { queues: $queues, limit: 1, leaseMs: 600000 }) {
    ... on ClaimedJobs { jobs { leaseToken job { id } } }
  }
}
"""
REPORT = """
mutation ($id: ID!, $token: String!, $progress: JSON!, $line: String!) {
  reportProgress(id: $id, leaseToken: $token, progress: $progress) { __typename }
  appendLog(id: $id, leaseToken: $token, line: $line) { __typename }
}
"""
COMPLETE = """
mutation ($id: ID!, $token: String!) { completeJob(id: $id, leaseToken: $token, result: { ok: true }) { __typename } }
"""
FAIL = """
mutation ($id: ID!, $token: String!, $message: String!) {
  failJob(id: $id, leaseToken: $token, error: { message: $message }) { __typename }
}
"""


@dataclass(frozen=True)
class Run:
    """A job that runs here."""

    http: httpx2.Client
    id: str
    token: str

    def report(self, percent: int, line: str) -> None:
        answer = execute(self.http, REPORT, id=self.id, token=self.token, progress=percent, line=line)
        assert {each["__typename"] for each in answer.values()} == {"Job"}, answer

    def complete(self) -> None:
        execute(self.http, COMPLETE, id=self.id, token=self.token)

    def fail(self, message: str) -> None:
        execute(self.http, FAIL, id=self.id, token=self.token, message=message)


def enqueue(http: httpx2.Client, name: str, queue: str, **options: Any) -> str:
    answer = execute(http, ENQUEUE, input={"name": name, "queue": queue, **options})["enqueueJob"]
    assert answer["__typename"] == "Job", answer
    return str(answer["id"])


def claim(http: httpx2.Client, queue: str) -> Run | None:
    """A job of the queue; None where there is none to be had."""
    jobs = execute(http, CLAIM, queues=[queue])["claimJobs"]["jobs"]
    return Run(http, jobs[0]["job"]["id"], jobs[0]["leaseToken"]) if jobs else None


def run(http: httpx2.Client, queue: str) -> Run:
    found = claim(http, queue)
    assert found is not None
    return found
