"""What a seeded fault is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A text of one file, which stands in it exactly once, and what a careless engineer would have written.

    `tests` are the files, folders or tests of the suite that should notice, the likeliest first; `says` is what is
    wrong then, in one sentence.
    """

    id: str
    path: str
    old: str
    new: str
    tests: tuple[str, ...]
    says: str
