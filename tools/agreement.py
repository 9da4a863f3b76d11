"""Prints how far the verifier agrees with the kernel, by group; --show: each disagreement too.

    tools/agreement.py [--live] [--generated N] [--seed S] [--show] [OBJECT.bpf.o...]

Without --live only recorded verdicts are compared (../shared/data/corpus.tar.xz); with it the
running kernel is asked, as root. Objects are a group of their own.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from compat_tests.verifier import agreement, captured  # noqa: E402


def lines(options: argparse.Namespace) -> Iterator[agreement.Line]:
    if options.objects:
        found = (Path(name) for name in options.objects)
        yield agreement.live("objects", (row for path in found for row in
                                         captured.of_object(path.stem, path.read_bytes())))
        return
    for group in agreement.GROUPS:
        yield agreement.from_corpus(group)
    yield agreement.conformance()
    if options.live:
        yield agreement.libbpf_tools()
        yield agreement.bt_tools()
        yield agreement.one_liners()
        yield agreement.generated(options.generated, options.seed)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("objects", nargs="*")
    parser.add_argument("--live", action="store_true")
    parser.add_argument("--generated", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true")
    options = parser.parse_args()
    found = list(lines(options))
    print(agreement.table(found))
    for line in found if options.show else ():
        for word, names in (("only we accept", line.unsound),
                            ("only the kernel accepts", line.stricter),
                            ("other words", line.differing)):  # fmt: skip
            for name in names:
                print(f"{line.group}: {word}: {name}")
    return 1 if any(line.unsound for line in found) else 0


if __name__ == "__main__":
    sys.exit(main())
