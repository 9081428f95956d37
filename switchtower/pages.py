"""What does a list answer with?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

__all__ = ["Count", "Page"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page: items, the cursor of each, and whether there is more on either side."""

    items: list[T]
    cursors: list[str]
    has_next: bool
    has_previous: bool


@dataclass(frozen=True, slots=True)
class Count:
    """How many there are: at least `value`, and just that many when `exact`."""

    value: int
    exact: bool
