"""make bench: what one probe hit costs, the kernel beside the shim, in one interleaved run.

Each side has a target of its own, both of one binary and on one CPU, and one unchanged libbpf
loader. A round measures every row on every side before the next round begins, so that a busy
machine is busy for both. A figure is the median over the rounds of (function with the probe minus
function without), where each is the lower quartile of 21 chunks of 300 µs of thread CPU time
(target.c); the spread is between the quartiles of the rounds. Compare ratios of one run; absolute
figures belong to the machine and the hour.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HERE = Path(__file__).resolve().parent

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way  # noqa: E402
from compat_tests.oracle import kernel  # noqa: E402
from compat_tests.victims import build  # noqa: E402

FUNCTIONS = ("f_nop5", "f_push", "f_mov", "f_endbr")
FASTEST = "f_nop5"  # the function whose probes cost the kernel least
RATIO = 40  # how many times below the kernel's the shim is to be there, where it says so


@dataclass(frozen=True)
class Row:
    """program, place and kind are the loader's words; function is the target's."""

    label: str
    program: str
    place: str
    kind: str
    function: str
    most: float  # ns, what NUMBERS.md sets
    ratio: float = 1.0  # the kernel's over the shim's, at least
    drained: bool = False  # fills the ring buffer
    reads: bool = False  # memory, which is quick some time after the attach (attach/quick.py)


# what is attached, the program, how, and the most ns it is to add
EACH = (
    ("uprobe, empty program", "empty", "e", 10),
    ("uprobe, array counter", "array", "e", 12),
    ("uprobe, per-CPU counter", "percpu", "e", 14),
    ("uprobe, hash increment", "hash", "e", 20),
    ("uprobe, hash update", "update", "e", 30),
    ("uprobe, ring buffer, 64 bytes", "ring", "e", 30),
    ("uretprobe, empty program", "empty", "r", 20),
    ("uprobe and uretprobe", "empty", "b", 30),
)


def _rows() -> list[Row]:
    rows = []
    for function in FUNCTIONS:
        for label, program, kind, most in EACH:
            far = function == FASTEST and program in ("empty", "array") and kind == "e"
            rows.append(Row(f"{label}, {function.removeprefix('f_')}", program, function, kind,
                            function, most, RATIO if far else 1.0, program == "ring"))
    rows.append(Row("uprobe, 16 bytes and a string read", "text", "f_text", "e", "f_text", 80,
                    reads=True))
    rows.append(Row("USDT, 2 arguments", "two", "two", "u", "f_usdt", 15))
    rows.append(Row("tracepoint sys_enter_getppid", "call", "getppid", "t", "getppid", 25))
    return rows


class Side:
    """One way of running BPF: a target and a loader that wait for orders."""

    def __init__(self, way: Way, files: dict[str, Path], cpus: tuple[str, ...] = ()) -> None:
        self.name = way.name
        self.folder = build.private_copy(files)
        target = [f"{self.folder}/target", *(cpus or (str(max(os.sched_getaffinity(0))),))]
        self.target = Session(way.target(target), stdin=subprocess.PIPE)
        self.target.until(b"\n")
        argv = [f"{self.folder}/loader", f"{self.folder}/bench.bpf.o", f"{self.folder}/target"]
        self.loader = Session(way.tool(argv), stdin=subprocess.PIPE)
        self.loader.until(b"ok\n")

    def close(self) -> None:
        self.loader.__exit__()
        self.target.__exit__()
        shutil.rmtree(self.folder)

    def order(self, line: str) -> str:
        """One line to the loader; empty if it worked, else why not."""
        self.loader.seen = b""
        self.loader.send(line.encode() + b"\n")
        self.loader.until(b"\n")
        last = self.loader.seen.decode().strip().splitlines()[-1]
        return "" if last == "ok" else last

    def cost(self, function: str, drained: bool = False) -> float:
        """ns a call of FUNCTION, as it is now; drained: emptying the ring buffer meanwhile."""
        self.target.seen = b""
        self.target.send(f"{function}{' drained' * drained}\n".encode())
        while True:
            self.target.until(b"\n")
            last = self.target.seen.decode().splitlines()[-1]
            if last != "full":
                return float(last.split()[1])
            if why := self.order("drain"):
                raise OSError(f"{self.name}: ring buffer: {why}")
            self.target.seen = b""
            self.target.send(b"drained\n")

    def probed(self, row: Row) -> float | str:
        """ns that the probe of ROW adds, or why it cannot be attached."""
        bare = self.cost(row.function)
        why = self.order(f"{row.program} {row.place} {row.kind}")
        if why:
            return why
        if row.reads and self.name == SHIM.name:
            self._until_quick(row)
        with_probe = self.cost(row.function, row.drained)
        why = self.order("detach")
        return why or with_probe - bare


    def _until_quick(self, row: Row) -> None:
        """The target has the handler that is put by a hit, and has had it for the 20 ms that it is
        to stand before it is believed in; if none comes, that is measured."""
        end = time.monotonic() + 3
        while time.monotonic() < end and not self._caught() >> signal.SIGSEGV - 1 & 1:
            self.cost(row.function)
        end = time.monotonic() + 0.2
        while time.monotonic() < end:
            self.cost(row.function)

    def _caught(self) -> int:
        """Signals for which the target has handlers."""
        text = Path(f"/proc/{self.target.child.pid}/status").read_text()
        return int(next(line.split()[1] for line in text.splitlines()
                        if line.startswith("SigCgt:")), 16)


@dataclass(frozen=True)
class Figure:
    """Of one row on one side, in ns: median and quartiles of the rounds. why: there is none."""

    median: float = 0.0
    low: float = 0.0
    high: float = 0.0
    why: str = ""

    @classmethod
    def of(cls, found: list[float]) -> Figure:
        cuts = statistics.quantiles(found, method="inclusive") if len(found) > 1 else found * 3
        return cls(round(cuts[1], 1), round(cuts[0], 1), round(cuts[2], 1))


Found = dict[Row, dict[str, Figure]]


def gather(sides: list[Side], rows: list[Row], rounds: int) -> Found:
    """Each row's figure on each side, by its name."""
    figures: dict[Row, dict[str, list[float]]] = {row: {} for row in rows}
    reasons: dict[Row, dict[str, Figure]] = {row: {} for row in rows}
    for turn in range(rounds):
        for row in rows:
            for side in sides if turn % 2 else reversed(sides):
                value = side.probed(row)
                if isinstance(value, str):
                    reasons[row][side.name] = Figure(why=value)
                else:
                    figures[row].setdefault(side.name, []).append(value)
    return {row: {**{name: Figure.of(v) for name, v in figures[row].items()}, **reasons[row]}
            for row in rows}  # fmt: skip


def verdict(row: Row, values: dict[str, Figure]) -> tuple[float, str]:
    """How many times the kernel's cost is the shim's (0: not known), and what is missed."""
    shim, kernels = values.get("shim", Figure(why="-")), values.get("kernel", Figure(why="-"))
    if shim.why:
        return 0.0, ""
    missed = f"over by {shim.median - row.most:.1f}" if shim.median > row.most else ""
    if kernels.why:
        return 0.0, missed
    ratio = kernels.median / max(shim.median, 0.1)
    if ratio < row.ratio:
        missed += f"{', ' if missed else ''}not {row.ratio:g}x"
    return ratio, missed


def table(found: Found, names: list[str]) -> str:
    """A line a row: each side's median and quartiles, the ratio, the target and what is missed."""
    lines = [f"{'ns a hit, above the bare function':40}" + "".join(f"{n:>26}" for n in names)
             + f"{'ratio':>9}{'target':>8}"]  # fmt: skip
    for row, values in found.items():
        text = ""
        for name in names:
            figure = values[name]
            text += f"{figure.why:>26}" if figure.why else (
                f"{figure.median:>9.1f} {f'[{figure.low:.1f} to {figure.high:.1f}]':>16}")
        ratio, missed = verdict(row, values)
        shown = f"{ratio:>8.1f}x" if ratio else f"{'-':>9}"
        lines.append(f"{row.label:40}{text}{shown}{row.most:>8.0f}  {missed}".rstrip())
    return "\n".join(lines)


def as_json(found: Found) -> str:
    out = []
    for row, values in found.items():
        sides = {name: {"error": f.why} if f.why else
                 {"ns": f.median, "low": f.low, "high": f.high} for name, f in values.items()}
        ratio, missed = verdict(row, values)
        out.append({"row": row.label, **sides, "ratio": round(ratio, 1), "target_ns": row.most,
                    "target_ratio": row.ratio, "missed": missed})  # fmt: skip
    return json.dumps(out, indent=1)


def good(values: dict[str, Figure], names: list[str]) -> bool:
    """Measured on each side, and the shim's is the cheaper one."""
    if any(values[name].why for name in names):
        return False
    return len(names) < 2 or values["shim"].median < values["kernel"].median


def main() -> int:
    """Builds, measures, prints; 1 if a row is missing or slower than the kernel's."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["kernel", "shim"], help="one side alone")
    parser.add_argument("--match", default="", help="rows whose label contains this")
    chosen = parser.parse_args()
    ways = [way for way in (KERNEL, SHIM) if chosen.only in (None, way.name)]
    if kernel.why_not() and KERNEL in ways:
        print(f"bench: no kernel column: {kernel.why_not()}", file=sys.stderr)
        ways.remove(KERNEL)
    files = {
        "target": build.make("target", [HERE / "target.c"], [*build.WARN, "-O2"]),
        "loader": build.make("loader", [HERE / "loader.c"], [*build.WARN, "-O2"], ["-lbpf"]),
        "bench.bpf.o": build.make("bench.bpf.o", [HERE / "bench.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG),
    }
    rows = [row for row in _rows() if chosen.match in row.label]
    sides: list[Side] = []
    try:
        for way in ways:
            sides.append(Side(way, files))
        found = gather(sides, rows, chosen.rounds)
    finally:
        for side in sides:
            side.close()
    names = [way.name for way in ways]
    print(as_json(found) if chosen.json else table(found, names))
    return 0 if all(good(values, names) for values in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
