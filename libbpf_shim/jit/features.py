"""What this processor can do, which is where images run."""

from __future__ import annotations

import functools


@functools.cache
def has_bmi2() -> bool:
    """Shifts and multiplications without flags (Intel SDM 1, 5.1.16)."""
    try:
        with open("/proc/cpuinfo") as file:
            flags = next((line for line in file if line.startswith("flags")), "")
    except OSError:
        return False
    return "bmi2" in flags.split()
