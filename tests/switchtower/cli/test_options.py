"""How arguments are read, before any server is asked."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from typing import Any

import pytest

from switchtower.cli.follow import new_lines, outcome_text, progress_text
from switchtower.cli.options import duration_ms, job_filter, moment, parse_payload
from switchtower.cli.output import age, shown
from switchtower.errors import InvalidInput
from switchtower.states import JobState


class TestPayload:
    @pytest.mark.parametrize(
        ("pairs", "expected"),
        [
            ([], None),
            (["to=a@b.c", "subject=hi"], {"to": "a@b.c", "subject": "hi"}),
            (["n=5"], {"n": "5"}),
            (["n:=5", "ok:=true", "list:=[1,2]", "none:=null"], {"n": 5, "ok": True, "list": [1, 2], "none": None}),
            (["url=http://x/?a=b&c:=d"], {"url": "http://x/?a=b&c:=d"}),
            (["empty="], {"empty": ""}),
            (["a:b=c"], {"a:b": "c"}),
        ],
    )
    def test_pairs(self, pairs: list[str], expected: Any) -> None:
        assert parse_payload(pairs, None) == expected

    def test_whole(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "payload.json").write_text('{"a": 1}')
        monkeypatch.setattr(sys, "stdin", StringIO("[1]"))
        assert parse_payload([], '{"a": 2}') == {"a": 2}
        assert parse_payload(["b=x"], f"@{tmp_path}/payload.json") == {"a": 1, "b": "x"}
        assert parse_payload([], "-") == [1]

    @pytest.mark.parametrize(
        ("pairs", "payload", "match"),
        [
            (["to"], None, "'to' is not key=text or key:=JSON"),
            (["=x"], None, "is not key=text"),
            ([":=5"], None, "is not key=text"),
            (["n:=five"], None, "n: is not JSON"),
            (["n:=NaN"], None, "n: is not JSON"),
            ([], "{", "--payload: is not JSON"),
            (["a=b"], "[1]", "is not an object"),
            ([], "@/no/such/file", "cannot be read: No such file"),
        ],
    )
    def test_refused(self, pairs: list[str], payload: str | None, match: str) -> None:
        with pytest.raises(InvalidInput, match=match):
            parse_payload(pairs, payload)


class TestTime:
    @pytest.mark.parametrize(
        ("text", "ms"),
        [("500ms", 500), ("5s", 5_000), ("1.5h", 5_400_000), ("2m", 120_000), ("7d", 604_800_000), (" 3 s ", 3_000)],
    )
    def test_lengths(self, text: str, ms: int) -> None:
        assert duration_ms("--delay", text) == ms

    @pytest.mark.parametrize("text", ["5", "", "-5s", "5 parsecs", "s", "1e3s", "5s5s"])
    def test_no_lengths(self, text: str) -> None:
        with pytest.raises(InvalidInput, match=r"--delay: .* is no length of time"):
            duration_ms("--delay", text)

    def test_moments(self) -> None:
        assert moment("--at", "2026-01-31T12:00+02:00") == "2026-01-31T10:00:00.000Z"
        ago = datetime.fromisoformat(moment("--since", "2h") or "")
        assert abs(time.time() - 7_200 - ago.timestamp()) < 60

    @pytest.mark.parametrize("text", ["yesterday", "2026-02-31", "9999999999d"])
    def test_no_moments(self, text: str) -> None:
        with pytest.raises(InvalidInput, match=r"--since: .* is no time"):
            moment("--since", text)

    @pytest.mark.parametrize(
        ("at", "text"),
        [
            ("2026-01-31T12:00:00.000Z", "0 s"),
            ("2026-01-31T11:59:01.000Z", "59 s"),
            ("2026-01-31T09:00:00.000Z", "3 h"),
            ("2026-01-29T12:00:00.000Z", "2 d"),
            ("2026-01-31T12:05:00.000Z", "in 5 m"),
        ],
    )
    def test_ages(self, at: str, text: str) -> None:
        assert age(at, now=datetime(2026, 1, 31, 12, tzinfo=UTC)) == text


def test_a_filter_holds_only_what_was_given() -> None:
    assert job_filter() == {}
    given = job_filter(queue=["email"], state=[JobState.FAILED], text="x", error="abc")
    assert given == {"queues": ["email"], "states": ["FAILED"], "text": "x", "errorFingerprint": "abc"}


def test_nothing_that_a_job_carries_controls_the_terminal() -> None:
    assert shown("a\x1b[31mb\x07\x9b\r\x00c") == "a�[31mb����c"
    assert shown({"a": "\x1b"}) == '{"a":"\\u001b"}'
    assert shown("\ud800") == "?"


@pytest.mark.parametrize(
    ("seen", "now", "fresh"),
    [
        ("", "ab", "ab"),
        ("ab", "ab", ""),
        ("ab", "abc", "c"),
        ("aa", "aaa", "a"),
        ("abc", "bcd", "d"),
        ("abc", "xyz", "xyz"),
    ],
)
def test_log_lines_are_shown_once(seen: str, now: str, fresh: str) -> None:
    def lines(text: str) -> list[dict[str, Any]]:
        return [{"line": letter} for letter in text]

    assert new_lines(lines(seen), lines(now)) == lines(fresh)


@pytest.mark.parametrize(
    ("progress", "text"),
    [
        (None, ""),
        (50, "50 %"),
        (12.4, "12 %"),
        (500, "100 %"),
        ({"percent": 50, "message": "half"}, "50 % half"),
        ({"value": "x", "message": "half"}, "half"),
        ({"rows": 3}, '{"rows":3}'),
        ("soon", "soon"),
        (True, "true"),
    ],
)
def test_progress_reads_as_text(progress: Any, text: str) -> None:
    assert progress_text(progress) == text


def test_an_outcome_reads_as_text() -> None:
    job = {
        "id": "job_1",
        "state": "COMPLETED",
        "result": {"ok": True},
        "error": None,
        "startedAt": "2026-01-31T12:00:00.000Z",
        "finishedAt": "2026-01-31T12:00:00.250Z",
    }
    assert outcome_text(job) == 'job_1 completed in 0.25 s\n{"ok":true}'
    failed = {**job, "state": "FAILED", "error": {"type": "ValueError", "message": "no"}, "startedAt": None}
    assert outcome_text(failed) == "job_1 failed: ValueError: no"
