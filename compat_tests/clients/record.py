"""python -m compat_tests.clients.record [NAME...]: writes the kernel's answers to expected.json.

As root, where bpf(2) works. Records the cases named, or those that are not there yet. Each
is run twice; an answer that is not the same both times is no oracle, and is an error.
"""

from __future__ import annotations

import json
import shutil
import sys

from compat_tests.clients import bpftrace
from compat_tests.clients.cases import CASES, Case
from compat_tests.clients.tool import KERNEL
from compat_tests.victims import build


def answer(case: Case) -> list[str]:
    """The kernel's lines for CASE, on a private victim."""
    folder = build.private_copy(build.calls())
    try:
        return bpftrace.lines(case, KERNEL, folder)
    finally:
        shutil.rmtree(folder)


def main(names: list[str]) -> int:
    table = bpftrace.expected() if bpftrace.EXPECTED.exists() else {}
    failed = 0
    for case in CASES:
        if case.name not in names and (names or case.name in table):
            continue
        try:
            first, second = answer(case), answer(case)
        except AssertionError as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            failed = 1
            continue
        if first != second:
            print(f"{case.name}: differs from run to run: {first} {second}", file=sys.stderr)
            failed = 1
            continue
        table[case.name] = first
    ordered = {case.name: table[case.name] for case in CASES if case.name in table}
    bpftrace.EXPECTED.write_text(json.dumps(ordered, indent=1) + "\n")
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
