"""How does `switchtower dev` run?"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from switchtower.addresses import LOOPBACK
from switchtower.cli.dev_key import first_key
from switchtower.cli.documents import WORKER_NAMES
from switchtower.cli.live_line import LiveLine
from switchtower.cli.output import print_json_line, print_text
from switchtower.cli.places import child_environment, is_set
from switchtower.cli.stack import Interrupted, Stack
from switchtower.client import Client
from switchtower.errors import SwitchtowerError

if TYPE_CHECKING:
    from switchtower.access import CreatedKey

__all__ = ["DEMO", "Plan", "develop"]

DEMO = "switchtower.demo:app"
REST = "Dispatch /v1 · Dispatched /api/jobs · AsyncMQ /queues · Conveyor /api/queues"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What was asked for. `root` holds our processes' code; `seeding` is whether the demo's jobs are enqueued."""

    root: Path
    host: str
    port: int
    data_dir: Path
    mongodb_url: str | None
    module: str
    worker_arguments: list[str]
    seeding: bool
    as_json: bool

    @property
    def url(self) -> str:
        """Where the server will be."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"

    @property
    def title(self) -> str:
        """What the jobs are called."""
        return "demo" if self.module == DEMO else self.module


async def develop(plan: Plan, announce: Callable[[str], None]) -> None:
    """Starts the database, the server and the workers, shows what they do, and stops them at a signal.

    `announce` is told where the server is, once it is there. Raises ConfigurationError when one of the
    processes ends by itself.
    """
    live_line = LiveLine(plan.url, plan.title, quiet=plan.as_json)
    stack = Stack(mongodb_url=plan.mongodb_url, data_dir=plan.data_dir, on_line=live_line.line)
    with suppress(Interrupted):
        async with stack:
            environment = child_environment(
                plan.root,
                mongodb_url=stack.mongodb_url,
                data_dir=str(plan.data_dir),
                host=plan.host,
                port=str(plan.port),
                # What is tried out here is delivered here.
                webhook_allowed_networks=None if is_set("webhook_allowed_networks") else ",".join(LOOPBACK),
            )
            await stack.start("server", "app", [], environment)
            await stack.start("worker", "workers", plan.worker_arguments, environment)
            await stack.ready()
            announce(plan.url)
            key = await first_key(stack.mongodb_url)
            if plan.as_json:
                pids = {child.name: child.process.pid for child in stack.children}
                shown = {} if key is None else {"api_key": key.secret, "webhook_secret": key.webhook_secret}
                where = {"url": plan.url, "mongodb_url": stack.mongodb_url}
                print_json_line({"ready": True, **where, "pids": pids, **shown})
            else:
                await _banner(stack, plan, key)
            await _until_stopped(stack, live_line, seeding=plan.seeding)


async def _until_stopped(stack: Stack, live_line: LiveLine, *, seeding: bool) -> None:
    showing = asyncio.create_task(live_line.show())
    seed = asyncio.create_task(_seed(stack.mongodb_url, live_line)) if seeding else None
    try:
        await stack.run()
    finally:
        for task in filter(None, (seed, showing)):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        live_line.line("dev", "Stopping: running jobs may finish; Ctrl-C again makes haste.")


async def _seed(mongodb_url: str | None, live_line: LiveLine) -> None:
    """Enqueues the demo's jobs."""
    os.environ["SWITCHTOWER_MONGODB_URL"] = mongodb_url or ""
    from switchtower.demo import app, seed

    try:
        async with app:
            await seed(app)
    except SwitchtowerError as error:
        live_line.line("demo", f"The demo's jobs could not be enqueued: {error.message}")


async def _banner(stack: Stack, plan: Plan, key: CreatedKey | None) -> None:
    if stack.mongodb is not None:
        attached = "attached" if stack.mongodb.attached else f"{stack.mongodb.started_seconds:.1f} s"
        where = f"MongoDB {stack.mongodb.version} embedded ({attached}) · data in {plan.data_dir}/"
    else:
        where = f"MongoDB at {_host_of(plan.mongodb_url or '')}"
    print_text(f" Switchtower · {where}")
    print_text(f"   Dashboard   {plan.url}/")
    print_text(f"   Playground  {plan.url}/graphql       offline")
    print_text(f"   REST        {plan.url}/docs          {REST}")
    print_text("   Health      /livez /readyz     Metrics /metrics/prometheus     SDL /schema.graphql")
    print_text(f"   Worker      {await _workers(plan)}")
    if key is not None:
        print_text(f"   API key     {key.secret}")
        print_text(f"   Webhooks    {key.webhook_secret}")
        print_text(
            f"               both shown this once; setWebhook(keyId: {key.key.id}) says where jobs are delivered"
        )
    if plan.module != DEMO:
        print_text("   Try         switchtower enqueue TASK key=value --watch")
    print_text("   Ctrl-C stops")


async def _workers(plan: Plan) -> str:
    async with Client(plan.url) as client:
        live = [w for w in (await client.execute(WORKER_NAMES))["workers"] if w["state"] == "LIVE"]
    tasks = sorted({name.partition("#")[0] for worker in live for name in worker["names"]})
    return f"{plan.title} ×{len(live)}: {', '.join(tasks) or 'no tasks yet'}"


def _host_of(mongodb_url: str) -> str:
    return urlsplit(mongodb_url).netloc.rpartition("@")[2]
