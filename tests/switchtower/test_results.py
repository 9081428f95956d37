"""What handlers return is kept as JSON; what cannot be is replaced alone, and said."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from switchtower.payloads import check_value
from switchtower.results import storable

LIMIT = 64 * 1024
Point = namedtuple("Point", "x y")


class Model(BaseModel):
    n: int


@dataclass
class Data:
    inner: Any


class Colour(Enum):
    RED = "red"


class Float(float):
    """As numpy's is."""


class Text(str):
    pass


class Rude:
    def __str__(self) -> str:
        raise SystemExit("no")


KEPT: list[tuple[Any, Any]] = [
    (None, None),
    ({"a": [1, 2.5, "x", None, True]}, {"a": [1, 2.5, "x", None, True]}),
    (datetime(2026, 1, 1, tzinfo=UTC), "2026-01-01T00:00:00+00:00"),
    ({1: "x", None: 2, False: 3}, {"1": "x", "null": 2, "false": 3}),
    ({"s": {3}}, {"s": [3]}),
    (complex(1, 2), "(1+2j)"),
    (Decimal("1.10"), "1.10"),
    (Float(1.5), 1.5),
    (Text("x"), "x"),
    ([Point(1, Float(2))], [{"x": 1, "y": 2.0}]),
    (Data([Model(n=1), Colour.RED]), {"inner": [{"n": 1}, "red"]}),
]


@pytest.mark.parametrize(("value", "stored"), KEPT)
def test_results_become_what_they_stand_for(value: Any, stored: Any) -> None:
    kept, notes = storable(value, limit=LIMIT)
    assert (kept, notes) == (stored, [])
    check_value("result", kept)


REPLACED: list[tuple[Any, Any, str]] = [
    ({"good": 1, "bad": float("nan")}, {"good": 1, "bad": None}, "result.bad is nan"),
    ([1, float("-inf")], [1, None], "result[1] is -inf"),
    ({"good": [1], "big": 2**70}, {"good": [1], "big": str(2**70)}, "result.big is an integer outside 64 bits"),
    ({"big": 10**5000}, {"big": "an integer of 16,610 bits"}, "result.big is an integer outside 64 bits"),
    ({"name": "lone \ud800", "n": 1}, {"name": "lone ?", "n": 1}, "result.name has half a character"),
    ({"k\0": 1}, {"k?": 1}, "A key of result cannot be a key as it is"),
    ({"n": 1, "rude": Rude()}, {"n": 1, "rude": None}, "result.rude is a Rude that cannot be read"),
]


@pytest.mark.parametrize(("value", "stored", "note"), REPLACED)
def test_what_cannot_be_kept_is_replaced_alone(value: Any, stored: Any, note: str) -> None:
    kept, notes = storable(value, limit=LIMIT)
    assert kept == stored and len(notes) == 1 and notes[0].startswith(note), notes


def test_what_has_no_end_is_cut_where_it_repeats_or_grows_too_deep() -> None:
    cyclic: list[Any] = [1]
    cyclic += [cyclic, cyclic]
    assert storable(cyclic, limit=LIMIT) == ([1, None, None], [*storable(cyclic, limit=LIMIT)[1]])
    deep: Any = []
    for _ in range(100):
        deep = [deep]
    kept, notes = storable(deep, limit=LIMIT)
    assert check_value("result", kept) and "deeper than 64" in notes[0]
    kept, notes = storable({n: n for n in range(20_000)}, limit=10**7)
    assert len(kept) == 10_000 and "more keys" in notes[0]


def test_a_large_result_is_told_to_be_cut() -> None:
    kept, notes = storable({"text": "x" * 100_000}, limit=LIMIT)
    assert kept["truncated"] is True and kept["bytes"] > 100_000 and kept["head"].startswith('{"text":"xxx')
    assert "100,0" in notes[0] and "the limit is 65,536" in notes[0]


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.dates() | st.decimals(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.integers() | st.booleans(), inner) | st.sets(st.text())
    ),
    max_leaves=20,
)


@given(value=anything)
def test_whatever_is_returned_can_be_stored(value: Any) -> None:
    check_value("result", storable(value, limit=LIMIT)[0])
