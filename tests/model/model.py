"""What should be in the database? An independent account of the queue's rules, kept in memory.

Nothing here is taken from `switchtower.states` or the pipelines: the rules are written down a second time, as plain
Python, so that a fault in one of the two shows. What the rules forbid raises `Refused` and changes nothing.
"""

from __future__ import annotations

from tests.model.account.crons import Scheduling
from tests.model.account.enqueue import Enqueuing
from tests.model.account.flows import Flowing
from tests.model.account.runs import Running


class Model(Enqueuing, Running, Flowing, Scheduling):
    """The whole account, a page for each noun."""
