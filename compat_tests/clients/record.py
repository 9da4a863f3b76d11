"""python -m compat_tests.clients.record [NAME...]: writes the kernel's answers to *expected.json.

As root, where bpf(2) works. Records the cases named, or those that are not there yet. Each
is run twice; an answer that is not the same both times is no oracle, and is an error.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol, TypeVar

from compat_tests.clients import bpftool, bpftool_cases, bpftrace, cases
from compat_tests.clients.tool import KERNEL, Way
from compat_tests.victims import build


class Named(Protocol):
    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=Named)


def answer(case: C, lines: Callable[[C, Way, Path], list[str]]) -> list[str]:
    """The kernel's lines for CASE, on a private victim."""
    folder = build.private_copy({**build.calls(), **build.held(), **build.tool()})
    try:
        return lines(case, KERNEL, folder)
    finally:
        shutil.rmtree(folder)


def record(
    file: Path, table: Iterable[C], lines: Callable[[C, Way, Path], list[str]], names: list[str]
) -> bool:
    """Brings one file up to date; False: a case failed or is not repeatable."""
    known: dict[str, list[str]] = json.loads(file.read_text()) if file.exists() else {}
    good = True
    for case in table:
        if case.name not in names and (names or case.name in known):
            continue
        try:
            first, second = answer(case, lines), answer(case, lines)
        except AssertionError as error:
            print(f"{case.name}: {error}", file=sys.stderr)
            good = False
            continue
        if first != second:
            print(f"{case.name}: differs from run to run: {first} {second}", file=sys.stderr)
            good = False
            continue
        known[case.name] = first
    ordered = {case.name: known[case.name] for case in table if case.name in known}
    file.write_text(json.dumps(ordered, indent=1) + "\n")
    return good


def main(names: list[str]) -> int:
    good = [record(bpftrace.EXPECTED, cases.CASES, bpftrace.lines, names),
            record(bpftool.EXPECTED, bpftool_cases.CASES, bpftool.lines, names)]
    return int(not all(good))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
