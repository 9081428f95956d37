"""The nightly run goes on where it was stopped, and its page is that of the results that are committed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.nightly import __main__ as nightly
from tests.nightly.counting import count
from tests.nightly.goals import GOALS, Goal
from tests.nightly.parts import PARTS, Step

PROGRAM = """
import sys
from tests.nightly.counting import count
count("F0", "things tried", 3)
print("2 passed in 0.1s")
sys.exit(int(open(sys.argv[1]).read()))
"""


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A part of two steps in a folder of the test's own; returns the file that says how the second ends."""
    ends, fine = tmp_path / "ends", tmp_path / "fine"
    fine.write_text("0")
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {"PYTHONPATH": f"{nightly.ROOT}:{tmp_path}"}
    steps = [Step(path.name, (str(path),), "program", environment, seeds=("7",)) for path in (fine, ends)]
    for name, value in {
        "STATE": tmp_path / "state",
        "KEPT": tmp_path / "kept.json",
        "PAGE": tmp_path / "page.md",
        "PARTS": {"part": steps},
        "GOALS": (Goal("F0", "Things are tried", "things tried", 6, "part"),),
    }.items():
        monkeypatch.setattr(nightly, name, value)
    return ends


def test_what_passed_is_not_run_again(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs.write_text("1")
    assert nightly.main([]) == 1
    assert "F0 things tried: 3 of 6: **short**" in capsys.readouterr().out
    assert "| **failed**: 2 passed in 0.1s |" in nightly.PAGE.read_text()
    runs.write_text("0")
    assert nightly.main([]) == 0
    assert "fine: passed at" in capsys.readouterr().out
    assert [row["step"] for row in nightly.results("part")] == ["fine", "ends", "ends"]
    page = nightly.PAGE.read_text()
    assert "| 6 things tried | 6 | part | reached |" in page and "failed" not in page
    assert "passed in 0.1s" in page and "--step 'ends'" in page
    nightly.PAGE.unlink()
    assert nightly.main(["report"]) == 0 and nightly.PAGE.read_text() == page

    assert nightly.main(["--again", "--step", "fine"]) == 0
    assert nightly.main(["--minutes", "0", "--again"]) == 0
    assert len(nightly.results("part")) == 4
    rows = nightly.results("part")
    path = nightly.STATE / "part.jsonl"
    path.write_text("".join(json.dumps(row | {"commit": "another"}) + "\n" for row in rows))
    assert nightly.main(["--any-commit"]) == 0 and len(nightly.results("part")) == 4
    assert nightly.main([]) == 0 and len(nightly.results("part")) == 6


def test_nothing_is_counted_unless_somebody_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SWITCHTOWER_TEST_RESULTS", raising=False)
    count("F0", "things", 1)
    monkeypatch.setenv("SWITCHTOWER_TEST_RESULTS", str(tmp_path / "counts"))
    count("F0", "things", 2)
    assert json.loads((tmp_path / "counts").read_text()) == {"goal": "F0", "what": "things", "count": 2}


def test_every_goal_has_its_part_and_every_step_its_file() -> None:
    assert {goal.part for goal in GOALS} <= set(PARTS)
    assert len({goal.key for goal in GOALS}) == len(GOALS)
    files = [Path(word.partition("::")[0]) for steps in PARTS.values() for step in steps for word in step.arguments]
    assert [file for file in files if file.parts[:1] == ("tests",) and not (nightly.ROOT / file).exists()] == []
    for steps in PARTS.values():
        assert len({step.name for step in steps}) == len(steps)


def test_the_page_is_fresh() -> None:
    assert nightly.PAGE.read_text() == nightly.page(json.loads(nightly.KEPT.read_text())), (
        "python -m tests.nightly report"
    )
