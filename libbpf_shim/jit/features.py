"""What this processor can do, which is where images run."""

from __future__ import annotations

import functools


@functools.cache
def _flags() -> frozenset[str]:
    try:
        with open("/proc/cpuinfo") as file:
            line = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return frozenset()
    return frozenset(line.split())


def has_bmi2() -> bool:
    """Shifts and multiplications without flags (Intel SDM 1, 5.1.16)."""
    return "bmi2" in _flags()


def counts_time() -> bool:
    """The time stamp counter runs always at one rate (AMD APM 3, CPUID 8000_0007h), and two words
    change at once (cmpxchg16b)."""
    return {"constant_tsc", "nonstop_tsc", "cx16"} <= _flags()
