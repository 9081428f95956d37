"""What is an operation on both sides: `run` asks the engine, `apply` asks the model.

`apply` gets the engine's answer and raises `Violation` when the model does not allow it; where the model knows what the
answer must be, it computes it. `settled` is the documents after the operation: claim order and parking are read there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from switchtower.callers import Caller
from switchtower.engine import Engine
from switchtower.errors import SwitchtowerError
from tests.model.account.entries import Refused, Violation
from tests.model.model import Model

CALLER = Caller("model")
HOUR_MS = 3_600_000
QUEUES = ("left", "right")
SHARED = "shared"
"""The queue whose jobs belong to groups and tenants."""

Documents = Mapping[str, dict[str, Any]]
Steps = Sequence[tuple["Operation", "Answer"]]


@dataclass(frozen=True)
class Answer:
    """What a call came to: a value, or the class name of its error."""

    value: Any = None
    error: str | None = None


async def ask(call: Any) -> Answer:
    try:
        return Answer(await call)
    except SwitchtowerError as error:
        return Answer(error=type(error).__name__)


def must_answer(answer: Answer, error: str | None) -> None:
    if answer.error != error:
        raise Violation(f"the answer was {answer.error or answer.value}, and must be {error or 'a success'}")


class Operation:
    async def run(self, engine: Engine) -> Answer:
        raise NotImplementedError

    def apply(self, model: Model, answer: Answer, settled: Documents) -> None:
        """Moves the model, and compares the answer with it."""
        try:
            expected = self.expect(model, answer, settled)
        except Refused as refused:
            must_answer(answer, refused.error)
            return
        must_answer(answer, None)
        if expected is not None and answer.value != expected:
            raise Violation(f"{self}: the answer was {answer.value}, and must be {expected}")

    def expect(self, model: Model, answer: Answer, settled: Documents) -> Any:
        raise NotImplementedError

    def steps(self, answer: Answer) -> Steps:
        """What it consists of where another process may come between: each a move of the model by itself."""
        return [(self, answer)]
