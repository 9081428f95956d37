"""What charts and the page of metrics say of a stretch of time, without a script."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from app.dashboard.charts import Span, run_times, spread, throughput, waits, whole
from switchtower.metrics import Granularity, MetricBucket, bucket_of
from tests.app.rest.conftest import Server
from tests.app.rest.test_dashboard import page

NOW = datetime(2026, 3, 1, 12, 30, 20, tzinfo=UTC)
MINUTE = NOW.replace(second=0)


def bucket(at: datetime, **sums: Any) -> MetricBucket:
    return MetricBucket(at, Granularity.MINUTE, "q", None, **sums)


@pytest.mark.parametrize("span", Span)
def test_every_point_of_a_span_is_there_and_the_last_is_under_way(span: Span) -> None:
    at = span.granularity.start_of(NOW)
    found = spread([MetricBucket(at, span.granularity, "q", None, completed=3)], span, NOW)
    assert len(found) == span.points and found[-1].at == at and whole(found).completed == 3
    assert {after.at - before.at for before, after in pairwise(found)} == {span.granularity.span}
    assert found[0].at == at - timedelta(minutes=span.minutes) + span.granularity.span


def test_charts_say_what_they_show() -> None:
    histogram = {bucket_of(10): 98, bucket_of(4_000): 2}
    worked = bucket(MINUTE, completed=97, failed=3, runs=100, histogram=histogram, claimed=4, wait_ms=8_000)
    found = spread([worked, bucket(MINUTE - timedelta(minutes=5), completed=1)], Span.HOUR, NOW)
    drawn = throughput(found, Span.HOUR)
    assert drawn.said == "98 completed, 3 failed in the last hour; at most 100 in one minute."
    assert drawn.svg.count("<rect") == 3 and drawn.svg.count('data-state="failed"') == 1
    said = run_times(found, Span.HOUR)
    assert re.fullmatch(r"p50 (9|10) ms, p95 (9|10) ms, p99 [34]\.\d s in the last hour\.", said.said)
    assert len(re.findall("<path", said.svg)) == 3
    assert waits(found, Span.HOUR).said == "2.0 s on average in the last hour."


def test_charts_of_nothing_say_so() -> None:
    nothing = spread([], Span.WEEK, NOW)
    assert throughput(nothing, Span.WEEK).said == "0 completed, 0 failed in the last seven days."
    assert run_times(nothing, Span.WEEK).said == "Nothing ran in the last seven days."
    assert waits(nothing, Span.WEEK).said == "No job began in the last seven days."
    for chart in (throughput, run_times, waits):
        svg = chart(nothing, Span.WEEK).svg
        assert "<rect" not in svg and "<path" not in svg


async def test_metrics_are_those_of_a_range_a_queue_and_a_task(server: Server) -> None:
    database = server.engine._store.database
    at = Granularity.MINUTE.start_of(server.engine.clock.now())
    for queue, name, count in (("mail", "send", 3), ("mail", "sort", 4), ("files", "send", 5)):
        row = {"queue": queue, "org": "", "name": name, "completed": count, "ran": count, "h": {"1": count}}
        await database["minutes"].insert_one(row | {"minute": at})
        await database["hours"].insert_one(row | {"hour": Granularity.HOUR.start_of(at)})
    for query, completed, tasks in (
        ("", 12, ["send", "sort"]),
        ("?queue=mail", 7, ["sort", "send"]),
        ("?queue=mail&name=send&range=24h", 3, ["sort", "send"]),
        ("?name=send&range=7d", 8, ["send", "sort"]),
        ("?range=nonsense", 12, ["send", "sort"]),
        ("?queue=nowhere&range=30d", 0, []),
    ):
        html = await page(server, f"/metrics{query}")
        assert f"{completed} completed, 0 failed in the last" in html, query
        assert re.findall(r'<tr data-key="([^"]*)"', html) == tasks, query
    assert 'data-minutes="10080" data-name="send"' in await page(server, "/metrics?name=send&range=7d")


async def test_without_metrics_the_pages_say_so(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server.engine.metrics, "enabled", False)
    assert "Metrics are not kept here" in await page(server, "/metrics")
    for path in ("/", "/queues/q"):
        assert "data-chart" not in await page(server, path)
