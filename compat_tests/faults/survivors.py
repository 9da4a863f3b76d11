"""Who of a shim session is alive, and what must hold once somebody was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from compat_tests.clients.processes import Victim
from compat_tests.guard import launch

GRACE = 30.0  # seconds after which something that should have gone is an error
PARTS = {"backend": b"libbpf_shim.backend", "keeper": b"/_bin/keeper"}


def of_user() -> Iterator[tuple[int, bytes]]:
    """(pid, command line) of each living process of the guard's user."""
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if entry.stat().st_uid != launch.UID:
                continue
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
            if state not in "ZX":
                yield int(entry.name), (entry / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue


def shim_processes(part: str = "") -> list[int]:
    """Backends and keepers of the guard's user, or PART alone."""
    marks = [PARTS[part]] if part else list(PARTS.values())
    return [pid for pid, line in of_user() if any(mark in line for mark in marks)]


def picture() -> str:
    """What each process of the guard's user is doing, thread by thread: for a hang's report."""
    lines = []
    for pid, line in of_user():
        lines.append(f"{pid} {line.replace(bytes(1), b' ').decode(errors='replace')[:120]}")
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                state = (task / "stat").read_text().rsplit(")", 1)[1].split()[0]
                what = (task / "syscall").read_text().strip()
                lines.append(f"  {task.name} {state} {(task / 'wchan').read_text()} {what}")
        except OSError:
            continue
    return "\n".join(lines)


def wait_for(what: str, condition: Callable[[], object], limit: float = GRACE) -> None:
    """Looks until CONDITION holds; WHAT is the error's text after LIMIT seconds."""
    end = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < end, f"after {limit} s: {what}"
        time.sleep(0.01)  # between two looks, under the deadline above


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def inert_sites() -> list[object]:
    """What `bpf-shim doctor` lists as patched and silent."""
    python = str(launch.product() / ".venv" / "bin" / "python")
    argv = launch.guarded([python, "-m", "libbpf_shim", "doctor", "-j"],
                          env={"PYTHONPATH": str(launch.product())})
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    findings = json.loads(done.stdout)
    return [f for f in findings if f["check"] == "sessions" and "inert" in f["what"]]


def healthy(victim: Victim, code: str) -> None:
    """VICTIM works; its code is CODE again, or doctor names the sites that stayed."""
    victim.rounds(50)
    try:
        victim.code_becomes(code, 5.0)
    except AssertionError:
        assert inert_sites(), "code not restored, and doctor lists no inert site"
    else:
        wait_for("memory of a session is left", lambda: not shared_memory(victim.pid))
    victim.rounds(50)


def shared_memory(pid: int) -> list[str]:
    """Shared memory of the shim that a process maps."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return [line for line in maps if "memfd:bpf-" in line]


def nothing_left() -> None:
    """No backend and no keeper of the guard's user."""
    wait_for("a backend or keeper is left", lambda: not shim_processes())


def sessions() -> list[str]:
    """Names of the session folders of the guard's user, dead ones included."""
    folder = launch.RUN_DIR / "sessions"
    return sorted(os.listdir(folder)) if folder.exists() else []
