"""Scenarios of map types that are neither hashes nor arrays: what each prints on the kernel it
must print on the shim. `python plain.py NAME` runs one, in its own process: JSON, a step a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from compat_tests.runtime.plain_queue import bloom, queue, stack  # noqa: E402
from compat_tests.runtime.plain_ring import (  # noqa: E402
    arena,
    arena_programs,
    mirror,
    ringbuf,
    user_ring_of_libbpf,
    user_ringbuf,
)
from compat_tests.runtime.plain_task import cgroup_array, stack_trace, task_storage  # noqa: E402
from compat_tests.runtime.scenario import Step, plain  # noqa: E402

SCENARIOS: dict[str, Callable[[], Iterator[Step]]] = {
    f.__name__: f for f in (
        queue, stack, bloom, ringbuf, user_ringbuf, mirror, stack_trace, cgroup_array,
        task_storage, arena, arena_programs, user_ring_of_libbpf)
}


if __name__ == "__main__":
    for what, result in SCENARIOS[sys.argv[1]]():
        print(json.dumps([what, plain(result)]))
