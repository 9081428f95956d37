"""Which values can be kept exactly."""

from __future__ import annotations

from typing import Any

import bson
import orjson
import pytest
from bson.int64 import Int64
from hypothesis import given
from hypothesis import strategies as st

from switchtower.errors import InvalidInput
from switchtower.payloads import MAX_DEPTH, MAX_KEYS, check_text, check_value, truncated, truncated_text

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
KEYS = TEXT.filter(lambda key: "\0" not in key)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_what_is_accepted_survives_the_database_and_json(value: Any) -> None:
    size = check_value("payload", value)
    assert size == len(orjson.dumps(value))
    assert bson.decode(bson.encode({"v": value}))["v"] == value


def _nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


def test_depth_and_keys_are_taken_up_to_their_limits() -> None:
    check_value("payload", _nested(MAX_DEPTH))
    check_value("payload", {str(n): n for n in range(MAX_KEYS)})
    check_value("payload", {"k" * 256: 1})
    check_value("payload", Int64(2**40))
    check_value("payload", (1, 2))


@pytest.mark.parametrize(
    "value",
    [
        _nested(MAX_DEPTH + 1),
        _nested(5_000),
        {str(n): n for n in range(MAX_KEYS + 1)},
        {"k" * 257: 1},
        {"é" * 129: 1},
        {"a\0b": 1},
        {1: 1},
        {"\ud800": 1},
        "\ud800",
        2**63,
        -(2**63) - 1,
        float("inf"),
        float("nan"),
        {"a": {1, 2}},
        b"x",
        object(),
        Int64(2**70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_cannot_be_kept_is_refused(value: Any) -> None:
    with pytest.raises(InvalidInput) as refusal:
        check_value("payload", value)
    assert refusal.value.field == "payload"
    assert not refusal.value.too_large


def test_size_is_that_of_compact_json() -> None:
    assert check_value("payload", {"a": [1, "é"]}) == len('{"a":[1,"é"]}'.encode())
    assert check_value("payload", "x" * 8, limit=10) == 10
    with pytest.raises(InvalidInput, match="11 bytes") as refusal:
        check_value("payload", "x" * 9, limit=10)
    assert refusal.value.too_large


@pytest.mark.parametrize("text", ["", "a" * 11, "a\nb", "\x7f", "\0", "\ud800", None, 5, b"x", ["a"]])
def test_name_that_is_none_is_refused(text: Any) -> None:
    with pytest.raises(InvalidInput):
        check_text("name", text, limit=10)


def test_name_is_returned_as_it_is() -> None:
    assert check_text("name", "naïve 🎲", limit=10) == "naïve 🎲"
    assert check_text("name", "", limit=10, empty=True) == ""


def test_what_is_too_large_is_marked_and_shows_its_beginning() -> None:
    assert truncated({"a": 1}, limit=100) == {"a": 1}
    cut = truncated("x" * 5_000, limit=1_000)
    assert (cut["truncated"], cut["bytes"], len(cut["head"])) == (True, 5_002, 1_024)


@given(st.text(max_size=50), st.integers(1, 40))
def test_cut_text_can_be_stored_and_says_what_is_missing(text: str, limit: int) -> None:
    cut = truncated_text(text, limit=limit)
    cut.encode()
    if len(text) <= limit:
        assert len(cut) == len(text)
    else:
        assert f"[{len(text) - limit} characters cut]" in cut
