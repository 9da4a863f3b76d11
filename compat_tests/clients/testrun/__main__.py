#!/usr/bin/python3
"""Loads programs, runs them by BPF_PROG_TEST_RUN, prints a line of JSON for each run.

A client like any other: ctypes and syscall(2), nothing of the project. test_prog_run.py runs it on
the kernel and under the shim and compares the lines. Figures that differ from run to run (ns) are
left out.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
    from compat_tests.clients.testrun.parts import PARTS, differences

    for part in sys.argv[1:] or PARTS:
        PARTS.get(part, differences)()
