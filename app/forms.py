"""What does a form say? Its fields in order, each name with all of its values.

Both ways in which a browser sends a form are read, and nothing is guessed: text is UTF-8, percent signs stand before
two hex digits, parts are as their boundary divides them, and a file is refused, since no form here asks for one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote_to_bytes

__all__ = ["FORM_BYTES", "MULTIPART", "URLENCODED", "Form", "MalformedForm", "parse"]

URLENCODED: Final = "application/x-www-form-urlencoded"
MULTIPART: Final = "multipart/form-data"
FORM_BYTES: Final = 2 * 1024 * 1024
MAX_FIELDS: Final = 2_000
MAX_NAME: Final = 256
HEADER_BYTES: Final = 2_048

_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_PARAMETER = re.compile(r';\s*([A-Za-z*-]+)=(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))')


class MalformedForm(ValueError):
    """The body is no form that can be read in one way; the message says what is wrong with it, without repeating it."""


@dataclass(frozen=True, slots=True)
class Form:
    """The fields of a form in the order in which they were sent."""

    fields: tuple[tuple[str, str], ...] = ()

    def text(self, name: str) -> str:
        """The first value of a field, without space around it; empty where there is none."""
        return next((value for field, value in self.fields if field == name), "").strip()

    def raw(self, name: str) -> str | None:
        """The first value of a field as it was sent; None where there is none."""
        return next((value for field, value in self.fields if field == name), None)

    def texts(self, name: str) -> list[str]:
        """All values of a field, in order."""
        return [value for field, value in self.fields if field == name]


def parse(data: bytes, kind: str, content_type: str) -> Form:
    """Reads a form of this media type (`URLENCODED` or `MULTIPART`); the whole header names the boundary of its parts.

    Raises:
        MalformedForm: it cannot be read, or has more than 2,000 fields.
    """
    fields: list[tuple[str, str]] = []
    for name, value in _urlencoded(data) if kind == URLENCODED else _multipart(data, content_type):
        if len(fields) == MAX_FIELDS:
            raise MalformedForm(f"The form has more than {MAX_FIELDS:,} fields.")
        fields.append((_text(name, "name"), _text(value, "value")))
        if len(fields[-1][0]) > MAX_NAME:
            raise MalformedForm(f"The name of a field is longer than {MAX_NAME} characters.")
    return Form(tuple(fields))


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise MalformedForm(f"The {what} of a field is not UTF-8.") from None


def _urlencoded(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    if _PERCENT.search(data):
        raise MalformedForm("A percent sign does not stand before two hex digits.")
    for pair in filter(None, data.split(b"&")):
        name, _, value = pair.partition(b"=")
        yield tuple(unquote_to_bytes(part.replace(b"+", b" ")) for part in (name, value))  # type: ignore[misc]


def _multipart(data: bytes, content_type: str) -> Iterator[tuple[bytes, bytes]]:
    given = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(content_type)}
    boundary = given.get("boundary", "")
    if not _BOUNDARY.fullmatch(boundary):
        raise MalformedForm("A multipart form needs a boundary of 1 to 70 characters in its Content-Type.")
    mark = b"--" + boundary.encode("ascii")
    if not data.startswith(mark):
        raise MalformedForm("The multipart form does not begin with its boundary.")
    rest = data[len(mark) :]
    mark = b"\r\n" + mark
    while not rest.startswith(b"--"):
        if not rest.startswith(b"\r\n"):
            raise MalformedForm("A boundary of the multipart form is not followed by the end of its line.")
        part, found, rest = rest[2:].partition(mark)
        if not found:
            raise MalformedForm("The multipart form breaks off before its last boundary.")
        # Without headers a part begins with the empty line that ends them.
        head, divided, value = (b"\r\n" + part).partition(b"\r\n\r\n")
        if not divided:
            raise MalformedForm("A part of the multipart form has no empty line behind its headers.")
        yield _name(head), value


def _name(head: bytes) -> bytes:
    """The name of the field that a part's headers give."""
    if len(head) > HEADER_BYTES:
        raise MalformedForm(f"The headers of a part are larger than {HEADER_BYTES:,} bytes.")
    # Browsers write names in UTF-8, and `"` and line breaks in them as percent signs with hex digits.
    lines = _text(head, "name").split("\r\n")
    given = [
        line.partition(":")[2] for line in lines if line.partition(":")[0].strip().lower() == "content-disposition"
    ]
    if len(given) != 1 or given[0].partition(";")[0].strip().lower() != "form-data":
        raise MalformedForm("A part of the multipart form does not say which field it is.")
    found = {name.lower(): quoted or plain for name, quoted, plain in _PARAMETER.findall(given[0])}
    if "filename" in found or "filename*" in found:
        raise MalformedForm("The form has a file, which none here asks for.")
    if "name" not in found:
        raise MalformedForm("A part of the multipart form does not say which field it is.")
    name = found["name"].replace('\\"', '"').replace("\\\\", "\\")
    return re.sub(r"%(22|0D|0A)", lambda match: chr(int(match[1], 16)), name).encode()
