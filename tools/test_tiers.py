"""The differential and fault tests, by one tier alone at a time: `make test-tiers`.

    python tools/test_tiers.py [--long] [--tier N]... [pytest's arguments]

Each run of pytest has LIBBPF_SHIM_TIER: 0, the interpreter in the targets; 1, the compiler of this
project; 2, LLVM, at the load of every program. The tests are the same ones that the suite has,
unchanged. Tests of compat_tests/jit that are of every tier run them all anyway.

Without paths root has two runs at a time, of folders that do not disturb each other, with a user
of the guard and a cache for each; what a run wrote is shown if it failed. The last lines say how
each tier did.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# What compares with the kernel, the interpreters or models, and what injects faults. The first
# have processes that leave no CPU idle.
LANES = (
    ("inject", "faults torture attach", "agent elements process", "eim/session eim/probes"),
    ("clients", "jit", "maps", "kinds syscalls clock",
     "eim/host eim/test_compiled_access.py isolation/test_same.py"),
)  # fmt: skip
NAMES = {0: "interpreter", 1: "tier 1", 2: "tier 2"}
_LONGEST = 1800  # seconds for one run
_COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed|xpassed)")


@dataclass
class Tier:
    """What has become of its runs. seconds: of all of them, one after the other."""

    status: int = 0
    seconds: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, status: int, seconds: float, output: str) -> None:
        self.status = max(self.status, status)
        self.seconds += seconds
        last = output.splitlines()[-1:] or [""]
        for number, what in _COUNTS.findall(last[0]):
            self.counts[what] += int(number)

    def __str__(self) -> str:
        told = {0: "passed", 3: "not run"}.get(self.status, f"FAILED (status {self.status})")
        counts = ", ".join(f"{number} {what}" for what, number in self.counts.items())
        return f"{told}, {self.seconds:.0f} s{': ' if counts else ''}{counts}"


class Run:
    """One pytest. lane: 0, or 1 with a user and a cache of its own."""

    def __init__(self, tier: int, paths: str, arguments: list[str], lane: int) -> None:
        self.tier, self.paths = tier, paths
        environment = {**os.environ, "LIBBPF_SHIM_TIER": str(tier)}
        if lane:
            from compat_tests.guard import launch
            from compat_tests.victims import build

            environment["LIBBPF_SHIM_TEST_UID"] = str(launch.UID + 300)
            environment["LIBBPF_SHIM_TEST_CACHE"] = f"{build.CACHE}-2"
        self._output = tempfile.TemporaryFile()
        self._began = time.monotonic()
        self._child = subprocess.Popen(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments,
             *(f"compat_tests/{path}" for path in paths.split())],
            cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=self._output,
            stderr=subprocess.STDOUT)

    def over(self, tiers: dict[int, Tier]) -> bool:
        """It has ended, and that is told."""
        seconds = time.monotonic() - self._began
        if seconds > _LONGEST:
            self._child.kill()
            self._child.wait()
        if self._child.poll() is None:
            return False
        self._output.seek(0)
        output = self._output.read().decode(errors="replace")
        status = self._child.returncode if self._child.returncode >= 0 else 70
        tiers[self.tier].add(status, seconds, output)
        shown = output if status else (output.splitlines() or [""])[-1]
        print(f"{NAMES[self.tier]}: {self.paths}: {shown}", flush=True)
        return True

    def end(self) -> None:
        self._child.kill()
        self._child.wait()


def run_lanes(tiers: dict[int, Tier], arguments: list[str]) -> None:
    """Side by side for root; a user's two would share what belongs to a user."""
    work = [deque((tier, paths) for tier in tiers for paths in lane) for lane in LANES]
    if os.getuid():
        work = [deque(row for lane in work for row in lane)]
    running: dict[int, Run] = {}
    try:
        while any(work) or running:
            for lane, rows in enumerate(work):
                if lane in running and running[lane].over(tiers):
                    del running[lane]
                if lane not in running and rows:
                    running[lane] = Run(*rows.popleft(), arguments, lane)
            time.sleep(0.2)
    finally:
        for run in running.values():
            run.end()


def run_paths(tiers: dict[int, Tier], arguments: list[str]) -> None:
    """One pytest for each tier, which writes where this does."""
    for number, tier in tiers.items():
        print(f"== {NAMES[number]} (LIBBPF_SHIM_TIER={number})", flush=True)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", *arguments], cwd=ROOT,
                              env={**os.environ, "LIBBPF_SHIM_TIER": str(number)})
        tier.add(done.returncode, time.monotonic() - began, "")


def main() -> int:
    from libbpf_shim.jit.tier2 import available

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tier", type=int, action="append", choices=sorted(NAMES))
    chosen, rest = parser.parse_known_args()
    tiers = {number: Tier() for number in chosen.tier or sorted(NAMES)}
    here = {number: tier for number, tier in tiers.items() if number < 2 or available()}
    began = time.monotonic()
    paths = any((ROOT / word.partition("::")[0]).exists() for word in rest)
    (run_paths if paths else run_lanes)(here, rest)
    for number, tier in tiers.items():
        if number not in here:
            tier.status = 3
            print("tier 2: llvmlite is not installed", file=sys.stderr)
        print(f"{NAMES[number]:12} {tier}")
    print(f"{time.monotonic() - began:.0f} s in all")
    return max(tier.status for tier in tiers.values())


if __name__ == "__main__":
    sys.exit(main())
