"""What is read of the two ways in which browsers send forms."""

from __future__ import annotations

import pytest

from app.forms import MULTIPART, URLENCODED, MalformedForm, parse

HEADER = f"{MULTIPART}; boundary=mark"


def parts(*given: str) -> bytes:
    return "".join(f"--mark\r\n{part}\r\n" for part in given).encode() + b"--mark--\r\n"


def test_both_ways_say_the_same() -> None:
    body = parts(
        'Content-Disposition: form-data; name="a"\r\n\r\n1 & 2',
        'Content-Disposition: form-data; name="b%22"\r\n\r\nä',
        "content-disposition: form-data; name=a\r\n\r\n",
    )
    expected = (("a", "1 & 2"), ('b"', "ä"), ("a", ""))
    assert parse(body, MULTIPART, HEADER).fields == expected
    assert parse(b"a=1+%26+2&b%22=%C3%A4&a=", URLENCODED, URLENCODED).fields == expected


@pytest.mark.parametrize("name", ['filename="a.txt"', "filename=a", "filename*=UTF-8''a.txt", "FileName*=utf-8''x"])
def test_a_file_is_refused_however_it_is_named(name: str) -> None:
    body = parts(f'Content-Disposition: form-data; name="a"; {name}\r\n\r\n1')
    with pytest.raises(MalformedForm, match="has a file"):
        parse(body, MULTIPART, HEADER)
