"""make bench: what one probe hit costs, the kernel beside the shim, in one interleaved run.

Each side has a target of its own and one unchanged libbpf loader. A round measures every row on
every side before the next round begins, so that a busy machine is busy for both. A figure is
the median over the rounds of (function with the probe minus function without), where each is
the lower quartile of 21 chunks of 300 µs of thread CPU time (target.c). Compare ratios of one
run; absolute figures belong to the machine and the hour.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HERE = Path(__file__).resolve().parent

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way  # noqa: E402
from compat_tests.oracle import kernel  # noqa: E402
from compat_tests.victims import build  # noqa: E402

FUNCTIONS = ("f_nop5", "f_push", "f_mov", "f_endbr")
KINDS = {"e": "uprobe", "r": "uretprobe", "b": "both"}
PROGRAMS = {"empty": "empty program", "array": "array counter", "percpu": "per-CPU counter",
            "hash": "hash lookup, increment", "update": "hash lookup, update"}
# Every function with an empty program; the programs with maps on the function that costs the
# kernel least.
ROWS = [("empty", function, kind) for function in FUNCTIONS for kind in KINDS] + [
    (program, "f_nop5", kind) for program in ("array", "percpu", "hash", "update")
    for kind in ("e", "r")]
Row = tuple[str, str, str]


class Side:
    """One way of running BPF: a target and a loader that wait for orders."""

    def __init__(self, way: Way, files: dict[str, Path]) -> None:
        self.name = way.name
        self.folder = build.private_copy(files)
        self.target = Session(way.target([f"{self.folder}/target"]), stdin=subprocess.PIPE)
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

    def cost(self, function: str) -> float:
        """ns a call of FUNCTION, as it is now."""
        self.target.seen = b""
        self.target.send(function.encode() + b"\n")
        self.target.until(b"\n")
        return float(self.target.seen.split()[1])

    def probed(self, row: Row) -> float | str:
        """ns that the probe of ROW adds, or why it cannot be attached."""
        bare = self.cost(row[1])
        why = self.order(" ".join(row))
        if why:
            return why
        with_probe = self.cost(row[1])
        why = self.order("detach")
        return why or with_probe - bare


def label(row: Row) -> str:
    program, function, kind = row
    return f"{KINDS[kind]}, {PROGRAMS[program]}, {function.removeprefix('f_')}"


def gather(sides: list[Side], rows: list[Row], rounds: int) -> dict[Row, dict[str, float | str]]:
    """Median of ROUNDS for each row and side; a reason where it could not be attached."""
    figures: dict[Row, dict[str, list[float]]] = {row: {} for row in rows}
    reasons: dict[Row, dict[str, str]] = {row: {} for row in rows}
    for turn in range(rounds):
        for row in rows:
            for side in sides if turn % 2 else reversed(sides):
                value = side.probed(row)
                if isinstance(value, str):
                    reasons[row][side.name] = value
                else:
                    figures[row].setdefault(side.name, []).append(value)
    return {row: {**{name: round(statistics.median(v), 1) for name, v in figures[row].items()},
                  **reasons[row]} for row in rows}


def table(found: dict[Row, dict[str, float | str]], names: list[str]) -> str:
    """Rows with a column a side, and how many times the kernel's cost is the shim's."""
    lines = [f"{'ns a hit, added to the bare function':46}" + "".join(f"{n:>12}" for n in names)
             + f"{'ratio':>9}"]
    for row, values in found.items():
        cells = [values.get(name, "-") for name in names]
        text = "".join(f"{c:>12.1f}" if isinstance(c, float) else f"{c!s:>12}" for c in cells)
        numbers = [c for c in cells if isinstance(c, float)]
        ratio = f"{numbers[0] / numbers[1]:>8.1f}x" if len(numbers) == 2 and numbers[1] > 0 else ""
        lines.append(f"{label(row):46}{text}{ratio}")
    return "\n".join(lines)


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
                                  compiler="clang-14"),
    }
    rows = [row for row in ROWS if chosen.match in label(row)]
    sides: list[Side] = []
    try:
        for way in ways:
            sides.append(Side(way, files))
        found = gather(sides, rows, chosen.rounds)
    finally:
        for side in sides:
            side.close()
    names = [way.name for way in ways]
    if chosen.json:
        print(json.dumps([{"row": label(row), **values} for row, values in found.items()]))
    else:
        print(table(found, names))
    good = all(isinstance(values.get(name), float) for values in found.values() for name in names)
    if len(names) == 2:
        good = good and all(
            isinstance(k := values["kernel"], float) and isinstance(s := values["shim"], float)
            and s < k for values in found.values())
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
