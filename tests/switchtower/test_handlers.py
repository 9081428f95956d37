"""Tasks, their arguments and options: what is accepted, refused and stored."""

from __future__ import annotations

import enum
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

import switchtower
from switchtower import App, Backoff, BackoffKind, ConfigurationError, InvalidInput, JobContext
from switchtower.tasks import HandlerKind

if TYPE_CHECKING:
    from decimal import Decimal as NotImportedAtRunTime


class Colour(enum.Enum):
    RED = "red"


def heavy(n: int) -> int:
    return n * n


def make() -> App:
    app = App()

    @app.task(queue="email", max_attempts=5, timeout_seconds=30, tags=["mail"])
    async def send_email(ctx: JobContext, to: str, subject: str = "hi", *, when: datetime | None = None) -> None: ...

    @app.task
    def add(a: int, b: int) -> int:
        return a + b

    @app.task
    async def anything(ctx: JobContext, **fields: Any) -> None: ...

    @app.task
    async def untyped(ctx, value, unknown: NotImportedAtRunTime | None = None):  # type: ignore[no-untyped-def]
        ...

    app.task(cpu_bound=True)(heavy)
    return app


def test_kinds_follow_the_function() -> None:
    tasks = make().tasks
    assert {name: task.kind for name, task in tasks.items()} == {
        "send_email": HandlerKind.ASYNC,
        "add": HandlerKind.THREAD,
        "anything": HandlerKind.ASYNC,
        "untyped": HandlerKind.ASYNC,
        "heavy": HandlerKind.PROCESS,
    }


def test_a_task_is_still_the_function() -> None:
    assert make().tasks["add"](2, b=3) == 5


def test_defaults_of_the_task_and_options_of_the_call_meet_in_the_job() -> None:
    app = make()
    new = app.new_job("send_email", {"to": "a@b.c"}, {"delay_seconds": 1.5, "max_attempts": 2, "unique_key": "k"})
    assert (new.name, new.queue, new.timeout_ms, list(new.tags)) == ("send_email", "email", 30_000, ["mail"])
    assert (new.delay_ms, new.max_attempts, new.unique_key, new.payload) == (1500, 2, "k", {"to": "a@b.c"})


def test_a_name_without_a_handler_here_takes_any_payload() -> None:
    new = make().new_job("elsewhere", [1, 2], {"queue": "q"})
    assert (new.name, new.queue, new.payload, new.max_attempts) == ("elsewhere", "q", [1, 2], 4)


@pytest.mark.parametrize(
    ("task", "payload", "field", "says"),
    [
        ("send_email", {}, "payload.to", "is required"),
        ("send_email", None, "payload.to", "is required"),
        ("send_email", {"to": "x", "subjct": "y"}, "payload.subjct", "Did you mean 'subject'?"),
        ("send_email", {"to": 5}, "payload.to", "valid string"),
        ("send_email", {"to": "x", "when": "soon"}, "payload.when", "valid datetime"),
        ("send_email", {"to": "x", "ctx": {}}, "payload.ctx", "not an argument"),
        ("send_email", ["x"], "payload", "not a list"),
        ("add", {"a": 1, "b": {}}, "payload.b", "valid integer"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(task: str, payload: Any, field: str, says: str) -> None:
    with pytest.raises(InvalidInput, match=says.replace("?", r"\?")) as refused:
        make().new_job(task, payload, {})
    assert refused.value.field == field


def test_arguments_arrive_as_they_are_annotated() -> None:
    arguments = make().tasks["send_email"].arguments
    stored = arguments.dump({"to": "x", "when": datetime(2026, 1, 2, tzinfo=UTC)})
    assert stored == {"to": "x", "when": "2026-01-02T00:00:00Z"}
    assert arguments.check(stored) == {"to": "x", "when": datetime(2026, 1, 2, tzinfo=UTC)}


def test_what_cannot_be_checked_passes_as_it_is() -> None:
    app = make()
    assert app.tasks["untyped"].arguments.check({"value": {"x": [1]}, "unknown": 1}) == {
        "value": {"x": [1]},
        "unknown": 1,
    }
    assert app.tasks["anything"].arguments.check({"a": 1, "b": None}) == {"a": 1, "b": None}


def test_an_argument_without_a_json_form_is_refused_by_name() -> None:
    with pytest.raises(InvalidInput) as refused:
        make().tasks["anything"].arguments.dump({"fine": Colour.RED, "bad": object()})
    assert refused.value.field == "payload.bad"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"delay_second": 1}, "delay_second"),
        ({"delay_seconds": 1, "delay_ms": 5}, "delay_seconds"),
        ({"delay_seconds": "soon"}, "delay_seconds"),
        ({"delay_seconds": float("nan")}, "delay_seconds"),
        ({"name": "other"}, "name"),
        ({"priority": "high"}, "priority"),
        ({"max_attempts": True}, "max_attempts"),
        ({"queue": None}, "queue"),
        ({"tags": "one"}, "tags"),
        ({"depends_on": [1]}, "depends_on"),
        ({"backoff": 5}, "backoff"),
        ({"run_at": "tomorrow"}, "run_at"),
        ({"payload": {}}, "payload"),
    ],
)
def test_options_that_make_no_sense_are_refused_by_name(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        make().new_job("add", {"a": 1, "b": 2}, options)
    assert refused.value.field == field


def test_an_endless_delay_meets_the_bound_of_its_field() -> None:
    for endless in (float("inf"), 1e300, -1e300, float("-inf")):
        new = make().new_job("add", {"a": 1, "b": 2}, {"delay_seconds": endless})
        with pytest.raises(InvalidInput, match="delayMs"):
            new.check()


def test_functions_that_cannot_be_handlers_are_refused() -> None:
    app = make()

    async def coroutine() -> None: ...
    def generator() -> Any:
        yield

    def positional(a: int, /) -> None: ...
    def stars(*a: int) -> None: ...

    for function, options in (
        (coroutine, {"cpu_bound": True}),
        (positional, {"cpu_bound": True}),
        (generator, {}),
        (positional, {}),
        (stars, {}),
        (heavy, {"name": "add"}),
    ):
        with pytest.raises(ConfigurationError):
            app.task(**options)(function)
    with pytest.raises(InvalidInput):
        app.task(max_attempts=0)(generator)
    with pytest.raises(InvalidInput):
        app.task(name="bad\nname")(coroutine)
    with pytest.raises(ConfigurationError, match="coroutine function"):
        app.middleware(heavy)  # type: ignore[arg-type]


async def test_without_a_database_the_error_says_what_to_do() -> None:
    with pytest.raises(ConfigurationError, match="SWITCHTOWER_MONGODB_URL"):
        await App().enqueue("x")


async def test_an_enqueued_task_is_a_stored_job(mongodb_url: str, database_name: str) -> None:
    app = make()
    app.mongodb_url, app.database = mongodb_url, database_name
    async with app:
        one = await app.tasks["add"].enqueue(a=1, b=2)
        two = await app.enqueue("add", {"a": 1, "b": 2}, delay_ms=60_000)
        three = await app.tasks["add"].options(unique_key="u", backoff=Backoff(BackoffKind.FIXED)).enqueue(a=1, b=2)
        again = await app.tasks["add"].options(unique_key="u").enqueue(a=3, b=4)
        assert (one.job.state, one.job.payload, one.job.queue) == ("waiting", {"a": 1, "b": 2}, "default")
        assert two.job.state == "scheduled"
        assert again.job.id == three.job.id and again.deduplication == "unique_key"
        with pytest.raises(InvalidInput, match=r"payload\.b"):
            await app.tasks["add"].enqueue(a=1)
        many = await app.enqueue_many([app.tasks["add"].options(priority=-1).job(a=i, b=i) for i in range(3)])
        assert [getattr(answer, "job").payload["a"] for answer in many] == [0, 1, 2]  # noqa: B009


def test_the_package_names_what_it_exports() -> None:
    for name in switchtower.__all__:
        assert getattr(switchtower, name) is not None
    assert set(switchtower.__all__) <= set(dir(switchtower))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        switchtower.nothing  # noqa: B018
