"""MAP_CREATE of every type: as on the kernel, but for the types that are not there."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from compat_tests.runtime import scenario  # noqa: E402

EOPNOTSUPP = 95
# What each of them is for is not there either: docs/parity.md, "What is not there".
ABSENT = {
    14: "DEVMAP", 15: "SOCKMAP", 16: "CPUMAP", 17: "XSKMAP", 18: "SOCKHASH",
    19: "CGROUP_STORAGE", 20: "REUSEPORT_SOCKARRAY", 21: "PERCPU_CGROUP_STORAGE",
    25: "DEVMAP_HASH",
}  # fmt: skip
LOCAL = {24: "SK_STORAGE", 28: "INODE_STORAGE", 32: "CGRP_STORAGE"}  # the same, given BTF
TYPES = range(40)
KEYS, VALUES = (0, 4, 5, 8, 16, 513), (0, 3, 4, 8, 70000)
ENTRIES, FLAGS = (0, 1, 3), (0, 1, 1 << 2, 1 << 3, 3 << 3, 1 << 7, 1 << 9, 1 << 10)


def answers() -> list[list[int]]:
    """What each type answers to each shape."""
    shapes = list(itertools.product(KEYS, VALUES, ENTRIES, FLAGS))
    return [[scenario.created(kind, *shape) for shape in shapes] for kind in TYPES]


if __name__ == "__main__":
    print(json.dumps(answers()))
else:
    import pytest

    from compat_tests.clients import tool
    from compat_tests.guard import launch

    def found(way: tool.Way) -> list[list[int]]:
        python = str(launch.product() / ".venv" / "bin" / "python")
        outcome = tool.run(way.tool([python, "-B", __file__]))
        assert outcome.status == 0, outcome.err
        rows: list[list[int]] = json.loads(outcome.out)
        return rows

    @pytest.mark.kernel
    def test_map_create_answers_as_the_kernel_for_every_type() -> None:
        differ = {}
        for kind, ours, theirs in zip(TYPES, found(tool.SHIM), found(tool.KERNEL), strict=True):
            pairs = {(a, b) for a, b in zip(ours, theirs, strict=True) if a != b}
            if pairs:
                differ[kind] = pairs
        assert differ == {kind: {(-EOPNOTSUPP, 0)} for kind in ABSENT}
