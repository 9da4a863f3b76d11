"""Generated code beside gcc's: one C source by each tier, by the kernel's JIT and as native code.

Part of `make bench`. The programs are compute_programs.h; BPF runs by PROG_TEST_RUN, native code
in a loop of its own. A round measures every program on every side before the next begins; a figure
is the median over the rounds of the lower quartile of 15 chunks of thread CPU time (compute.c).
What counts is the ratio to gcc -O2 -mgeneral-regs-only, and over all programs its geometric mean.
All sides must return the same. 1 if one does not, or if a tier's mean is above WANTED.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
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
from libbpf_shim.jit import tier2  # noqa: E402

WANTED = {"tier1": 2.0, "tier2": 1.2}
BASE = "gcc-gpr"  # what the others are compared with
PROGRAMS = ("log2", "prime", "memcpy", "strncmp", "fnv", "alu", "switch_", "calls", "helpers",
            "hashwalk", "decimal", "checksum", "crc", "matmul", "choose")
_NATIVE = {"gcc-O2": [], BASE: ["-mgeneral-regs-only"]}
# a session of its own: one backend has one tier
_TIERS = {f"tier{n}": ["env", f"LIBBPF_SHIM_TIER={n}", "LIBBPF_SHIM_SESSION=private"]
          for n in (1, 2) if n == 1 or tier2.available()}
Found = dict[str, dict[str, float]]  # ns a run, by program and side


def files(cpu: str) -> dict[str, Path]:
    """What runs, by file name; cpu: clang's -mcpu for BPF."""
    header = HERE / "compute_programs.h"
    found = {"compute.bpf.o": build.make(
        "compute.bpf.o", [HERE / "compute.bpf.c"],
        [*build.BPF_FLAGS, f"-mcpu={cpu}", "-fno-builtin"],
        compiler=build.CLANG, headers=[header])}
    for name, flags in _NATIVE.items():
        objects = build.make(f"{name}.o", [HERE / "compute_native.c"],
                             [*build.WARN, "-O2", "-fno-builtin", *flags, "-c"], headers=[header])
        found[name] = build.make(name, [HERE / "compute.c", objects], [*build.WARN, "-O2"],
                                 ["-lbpf"], headers=[header])
    return found


def measure(session: Session, program: str) -> tuple[int, float]:
    """What it returned, and ns a run."""
    session.seen = b""
    session.send(program.encode() + b"\n")
    session.until(b"\n", limit=60)
    word, *rest = session.seen.decode().split()
    if word != "ns":
        raise SystemExit(f"compute: {program}: {session.argv}: {session.seen.decode().strip()}")
    return int(rest[0]), float(rest[1])


def gather(sides: dict[str, Session], programs: list[str], rounds: int) -> Found:
    """Medians; SystemExit if two sides return different things."""
    found: dict[str, dict[str, list[float]]] = {p: {s: [] for s in sides} for p in programs}
    for turn in range(rounds):
        for program in programs:
            results = {}
            for name in sides if turn % 2 else reversed(sides):
                results[name], ns = measure(sides[name], program)
                found[program][name].append(ns)
            if len(set(results.values())) > 1:
                raise SystemExit(f"compute: {program} returns {results}")
    return {program: {name: statistics.median(values) for name, values in row.items()}
            for program, row in found.items()}


def means(found: Found, names: list[str]) -> dict[str, float]:
    """By side, the geometric mean of its ratios to BASE."""
    return {name: math.exp(statistics.fmean(math.log(row[name] / row[BASE])
                                            for row in found.values())) for name in names}


def table(found: Found, names: list[str]) -> str:
    """ns a run, and in brackets the ratio to BASE."""
    lines = ["ns a run (times gcc -O2 -mgeneral-regs-only)".ljust(46)
             + "".join(f"{name:>18}" for name in names)]
    for program, row in found.items():
        cells = "".join(f"{row[name]:>10.1f} ({row[name] / row[BASE]:5.2f})" for name in names)
        lines.append(program.rstrip("_").ljust(46) + cells)
    mean = means(found, names)
    lines.append("geometric mean".ljust(46) + "".join(f"{mean[name]:>18.2f}" for name in names))
    return "\n".join(lines)


def start(sides: dict[str, Session], folder: Path, only: list[str]) -> None:
    for way in (KERNEL, SHIM):
        if way.name not in only:
            continue
        if way is KERNEL and kernel.why_not():
            print(f"bench: no kernel column: {kernel.why_not()}", file=sys.stderr)
            continue
        # the driver links the machine's functions too, and does not run them
        command = [f"{folder}/{BASE}", f"{folder}/compute.bpf.o"]
        for name, more in _TIERS.items() if way is SHIM else [(way.name, [])]:
            sides[name] = Session(way.tool([*more, *command]), stdin=subprocess.PIPE)
    for name in _NATIVE:
        sides[name] = Session([f"{folder}/{name}"], stdin=subprocess.PIPE)
    for session in sides.values():
        session.until(b"ready\n", limit=120)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--only", choices=["kernel", "shim"], help="beside native code, one side")
    parser.add_argument("--programs", default=",".join(PROGRAMS), help="a list with commas")
    parser.add_argument("--mcpu", default="v3", help="clang's, for BPF: v1, v2 or v3")
    chosen = parser.parse_args()
    programs = chosen.programs.split(",")
    folder = build.private_copy(files(chosen.mcpu))
    sides: dict[str, Session] = {}
    try:
        start(sides, folder, [chosen.only] if chosen.only else ["kernel", "shim"])
        found = gather(sides, programs, chosen.rounds)
    finally:
        for session in sides.values():
            session.__exit__()
        shutil.rmtree(folder)
    names = list(sides)
    mean = means(found, names)
    if chosen.json:
        print(json.dumps({"mcpu": chosen.mcpu, "ns": found, "geomean": mean, "base": BASE}))
    else:
        print(table(found, names))
    return 0 if all(mean.get(tier, 0.0) <= most for tier, most in WANTED.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
