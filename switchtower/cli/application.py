"""Which commands are there, and how does each of them end?"""

from __future__ import annotations

import sys

import typer

from switchtower.cli import (
    audit,
    bulk,
    config,
    crons,
    dead_letters,
    dev,
    doctor,
    enqueue,
    flows,
    jobs,
    keys,
    limits,
    queues,
    sdl,
    search,
    services,
    stats,
    tail,
    top,
    webhooks,
    workflows,
)
from switchtower.cli.output import EXIT_REFUSED, exit_code, report
from switchtower.errors import SwitchtowerError

__all__ = ["app", "run"]

app = typer.Typer(
    help="Switchtower: a GraphQL-first job queue on MongoDB.",
    epilog="Exit codes: 0 ok, 1 a job failed or the server refused, 2 usage, 3 no connection.",
    no_args_is_help=True,
    add_completion=False,
    # Plain help: rich would double the time until it appears.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

app.command("dev")(dev.dev)
app.command("serve")(services.serve)
app.command("worker")(services.worker)
app.command("enqueue")(enqueue.enqueue)
app.command("jobs")(jobs.jobs)
app.command("job")(jobs.job)
app.command("tail")(tail.tail)
app.command("why")(jobs.why)
app.command("retry")(bulk.retry)
app.command("cancel")(bulk.cancel)
app.command("promote")(bulk.promote)
app.command("queues")(queues.queues)
app.command("pause")(queues.pause)
app.command("resume")(queues.resume)
app.command("drain")(queues.drain)
app.command("limits")(limits.limits)
app.add_typer(crons.app, name="crons")
app.add_typer(flows.app, name="flows")
app.add_typer(workflows.app, name="workflows")
app.add_typer(dead_letters.app, name="dlq")
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")
app.command("stats")(stats.stats)
app.command("audit")(audit.audit)
app.command("search")(search.search)
app.command("top")(top.top)
app.command("doctor")(doctor.doctor)
app.command("config")(config.config)
app.command("schema")(sdl.schema)


def run() -> None:
    """Runs the command that the process's arguments name, and exits."""
    try:
        app(prog_name="switchtower")
    except SwitchtowerError as error:
        report(error)
        sys.exit(exit_code(error))
    except TimeoutError as error:
        report(SwitchtowerError(str(error) or "It took longer than allowed."))
        sys.exit(EXIT_REFUSED)
