"""Part of make bench: two threads (or more) on CPUs of their own against one, the kernel beside
the shim.

Each side has a target (scales.c) whose threads call one function, and the loader of bench.py. How
much more they do than one is (calls a second of all) over (calls a second of one alone), probe and
all; the median over the rounds, sides interleaved. The first row is the function without a probe:
what the machine itself has. 1 if the shim's is less than WANTED a thread in some row.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from compat_tests.clients.tool import KERNEL, SHIM  # noqa: E402
from compat_tests.oracle import kernel  # noqa: E402
from compat_tests.victims import build  # noqa: E402
from tools.bench import bench  # noqa: E402

WANTED = 0.9  # of what one does, a thread
# what is attached to the function, and its program; "": none
ROWS = (("no probe", ""), ("empty program", "empty"), ("per-CPU counter", "percpu"),
        ("hash increment, a key a thread", "own"), ("hash update, a key a thread", "own_update"),
        ("LRU update, a key a thread", "own_lru"))


class Found(NamedTuple):
    """alone, all: ns a call of one thread, and of all together. share: of chunks that counted."""

    alone: float
    all: float
    share: float

    @property
    def times(self) -> float:
        return self.alone / self.all


class Side(bench.Side):
    """bench.py's, with another target."""

    def measure(self, program: str) -> Found | str:
        """With a program attached, or none; why it cannot be."""
        if program and (why := self.order(f"{program} f_nop5 e")):
            return why
        self.target.seen = b""
        self.target.send(b"\n")
        self.target.until(b"\n", limit=60)
        found = Found(*map(float, self.target.seen.decode().split()[1:]))
        return (self.order("detach") if program else "") or found


def main() -> int:
    """Builds, measures, prints."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["kernel", "shim"], help="one side alone")
    parser.add_argument("--threads", type=int, default=2)
    chosen = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))
    if not 2 <= chosen.threads <= len(cpus):
        print(f"scales: {len(cpus)} CPUs, {chosen.threads} threads: nothing to compare")
        return 0
    cpus = [*cpus[: chosen.threads - 1], cpus[-1]]
    ways = [way for way in (KERNEL, SHIM) if chosen.only in (None, way.name)]
    if kernel.why_not() and KERNEL in ways:
        print(f"scales: no kernel column: {kernel.why_not()}", file=sys.stderr)
        ways.remove(KERNEL)
    files = {
        "target": build.make("scales", [HERE / "scales.c"], [*build.WARN, "-O2", "-pthread"]),
        "loader": build.make("loader", [HERE / "loader.c"], [*build.WARN, "-O2"], ["-lbpf"]),
        "bench.bpf.o": build.make("bench.bpf.o", [HERE / "bench.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG),
    }
    found: dict[str, dict[str, list[Found]]] = {label: {} for label, _ in ROWS}
    sides: list[Side] = []
    try:
        for way in ways:
            sides.append(Side(way, files, tuple(map(str, cpus))))
        for turn in range(chosen.rounds):
            for label, program in ROWS:
                for side in sides if turn % 2 else reversed(sides):
                    value = side.measure(program)
                    if isinstance(value, str):
                        print(f"scales: {side.name}: {label}: {value}")
                        return 1
                    found[label].setdefault(side.name, []).append(value)
    finally:
        for side in sides:
            side.close()
    return shown(found, [way.name for way in ways], chosen.threads)


def shown(found: dict[str, dict[str, list[Found]]], names: list[str], threads: int) -> int:
    """A line a row: ns a call alone, how many times one thread's calls all make, the misses."""
    head = "".join(f"{f'{name}, alone':>16}{'times':>8}" for name in names)
    print(f"{f'{threads} threads, each on a CPU of its own':40}{head}{'wanted':>8}")
    missed, wanted = 0, WANTED * threads
    for label, by_side in found.items():
        text, over = "", ""
        for name in names:
            times = statistics.median(one.times for one in by_side[name])
            alone = statistics.median(one.alone for one in by_side[name])
            text += f"{alone:>16.1f}{times:>8.2f}"
            if name == "shim" and times < wanted:
                over, missed = f"under by {wanted - times:.2f}", 1
        share = statistics.median(one.share for values in by_side.values() for one in values)
        if share < 0.1:
            over += ", the machine is busy" if over else "the machine is busy"
        print(f"{label:40}{text}{wanted:>8.1f}  {over}".rstrip())
    return missed


if __name__ == "__main__":
    sys.exit(main())
