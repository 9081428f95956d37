"""Which mongod can this machine run, and if none, what is missing?"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from switchtower.errors import ConfigurationError, StoreUnavailable

__all__ = ["MINIMUM_VERSION", "find_mongod", "reason_for_exit"]

MINIMUM_VERSION = (6, 0)

APT_PACKAGES = {
    "libcurl.so.4": "libcurl4",
    "libssl.so.3": "libssl3",
    "libcrypto.so.3": "libssl3",
    "liblzma.so.5": "liblzma5",
}


def find_mongod(environ: Mapping[str, str] | None = None) -> Path:
    """The mongod to start: one of version 6.0 or newer on PATH, else the one that the `embedded` extra installs.

    Raises ConfigurationError, naming every way to get a database, when there is neither.
    """
    rejected = ""
    on_path = shutil.which("mongod", path=(os.environ if environ is None else environ).get("PATH"))
    if on_path:
        found = _version_of(Path(on_path))
        if found and found >= MINIMUM_VERSION:
            return Path(on_path)
        shown = f"version {found[0]}.{found[1]}" if found else "it does not run"
        rejected = f" ({on_path} was passed over: {shown})"
    bundled = _bundled_mongod()
    if bundled is not None:
        return bundled
    raise ConfigurationError(
        f"Switchtower needs a MongoDB replica set and found none{rejected}. Do one of these: set "
        "SWITCHTOWER_MONGODB_URL to a replica set of version 6.0 or newer; or put a mongod of version 6.0 or newer "
        "on PATH; or install the bundled one with: pip install 'switchtower[embedded]'"
    )


def reason_for_exit(code: int, *, log: Path, data: Path) -> ConfigurationError | StoreUnavailable:
    """The error to raise for a mongod that ended with `code` while starting on `data`: its `log`, as what to do."""
    said = log.read_text(errors="replace")[-20_000:]
    library = re.search(r"shared libraries: (\S+?):", said)
    if library:
        package = APT_PACKAGES.get(library[1], f"the package that has {library[1]}")
        return ConfigurationError(
            f"The embedded MongoDB needs the library {library[1]}, which is not installed. "
            f"On Debian or Ubuntu: apt-get install {package}. Or set SWITCHTOWER_MONGODB_URL."
        )
    if re.search(r"version `(GLIBC|GLIBCXX)_\S+' not found", said):
        return ConfigurationError(
            "The embedded MongoDB needs glibc 2.34 or newer (Debian 12, Ubuntu 22.04, or later). "
            "Put a mongod for this system on PATH, or set SWITCHTOWER_MONGODB_URL."
        )
    if code == -signal.SIGILL:
        return ConfigurationError(
            "The embedded MongoDB needs a processor with AVX, which this one lacks. Set SWITCHTOWER_MONGODB_URL."
        )
    if re.search(r"featureCompatibilityVersion|UPGRADE PROBLEM|unsupported WiredTiger file version", said):
        return ConfigurationError(
            f"The data in {data} was written by another major version of MongoDB than the mongod found here. "
            "Put that version on PATH, or choose a new --data-dir."
        )
    if code == 100:
        return ConfigurationError(
            f"Another mongod, not started by Switchtower, has {data} open. End it, or choose another --data-dir."
        )
    if "No space left on device" in said:
        return StoreUnavailable(f"The disk that holds {data} is full. Make room and start again.")
    last = said.strip().rsplit("\n", 1)[-1][:400]
    return StoreUnavailable(f"mongod ended with code {code} while starting ({last}). Its log is {log}.")


def _bundled_mongod() -> Path | None:
    # Importing the package would run its own start-up code; only its place on disk is wanted.
    spec = importlib.util.find_spec("fiftyone")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        candidate = Path(place) / "db" / "bin" / "mongod"
        if os.access(candidate, os.X_OK):
            return candidate
    return None


def _version_of(mongod: Path) -> tuple[int, int] | None:
    try:
        answer = subprocess.run([mongod, "--version"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"db version v(\d+)\.(\d+)", answer.stdout)
    return (int(found[1]), int(found[2])) if found else None
