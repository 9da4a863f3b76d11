"""Where the answer is not the kernel's, on purpose: a closed list, each row in docs/parity.md.

A row is a pattern of case names (fnmatch), the errno here, and why. Every difference must be one
of a row's, and every row must have one.
"""

from __future__ import annotations

EINVAL, EOPNOTSUPP, ENOTSUPP = 22, 95, 524
_DEVICES = "maps of network devices, sockets, CPUs and of storage that nobody owns here"
_KERNEL = "programs on kernel functions: the machine that was asked refuses them by policy"

ROWS: tuple[tuple[str, int, str], ...] = (
    ("perf link: perf at output", EOPNOTSUPP, "a program at each event of a ring"),
    *((f"map of type {n}: *", EOPNOTSUPP, _DEVICES)
      for n in (14, 15, 16, 17, 18, 20, 24, 25, 28, 32)),
    *((f"program of type {n}: *", EINVAL, _KERNEL) for n in (28, 29)),
    *((f"program of type {n}: *", ENOTSUPP, _KERNEL) for n in (28, 29)),
)  # fmt: skip
