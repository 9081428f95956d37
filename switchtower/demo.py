"""What does Switchtower look like at work? `switchtower dev` without a module runs these jobs.

They work on real input: the files of the folder that it was started in. Checksums, line counts and thumbnails of up to
200 files, a task that fails now and then, and a report that waits for all the others.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from switchtower.context import Fail, JobContext
from switchtower.errors import SwitchtowerError
from switchtower.handlers import App
from switchtower.jobs import Enqueued, NewJob
from switchtower.retry import Backoff, BackoffKind

__all__ = ["app", "checksum_file", "count_lines", "flaky", "report", "seed", "thumbnail"]

MAX_FILES = 120
MAX_COUNTS = 50
MAX_IMAGES = 20
MAX_BYTES = 32 * 1024 * 1024
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
    folder = Path(os.environ.get("SWITCHTOWER_DATA_DIR") or ".switchtower") / "thumbnails"
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{hashlib.sha256(path.encode('utf-8', 'surrogateescape')).hexdigest()[:16]}.png"
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


@app.task(queue="reports", timeout_seconds=120)
async def report(ctx: JobContext, jobs: list[str]) -> dict[str, Any]:
    """Sums up what the other jobs found; it started when the last of them was completed."""
    engine = await app.connect()
    found = await engine.jobs.get_many(jobs, caller=app.caller)
    results = [job.result for job in found.values() if isinstance(job.result, dict)]
    await ctx.progress(90, f"{len(results)} results")
    return {
        "jobs": len(results),
        "files": sum("sha256" in result for result in results),
        "bytes": sum(result["bytes"] for result in results if "sha256" in result),
        "lines": sum(result.get("lines", 0) for result in results),
        "thumbnails": sum("thumbnail" in result for result in results),
    }


async def seed(app: App, folder: Path | None = None) -> list[str]:
    """Enqueues the demo's jobs for the files of `folder` (the current one), the report last; returns their ids."""
    files = list(islice(_files(folder or Path.cwd()), MAX_FILES))
    texts = [file for file in files if Path(file).suffix.lower() in TEXT][:MAX_COUNTS]
    images = [file for file in files if Path(file).suffix.lower() in IMAGES][:MAX_IMAGES]
    work: list[NewJob] = [checksum_file.options(tags=["demo"]).job(path=file) for file in files]
    work += [count_lines.options(tags=["demo"]).job(path=file) for file in texts]
    work += [thumbnail.options(tags=["demo"]).job(path=file) for file in images]
    random.shuffle(work)
    ids = [_stored(answer).job.id for answer in await app.enqueue_many(work)]
    services = ("mail", "search", "billing", "weather", "translation")
    flaky_jobs = [flaky.options(tags=["demo"], delay_seconds=i).job(service=name) for i, name in enumerate(services)]
    extra = [_stored(answer).job.id for answer in await app.enqueue_many(flaky_jobs)]
    last = await report.options(tags=["demo"], depends_on=ids).enqueue(jobs=ids)
    return [*ids, *extra, last.job.id]


def _stored(answer: Enqueued | SwitchtowerError) -> Enqueued:
    if isinstance(answer, SwitchtowerError):
        raise answer
    return answer


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
