"""The strict parser: what it accepts, every rule by which it refuses, and that it agrees with the standard parser."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.strict import MAX_CONTAINERS, MalformedJson, parse_object

REFUSED = {
    "nothing": b"",
    "null": b"null",
    "number": b"5",
    "text": b'"x"',
    "boolean": b"true",
    "list": b"[]",
    "byte-order mark": b"\xef\xbb\xbf{}",
    "utf-16": '{"a":1}'.encode("utf-16"),
    "utf-16 without mark": '{"a":1}'.encode("utf-16-le"),
    "latin-1": b'{"a":"\xe9"}',
    "overlong utf-8": b'{"a":"\xc0\xaf"}',
    "NaN": b'{"a":NaN}',
    "Infinity": b'{"a":-Infinity}',
    "1e400": b'{"a":1e400}',
    "lone surrogate": b'{"a":"\\ud800"}',
    "lone surrogate in a key": b'{"\\udfff":1}',
    "NUL in a key": b'{"a\\u0000b":1}',
    "control character": b'{"a":"\n"}',
    "2^63": b'{"a":9223372036854775808}',
    "-2^63 - 1": b'{"a":-9223372036854775809}',
    "5000 digits": b'{"a":' + b"9" * 5000 + b"}",
    "41 digits of a fraction": b'{"a":0.' + b"1" * 41 + b"}",
    "duplicate key": b'{"a":1,"a":1}',
    "duplicate key, one escaped": b'{"a":1,"\\u0061":2}',
    "duplicate key, deep": b'{"x":[{"y":{"a":1,"b":2,"a":3}}]}',
    "long key": b'{"' + b"k" * 257 + b'":1}',
    "long key in UTF-8": ('{"' + "é" * 129 + '":1}').encode(),
    "trailing comma": b'{"a":1,}',
    "two values": b"{}{}",
    "comment": b"{/* */}",
    "leading zero": b'{"a":01}',
    "single quotes": b"{'a':1}",
    "unfinished": b'{"a":',
    "depth 65": b'{"a":' + b"[" * 64 + b"]" * 64 + b"}",
    "depth 100,000": b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "depth 100,000, unclosed": b'{"a":' + b'{"a":' * 100_000,
    "10,001 keys": json.dumps({str(i): i for i in range(10_001)}).encode(),
    "too many containers": b'{"a":[' + b"[]," * MAX_CONTAINERS + b"[]]}",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused_with_a_short_reason(data: bytes) -> None:
    started = time.perf_counter()
    with pytest.raises(MalformedJson) as caught:
        parse_object(data)
    assert 10 < len(str(caught.value)) < 250
    assert time.perf_counter() - started < 10


ACCEPTED: dict[str, dict[str, Any]] = {
    "operators are data": {"$gt": "", "a.b": {"$where": "1"}, "": 0, "__proto__": None, "$ref": "x"},
    "bounds of 64 bits": {"a": 2**63 - 1, "b": -(2**63)},
    "digits as text": {"a": "9" * 5000},
    "brackets as text": {"a": "[{" * 200_000},
    "the same key in two objects": {"a": [{"k": 1}, {"k": 1}], "k": {"k": 2}},
    "astral characters": {"a": "\U0001f3c3", "é" * 128: 1},
    "NUL in a value": {"a": "\0"},
    "depth 64": json.loads('{"a":' + "[" * 63 + "]" * 63 + "}"),
    "10,000 keys": {str(i): i for i in range(10_000)},
}


@pytest.mark.parametrize("value", ACCEPTED.values(), ids=ACCEPTED.keys())
@pytest.mark.parametrize("ascii", [True, False])
def test_accepted_unchanged(value: dict[str, Any], ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    assert parse_object(text) == value
    assert parse_object(text.encode()) == value


def test_text_with_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(MalformedJson):
        parse_object('{"a":"\ud800"}')


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=20,
)


def _fits(value: Any) -> bool:
    if isinstance(value, dict):
        return all("\0" not in key and len(key.encode()) <= 256 and _fits(item) for key, item in value.items())
    if isinstance(value, list):
        return all(map(_fits, value))
    return not isinstance(value, int) or -(2**63) <= value < 2**63


@given(value=st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), values), ascii=st.booleans())
@settings(max_examples=60, deadline=None)
def test_any_json_object_is_returned_as_it_is_or_refused(value: dict[str, Any], ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii)
    if _fits(value):
        assert parse_object(text) == value
    else:
        with pytest.raises(MalformedJson):
            parse_object(text)


@given(data=st.binary(max_size=200) | st.text(alphabet='{}[]",:\\u0189aeE+-. ntrue', max_size=60).map(str.encode))
@settings(max_examples=300, deadline=None)
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        value = parse_object(data)
    except MalformedJson:
        return
    assert value == json.loads(data)
    assert not any(isinstance(item, float) and not math.isfinite(item) for item in value.values())
