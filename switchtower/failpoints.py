"""Where can a test have this process die?

SWITCHTOWER_DIE_AT names one point; the process that reaches it ends at once, as by `kill -9`, with code 137:
`after_claim` (jobs were claimed, none begun), `after_effect` (a handler returned, nothing was reported),
`after_complete` (a completion is stored, what must follow it is not); of a workflow's step `before_checkpoint` (it has
ended, nothing is stored) and `after_checkpoint`; `after_relay` (the folder wrote audit rows, its cursor stands still).
"""

from __future__ import annotations

import os

__all__ = ["die_at"]

_CHOSEN = os.environ.get("SWITCHTOWER_DIE_AT")


def die_at(point: str) -> None:
    """Ends the process when this is the point that a test chose; does nothing otherwise."""
    if point == _CHOSEN:
        os._exit(137)
