"""Which REST dialects does this server speak?"""

from typing import Final

from app.rest.dialect import Dialect
from app.rest.dispatch import DISPATCH

__all__ = ["DIALECTS"]

DIALECTS: Final[tuple[Dialect, ...]] = (DISPATCH,)
