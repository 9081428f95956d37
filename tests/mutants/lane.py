"""A lane: a copy of the checkout with an environment of its own, in which faults are planted and taken out again."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.fault import Fault

BESIDE = ("tests/js/node_modules", "app/dashboard/dist", ".venv/published")
"""What is not in git and cannot be made quickly: lanes use that of the checkout."""
EXTRAS = "server,embedded,demo,test,dev"
TEST_SECONDS = 120
OUTPUT = ".pytest.out"
_FAILED = re.compile(r"^(?:FAILED|ERROR) (.+?)(?: - .*)?$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a fault: `caught` by a test, `survived`, or `broken`, when it says nothing; and a few words."""

    outcome: str
    by: str = ""
    detail: str = ""
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Run:
    code: int | None
    """The exit code; None where the time was over."""
    output: str

    @property
    def failed(self) -> str:
        """The first test that failed."""
        found = _FAILED.search(self.output.rpartition("short test summary info")[2])
        return found[1] if found else ""


class Lane:
    """One copy. `prefix` stands before each run of the tests, for machines that share their processors; `seconds` is
    how long a run may take, from its first line on."""

    def __init__(self, root: Path, checkout: Path, *, prefix: Sequence[str] = (), seconds: float = 600) -> None:
        self._root = root
        self._checkout = checkout
        self._prefix = tuple(prefix)
        self._seconds = seconds
        self._green: dict[str, bool] = {}

    def prepare(self) -> None:
        """Copies what git knows of the checkout, installs it editable, and makes sure that it is what is imported."""
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=self._checkout,
            capture_output=True,
            text=True,
            check=True,
        )
        for name in filter(None, listed.stdout.split("\0")):
            source, target = self._checkout / name, self._root / name
            if source.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        # Tests ask git which files there are.
        subprocess.run(["git", "init", "-q"], cwd=self._root, check=True)
        uv = str(Path(sys.executable).parent / "uv")
        python = str(self._root / ".venv/bin/python")
        install = [uv, "pip", "install", "-q", "--python", python, "-c", "constraints.txt", "-b", "constraints.txt"]
        subprocess.run([uv, "venv", "-q", "--python", sys.executable, ".venv"], cwd=self._root, check=True)
        subprocess.run([*install, "-e", f".[{EXTRAS}]"], cwd=self._root, check=True)
        for name in BESIDE:
            if (self._checkout / name).exists():
                (self._root / name).parent.mkdir(parents=True, exist_ok=True)
                (self._root / name).symlink_to(self._checkout / name)
        self._check_origin(python)

    def _check_origin(self, python: str) -> None:
        """A process of the lane imports the lane's product, from wherever it is started."""
        for names, folder, path in (("switchtower, app, schema, workers", self._root, "."), ("switchtower", "/", "")):
            said = subprocess.run(
                [python, "-c", f"import {names}; print(*(m.__file__ for m in ({names},)))"],
                cwd=folder,
                env=self._environment() | ({"PYTHONPATH": path} if path else {}),
                capture_output=True,
                text=True,
                check=True,
            )
            for file in said.stdout.split():
                if not Path(file).is_relative_to(self._root):
                    raise RuntimeError(f"A lane would test {file}, which is not its own.")

    def judge(self, fault: Fault, *, trust: bool = False) -> Verdict:
        """Plants a fault, runs its tests until one fails, and takes it out again.

        A test that fails without the fault too has caught nothing; with `trust` that is not looked at.
        """
        began = time.monotonic()
        file = self._root / fault.path
        text = file.read_text() if file.is_file() else ""
        if text.count(fault.old) != 1:
            return Verdict("broken", detail=f"the text stands {text.count(fault.old)} times in {fault.path}")
        missing = [test for test in fault.tests if not (self._root / test.partition("::")[0]).exists()]
        if missing:
            return Verdict("broken", detail=f"there is no {missing[0]}")
        file.write_text(text.replace(fault.old, fault.new))
        try:
            run = self._pytest(fault.tests)
        finally:
            file.write_text(text)
        seconds = round(time.monotonic() - began, 1)
        if run.code == 0:
            return Verdict("survived", seconds=seconds)
        if run.code is None:
            return Verdict("caught", by=run.failed, detail="it hung", seconds=seconds)
        if run.code != 1 or not run.failed:
            return Verdict("broken", detail=f"exit code {run.code}: {run.output.strip()[-300:]}", seconds=seconds)
        if not trust and not self._is_green(run.failed):
            return Verdict("broken", by=run.failed, detail="it fails without the fault too", seconds=seconds)
        return Verdict("caught", by=run.failed, seconds=seconds)

    def _is_green(self, test: str) -> bool:
        if test not in self._green:
            self._green[test] = self._pytest([test]).code == 0
        return self._green[test]

    def _pytest(self, tests: Iterable[str]) -> _Run:
        output = self._root / OUTPUT
        python = str(self._root / ".venv/bin/python")
        options = ("-x", "-p", "no:cacheprovider", "--timeout", str(TEST_SECONDS), "-rfE", "--color=no")
        with output.open("wb") as file:
            process = subprocess.Popen(
                [*self._prefix, python, "-u", "-m", "pytest", *options, *tests],
                cwd=self._root,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            code = self._ended(process, output)
        return _Run(code, output.read_text(errors="replace"))

    def _ended(self, process: subprocess.Popen[bytes], output: Path) -> int | None:
        deadline: float | None = None
        try:
            while True:
                try:
                    return process.wait(timeout=0.5)
                except subprocess.TimeoutExpired:
                    if deadline is None and output.stat().st_size:
                        # Before its first line it may have waited for its turn.
                        deadline = time.monotonic() + self._seconds
                    if deadline is not None and time.monotonic() > deadline:
                        return None
        finally:
            for number, patience in ((signal.SIGTERM, 30), (signal.SIGKILL, 10)):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    try:
                        process.wait(timeout=patience)
                    except subprocess.TimeoutExpired:
                        continue

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        # Else a fault of equal length, planted within the second, would be looked for in the compiled file of before.
        kept["PYTHONDONTWRITEBYTECODE"] = "1"
        return kept | {"PATH": f"{self._root / '.venv/bin'}{os.pathsep}{os.environ.get('PATH', '')}"}
