"""The differential and fault tests, by one tier alone at a time: `make test-tiers`.

    python tools/test_tiers.py [--long] [--tier N]... [pytest's arguments]

Each tier is a run of pytest with LIBBPF_SHIM_TIER: 0, the interpreter in the targets; 1, the
compiler of this project; 2, LLVM, at the load of every program. The tests are the same ones that
the suite has, unchanged. Tests of compat_tests/jit that are of every tier run them all anyway.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# What compares with the kernel, the interpreters or models, and what injects faults.
TESTS = (
    "jit", "maps", "elements", "faults", "torture", "inject/test_cycles.py",
    "inject/test_live.py", "inject/test_probes.py", "inject/test_numbers.py",
    "clients/test_prog_run.py", "clients/test_swaps.py", "clients/test_exact_counts.py",
    "clients/test_stacks.py", "clients/test_dumps.py", "clients/test_loops.py",
    "attach", "agent", "kinds", "process", "syscalls", "clock",
)  # fmt: skip
NAMES = {0: "interpreter", 1: "tier 1", 2: "tier 2"}


def run(tier: int, arguments: list[str]) -> tuple[int, float]:
    """pytest's status, and how many seconds it took."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "LIBBPF_SHIM_TIER": str(tier)})
    return done.returncode, time.monotonic() - began


def main() -> int:
    from libbpf_shim.jit.tier2 import available

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", type=int, action="append", choices=sorted(NAMES))
    chosen, rest = parser.parse_known_args()
    paths = any(not word.startswith("-") for word in rest)
    arguments = rest + ([] if paths else [f"compat_tests/{name}" for name in TESTS])
    results = {}
    for tier in chosen.tier or sorted(NAMES):
        if tier == 2 and not available():
            print("tier 2: llvmlite is not installed", file=sys.stderr)
            results[tier] = 3, 0.0
            continue
        print(f"== {NAMES[tier]} (LIBBPF_SHIM_TIER={tier})", flush=True)
        results[tier] = run(tier, arguments)
    for tier, (status, seconds) in results.items():
        told = {0: "passed", 3: "not run"}.get(status, f"FAILED (status {status})")
        print(f"{NAMES[tier]:12} {told}, {seconds:.0f} s")
    return max(status for status, _ in results.values())


if __name__ == "__main__":
    sys.exit(main())
