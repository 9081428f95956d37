"""Each bench runs and says what it found; how fast it was is judged by people, on a quiet machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.__main__ import BEGIN, END, _write
from bench.benches import BENCHES
from bench.dialects import READS
from bench.figures import Figure, interleaved, percentile, ratios_table, versus
from bench.peers import HERE

ROOT = Path(__file__).parents[2]
FIGURES = {
    "worker": {"worker, c=10 ÷ raw driver pipeline", "worker, c=50 ÷ raw driver pipeline"},
    "enqueue": {"bulk enqueue ÷ BullMQ", "enqueue, 20 callers, Python client over GraphQL ÷ BullMQ"},
    "pickup": {"pickup latency p50 ÷ Agenda"},
    "graphql": {"GraphQL jobs(first: 50), 12 fields ÷ stock Strawberry"},
    "dialects": {f"{read} ÷ plain FastAPI" for read in READS},
    "stream": {"change-stream hub ÷ bare watcher (pymongo)", "worker on pymongo ÷ on motor"},
    "memory": {"worker at rest (MiB)", "server at rest (MiB)"},
    "flat": {"claim in batches of 200, 10× queue depth ÷ 1×"},
    "fan_in": {"cost of a child, 200 children ÷ 20"},
    "limits": {"claim past 2,000 jobs behind a limit ÷ 20"},
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "graphql" else pytest.mark.nightly) for name in BENCHES]
)
def test_a_bench_gives_its_figures(name: str) -> None:
    command = [sys.executable, "-m", "bench", "--only", name, "--scale", "0.005", "--rounds", "1", "--no-peers"]
    outcome = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"PYTHONPATH": "."}, capture_output=True, text=True, timeout=240
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    lines = [json.loads(line) for line in outcome.stdout.splitlines() if line.startswith("{")]
    assert FIGURES[name] <= {line["name"] for line in lines}
    for line in lines:
        assert line["bench"] == name
        if "missing" in line:
            assert line["missing"] == "left out by --no-peers"
            assert line["verdict"] == "missing"
        else:
            assert line["value"] > 0 or line["unit"] == "s"
    assert "| figure | ratio | target | verdict |" in outcome.stdout


def test_every_bench_is_tested() -> None:
    assert set(FIGURES) == set(BENCHES)


def test_a_verdict_follows_from_the_ratio() -> None:
    reached = Figure(bench="b", name="n", value=2, beside=4, at_least=0.5)
    assert (reached.ratio, reached.verdict) == (0.5, "met")
    assert Figure(bench="b", name="n", value=1, beside=4, at_least=0.5).verdict == "missed"
    assert Figure(bench="b", name="n", value=81, at_most=80).verdict == "missed"
    assert Figure(bench="b", name="n", value=79, at_most=80).verdict == "met"
    assert Figure(bench="b", name="n", at_least=1, missing="no redis").verdict == "missing"
    assert Figure(bench="b", name="n", value=1, beside=4).verdict == ""


async def test_measurements_take_turns_and_medians_are_compared() -> None:
    order: list[str] = []

    def measure(name: str, values: list[float]) -> object:
        async def measured() -> float:
            order.append(name)
            return values.pop()

        return measured

    found = await interleaved({"a": measure("a", [1, 9, 4]), "b": measure("b", [2, 2, 2])})  # type: ignore[dict-item]
    assert order == ["a", "b"] * 3
    assert versus(found, "a", "b", bench="b", name="n").ratio == 2
    assert percentile([5, 1, 3], 0.5) == 3
    assert percentile(list(range(100)), 0.99) == 99


def test_the_tables_replace_only_what_is_between_the_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    figure = Figure(bench="b", name="a figure", value=1, beside=2, at_least=0.4)
    _write(page, [figure])
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("\nafter\n")
    assert ratios_table([figure]) in text and "old" not in text
    page.write_text("no marks")
    with pytest.raises(SystemExit):
        _write(page, [figure])


def test_peers_are_pinned_and_name_no_registry() -> None:
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]
    lock = json.loads((HERE / "package-lock.json").read_text())
    assert lock["packages"][""]["dependencies"] == wanted
    assert all("resolved" not in package for package in lock["packages"].values())
    assert all("==" in line for line in (HERE / "requirements.txt").read_text().split())
