"""Which figures are there, and what should each reach?

Every bench is one coroutine that measures in turns and returns its figures. Counts are for a scale of 1.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from bench import running
from bench.answering import LIST, OURS, PLAIN, QUERIES, STOCK, Answers
from bench.dialects import READS, Dialects
from bench.enqueuing import enqueue_rates
from bench.fan_in import fan_in_cost
from bench.figures import Figure, interleaved, percentile, versus
from bench.limiting import limited_cost
from bench.peers import AGENDA, ASYNCMQ, BULLMQ, Missing, Peers
from bench.resting import memory
from bench.watching import bare_rate, fan_out_rate, hub_rate, recorded

__all__ = ["BENCHES", "Bench", "Run"]

DRIVERS = ("pymongo", "motor")
WORKER_REST_MIB, SERVER_REST_MIB = 80, 160


@dataclass(slots=True)
class Run:
    """One run of the benchmark: the database's address, the peers, how many rounds, and the scale of all counts."""

    url: str
    peers: Peers
    rounds: int = 3
    scale: float = 1.0

    def count(self, full: int, *, least: int = 40) -> int:
        """So many at this scale."""
        return max(least, int(full * self.scale))


Bench = Callable[[Run], Awaitable[list[Figure]]]


def _median(values: list[float]) -> float:
    return statistics.median(values)


async def _peer(run: Run, found: list[Any], peer: str, role: str, **how: Any) -> str | None:
    """Appends a peer's answer to `found`; returns why there is none, if there is none."""
    try:
        found.append(await run.peers.ask(peer, role, **how))
    except (Missing, RuntimeError) as error:
        return str(error)
    return None


async def worker(run: Run) -> list[Figure]:
    """A worker process with everything on, beside the bare driver and the peers' workers; and how steady it is."""
    jobs, fewer = run.count(60_000), run.count(30_000)
    ten: list[running.Drain] = []
    fifty: list[running.Drain] = []
    raw: list[tuple[float, float]] = []
    asked: dict[str, list[Any]] = {AGENDA: [], ASYNCMQ: [], BULLMQ: []}
    missing: dict[str, str | None] = {}
    counts = {AGENDA: run.count(1_000), ASYNCMQ: run.count(1_000), BULLMQ: run.count(30_000)}
    for _ in range(run.rounds):
        ten.append(await running.drain(run.url, jobs, concurrency=10))
        raw.append(await running.raw_pipeline(run.url, fewer))
        fifty.append(await running.drain(run.url, jobs, concurrency=50))
        for peer, answers in asked.items():
            if not missing.get(peer):
                missing[peer] = await _peer(run, answers, peer, "run", count=counts[peer], seconds=8)
    rates = {
        "c=10": [drain.rate for drain in ten],
        "c=50": [drain.rate for drain in fifty],
        "raw": [completed for _, completed in raw],
    }
    options: dict[str, Any] = {"bench": "worker", "unit": "jobs/s"}
    figures = [
        versus(rates, name, "raw", name=f"worker, {name} ÷ raw driver pipeline", at_least=0.45, later=0.65, **options)
        for name in ("c=10", "c=50")
    ]
    for peer, first, later in ((AGENDA, 10, 15), (ASYNCMQ, 100, None), (BULLMQ, 0.7, 1.2)):
        name = f"worker, c=10 ÷ {peer}" + (f" ({counts[peer]:,} queued)" if peer == ASYNCMQ else "")
        if missing.get(peer):
            figures.append(Figure(name=name, at_least=first, later=later, missing=missing[peer], **options))
            continue
        rates[peer] = [answer["rate"] for answer in asked[peer]]
        figures.append(versus(rates, "c=10", peer, name=name, at_least=first, later=later, **options))
    eighths = {"last": [d.last_eighth for d in ten], "first": [d.first_eighth for d in ten]}
    figures.append(
        versus(eighths, "last", "first", name=f"drain of {jobs:,}, last eighth ÷ first", at_least=0.8, **options)
    )
    behind = [drain.counters_behind_seconds for drain in ten]
    figures.append(Figure(bench="worker", name="counters behind the last job", unit="s", value=_median(behind)))
    return figures


async def enqueue(run: Run) -> list[Figure]:
    """Enqueuing, beside BullMQ and the others."""
    count = run.count(2_000)
    ours: list[Any] = []
    asked: dict[str, list[Any]] = {BULLMQ: [], AGENDA: [], ASYNCMQ: []}
    missing: dict[str, str | None] = {}
    for _ in range(run.rounds):
        ours.append(await enqueue_rates(run.url, count))
        for peer, answers in asked.items():
            if not missing.get(peer):
                some = count if peer == BULLMQ else max(40, count // 4)
                missing[peer] = await _peer(run, answers, peer, "add", count=some)
    options: dict[str, Any] = {"bench": "enqueue", "unit": "jobs/s"}
    figures = []
    for ours_key, theirs_key, name, first, later in (
        ("bulk", "bulk", "bulk enqueue", 1.3, 1.8),
        ("callers", "callers", "enqueue, 20 callers", 0.7, 1.0),
        ("client_callers", "callers", "enqueue, 20 callers, Python client over GraphQL", None, None),
        ("one", "one", "enqueue, one by one", None, None),
        ("client_bulk", "bulk", "bulk enqueue, Python client over GraphQL", None, None),
        ("client_one", "one", "enqueue, one by one, Python client over GraphQL", None, None),
    ):
        rates = {"ours": [getattr(rate, ours_key) for rate in ours]}
        name = f"{name} ÷ {BULLMQ}"
        if missing.get(BULLMQ):
            value = _median(rates["ours"])
            why = missing[BULLMQ]
            figures.append(Figure(name=name, value=value, at_least=first, later=later, missing=why, **options))
            continue
        rates["theirs"] = [answer[theirs_key] for answer in asked[BULLMQ]]
        figures.append(versus(rates, "ours", "theirs", name=name, at_least=first, later=later, **options))
    for peer in (AGENDA, ASYNCMQ):
        if missing.get(peer):
            continue
        for key, words in (("one", "one by one"), ("callers", "20 callers")):
            rates = {
                "ours": [getattr(rate, key) for rate in ours],
                "theirs": [answer[key] for answer in asked[peer]],
            }
            figures.append(versus(rates, "ours", "theirs", name=f"enqueue, {words} ÷ {peer}", **options))
    return figures


async def pickup(run: Run) -> list[Figure]:
    """From the call that enqueues to the start of the handler, on an idle worker."""
    samples = run.count(200, least=10)
    ours: list[tuple[float, float]] = []
    asked: dict[str, list[Any]] = {AGENDA: [], BULLMQ: [], ASYNCMQ: []}
    missing: dict[str, str | None] = {}
    for _ in range(run.rounds):
        ours.append(await running.pickup(run.url, samples))
        for peer, answers in asked.items():
            if not missing.get(peer):
                missing[peer] = await _peer(run, answers, peer, "pickup", count=samples)
    figures = []
    targets: dict[tuple[str, float], float] = {(AGENDA, 0.5): 0.5}
    for place, share in ((0, 0.5), (1, 0.99)):
        for peer, answers in asked.items():
            name = f"pickup latency p{share * 100:g} ÷ {peer}"
            options: dict[str, Any] = {"bench": "pickup", "unit": "ms", "at_most": targets.get((peer, share))}
            if missing.get(peer):
                figures.append(Figure(name=name, missing=missing[peer], **options))
                continue
            waits = {
                "ours": [round_[place] for round_ in ours],
                "theirs": [percentile(answer["waits"], share) for answer in answers],
            }
            figures.append(versus(waits, "ours", "theirs", name=name, **options))
    return figures


async def graphql(run: Run) -> list[Figure]:
    """Requests through the server's application, beside stock Strawberry and plain FastAPI."""
    answers = Answers()
    await answers.check()
    seconds = max(0.05, 0.8 * run.scale)
    figures = []
    for query in QUERIES:
        measures = {app: answers.rate(app, query, seconds=seconds) for app in (OURS, STOCK, PLAIN)}
        found = await interleaved(measures, rounds=run.rounds)
        judged = query == LIST
        targets = {STOCK: (2.5, 10.0), PLAIN: (0.5, 2.0)}
        for other, (first, later) in targets.items():
            bounds = {"at_least": first, "later": later} if judged else {}
            figures.append(
                versus(
                    found, OURS, other, bench="graphql", unit="requests/s", name=f"GraphQL {query} ÷ {other}", **bounds
                )
            )
    return figures


async def dialects(run: Run) -> list[Figure]:
    """Reads in the REST dialects, beside plain FastAPI over the same store call."""
    applications = Dialects()
    await applications.check()
    seconds = max(0.05, 0.8 * run.scale)
    figures = []
    for read in READS:
        measures = {app: applications.cost(app, read, seconds=seconds) for app in (OURS, PLAIN)}
        found = await interleaved(measures, rounds=run.rounds)
        name = f"{read} ÷ {PLAIN}"
        figures.append(versus(found, OURS, PLAIN, bench="dialects", unit="µs", name=name, at_most=1.3))
    return figures


async def stream(run: Run) -> list[Figure]:
    """The hub beside the driver's own watcher, on both drivers; and both drivers from end to end."""
    async with recorded(run.url, run.count(8_000)) as stretch:
        measures = {
            f"{what} {driver}": partial(read, stretch, driver)
            for driver in DRIVERS
            for what, read in (("hub", hub_rate), ("bare", bare_rate))
        }
        found = await interleaved(measures, rounds=run.rounds)
    figures = [
        versus(
            found,
            f"hub {driver}",
            f"bare {driver}",
            bench="stream",
            unit="events/s",
            name=f"change-stream hub ÷ bare watcher ({driver})",
            at_least=0.5,
        )
        for driver in DRIVERS
    ]
    options: dict[str, Any] = {"bench": "stream", "name": "hub on pymongo ÷ on motor", "unit": "events/s"}
    figures.append(versus(found, "hub pymongo", "hub motor", **options))
    jobs, samples = run.count(15_000), run.count(100, least=10)
    rates: dict[str, list[float]] = {driver: [] for driver in DRIVERS}
    waits: dict[str, list[float]] = {driver: [] for driver in DRIVERS}
    for _ in range(run.rounds):
        for driver in DRIVERS:
            rates[driver].append((await running.drain(run.url, jobs, concurrency=10, driver=driver)).rate)
            waits[driver].append((await running.pickup(run.url, samples, driver=driver))[0])
    figures.append(versus(rates, *DRIVERS, bench="stream", unit="jobs/s", name="worker on pymongo ÷ on motor"))
    figures.append(versus(waits, *DRIVERS, bench="stream", unit="ms", name="pickup p50 on pymongo ÷ on motor"))
    return figures


async def rest(run: Run) -> list[Figure]:
    """Memory at rest and after many jobs."""
    jobs = run.count(100_000)
    found = await memory(run.url, jobs)
    figures = []
    for who, sizes, most in (("worker", found.worker, WORKER_REST_MIB), ("server", found.server, SERVER_REST_MIB)):
        options: dict[str, Any] = {"bench": "memory", "unit": "MiB"}
        figures.append(Figure(name=f"{who} at rest (MiB)", value=sizes[0], at_most=most, **options))
        name = f"{who} after {jobs:,} jobs ÷ after {jobs // 5:,}"
        figures.append(Figure(name=name, value=sizes[2], beside=sizes[1], at_most=1.2, **options))
    return figures


async def flat(run: Run) -> list[Figure]:
    """What ten times the queue depth or the subscribers add to the cost of one claim or one delivery."""
    depth, claims = run.count(10_000), run.count(60, least=4)
    figures = []
    for count, limit, words in ((claims, 200, "claim in batches of 200"), (claims * 5, 1, "claim one by one")):
        measures = {
            f"{factor}": partial(running.claim_cost, run.url, depth * factor, claims=count, limit=limit)
            for factor in (1, 10)
        }
        found = await interleaved(measures, rounds=run.rounds)
        figures.append(
            versus(found, "10", "1", bench="flat", unit="µs/job", name=f"{words}, 10× queue depth ÷ 1×", at_most=1.2)
        )
    some, events = run.count(50, least=5), run.count(2_000, least=200)
    found = await interleaved(
        {"1": partial(fan_out_rate, some, events), "10": partial(fan_out_rate, some * 10, events)}, rounds=run.rounds
    )
    costs = {name: [1e6 / rate for rate in rates] for name, rates in found.items()}
    name = "delivery of one event by the hub, 10× subscribers ÷ 1×"
    figures.append(versus(costs, "10", "1", bench="flat", unit="µs", name=name, at_most=1.2))
    return figures


async def fan_in(run: Run) -> list[Figure]:
    """What a child costs in a flow of a thousand children, beside one of a hundred."""
    some = run.count(100, least=20)
    measures = {
        "10": partial(fan_in_cost, run.url, some * 10, flows=1),
        "1": partial(fan_in_cost, run.url, some, flows=10),
    }
    found = await interleaved(measures, rounds=run.rounds)
    name = f"cost of a child, {some * 10:,} children ÷ {some}"
    return [versus(found, "10", "1", bench="fan_in", unit="µs/child", name=name, at_most=2.0)]


async def limits(run: Run) -> list[Figure]:
    """What a claim costs past a hundred thousand jobs that their limit holds back, beside a thousand of them."""
    some, claims = run.count(1_000, least=20), run.count(100, least=4)
    measures = {factor: partial(limited_cost, run.url, some * int(factor), claims=claims) for factor in ("1", "100")}
    found = await interleaved(measures, rounds=run.rounds)
    name = f"claim past {some * 100:,} jobs behind a limit ÷ {some:,}"
    return [versus(found, "100", "1", bench="limits", unit="µs", name=name, at_most=1.2)]


BENCHES: dict[str, Bench] = {
    "worker": worker,
    "enqueue": enqueue,
    "pickup": pickup,
    "graphql": graphql,
    "dialects": dialects,
    "stream": stream,
    "memory": rest,
    "flat": flat,
    "fan_in": fan_in,
    "limits": limits,
}
