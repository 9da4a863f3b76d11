"""A PostgreSQL server of the guard's user, and its client."""

from __future__ import annotations

import functools
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compat_tests.clients.tool import Way
from compat_tests.guard import launch
from compat_tests.victims import build

LIMIT = 30.0


def postgres() -> Path | None:
    """The newest server of the distribution's packages."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return found[-1] if found else None


@functools.cache
def cluster(server: Path) -> Path:
    """A fresh database cluster, made once and copied for each use. initdb refuses root."""
    place = build.CACHE / f"postgres-{server.parent.parent.name}"
    if (place / "data" / "PG_VERSION").exists():
        return place / "data"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    command = [str(server.with_name("initdb")), "-A", "trust", "-N", "--no-locale", "-E",
               "SQL_ASCII", "-U", "postgres", "--wal-segsize=1", "-D", str(place / "data")]
    if os.getuid() == 0:
        shutil.chown(place, "postgres")
        place.chmod(0o755)
        command = ["runuser", "-u", "postgres", "--", *command]
    subprocess.run(command, check=True, capture_output=True, timeout=LIMIT)
    return place / "data"


def _give(folder: Path) -> None:
    if os.getuid() == 0:
        for root, folders, files in os.walk(folder):
            for name in (".", *folders, *files):
                os.chown(os.path.join(root, name), launch.UID, launch.UID)
    folder.chmod(0o700)


@contextmanager
def running(way: Way, server: Path) -> Iterator[Path]:
    """The folder with its socket, while the server runs: under the shim, or as it is."""
    with tempfile.TemporaryDirectory(prefix="pg-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        shutil.copytree(cluster(server), data)
        _give(data)
        argv = [str(server), "-D", str(data), "-k", str(data), "-h", "", "-F", "-c",
                "autovacuum=off", "-c", "jit=off", "-c", "max_worker_processes=0"]
        command = launch.guarded(argv) if way.name == "kernel" else way.target(argv)
        with open(folder / "log", "wb") as log:
            child = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            _wait(child, data, folder / "log")
            yield data
        finally:
            if child.poll() is None:
                os.kill(int((data / "postmaster.pid").read_text().split()[0]), signal.SIGINT)
            child.wait(LIMIT)


def _wait(child: subprocess.Popen[bytes], data: Path, log: Path) -> None:
    end = time.monotonic() + LIMIT
    while b"ready to accept" not in log.read_bytes():
        assert child.poll() is None and time.monotonic() < end, log.read_text()
        time.sleep(0.02)  # between two looks, under the deadline above


def ask(data: Path, file: Path) -> str:
    """What psql prints for a file of statements."""
    done = subprocess.run(
        ["psql", "-X", "-h", str(data), "-U", "postgres", "-d", "postgres", "-f", str(file)],
        capture_output=True, text=True, timeout=LIMIT, check=False)
    return done.stdout + done.stderr
