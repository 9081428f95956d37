"""What was measured, what should it reach, and how is that written down?

A figure is a ratio of two rates that were measured in turns in one run. Absolute rates say something about the machine;
they are printed beside the ratio and never judged.
"""

from __future__ import annotations

import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import orjson

__all__ = ["Figure", "interleaved", "percentile", "rates_table", "ratios_table", "versus"]

ROUNDS = 3

Measure = Callable[[], Awaitable[float]]


@dataclass(slots=True, kw_only=True)
class Figure:
    """One line of output.

    `value` and `beside` are the medians in `unit`; `ratio` is their quotient, or what was computed in another way.
    A target is `at_least` or `at_most`; without one the figure is for information. `missing` says why nothing could be
    measured. `rounds` holds the single measurements.
    """

    bench: str
    name: str
    unit: str = ""
    value: float | None = None
    beside: float | None = None
    ratio: float | None = None
    at_least: float | None = None
    at_most: float | None = None
    later: float | None = None
    missing: str | None = None
    rounds: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.ratio is None and self.value is not None and self.beside:
            self.ratio = self.value / self.beside

    @property
    def judged(self) -> float | None:
        """What the target is compared with: the ratio, or the value where the target is one."""
        return self.ratio if self.ratio is not None else self.value

    @property
    def target(self) -> str:
        """The target in words, "" without one."""
        if self.at_least is not None:
            return f"≥ {self.at_least:g}" + (f", then {self.later:g}" if self.later else "")
        if self.at_most is not None:
            return f"≤ {self.at_most:g}" + (f", then {self.later:g}" if self.later else "")
        return ""

    @property
    def verdict(self) -> str:
        """`met`, `missed`, `missing` (not measured), or "" without a target."""
        if self.missing is not None:
            return "missing"
        if self.judged is None or not self.target:
            return ""
        if self.at_least is not None:
            return "met" if self.judged >= self.at_least else "missed"
        assert self.at_most is not None
        return "met" if self.judged <= self.at_most else "missed"

    def line(self) -> str:
        """The figure as one line of JSON."""
        shown = {key: value for key, value in asdict(self).items() if value not in (None, {}, "")}
        return orjson.dumps(shown | {"verdict": self.verdict}, default=str).decode()


async def interleaved(measures: Mapping[str, Measure], *, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Measures everything in turns, `rounds` times, so that a slow moment of the machine meets each alike."""
    found: dict[str, list[float]] = {name: [] for name in measures}
    for _ in range(rounds):
        for name, measure in measures.items():
            found[name].append(await measure())
    return found


def versus(found: Mapping[str, Sequence[float]], ours: str, theirs: str, **options: Any) -> Figure:
    """The figure of two entries of `interleaved`: the ratio of the medians."""
    value, beside = statistics.median(found[ours]), statistics.median(found[theirs])
    rounds = {ours: list(found[ours]), theirs: list(found[theirs])}
    return Figure(value=value, beside=beside, rounds=rounds, **options)


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _rows(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def ratios_table(figures: Sequence[Figure]) -> str:
    """The figures with a target, as a Markdown table."""
    rows = [
        [f.name, "–" if f.missing else _number(f.judged), f.target, f"missing: {f.missing}" if f.missing else f.verdict]
        for f in figures
        if f.target or f.missing
    ]
    return _rows(["figure", "ratio", "target", "verdict"], rows)


def rates_table(figures: Sequence[Figure]) -> str:
    """What the ratios were computed from, and the figures without a target."""
    rows = [
        [f.bench, f.name, f.unit, _number(f.value), _number(f.beside), _number(f.ratio)]
        for f in figures
        if f.missing is None
    ]
    return _rows(["bench", "figure", "unit", "ours", "beside", "ratio"], rows)
