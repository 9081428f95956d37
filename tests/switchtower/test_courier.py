"""The courier on a real database and real sockets: every job is delivered, whatever its endpoint and its process do."""

from __future__ import annotations

import asyncio
import importlib.util
import random
import socket
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from switchtower.access import NewApiKey, Scope
from switchtower.addresses import LOOPBACK, AddressPolicy
from switchtower.attempts import ErrorKind
from switchtower.callers import SYSTEM, Caller
from switchtower.courier import Courier, CourierOptions
from switchtower.engine import BlockageKind, Engine
from switchtower.jobs import Job, NewJob
from switchtower.maintenance import Maintenance
from switchtower.retry import Backoff, BackoffKind
from switchtower.sending import Sender
from switchtower.states import FINAL, JobState
from switchtower.webhooks import COURIER, SetWebhook, Target
from switchtower.workers import WorkerState
from tests.mongod import fail_command
from tests.switchtower.endpoint import Answer, Received, drips, endpoint, is_silent, resets, says
from tests.switchtower.test_addresses import Stub
from tests.waiting import until

NOW = Backoff(BackoffKind.NONE)
OPERATOR = Caller("operator")
LOCAL = CourierOptions(allowed_networks=LOOPBACK)


@pytest.fixture
async def engine(mongodb_url: str, database_name: str) -> AsyncIterator[Engine]:
    engine = await Engine.connect(mongodb_url, database=database_name, role="server")
    await engine.prepare()
    yield engine
    await engine.close()


@asynccontextmanager
async def running(engine: Engine, options: CourierOptions = LOCAL, **parts: Any) -> AsyncIterator[Courier]:
    """A courier and maintenance at work, until the block ends."""
    stop = asyncio.Event()
    courier = Courier(engine, options, **parts)
    tasks = [asyncio.create_task(courier.run(stop)), asyncio.create_task(Maintenance(engine).run(stop))]
    try:
        yield courier
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def addressed(engine: Engine, url: str, **target: Any) -> str:
    made = await engine.webhooks.set(SetWebhook(Target(**target), url), caller=OPERATOR)
    return made.secret or ""


async def deliver(engine: Engine, caller: Caller = OPERATOR, **fields: Any) -> str:
    new = NewJob(**{"name": "notify", "webhook": True, "backoff": NOW, **fields})
    return (await engine.jobs.enqueue(new, caller=caller)).job.id


async def read(engine: Engine, id: str) -> Job:
    job = await engine.jobs.get(id, caller=SYSTEM)
    assert job is not None
    return job


async def ended(engine: Engine, id: str, seconds: float = 60) -> Job:
    async def final() -> Job | None:
        job = await read(engine, id)
        return job if job.state in FINAL else None

    found = await until(final, timeout_seconds=seconds)
    assert found is not None
    return found


async def test_a_job_is_delivered_and_what_came_of_it_is_kept(engine: Engine) -> None:
    async with endpoint(says(201, b"took it")) as here, running(engine):
        await addressed(engine, here.url)
        job = await ended(engine, await deliver(engine, payload={"a": 1}))
    assert job.state is JobState.COMPLETED
    (attempt,) = job.attempts
    assert attempt.delivery is not None
    assert (attempt.delivery.status_code, attempt.delivery.answer) == (201, "took it")
    assert attempt.id == here.requests[0].json["attemptId"] and here.requests[0].json["payload"] == {"a": 1}
    moved = [entry.type for entry in job.timeline]
    assert moved == ["enqueue", "claim", "start", "complete"]


async def test_the_start_is_on_record_before_anything_is_sent(engine: Engine) -> None:
    seen = []

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        job = await read(engine, request.json["jobId"])
        seen.append((job.state, job.started_at is not None, job.attempt))
        await says(200)(request, writer)

    async with endpoint(answer) as here, running(engine):
        await addressed(engine, here.url)
        for _ in range(5):
            await ended(engine, await deliver(engine))
    assert seen == [(JobState.ACTIVE, True, 1)] * 5


async def test_a_failing_endpoint_is_tried_four_times_by_default(engine: Engine) -> None:
    async with endpoint(says(500, b"no")) as here, running(engine):
        await addressed(engine, here.url)
        job = await ended(engine, await deliver(engine))
        assert await until(lambda: engine.dead_letters.for_jobs([job.id], caller=SYSTEM))
    assert job.state is JobState.FAILED
    assert [request.json["attemptNumber"] for request in here.requests] == [1, 2, 3, 4]
    assert len({request.headers["webhook-id"] for request in here.requests}) == 1
    assert len({request.json["attempt"] for request in here.requests}) == 4
    assert job.error is not None and job.error.type == "http_status"
    assert [attempt.delivery and attempt.delivery.answer for attempt in job.attempts] == ["no"] * 4


async def test_the_waits_are_half_a_minute_two_and_five(engine: Engine) -> None:
    waits = []
    async with endpoint(says(503)) as here, running(engine):
        await addressed(engine, here.url)
        id = (await engine.jobs.enqueue(NewJob(name="notify", webhook=True), caller=OPERATOR)).job.id
        for number in (1, 2, 3):
            job = await until(lambda number=number: backing_off(engine, id, number))
            assert job is not None and job.attempts[-1].ended_at is not None
            waits.append(round((job.run_at - job.attempts[-1].ended_at).total_seconds()))
            await engine.jobs.promote(id, caller=OPERATOR)
        job = await ended(engine, id)
    assert waits == [30, 120, 300] and job.state is JobState.FAILED and job.attempt == 4


async def backing_off(engine: Engine, id: str, attempts: int) -> Job | None:
    job = await read(engine, id)
    return job if job.state is JobState.RETRYING and job.attempt == attempts else None


@pytest.mark.parametrize(
    ("answer", "type"),
    [
        (resets, "connection"),
        (is_silent, "timeout"),
        (drips(b"HTTP/1.1 200 OK\r\nContent-Length: 999999\r\n\r\n"), "timeout"),
        (says(302, headers="Location: http://169.254.169.254/\r\n"), "http_status"),
        (says(204), "http_status"),
    ],
    ids=["resets", "is silent", "drips", "redirects", "answers 204"],
)
async def test_whatever_an_endpoint_does_it_is_a_failed_attempt(engine: Engine, answer: Answer, type: str) -> None:
    quick = CourierOptions(allowed_networks=LOOPBACK, timeout_seconds=0.5 if type == "timeout" else 60)
    async with endpoint(answer) as here, running(engine, quick):
        await addressed(engine, here.url)
        job = await ended(engine, await deliver(engine, max_attempts=2))
    assert job.state is JobState.FAILED and len(job.attempts) == 2
    assert [attempt.error and attempt.error.type for attempt in job.attempts] == [type] * 2


async def test_a_name_that_turns_inside_is_a_blocked_address(engine: Engine) -> None:
    resolver = Stub({"hooks.example": ["127.0.0.1"]})
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    port = listener.getsockname()[1]
    async with running(engine, CourierOptions(), sender=Sender(AddressPolicy(), resolver=resolver)):
        await addressed(engine, f"http://hooks.example:{port}/")
        job = await ended(engine, await deliver(engine, max_attempts=1))
        literal = await engine.webhooks.set(SetWebhook(Target(), f"http://127.0.0.1:{port}/"), caller=OPERATOR)
        assert literal.webhook.url is not None
        other = await ended(engine, await deliver(engine, max_attempts=1))
    for each in (job, other):
        assert each.error is not None
        assert (each.error.kind, each.error.type) == (ErrorKind.BLOCKED_ADDRESS, "blocked_address")
        assert each.attempts[0].delivery is not None and each.attempts[0].delivery.status_code is None
    with pytest.raises(TimeoutError):
        listener.accept()
    listener.close()


async def new_key(engine: Engine, url: str) -> Caller:
    new = NewApiKey(name="k", scopes=[Scope.OPERATE], webhook_url=url)
    key = (await engine.keys.create(new, caller=OPERATOR)).key
    return Caller(key.id, key.org, key.app, "graphql", key.grants, key.id)


async def test_a_slow_endpoint_does_not_hold_the_others(engine: Engine) -> None:
    options = CourierOptions(allowed_networks=LOOPBACK, host_concurrency=5, concurrency=20, timeout_seconds=600)
    async with endpoint(is_silent) as slow, endpoint(says(200)) as fast, running(engine, options) as courier:
        stuck, quick = await new_key(engine, slow.url), await new_key(engine, fast.url)
        slow_ids = [await deliver(engine, stuck) for _ in range(40)]
        await until(lambda: slow.connections == 5)
        ids = [await deliver(engine, quick) for _ in range(40)]
        for id in ids:
            assert (await ended(engine, id)).state is JobState.COMPLETED
        assert slow.connections == 5 and courier.under_way == 5
        states = Counter([(await read(engine, id)).state for id in slow_ids])
        assert states == {JobState.ACTIVE: 5, JobState.WAITING: 35}, "nothing is charged that was not sent"


async def test_a_dead_endpoint_is_left_alone_and_its_jobs_are_not_charged(engine: Engine) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/hook"
        async with running(engine) as courier:
            await addressed(engine, url)
            ids = [await deliver(engine, max_attempts=50) for _ in range(30)]
            await until(lambda: courier._endpoints.resting)
            tried = sum([(await read(engine, id)).attempt for id in ids])
            assert 10 <= tried <= 10 + 50
            jobs = [await read(engine, id) for id in ids]
            assert all(job.state is not JobState.FAILED for job in jobs)


@pytest.mark.nightly
async def test_a_thousand_deliveries_at_thirty_percent_failures_all_arrive(engine: Engine) -> None:
    drawn = random.Random(7)
    took: Counter[str] = Counter()
    ids: defaultdict[str, set[str]] = defaultdict(set)
    fails: Sequence[Answer] = (says(500), says(302, headers="Location: /\r\n"), says(202), resets)

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        job_id = request.json["jobId"]
        ids[job_id].add(request.headers["webhook-id"])
        if drawn.random() < 0.3:
            await drawn.choice(fails)(request, writer)
            return
        await says(200)(request, writer)
        took[job_id] += 1

    async with endpoint(answer) as here, running(engine) as courier:
        await addressed(engine, here.url)
        news = [
            NewJob(name="notify", webhook=True, backoff=NOW, max_attempts=30, payload={"n": n}) for n in range(1_000)
        ]
        made = [
            each.job.id
            for each in await engine.jobs.enqueue_many(news, caller=OPERATOR)
            if not isinstance(each, Exception)
        ]
        await until(lambda: len(took) == 1_000 and not courier.under_way, timeout_seconds=120)
        jobs = [await ended(engine, id) for id in made]
    assert {job.state for job in jobs} == {JobState.COMPLETED}
    assert set(took) == set(made) and set(took.values()) == {1}
    assert all(found == {job_id} for job_id, found in ids.items()), "the id stays"
    assert len(here.requests) == sum(job.attempt for job in jobs) > 1_200


async def test_large_payloads_are_not_all_held_at_once(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("switchtower.courier.MAX_BYTES", 10 * 1024 * 1024)
    monkeypatch.setattr("switchtower.courier.PORTION", 2)
    most = 0
    gate = asyncio.Event()

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await says(200)(request, writer)

    async with endpoint(answer) as here, running(engine) as courier:
        await addressed(engine, here.url)
        ids = [await deliver(engine, payload="x" * 1_000_000) for _ in range(20)]
        await until(lambda: courier._bytes >= 10 * 1024 * 1024)
        most = courier.under_way
        gate.set()
        for id in ids:
            assert (await ended(engine, id)).state is JobState.COMPLETED
        assert courier._bytes == 0
    assert 5 <= most <= 8


async def test_a_cancel_request_ends_a_delivery(engine: Engine) -> None:
    async with endpoint(is_silent) as here, running(engine):
        await addressed(engine, here.url)
        id = await deliver(engine)
        await until(lambda: here.requests)
        await engine.jobs.cancel(id, caller=OPERATOR)
        assert (await ended(engine, id)).state is JobState.CANCELLED


async def test_its_own_timeout_and_time_to_live_bound_a_delivery(engine: Engine) -> None:
    async with endpoint(is_silent) as here, running(engine):
        await addressed(engine, here.url)
        timed, short = await deliver(engine, timeout_ms=300, max_attempts=1), await deliver(engine, ttl_ms=1_500)
        job = await ended(engine, timed)
        assert job.error is not None and job.error.kind is ErrorKind.TIMEOUT and "0.3 s" in job.error.message
        job = await ended(engine, short)
        assert job.error is not None and job.error.kind is ErrorKind.EXPIRED


async def test_at_a_stop_what_is_under_way_may_end(engine: Engine) -> None:
    gate = asyncio.Event()

    async def answer(request: Received, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await says(200)(request, writer)

    async with endpoint(answer) as here:
        async with running(engine):
            await addressed(engine, here.url)
            ids = [await deliver(engine) for _ in range(20)]
            await until(lambda: len(here.requests) == 20)
            asyncio.get_running_loop().call_later(0.2, gate.set)
        jobs = [await read(engine, id) for id in ids]
        assert [(job.state, job.attempt) for job in jobs] == [(JobState.COMPLETED, 1)] * 20
        assert len(here.requests) == 20


async def test_what_does_not_end_in_time_goes_back_uncharged(engine: Engine) -> None:
    options = CourierOptions(allowed_networks=LOOPBACK, drain_seconds=0.1)
    async with endpoint(is_silent) as here:
        async with running(engine, options):
            await addressed(engine, here.url)
            id = await deliver(engine)
            await until(lambda: here.requests)
        job = await read(engine, id)
        assert (job.state, job.attempt) == (JobState.WAITING, 0)
        (worker,) = await engine.workers.list(caller=SYSTEM, include_gone=True)
        assert (worker.kind, worker.state) == (COURIER, WorkerState.STOPPED)


async def test_only_one_of_many_delivers_and_another_takes_over(
    engine: Engine, mongodb_url: str, database_name: str
) -> None:
    other = await Engine.connect(mongodb_url, database=database_name, role="server")
    try:
        async with endpoint(says(200)) as here:
            await addressed(engine, here.url)
            async with running(other) as second:
                async with running(engine) as first:
                    await until(lambda: first.elected or second.elected)
                    for _ in range(20):
                        await ended(engine, await deliver(engine))
                    assert first.elected != second.elected
                    workers = await engine.workers.list(caller=SYSTEM)
                    assert [worker.kind for worker in workers] == [COURIER]
                await until(lambda: second.elected)
                assert (await ended(engine, await deliver(engine))).state is JobState.COMPLETED
    finally:
        await other.close()


async def test_a_courier_whose_lease_is_lost_stops_and_says_nothing_more(engine: Engine) -> None:
    async with endpoint(is_silent) as here, running(engine) as courier:
        await addressed(engine, here.url)
        id = await deliver(engine)
        await until(lambda: here.requests)
        (worker,) = await engine.workers.list(caller=SYSTEM)
        await engine.workers.bury_dead(worker.id)
        courier._renewed = float("-inf")

        async def taken_over() -> Job | None:
            job, present = await read(engine, id), await engine.workers.list(caller=SYSTEM)
            return job if job.started_at and [each.id for each in present] == [job.worker_id] else None

        job = await until(taken_over)
        assert job is not None and job.worker_id != worker.id
        assert job.attempts[0].outcome == "lost"
        await until(lambda: len(here.requests) >= 2)


async def test_while_the_database_is_away_nothing_is_lost(engine: Engine, mongodb_url: str) -> None:
    async with endpoint(says(200)) as here, running(engine):
        await addressed(engine, here.url)
        ids = [await deliver(engine, max_attempts=20) for _ in range(50)]
        with fail_command(mongodb_url, ["update", "find", "findAndModify"], times=60, closeConnection=True):
            await until(lambda: len(here.requests) >= 25)
        for id in ids:
            assert (await ended(engine, id)).state is JobState.COMPLETED
    assert Counter(request.json["jobId"] for request in here.requests).keys() == set(ids)


async def test_nothing_to_deliver_no_worker(engine: Engine) -> None:
    async with running(engine) as courier:
        await until(lambda: courier.elected)
        waiting = await deliver(engine)
        job = await until(lambda: parked(engine, waiting))
        assert job is not None
        assert [cause.kind for cause in await engine.blockages.of(job)] == [BlockageKind.NO_WEBHOOK]


async def parked(engine: Engine, id: str) -> Job | None:
    job = await read(engine, id)
    return job if job.parked is not None else None


async def test_a_webhook_that_is_set_later_is_delivered_to(engine: Engine) -> None:
    async with endpoint(says(200)) as here, running(engine):
        id = await deliver(engine)
        await until(lambda: parked(engine, id))
        await addressed(engine, here.url)
        assert (await ended(engine, id)).state is JobState.COMPLETED


RECEIVER = Path(__file__).parents[2] / "examples" / "webhook_receiver" / "receiver.py"


@asynccontextmanager
async def receiver(secrets: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Any, str]]:
    """The example, served on a free port."""
    monkeypatch.setenv("WEBHOOK_SECRETS", secrets)
    spec = importlib.util.spec_from_file_location("receiver", RECEIVER)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(module.app, log_level="warning", lifespan="off"))
    task = asyncio.create_task(server.serve(sockets=[listener]))
    await until(lambda: server.started)
    yield module, f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    await task


@pytest.mark.parametrize("scheme", ["standard", "bearer"])
async def test_the_example_receiver_verifies_both_schemes(
    engine: Engine, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = (await engine.webhooks.set(SetWebhook(Target()), caller=OPERATOR)).secret
    assert secret is not None
    async with receiver(secret, monkeypatch) as (module, url), running(engine):
        await addressed(engine, f"{url}/{scheme}")
        id = await deliver(engine, payload={"invoice": 881})
        job = await ended(engine, id)
        assert job.state is JobState.COMPLETED
        assert module.done == {id: {"invoice": 881}}
        (webhook,) = await engine.webhooks.list(caller=OPERATOR)
        new = (await engine.webhooks.rotate(webhook.id, caller=OPERATOR)).secret
        assert (await ended(engine, await deliver(engine))).state is JobState.COMPLETED, "the old one is valid still"
        module.SECRETS[:] = [new]

        async def taken() -> bool:
            return (await ended(engine, await deliver(engine))).state is JobState.COMPLETED

        # A courier remembers for half a second where a delivery goes.
        await until(taken)
        module.SECRETS[:] = ["whsec_" + "A" * 43 + "="]
        job = await ended(engine, await deliver(engine, max_attempts=2))
        assert job.state is JobState.FAILED
        assert [attempt.delivery and attempt.delivery.status_code for attempt in job.attempts] == [401, 401]
