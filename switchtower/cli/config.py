"""`switchtower config`: which settings hold here, and where each of them comes from."""

from __future__ import annotations

import sys

from switchtower.cli.options import AsJson
from switchtower.cli.output import print_json, print_table
from switchtower.cli.places import child_environment, server_root
from switchtower.errors import ConfigurationError

__all__ = ["config"]


def config(as_json: AsJson = False) -> None:
    """Print the effective settings of server and workers, and where each comes from; secrets are redacted."""
    import subprocess

    import orjson

    # The settings belong to the processes that read them, and only those have their code on the path.
    answer = subprocess.run(
        [sys.executable, "-P", "-m", "switchtower.cli.effective"],
        env=child_environment(server_root()),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ConfigurationError(f"The settings cannot be read: {last}")
    rows = orjson.loads(answer.stdout)
    if as_json:
        print_json(rows)
    else:
        print_table(
            ("SETTING", "VALUE", "FROM", "USED BY"), ([r["name"], r["value"], r["origin"], r["used_by"]] for r in rows)
        )
