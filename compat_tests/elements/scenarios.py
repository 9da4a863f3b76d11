"""Scenarios of maps whose values are maps, programs or events: what each prints on the kernel it
must print on the shim. `python scenarios.py NAME` runs one in a process of its own: JSON, a step a
line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

from compat_tests.elements.events import perf_array, timers  # noqa: E402
from compat_tests.elements.lifetimes import lifetimes  # noqa: E402
from compat_tests.elements.maps_of_maps import (  # noqa: E402
    array_of_maps,
    creation,
    hash_of_maps,
    kinds_of_inner_maps,
    likeness,
    maps_in_programs,
)
from compat_tests.elements.programs import (  # noqa: E402
    owners,
    prog_array,
    tail_calls,
    tail_calls_of_functions,
    tail_calls_with_packets,
)
from compat_tests.elements.steps import Step  # noqa: E402

SCENARIOS: dict[str, Callable[[], Iterator[Step]]] = {
    f.__name__: f for f in (
        creation, likeness, array_of_maps, hash_of_maps, maps_in_programs, kinds_of_inner_maps,
        prog_array, owners,
        tail_calls, tail_calls_of_functions, tail_calls_with_packets, perf_array,
        timers, lifetimes)
}


def plain(value: Any) -> Any:
    """Bytes as hexadecimal, for JSON."""
    if isinstance(value, bytes):
        return value.hex()
    return [plain(v) for v in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    for what, result in SCENARIOS[sys.argv[1]]():
        print(json.dumps([what, plain(result)]))
