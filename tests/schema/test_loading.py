"""How many database commands a query costs: never one for each row."""

from __future__ import annotations

from switchtower.engine import Engine
from tests.conformance.situations import quiet
from tests.schema.conftest import Commands, Graph, fail_for_good, worker


async def test_a_list_with_everything_around_it_costs_as_much_for_ten_rows_as_for_two(
    graph: Graph, engine: Engine, commands: Commands
) -> None:
    query = """query($first: Int!) { jobs(first: $first, filter: {names: ["child"]}) { nodes {
      id name payload worker { id currentJobs { id worker { id } } } leaseExpiresAt deadLetter { id }
      parent { id name children(first: 2) { nodes { id } } } } } }"""
    parents = [await graph.enqueue("parent", delayMs=100_000) for _ in range(5)]
    for i in range(10):
        await graph.enqueue("child", parentId=parents[i % 5], queue=f"q{i % 3}")
    for i in range(3):
        await graph(
            "mutation($q: String!) { claimJobs(input: {workerId: $w, queues: [$q]}) { __typename } }".replace(
                "$w", f'"w{i}"'
            ),
            q=f"q{i}",
        )
    counts = []
    for first in (2, 10):
        await quiet(engine)
        with commands.counted() as names:
            page = await graph(query, first=first)
        assert len(page["nodes"]) == first
        counts.append(sorted(names))
    assert len(counts[1]) <= 7, counts[1]
    assert len(counts[1]) <= len(counts[0]) + 3, "workers are only met where a job has one"


async def test_dead_letters_of_a_list_are_one_command(graph: Graph, engine: Engine, commands: Commands) -> None:
    for _ in range(4):
        await fail_for_good(engine, graph, await graph.enqueue())
    await quiet(engine)
    with commands.counted() as names:
        page = await graph(
            '{ jobs(filter: {states: [FAILED], queues: ["default"]}) { nodes { deadLetter { id job { id } } } } }'
        )
    assert all(node["deadLetter"]["id"] for node in page["nodes"]) and len(page["nodes"]) == 4
    assert sorted(names) == ["find dead_letters", "find jobs", "find jobs"]


async def test_why_a_list_of_jobs_does_not_run_reads_what_they_share_once(
    graph: Graph, engine: Engine, commands: Commands
) -> None:
    await worker(engine, queues=["a", "b", "busy"], names=["send"])
    for i in range(8):
        await graph.enqueue("send", queue="ab"[i % 2], delayMs=100_000)
        await graph.enqueue(f"other{i}", queue="ab"[i % 2])
        await graph.enqueue("send", queue="c")
    await graph('mutation { pauseQueue(name: "b") { __typename } }')
    query = (
        "query($names: [String!]) { jobs(filter: {names: $names}) { nodes { queue whyNotRunning { kind message } } } }"
    )
    await quiet(engine)
    with commands.counted() as names:
        page = await graph(query)
    assert len(page["nodes"]) == 24 and all(node["whyNotRunning"] for node in page["nodes"])
    # The jobs, the controls, the workers, which of them wait for an event, and who goes first: whatever their number.
    assert len(names) <= 5, names
    for _ in range(25):
        await graph.enqueue("send", queue="busy")
    page = await graph("""{ jobs(filter: {queues: ["busy"]}, orderBy: CREATED_ASC) { nodes {
      whyNotRunning { kind message } } } }""")
    kinds = [[cause["kind"] for cause in node["whyNotRunning"]] for node in page["nodes"]]
    assert kinds == [[]] + [["JOBS_AHEAD"]] * 24
    counted = [node["whyNotRunning"][0]["message"] for node in page["nodes"][1:]]
    assert counted[:2] == ["1 job of its queue goes first.", "2 jobs of its queue go first."]
    assert sum(message.startswith("Other jobs") for message in counted) == 5


async def test_a_total_is_counted_only_when_asked_for(graph: Graph, engine: Engine, commands: Commands) -> None:
    await graph.enqueue(tags=["t"])
    await quiet(engine)
    with commands.counted() as names:
        await graph('{ jobs(filter: {tags: ["t"]}) { nodes { id } pageInfo { hasNextPage } } }')
    assert names == ["find jobs"]


async def test_large_fields_are_read_only_when_selected(graph: Graph, engine: Engine) -> None:
    asked: list[frozenset[str] | None] = []
    page, get = engine.jobs.page, engine.jobs.get

    async def watched_page(*args: object, **options: object) -> object:
        asked.append(options["with_"])  # type: ignore[arg-type]
        return await page(*args, **options)  # type: ignore[arg-type]

    async def watched_get(*args: object, **options: object) -> object:
        asked.append(options["with_"])  # type: ignore[arg-type]
        return await get(*args, **options)  # type: ignore[arg-type]

    engine.jobs.page, engine.jobs.get = watched_page, watched_get  # type: ignore[method-assign,assignment]
    id = await graph.enqueue(payload=1)
    await graph("{ jobs { nodes { id name } } }")
    await graph("{ jobs { edges { node { ...f } } } } fragment f on Job { ... on Job { payload } }")
    await graph("query($id: ID!) { job(id: $id) { logs { line } attempts { id } } }", id=id)
    await graph("query($id: ID!) { node(id: $id) { ... on Job { timeline { type } result } } }", id=id)
    assert asked == [
        frozenset(),
        frozenset({"payload"}),
        frozenset({"logs", "attempts"}),
        frozenset({"timeline", "result"}),
    ]


async def test_a_long_connection_never_reads_from_a_cache(graph: Graph, engine: Engine) -> None:
    await worker(engine, "w")
    await graph.enqueue()
    await graph('mutation { claimJobs(input: {workerId: "w", queues: ["default"]}) { __typename } }')
    query = "{ jobs { nodes { worker { state } } } }"
    assert (await graph(query))["nodes"] == [{"worker": {"state": "LIVE"}}]
    await engine.workers.drain("w")
    assert (await graph(query))["nodes"] == [{"worker": {"state": "DRAINING"}}]
