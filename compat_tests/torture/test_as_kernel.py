"""Which returns are seen, and which are missed, as by the kernel's uretprobes: of each function,
how often each value was returned, and to where."""

from __future__ import annotations

import shutil

import pytest

from compat_tests.clients import tool
from compat_tests.torture.test_torture import HERE
from compat_tests.victims import build

FUNCTIONS = ("deep", "ping", "pong", "first", "second", "third", "jumper", "raising", "handled",
             "forking")
FLAGS = [*build.WARN, "-O2", "-rdynamic", "-fno-ipa-cp", "-fno-ipa-ra", "-Wno-clobbered",
         "-no-pie"]


def seen(way: tool.Way, functions: tuple[str, ...]) -> list[str]:
    program = build.make("leaving", [HERE / "leaving.c"], FLAGS)
    folder = build.private_copy({"leaving": program})
    try:
        probes = ", ".join(f"uretprobe:{folder}/leaving:{name}" for name in functions)
        done = tool.run(way.tool(["bpftrace", "-c", f"{folder}/leaving", "-e",
                                  probes + " { @[probe, func, retval] = count(); }"]))
    finally:
        shutil.rmtree(folder)
    assert done.status == 0, done
    text = done.out.replace(str(folder), "")
    return sorted(line for line in text.splitlines() if line.startswith("@["))


@pytest.mark.kernel
@pytest.mark.parametrize(
    "functions", [FUNCTIONS, ("deep", "first", "third", "jumper")],
    ids=lambda names: f"{len(names)}-{names[0]}")
def test_the_same_returns_are_seen(functions: tuple[str, ...]) -> None:
    ours, kernels = seen(tool.SHIM, functions), seen(tool.KERNEL, functions)
    assert kernels, "the kernel saw nothing"
    if tool.bpftrace_version() > (0, 17):
        # it names the process: the kernel counts the return in a child of what the parent entered,
        # and we do not (docs/parity.md)
        kernels = [line for line in kernels if not line.endswith(":forking, forking, 101]: 1")]
    assert ours == kernels
