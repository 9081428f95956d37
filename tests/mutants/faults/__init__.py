"""All faults, by their area."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from tests.mutants.fault import Fault

AREAS: dict[str, list[Fault]] = {
    module.name: import_module(f"{__name__}.{module.name}").FAULTS for module in sorted(iter_modules(__path__))
}
FAULTS = [fault for faults in AREAS.values() for fault in faults]

KNOWN: dict[str, str] = {}
"""Faults that may survive, at most three, and why nobody writes the test."""
