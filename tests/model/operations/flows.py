"""How are jobs made together, cancelled together and retried together?"""

from __future__ import annotations

from dataclasses import dataclass

from switchtower.engine import Engine
from switchtower.flows import FlowNode
from switchtower.jobs import ChildFailure, NewJob
from tests.model.account.flows import Node
from tests.model.model import Model
from tests.model.operations.base import CALLER, HOUR_MS, Answer, Documents, Operation, ask
from tests.model.operations.bulk import Ranging


@dataclass
class StartFlow(Operation):
    """`mark` tells this call's jobs from all others, whether or not it was answered."""

    nodes: tuple[Node, ...]
    mark: str
    queue: str = "right"
    key: str | None = None
    dies: bool = False
    """The caller's process dies in it: nobody hears the answer."""

    def tree(self) -> FlowNode:
        nodes = [
            FlowNode(
                key=str(place),
                depends_on=[str(other) for other in node.depends_on],
                job=NewJob(
                    name="a",
                    queue=self.queue,
                    priority=-99,
                    max_attempts=1,
                    unique_key=node.unique_key,
                    delay_ms=HOUR_MS if node.delayed else None,
                    on_child_failure=None if node.on_child_failure is None else ChildFailure(node.on_child_failure),
                    tags=(self.mark, str(place)),
                ),
            )
            for place, node in enumerate(self.nodes)
        ]
        for place, node in enumerate(self.nodes[1:], 1):
            nodes[node.parent].children = [*nodes[node.parent].children, nodes[place]]
        return nodes[0]

    async def run(self, engine: Engine) -> Answer:
        answer = await ask(engine.flows.enqueue(self.tree(), caller=CALLER, idempotency_key=self.key))
        return answer if answer.error else Answer(answer.value.id)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> None:
        found = {job["tags"][1]: job["_id"] for job in settled.values() if job.get("tags", [""])[0] == self.mark}
        made = [found[place] for place in sorted(found, key=int)]
        if self.dies and not made:
            return
        answered = made[0] if self.dies else answer.value
        model.start_flow(self.nodes, queue=self.queue, key=self.key, made=made, answered=answered)


@dataclass
class CancelFlow(Ranging):
    """Cancels what is open of the flow that a job belongs to."""

    id: str

    async def run(self, engine: Engine) -> Answer:
        return self.answer(await ask(engine.flows.cancel(self.id, caller=CALLER)))

    def begin(self, model: Model) -> None:
        model.begin_cancel_of_flow(self.id)


@dataclass
class RetryFlow(Operation):
    id: str

    async def run(self, engine: Engine) -> Answer:
        answer = await ask(engine.flows.retry(self.id, caller=CALLER))
        return answer if answer.error else Answer(answer.value.id)

    def expect(self, model: Model, answer: Answer, settled: Documents) -> str:
        model.retry_flow(self.id)
        flow = model.jobs[self.id].flow
        assert flow is not None
        return flow
