"""What the processor and the kernel of this machine have."""

from __future__ import annotations

import functools
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")


@functools.cache
def flags() -> frozenset[str]:
    """Of the first processor, as /proc/cpuinfo has them; none where it cannot be read."""
    try:
        text = _CPUINFO.read_text()
    except OSError:
        return frozenset()
    line = next((row for row in text.splitlines() if row.startswith("flags")), "")
    return frozenset(line.partition(":")[2].split())


def has_keys() -> bool:
    """Protection keys, and the kernel uses them (pkeys(7))."""
    return "ospke" in flags()
