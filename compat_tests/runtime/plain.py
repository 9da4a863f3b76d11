"""Scenarios of map types that are neither hashes nor arrays: what each prints on the kernel it
must print on the shim. `python plain.py NAME` runs one, in its own process: JSON, a step a line.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from compat_tests.runtime import (  # noqa: E402
    plain_dynptr,
    plain_iter,
    plain_kfunc,
    plain_queue,
    plain_ring,
    plain_task,
)
from compat_tests.runtime.scenario import Step, plain  # noqa: E402

_NAMES = {
    plain_dynptr: ("dynptr",),
    plain_iter: ("iterators", "dynptr_kfuncs", "packets"),
    plain_kfunc: ("kfunc_strings", "kfunc_counts", "kfunc_sections"),
    plain_queue: ("queue", "stack", "bloom"),
    plain_ring: ("ringbuf", "user_ringbuf", "user_ring_of_libbpf", "arena", "arena_programs",
                 "mirror", "arena_that_faults"),
    plain_task: ("stack_trace", "cgroup_array", "task_storage", "stack_of_the_caller",
                 "fields_of_the_task", "other_fields_of_the_task"),
}
SCENARIOS: dict[str, Callable[[], Iterator[Step]]] = {
    name: getattr(module, name) for module, names in _NAMES.items() for name in names
}


if __name__ == "__main__":
    for what, result in SCENARIOS[sys.argv[1]]():
        print(json.dumps([what, plain(result)]))
