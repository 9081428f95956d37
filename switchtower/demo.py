"""What does Switchtower look like at work? `switchtower dev` without a module runs these jobs.

They work on real input: the files of the folder that it was started in. A flow of checksums, line counts and
thumbnails of up to 120 files, summed up by folder and in a report, which is mailed (into a file); a task that fails now
and then; a workflow that packs the files; and two crons, one of which checks files for as long as it runs.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import tarfile
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import EmailMessage
from itertools import islice
from pathlib import Path
from typing import Any

from switchtower.context import Fail, JobContext
from switchtower.durable import WorkflowContext
from switchtower.flows import FlowNode, node
from switchtower.handlers import App
from switchtower.jobs import NewJob
from switchtower.retry import Backoff, BackoffKind

__all__ = [
    "app",
    "archive",
    "checksum_file",
    "count_lines",
    "flaky",
    "nightly_cleanup",
    "recheck",
    "report",
    "seed",
    "send_email",
    "sum_up",
    "thumbnail",
]

MAX_FILES = 120
MAX_COUNTS = 50
MAX_IMAGES = 20
MAX_BYTES = 32 * 1024 * 1024
MAX_ARCHIVED = 64 * 1024 * 1024
DAY_SECONDS = 24 * 3600
CHUNK = 256 * 1024
TEXT = {
    ".c",
    ".cfg",
    ".css",
    ".go",
    ".html",
    ".js",
    ".json",
    ".md",
    ".py",
    ".rs",
    ".sh",
    ".toml",
    ".ts",
    ".txt",
    ".yaml",
}
IMAGES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".webp"}
PASSED_OVER = {"node_modules", "__pycache__", "venv", "build", "dist"}

app = App()


@app.task(queue="files", timeout_seconds=60)
async def checksum_file(ctx: JobContext, path: str) -> dict[str, Any]:
    """The SHA-256 of a file, read in chunks."""
    file = _inside(path)
    size = file.stat().st_size
    digest = hashlib.sha256()
    read = 0
    with file.open("rb") as content:
        while chunk := await asyncio.to_thread(content.read, CHUNK):
            digest.update(chunk)
            read += len(chunk)
            ctx.progress(round(100 * read / max(size, 1)), f"{read:,} of {size:,} bytes")
    ctx.log(f"{path}: {digest.hexdigest()}")
    return {"path": path, "bytes": size, "sha256": digest.hexdigest()}


@app.task(queue="files", timeout_seconds=60)
def count_lines(ctx: JobContext, path: str) -> dict[str, Any]:
    """How many lines a text file has; runs in a thread."""
    lines = blank = 0
    with _inside(path).open(encoding="utf-8", errors="replace") as content:
        for line in content:
            lines += 1
            blank += not line.strip()
            if lines % 1000 == 0:
                ctx.raise_if_cancelled()
    ctx.log(f"{path}: {lines} lines")
    return {"path": path, "lines": lines, "blank": blank}


@app.task(queue="images", timeout_seconds=60, cpu_bound=True)
def thumbnail(ctx: JobContext, path: str, size: int = 128) -> dict[str, Any]:
    """A thumbnail of an image, in a process of its own; without Pillow, only the image's size in bytes."""
    file = _inside(path)
    try:
        from PIL import Image
    except ImportError:
        ctx.log("Pillow is not installed; install switchtower[demo] for thumbnails", level="warning")
        return {"path": path, "bytes": file.stat().st_size}
    target = _kept("thumbnails") / f"{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.png"
    try:
        with Image.open(file) as image:
            ctx.progress(50, f"{image.width} x {image.height} pixels")
            image.thumbnail((size, size))
            image.convert("RGBA").save(target)
    except OSError as error:
        raise Fail(f"{path} is not an image that Pillow can read: {error}") from error
    return {"path": path, "thumbnail": str(target), "bytes": target.stat().st_size}


@app.task(queue="files", max_attempts=20, backoff=Backoff(BackoffKind.EXPONENTIAL, base_ms=500, cap_ms=8_000))
async def flaky(ctx: JobContext, service: str) -> dict[str, Any]:
    """Calls a service that is down half of the time: watch it retry."""
    if random.random() < 0.5:
        raise ConnectionError(f"{service} did not answer on attempt {ctx.attempt}")
    ctx.log(f"{service} answered on attempt {ctx.attempt}")
    return {"service": service, "attempt": ctx.attempt}


@app.task(queue="reports", timeout_seconds=60)
async def sum_up(ctx: JobContext, folder: str) -> dict[str, Any]:
    """What the jobs for the files of one folder found."""
    results = [job.result for job in await ctx.children() if isinstance(job.result, dict)]
    ctx.log(f"{folder}: {len(results)} results")
    return {
        "folder": folder,
        "files": sum("sha256" in result for result in results),
        "bytes": sum(result["bytes"] for result in results if "sha256" in result),
        "lines": sum(result.get("lines", 0) for result in results),
        "thumbnails": sum("thumbnail" in result for result in results),
    }


@app.task(queue="reports", timeout_seconds=60)
async def report(ctx: JobContext) -> dict[str, Any]:
    """The sums of all folders, mailed; it starts when the last folder was summed up."""
    folders = [job.result for job in await ctx.children() if isinstance(job.result, dict)]
    totals = {name: sum(folder[name] for folder in folders) for name in ("files", "bytes", "lines", "thumbnails")}
    body = "\n".join(f"{folder['folder']}: {folder['files']} files, {folder['lines']} lines" for folder in folders)
    subject = f"{totals['files']} files, {totals['lines']:,} lines"
    await app.enqueue(
        send_email,
        {"to": "you@localhost", "subject": subject, "body": body},
        tags=["demo"],
        idempotency_key=f"{ctx.idempotency_key}:mail",
    )
    return {"folders": len(folders), **totals}


@app.task(queue="mail", max_attempts=5, timeout_seconds=30)
def send_email(ctx: JobContext, to: str, subject: str, body: str = "") -> dict[str, Any]:
    """Writes a message into the folder `outbox` of the data directory: the demo sends nothing anywhere."""
    message = EmailMessage()
    message["To"], message["From"] = to, "demo@localhost"
    message["Subject"], message["Date"] = subject, datetime.now(UTC)
    message.set_content(body)
    # Under a name of its own, so that a job that runs again writes the same message, not a second one.
    target = _kept("outbox") / f"{ctx.job.id}.eml"
    target.write_bytes(message.as_bytes())
    ctx.log(f"written to {target}")
    return {"to": to, "message": str(target)}


@app.workflow
async def archive(ctx: WorkflowContext) -> dict[str, Any]:
    """Packs the text files of the folder, and later looks whether they can be read again."""
    files = await ctx.step("list files", _listed)
    packed = await ctx.step("pack", _pack, f"{ctx.job.id}.tar.gz", files)
    await ctx.sleep(10)
    found = await ctx.step("verify", _verify, packed["path"])
    return {**packed, "intact": found == len(files)}


@app.cron(every_seconds=10, overlap="skip")
@app.task(queue="files", timeout_seconds=60)
async def recheck(ctx: JobContext) -> dict[str, Any]:
    """The checksum of a file picked at random, so that there is always something to see."""
    files = await asyncio.to_thread(_listed)
    if not files:
        return {}
    path = random.choice(files)
    digest = await asyncio.to_thread(lambda: hashlib.sha256(_inside(path).read_bytes()).hexdigest())
    ctx.log(f"{path}: {digest}")
    return {"path": path, "sha256": digest}


@app.cron("0 3 * * *", overlap="skip")
@app.task(queue="files", timeout_seconds=600)
def nightly_cleanup(ctx: JobContext) -> dict[str, Any]:
    """Deletes thumbnails, messages and archives of the demo that are older than a day."""
    before = time.time() - DAY_SECONDS
    old = [
        path
        for folder in ("thumbnails", "outbox", "archives")
        for path in _kept(folder).iterdir()
        if path.is_file() and path.stat().st_mtime < before
    ]
    for path in old:
        path.unlink(missing_ok=True)
    return {"deleted": len(old)}


async def seed(app: App, folder: Path | None = None) -> None:
    """Enqueues the demo's jobs for the files of `folder` (the current one): a flow with the report at its root, calls
    of flaky services, and a run of the workflow."""
    root = folder or Path.cwd()
    files = list(islice(_files(root), MAX_FILES))
    texts = set([file for file in files if Path(file).suffix.lower() in TEXT][:MAX_COUNTS])
    images = set([file for file in files if Path(file).suffix.lower() in IMAGES][:MAX_IMAGES])
    folders: dict[str, list[NewJob]] = defaultdict(list)
    for file in files:
        jobs = folders[Path(file).parts[0] if len(Path(file).parts) > 1 else "."]
        jobs.append(checksum_file.options(tags=["demo"]).job(path=file))
        if file in texts:
            jobs.append(count_lines.options(tags=["demo"]).job(path=file))
        if file in images:
            jobs.append(thumbnail.options(tags=["demo"]).job(path=file))
    sums: list[FlowNode | NewJob] = [
        node(sum_up.options(tags=["demo"]).job(folder=name), *jobs) for name, jobs in folders.items()
    ]
    await app.enqueue_flow(node(report.options(tags=["demo"]).job(), *sums))
    for delay, service in enumerate(("mail", "search", "billing", "weather", "translation")):
        await flaky.options(tags=["demo"], delay_seconds=delay).enqueue(service=service)
    await archive.start()


def _kept(name: str) -> Path:
    """A folder in the data directory."""
    folder = Path(os.environ.get("SWITCHTOWER_DATA_DIR") or ".switchtower") / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _listed() -> list[str]:
    return list(islice(_files(Path.cwd()), MAX_FILES))


def _pack(name: str, files: list[str]) -> dict[str, Any]:
    target = _kept("archives") / name
    size = 0
    with tarfile.open(target, "w:gz") as packed:
        for file in files:
            size += _inside(file).stat().st_size
            if size > MAX_ARCHIVED:
                raise Fail(f"The files are larger than {MAX_ARCHIVED:,} bytes together")
            packed.add(file)
    return {"path": str(target), "files": len(files), "bytes": target.stat().st_size}


def _verify(path: str) -> int:
    with tarfile.open(path) as packed:
        return sum(member.isfile() for member in packed.getmembers())


def _files(folder: Path) -> Iterator[str]:
    """Files below a folder, relative to it, images first in each directory; nothing hidden, built, linked or huge."""
    for current, directories, names in os.walk(folder):
        directories[:] = sorted(d for d in directories if not d.startswith(".") and d not in PASSED_OVER)
        for name in sorted(names, key=lambda name: (Path(name).suffix.lower() not in IMAGES, name)):
            path = Path(current, name)
            if (
                not name.startswith(".")
                and path.is_file()
                and not path.is_symlink()
                and path.stat().st_size <= MAX_BYTES
            ):
                relative = str(path.relative_to(folder))
                if relative.isprintable():
                    yield relative


def _inside(path: str) -> Path:
    """A file below the current folder; a demo job must not read elsewhere, whatever its payload says."""
    file = Path(path)
    root = Path.cwd().resolve()
    if not (root / file).resolve().is_relative_to(root):
        raise Fail(f"{path} is outside {root}")
    if not file.is_file():
        raise Fail(f"{path} is not a file in {root} any more")
    return file
