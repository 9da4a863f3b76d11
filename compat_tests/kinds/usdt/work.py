"""What the probes of the interpreter are to tell of: a known number of calls and lines."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator


def k_leaf(number: int) -> int:
    return number + 1


def k_middle(number: int) -> int:
    total = 0
    for step in range(number):
        total += k_leaf(step)
    return total


class Thing:
    def k_act(self, number: int) -> Thing | int:
        return k_middle(number) if number else self


def k_generator(number: int) -> Iterator[int]:
    for step in range(number):
        yield k_leaf(step)


def k_main() -> None:
    for number in (1, 2, 3):
        Thing().k_act(number)
    sum(k_generator(4))
    sys.audit("kinds.work", 1)
    gc.collect()
    import colorsys  # noqa: F401


if sys.argv[1:]:  # told to wait: a probe may be put here meanwhile
    print("READY", flush=True)
    sys.stdin.readline()
k_main()
