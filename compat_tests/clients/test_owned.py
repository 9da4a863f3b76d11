"""Programs that libbpf loads with kernel functions: trees, lists, locks, sections, exceptions.
Each has one verdict, with one last line, on the kernel and under the shim."""

from __future__ import annotations

from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.victims.build import BPF_FLAGS, CLANG, HERE, WARN, make


def verdicts(way: Way) -> dict[str, str]:
    """Of each program: the result of its load, and the verifier's last line."""
    loader: Path = make("judge", [HERE / "judge.c"], [*WARN, "-O2"], ["-lbpf"])
    rows = []
    for name in ("trees", "sections", "later"):
        found: Path = make(f"{name}.bpf.o", [HERE / f"{name}.bpf.c"], BPF_FLAGS,
                           compiler=CLANG, headers=[HERE / "owned.h"])
        done = run(way.tool([str(loader), str(found)]), 120)
        assert done.status == 0, done
        rows += [line.partition("|") for line in done.out.splitlines()]
    return {name: rest for name, _, rest in rows}


@pytest.mark.kernel
def test_the_kernel_and_the_shim_judge_them_alike() -> None:
    ours = verdicts(SHIM)
    accepted = {name for name, rest in ours.items() if rest == "0|"}
    assert {"add", "walk", "both_owners", "res_tree", "res_irq_two", "tw_ok", "throws"} <= accepted
    assert not {"walk_unlocked", "res_mixed", "irq_sub_left", "throws_held"} & accepted
    assert ours == verdicts(KERNEL)
