"""Operations inside of a program: the kernel beside the shim, with what is to be reached.

Part of `make bench`. Each program makes 16 operations in a loop (ops.bpf.c), by PROG_TEST_RUN on
one CPU. A figure is a sixteenth of what its run takes more than a run of the loop alone, each the
lower quartile of 21 chunks of thread CPU time (ops.c): the median over the rounds, kernel and shim
interleaved.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
HERE = Path(__file__).resolve().parent

from compat_tests.clients.tool import KERNEL, SHIM, Session  # noqa: E402
from compat_tests.oracle import kernel  # noqa: E402
from compat_tests.victims import build  # noqa: E402

LOOPS = 16


class Row(NamedTuple):
    """program: of ops.bpf.c. most: ns, what NUMBERS.md sets."""

    label: str
    program: str
    most: float


ROWS = (
    Row("array lookup, locked increment", "array_increment", 3),
    Row("per-CPU array lookup, increment", "percpu_array_increment", 3),
    Row("hash lookup, locked increment", "hash_increment", 6),
    Row("hash update, key is there", "hash_update", 12),
    Row("hash insert and delete", "hash_insert_delete", 30),
    Row("per-CPU hash lookup, increment", "percpu_hash_increment", 8),
    Row("LRU update, key is there", "lru_update", 40),
    Row("LRU update, another key goes", "lru_update_new", 40),
    Row("ring buffer, 64 bytes reserved, submitted", "ring_submit", 10),
    Row("ktime_get_ns", "ktime", 12),
    Row("ktime_get_ns in a program that loads", "ktime_ordered", 31),
    Row("get_current_pid_tgid", "pid_tgid", 2),
    Row("probe_read_user, 8 bytes", "read_8", 20),
    Row("probe_read_user, 64 bytes", "read_64", 20),
    Row("probe_read_user_str, 31 characters", "read_str", 40),
    Row("probe_read_kernel, 8 bytes of the stack", "read_stack", 20),
    Row("probe_read_user of NULL", "read_null", 200),
    Row("probe_read_user where nothing is", "read_nowhere", 200),
)
Found = dict[Row, dict[str, float]]  # ns, by side


def measure(session: Session, program: str) -> float:
    """ns a run."""
    session.seen = b""
    session.send(program.encode() + b"\n")
    session.until(b"\n", limit=60)
    word, _, rest = session.seen.decode().strip().partition(" ")
    if word != "ns":
        raise SystemExit(f"ops: {program}: {session.argv}: {session.seen.decode().strip()}")
    return float(rest)


def gather(sides: dict[str, Session], rows: list[Row], rounds: int) -> Found:
    """Medians by row and side."""
    found: dict[Row, dict[str, list[float]]] = {row: {name: [] for name in sides} for row in rows}
    for turn in range(rounds):
        for row in rows:
            for name in sides if turn % 2 else reversed(sides):
                loop = measure(sides[name], "nothing")
                found[row][name].append((measure(sides[name], row.program) - loop) / LOOPS)
    return {row: {name: statistics.median(values) for name, values in by_side.items()}
            for row, by_side in found.items()}  # fmt: skip


def missed(row: Row, values: dict[str, float]) -> str:
    over = values.get("shim", 0.0) - row.most
    return f"over by {over:.1f}" if over > 0.05 else ""


def table(found: Found, names: list[str]) -> str:
    """A line a row: each side's median, the ratio, the target and what is missed."""
    lines = [f"{'ns an operation inside of a program':46}" + "".join(f"{n:>12}" for n in names)
             + f"{'ratio':>9}{'target':>8}"]  # fmt: skip
    for row, values in found.items():
        cells = "".join(f"{values[name]:>12.1f}" for name in names)
        both = len(names) == 2
        ratio = f"{values['kernel'] / max(values['shim'], 0.1):>8.1f}x" if both else f"{'-':>9}"
        line = f"{row.label:46}{cells}{ratio}{row.most:>8.0f}  {missed(row, values)}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def as_json(found: Found) -> str:
    return json.dumps([{"row": row.label, **{name: round(ns, 1) for name, ns in values.items()},
                        "target_ns": row.most, "missed": missed(row, values)}
                       for row, values in found.items()], indent=1)  # fmt: skip


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["kernel", "shim"], help="one side alone")
    parser.add_argument("--match", default="", help="rows whose label contains this")
    chosen = parser.parse_args()
    header = HERE / "ops.h"
    folder = build.private_copy({
        "ops": build.make("ops", [HERE / "ops.c"], [*build.WARN, "-O2"], ["-lbpf"],
                          headers=[header]),
        "ops.bpf.o": build.make("ops.bpf.o", [HERE / "ops.bpf.c"],
                                [*build.BPF_FLAGS, "-mcpu=v3"], compiler=build.CLANG,
                                headers=[header]),
    })  # fmt: skip
    command = [f"{folder}/ops", f"{folder}/ops.bpf.o", str(max(os.sched_getaffinity(0)))]
    sides: dict[str, Session] = {}
    try:
        for way in (KERNEL, SHIM):
            if chosen.only not in (None, way.name):
                continue
            if way is KERNEL and kernel.why_not():
                print(f"bench: no kernel column: {kernel.why_not()}", file=sys.stderr)
                continue
            sides[way.name] = Session(way.tool(command), stdin=subprocess.PIPE)
            sides[way.name].until(b"ready\n", limit=60)
        found = gather(sides, [row for row in ROWS if chosen.match in row.label], chosen.rounds)
    finally:
        for session in sides.values():
            session.__exit__()
        shutil.rmtree(folder)
    print(as_json(found) if chosen.json else table(found, list(sides)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
