"""What a user gets from `pip install`: the wheel in an empty environment, in a folder that has nothing of ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.mongod import free_ports

ROOT = Path(__file__).parents[2]
SHARED = ("app", "schema", "workers")

pytestmark = [pytest.mark.acceptance, pytest.mark.nightly, pytest.mark.timeout(600)]


@dataclass
class Installation:
    wheel: Path
    prefix: Path

    def run(self, *command: str, folder: Path, timeout_seconds: float = 60) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*command),
            cwd=folder,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=timeout_seconds,
        )

    def command(self, program: str, *arguments: str) -> list[str]:
        return [str(self.prefix / "bin" / program), *arguments]

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
        return kept | {"PATH": f"{self.prefix / 'bin'}:{os.environ['PATH']}"}


@pytest.fixture(scope="module")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    uv = str(Path(sys.executable).with_name("uv"))
    constraints = str(ROOT / "constraints.txt")
    folder = tmp_path_factory.mktemp("wheel")
    prefix = folder / "environment"
    for command in (
        [uv, "build", "--quiet", "--wheel", "--build-constraints", constraints, "--out-dir", str(folder), str(ROOT)],
        [sys.executable, "-m", "venv", "--without-pip", str(prefix)],
    ):
        subprocess.run(command, check=True, cwd=folder)
    (wheel,) = folder.glob("*.whl")
    install = [uv, "pip", "install", "--quiet", "--python", str(prefix / "bin" / "python"), "-c", constraints]
    subprocess.run([*install, f"{wheel}[server,embedded]"], check=True, cwd=folder)
    return Installation(wheel, prefix)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A user's folder: one module of tasks, and packages that happen to have the names of ours."""
    (tmp_path / "tasks.py").write_text(
        textwrap.dedent(
            """
            import app as mine
            from switchtower import App, JobContext

            app = App()


            @app.task()
            async def greet(ctx: JobContext, name: str) -> dict:
                return {"greeting": f"Hello, {name}", "owner": mine.OWNER}
            """
        )
    )
    for name in SHARED:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWNER = 'the user'\n")
    return tmp_path


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


def test_wheel_puts_one_name_on_the_import_path(installation: Installation, tmp_path: Path) -> None:
    with zipfile.ZipFile(installation.wheel) as archive:
        tops = {name.split("/")[0] for name in archive.namelist()}
    version = installation.wheel.name.split("-")[1]
    assert tops == {"switchtower", f"switchtower-{version}.data", f"switchtower-{version}.dist-info"}
    program = (
        "import importlib.util as u; print([n for n in "
        "('switchtower', 'app', 'schema', 'workers', 'tests', 'bench', 'examples') if u.find_spec(n)])"
    )
    assert installation.run("python", "-c", program, folder=tmp_path).stdout.strip() == "['switchtower']"


def test_wheel_carries_the_server_beside_the_path(installation: Installation) -> None:
    shared = installation.prefix / "share" / "switchtower"
    shipped = {p.relative_to(shared) for p in shared.rglob("*") if p.is_file() and "__pycache__" not in p.parts}
    # A page or script that stayed behind would only be missed by a user's browser. What the frontend is built into goes
    # along, what it is built from does not.
    wanted = {
        path.relative_to(ROOT)
        for name in SHARED
        for path in (ROOT / name).rglob("*")
        if path.is_file() and not {"__pycache__", "frontend"} & set(path.parts)
    }
    assert Path("app/dashboard/dist/manifest.json") in wanted
    assert shipped == wanted


def test_wheel_is_typed(installation: Installation) -> None:
    with zipfile.ZipFile(installation.wheel) as archive:
        assert "switchtower/py.typed" in archive.namelist()


def test_one_command_runs_a_users_tasks(installation: Installation, project: Path, port: int) -> None:
    with running_dev(installation, project, port):
        url = f"http://127.0.0.1:{port}"
        answer = installation.run(
            "switchtower", "enqueue", "greet", "name=World", "--json", "--url", url, folder=project
        )
        assert answer.returncode == 0, answer.stdout + answer.stderr
        job = wait_for_job(url, json.loads(answer.stdout)["id"])
        assert (job["state"], job["result"]) == ("COMPLETED", {"greeting": "Hello, World", "owner": "the user"})


class running_dev:
    """`switchtower dev tasks:app` in the user's folder, ended by SIGTERM, with nothing of it left behind."""

    def __init__(self, installation: Installation, project: Path, port: int) -> None:
        command = installation.command("switchtower", "dev", "tasks:app", "--port", str(port), "--no-demo")
        self._log = project / "dev.log"
        self._url = f"http://127.0.0.1:{port}/readyz"
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, cwd=project, env=installation.environment(), stdout=log, stderr=log, start_new_session=True
            )

    def __enter__(self) -> None:
        deadline = time.monotonic() + 120
        while True:
            assert self._process.poll() is None, self._log.read_text()
            try:
                with urllib.request.urlopen(self._url, timeout=2):
                    return
            except OSError:
                if time.monotonic() > deadline:
                    self._end(signal.SIGKILL)
                    raise AssertionError(self._log.read_text()) from None
            time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        family = psutil.Process(self._process.pid).children(recursive=True)
        assert family, "dev started no process"
        self._end(signal.SIGTERM)
        left = [process for process in family if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
        for process in left:
            process.kill()
        assert left == [], self._log.read_text()
        assert self._process.returncode in {0, -signal.SIGTERM, 128 + signal.SIGTERM}, self._log.read_text()

    def _end(self, number: signal.Signals) -> None:
        self._process.send_signal(number)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def wait_for_job(url: str, id: str) -> dict[str, object]:
    query = json.dumps({"query": "query($id: ID!) { job(id: $id) { state result } }", "variables": {"id": id}}).encode()
    request = urllib.request.Request(f"{url}/graphql", query, {"Content-Type": "application/json"})
    deadline = time.monotonic() + 60
    while True:
        with urllib.request.urlopen(request, timeout=60) as response:
            job: dict[str, object] = json.load(response)["data"]["job"]
        if job["state"] in {"COMPLETED", "FAILED", "CANCELLED"}:
            return job
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
