"""Element commands from a loader through libbpf: the kernel beside the shim, interleaved.

Part of `make bench`. A figure is the median over the rounds of maps.c's lower quartile: ns of
thread CPU time a call. 1 if a row is missing or less than WANTED times faster than the kernel.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HERE = Path(__file__).resolve().parent

from compat_tests.clients.tool import KERNEL, SHIM, Session  # noqa: E402
from compat_tests.oracle import kernel  # noqa: E402
from compat_tests.victims import build  # noqa: E402

WANTED = 20.0
_OF_HASHES = ("lookup", "update", "insert", "delete", "next")
_OF_ARRAYS = ("lookup", "update", "next")
_COMMANDS = {"HASH": _OF_HASHES, "ARRAY": _OF_ARRAYS, "LRU_HASH": (*_OF_HASHES, "full"),
             "PERCPU_HASH": _OF_HASHES, "PERCPU_ARRAY": _OF_ARRAYS,
             "LRU_PERCPU_HASH": (*_OF_HASHES, "full"), "LPM_TRIE": _OF_HASHES,
             "QUEUE": ("push", "peek", "pop"), "STACK": ("push", "peek", "pop")}
ROWS = tuple((kind, command) for kind, some in _COMMANDS.items() for command in some)
Row = tuple[str, str]


def cost(session: Session, row: Row) -> float | str:
    """ns a call, or why not."""
    session.seen = b""
    session.send(" ".join(row).encode() + b"\n")
    session.until(b"\n")
    word, _, rest = session.seen.decode().strip().partition(" ")
    return float(rest) if word == "ns" else rest


def gather(sides: dict[str, Session], rows: tuple[Row, ...],
           rounds: int) -> dict[Row, dict[str, float | str]]:
    """Medians by row and side."""
    found: dict[Row, dict[str, list[float]]] = {row: {name: [] for name in sides} for row in rows}
    reasons: dict[Row, dict[str, str]] = {row: {} for row in rows}
    for turn in range(rounds):
        for row in rows:
            for name in sides if turn % 2 else reversed(sides):
                value = cost(sides[name], row)
                if isinstance(value, str):
                    reasons[row][name] = value
                else:
                    found[row][name].append(value)
    return {row: {**{name: statistics.median(values) for name, values in found[row].items()
                     if values}, **reasons[row]} for row in rows}


def table(found: dict[Row, dict[str, float | str]], names: list[str]) -> tuple[str, bool]:
    """What is printed, and whether every row is as fast as it must be."""
    lines = [f"{'ns an element command, through libbpf':46}"
             + "".join(f"{name:>12}" for name in names) + f"{'ratio':>9}"]
    good = True
    for (kind, command), values in found.items():
        cells = [values.get(name, "-") for name in names]
        text = "".join(f"{c:>12.1f}" if isinstance(c, float) else f"{c!s:>12}" for c in cells)
        numbers = [c for c in cells if isinstance(c, float)]
        ratio = numbers[0] / numbers[1] if len(numbers) == 2 else None
        good = good and len(numbers) == len(names) and (ratio is None or ratio >= WANTED)
        lines.append(f"{kind} {command}".ljust(46) + text + (f"{ratio:>8.1f}x" if ratio else ""))
    return "\n".join(lines), good


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--types", nargs="+", choices=_COMMANDS, default=list(_COMMANDS))
    chosen = parser.parse_args()
    rows = tuple(row for row in ROWS if row[0] in chosen.types)
    program = build.make("maps-bench", [HERE / "maps.c"], [*build.WARN, "-O2"], ["-lbpf"])
    sides: dict[str, Session] = {}
    try:
        for way in (KERNEL, SHIM):
            if way is KERNEL and kernel.why_not():
                print(f"bench: no kernel column: {kernel.why_not()}", file=sys.stderr)
                continue
            sides[way.name] = Session(way.tool([str(program)]), stdin=subprocess.PIPE)
            sides[way.name].until(b"ready\n")
        text, good = table(gather(sides, rows, chosen.rounds), list(sides))
    finally:
        for session in sides.values():
            session.__exit__()
    print(text)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
