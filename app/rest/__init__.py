"""Which REST dialects does this server speak?"""

from typing import Final

from app.rest.asyncmq import ASYNCMQ
from app.rest.conveyor import CONVEYOR
from app.rest.dialect import Dialect
from app.rest.dispatch import DISPATCH
from app.rest.dispatched import DISPATCHED

__all__ = ["DIALECTS"]

DIALECTS: Final[tuple[Dialect, ...]] = (DISPATCH, DISPATCHED, ASYNCMQ, CONVEYOR)
