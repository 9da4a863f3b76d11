"""How long tools and targets take to start, and a thousand sites to be attached: kernel and shim.

Part of `make bench`. Rounds are interleaved; figures are medians of wall clock in ms. *cold*:
nothing is kept of an earlier run (verdicts, images, plans); *kept*: their files are there; each
with a backend of its own, which has to start. *joined*: the backend runs. The page cache is
warm. A tool is ready when it says so; `BEGIN { exit(); }` is bpftrace's whole run. What the
agent adds to a target is the difference of a program's whole run with it and without; what it
has mapped, that of its VmSize: files, reservations, everything. Detached is when the first and
the last function of the target have their bytes back. *ratio* is the shim's over the kernel's.
Nothing is asserted: what could not be measured is said on stderr and left out.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HERE = Path(__file__).resolve().parent

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way, run  # noqa: E402
from compat_tests.guard import launch  # noqa: E402
from compat_tests.oracle import kernel  # noqa: E402
from compat_tests.victims import build  # noqa: E402
from libbpf_shim.elf.module import Module  # noqa: E402

SITES = 1000
COLD, WARM, JOINED = (f"loader with 8 uprobes, {how}" for how in ("cold", "kept", "joined"))
BPFTRACE, AGENT = "bpftrace 'BEGIN { exit(); }'", "agent, added to a target's start"
ATTACH_COLD = f"attach {SITES} sites (uprobe_multi), cold"
ATTACH, DETACH = f"attach {SITES} sites, kept", f"detach {SITES} sites"
SINGLES = 8
SINGLE = "attach a site by a link of its own"
MAPPED = "mapped by the agent in a target, KiB"
TARGETS = {COLD: "<= 150", WARM: "<= 60", JOINED: "", BPFTRACE: "<= 1.6x", AGENT: "<= 2",
           ATTACH_COLD: "", ATTACH: "<= 50", DETACH: "<= 5", SINGLE: "", MAPPED: "<= 2048"}
OWN = {"LIBBPF_SHIM_SESSION": "private"}  # a backend of its own
Figures = dict[str, dict[str, list[float]]]


class NotThereError(Exception):
    """Something was not attached, or not detached."""


def ms(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return (time.perf_counter() - began) * 1e3


def forget() -> None:
    """What backends of the guard's user kept."""
    for folder in ("cache", "verdicts"):
        shutil.rmtree(launch.RUN_DIR / folder, ignore_errors=True)


def alone() -> None:
    """The last backend has ended, and kept what is to be kept."""
    sessions, end = launch.RUN_DIR / "sessions", time.monotonic() + 10
    while sessions.is_dir() and any(sessions.iterdir()) and time.monotonic() < end:
        time.sleep(0.01)


def command(way: Way, argv: list[str], own: bool) -> list[str]:
    return launch.guarded(argv, preload=True, env=OWN) if own and way is SHIM else way.tool(argv)


class Places:
    """The target's functions in its file, and their bytes in a process."""

    def __init__(self, target: Path) -> None:
        module = Module(str(target))
        found = [s for s in module.symbols if re.fullmatch(r"s_\d+", s.name)]
        self.offsets = [module.vaddr_to_offset(s.vaddr)
                        for s in sorted(found, key=lambda s: int(s.name[2:]))]

    def whole(self, pid: int) -> bool:
        """The first and the last function have their first byte, `push %rbx`."""
        base = 0
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            if "start_target" in line and " 00000000 " in line:
                base = int(line.split("-")[0], 16)
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            for offset in (self.offsets[0], self.offsets[-1]):
                memory.seek(base + offset)
                if memory.read(1) != b"\x53":
                    return False
        return True


def ready(way: Way, folder: Path, own: bool = True) -> float:
    """A libbpf loader, from its start until its eight uprobes are there."""
    argv = command(way, [f"{folder}/start", f"{folder}/bench.bpf.o", f"{folder}/start_target",
                         "s_", "8"], own)
    with Session(argv, stdin=subprocess.PIPE) as loader:
        spent = ms(lambda: loader.until(b"ready\n"))
        loader.send(b"\n")
        loader.end()
    return spent


def attached(loader: Session) -> float:
    """What its attaching took, as it says."""
    return int(re.findall(rb"attach (\d+)", loader.seen)[0]) / 1e6


def single(way: Way, folder: Path) -> float:
    """A link at one place, while a process runs that has the file mapped; some, one by one."""
    argv = command(way, [f"{folder}/start", f"{folder}/bench.bpf.o", f"{folder}/start_target",
                         "s_", str(SINGLES)], True)
    with Session(way.target([f"{folder}/start_target"]), stdin=subprocess.PIPE) as target:
        target.until(b"\n")
        with Session(argv, stdin=subprocess.PIPE) as loader:
            loader.until(b"ready\n")
            loader.send(b"\n")
            loader.end()
            return attached(loader) / SINGLES


def thousand(way: Way, folder: Path, places: Places) -> tuple[float, float]:
    """A link of all functions in one process that runs: attached, detached."""
    argv = command(way, [f"{folder}/start", f"{folder}/bench.bpf.o", f"{folder}/start_target",
                         "s_", str(SITES), "multi"], True)
    with Session(way.target([f"{folder}/start_target"]), stdin=subprocess.PIPE) as target:
        target.until(b"\n")
        pid = int(re.findall(rb"pid (\d+)", target.seen)[0])
        with Session(argv, stdin=subprocess.PIPE) as loader:
            loader.send("".join(f"{offset}\n" for offset in places.offsets).encode())
            loader.until(b"ready\n")
            attach = attached(loader)
            if places.whole(pid):
                raise NotThereError(loader.seen.decode(errors="replace"))

            def back() -> None:
                loader.send(b"\n")
                while not places.whole(pid):
                    time.sleep(1e-4)  # who spins has the CPU of those whom he waits for

            detach = ms(back)
            loader.end()
    return attach, detach


def added() -> float:
    """ms that a program's run takes more with the library than without it."""
    return (ms(partial(run, launch.guarded(["true"], preload=True)))
            - ms(partial(run, launch.guarded(["true"]))))


def mapped() -> float:
    """KiB that a process has mapped more with the library than without it."""
    def size(preload: bool) -> float:
        argv = launch.guarded(["grep", "VmSize", "/proc/self/status"], preload=preload,
                              env={"LIBBPF_SHIM_AGENT": "1"} if preload else None)
        return float(run(argv).out.split()[1])

    return size(True) - size(False)


def gather(ways: list[Way], folder: Path, rounds: int) -> Figures:
    """Every figure of every round."""
    found: Figures = {name: {way.name: [] for way in ways} for name in TARGETS}
    places = Places(folder / "start_target")
    for turn in range(rounds):
        for way in ways if turn % 2 else reversed(ways):
            def note(
                work: Callable[[], float | tuple[float, ...]], *names: str, side: str = way.name
            ) -> None:
                try:
                    values = work()
                except Exception as error:  # one figure less, whatever it was
                    what = names[0] if names else JOINED
                    print(f"start: {what}: {side}: {error}", file=sys.stderr)
                    return
                row = values if isinstance(values, tuple) else (values,)
                for name, value in zip(names, row, strict=False):
                    found[name][side].append(value)

            if way is SHIM:
                alone()
                forget()
                note(partial(ready, way, folder), COLD)
                note(added, AGENT)
                note(partial(thousand, way, folder, places), ATTACH_COLD)
                alone()
            note(partial(ready, way, folder), WARM)
            if way is SHIM:
                note(partial(ready, way, folder, own=False))
                note(partial(ready, way, folder, own=False), JOINED)
            note(partial(ms, partial(run, way.tool(["bpftrace", "-e", "BEGIN { exit(); }"]))),
                 BPFTRACE)
            if way is SHIM:
                alone()  # a session that ends has its keeper stop the processes that it was in
            note(partial(thousand, way, folder, places), ATTACH, DETACH)
            note(partial(single, way, folder), SINGLE)
    if SHIM in ways:
        with contextlib.suppress(OSError):
            alone()  # a process that begins meets a session that is there
            found[MAPPED][SHIM.name].append(mapped())
    return found


def line(name: str, sides: dict[str, float], ways: list[Way]) -> str:
    """A row of the table."""
    cells = "".join(f"{sides.get(way.name, '-'):>10}" for way in ways)
    both = [sides.get(way.name, 0) for way in (SHIM, KERNEL)]
    ratio = f"{both[0] / both[1]:.2f}" if all(both) else "-"
    return f"{name:42}{cells}{ratio:>10}   {TARGETS[name]}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="start")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    ways = [SHIM] if kernel.why_not() else [KERNEL, SHIM]
    files = {
        "start": build.make("start", [HERE / "start.c"], [*build.WARN, "-O2"], ["-lbpf"]),
        "start_target": build.make("start_target", [HERE / "start_target.c"], ["-O2"]),
        "bench.bpf.o": build.make("bench.bpf.o", [HERE / "bench.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG),
    }
    folder = build.private_copy(files)
    with contextlib.ExitStack() as stack:
        stack.callback(shutil.rmtree, folder)
        found = gather(ways, folder, chosen.rounds)
    middle = {name: {side: round(statistics.median(values), 2)
                     for side, values in sides.items() if values}
              for name, sides in found.items()}
    if chosen.json:
        print(json.dumps(middle))
        return 0
    heads = "".join(f"{head:>10}" for head in (*(way.name for way in ways), "ratio"))
    print(f"{f'ms of wall clock, medians of {chosen.rounds}':42}{heads}   target")
    for name, sides in middle.items():
        print(line(name, sides, ways))
    return 0


if __name__ == "__main__":
    sys.exit(main())
