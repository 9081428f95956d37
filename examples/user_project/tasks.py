"""The project's tasks."""

import app.mailing
import schema.messages
import workers
from switchtower import App, JobContext

queue = App()


@queue.task(queue="email", max_attempts=5, timeout_seconds=30)
async def send_email(ctx: JobContext, to: str, subject: str) -> dict[str, int]:
    """Renders a mail; a real one would hand it to a server, with `ctx.idempotency_key`."""
    text = app.mailing.render(schema.messages.Message(to, subject))
    await ctx.progress(50, "rendered")
    ctx.log(f"sent by {workers.NAMES[0]}")
    return {"bytes": len(text)}


@queue.task
def modules() -> dict[str, str]:
    """Which files the names `app`, `schema` and `workers` stand for here."""
    return {module.__name__: str(module.__file__) for module in (app, schema, workers)}


@queue.task(cpu_bound=True)
def modules_in_a_process() -> dict[str, str]:
    """The same, in the process of a CPU-bound task."""
    return {module.__name__: str(module.__file__) for module in (app, schema, workers)}
