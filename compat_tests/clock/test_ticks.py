"""A clock of one process, which was started without the shim: it gets an agent, ticks in the
thread that was named, and loses all of it again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way, run
from compat_tests.guard import launch
from compat_tests.victims import build

HERE = Path(__file__).parent
ENOUGH = 60


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({
        "load": build.make("load", [HERE / "load.c"], [*build.WARN, "-O1"], ["-lbpf"]),
        "busy": build.make("busy", [HERE / "busy.c"], [*build.WARN, "-O1", "-pthread"]),
        "ticker.bpf.o": build.make("ticker.bpf.o", [HERE / "ticker.bpf.c"], build.BPF_FLAGS,
                                   compiler=build.CLANG)})
    yield place
    shutil.rmtree(place)


def caught(pid: int) -> int:
    found = re.search(r"SigCgt:\t(\w+)", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1], 16)


def go() -> Path:
    """The program in Go, without cgo."""
    folder = build.CACHE / "busy-go"
    folder.mkdir(parents=True, exist_ok=True)
    target, source = folder / "busy", HERE / "busy.go"
    if not target.exists() or target.stat().st_mtime < source.stat().st_mtime:
        environment = {**os.environ, "CGO_ENABLED": "0", "GOCACHE": str(folder / "cache"),
                       "GO111MODULE": "off"}
        subprocess.run(["go", "build", "-o", str(target), str(source)], env=environment,
                       check=True, capture_output=True, timeout=120)
    return target


def other(kind: str) -> Path:
    """A program that is linked statically."""
    if kind == "go":
        return go()
    return build.make(f"busy-{kind}", [HERE / "busy.c"], ["-O1", "-pthread", "-static"],
                      compiler="musl-gcc" if kind == "musl" else "gcc")


@pytest.mark.parametrize("kind", ["glibc", "musl", "go"])
def test_a_static_program_is_sampled_in_all_its_threads(folder: Path, kind: str) -> None:
    if not shutil.which({"musl": "musl-gcc", "go": "go"}.get(kind, "gcc")):
        pytest.skip(f"no compiler for {kind}")
    shutil.copy(other(kind), folder / "static")
    victim = [f"{folder}/static", "stay"]
    with Session(launch.guarded(victim, preload=False), stdin=subprocess.PIPE) as target:
        target.until(b"\n")
        pid = int(target.seen.split()[1])
        before = caught(pid)
        for _ in range(2):
            outcome = run(SHIM.tool([
                "env", f"CLOCK_PID={pid}", f"ENOUGH={ENOUGH // 4}", "INHERIT=1", f"{folder}/load",
                f"{folder}/ticker.bpf.o", "none", "true"]))
            assert outcome.status == 0, outcome
            out = {int(at): int(n) for at, n in re.findall(r"out\[(\d)\] (\d+)", outcome.out)}
            assert out[5] >= out[4] >= out[3] >= out[2] >= out.get(0, 0) + out[1]
        end = time.monotonic() + 20
        while left(pid, before) and time.monotonic() < end:
            time.sleep(0.05)
        assert not left(pid, before)
        target.send(b"end\n")
        assert target.end().status == 0


@pytest.mark.parametrize("way", [SHIM, pytest.param(KERNEL, marks=[pytest.mark.kernel])],
                         ids=lambda way: way.name)
def test_a_clock_of_a_running_process_ticks_in_the_thread_that_was_named(
    folder: Path, way: Way
) -> None:
    victim = [f"{folder}/busy", "stay"]
    with Session(launch.guarded(victim, preload=False), stdin=subprocess.PIPE) as target:
        target.until(b"\n")
        pid = int(target.seen.split()[1])
        before = caught(pid)
        outcome = run(way.tool(["env", f"CLOCK_PID={pid}", f"ENOUGH={ENOUGH}", f"{folder}/load",
                                f"{folder}/ticker.bpf.o", "none", "true"]))
        assert outcome.status == 0, outcome
        out = {int(at): int(n) for at, n in re.findall(r"out\[(\d)\] (\d+)", outcome.out)}
        assert 1 not in out
        assert out[5] >= out[4] >= out[3] >= out[2] >= max(out[0], ENOUGH)
        end = time.monotonic() + 20
        while left(pid, before) and time.monotonic() < end:
            time.sleep(0.05)
        assert not left(pid, before)
        target.send(b"end\n")
        assert target.end().status == 0


def left(pid: int, caught_before: int) -> list[str]:
    """What of ours is still in the process."""
    maps = Path(f"/proc/{pid}/maps").read_text()
    found = [line for line in maps.splitlines() if "memfd" in line or "shim" in line]
    found += Path(f"/proc/{pid}/timers").read_text().splitlines()
    return found + (["a handler"] if caught(pid) != caught_before else [])
