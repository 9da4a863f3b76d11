"""Part of make bench: the machine, and what single instructions cost on it.

The targets of the tables that follow are from one machine (EPYC below); what a hit or an operation
costs on another goes by these. Nothing is asserted.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from compat_tests.victims import build  # noqa: E402

# ns, on the 2-vCPU AMD EPYC that docs/performance.md is about
EPYC = {"add (a cycle)": 0.27, "lock add": 2.0, "lock cmpxchg": 2.3, "pushfq, pop": 1.1,
        "pushfq, popfq": 4.6, "rdfsbase": 1.1, "rdpid": 0.6, "rdtsc": 9.7, "lfence, rdtsc": 18.9}


def main() -> int:
    cpus = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", cpus, re.M)
    print(f"{model[1] if model else 'a processor without a name'}, {os.cpu_count()} CPUs, Linux "
          f"{os.uname().release}, load {os.getloadavg()[0]:.1f}, "
          f"{time.strftime('%Y-%m-%d %H:%M', time.gmtime())} UTC")
    program = build.make("machine", [HERE / "machine.c"], [*build.WARN, "-O2"])
    said = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    print(f"{'ns an instruction, each behind the one before':48}{'here':>8}{'EPYC':>8}")
    for row in said.splitlines():
        value, _, name = row.partition(" ")
        print(f"{name:48}{value:>8}{EPYC.get(name, ''):>8}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
