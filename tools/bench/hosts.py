"""Part of make bench: what it costs that a program calls a function of the application's.

As bench.py, the shim alone, in a session with a policy: the same program with the call and
without, in turn. What the call costs is the difference: vector registers are kept, and a virtual
CPU is let go and taken again.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from compat_tests.clients.tool import SHIM, Session  # noqa: E402
from compat_tests.guard import launch  # noqa: E402
from compat_tests.victims import build  # noqa: E402
from tools.bench import bench  # noqa: E402

INTERFACE = """interface: bench
types: {dwarf: target}
entries: {nop5: {function: f_nop5, where: before, prototype: "long (long x)"}}
functions: {f_push: {prototype: "long (long x)"}}
"""
GRANTS = """grants: bench
interface: bench.yaml
classes: {all: {entries: [nop5], allow: ["helper(*)", "map(*)", call(f_push)]}}
bindings: [{class: all, name: "array*"}, {class: all, name: "percpu*"}]
"""
ROWS = (("array counter", "array"), ("per-CPU counter", "percpu"))


class Side(bench.Side):
    """With a loader in a session with a policy."""

    def __init__(self, files: dict[str, Path]) -> None:
        super().__init__(SHIM, files)
        self.loader.__exit__()
        for name, text in (("bench.yaml", INTERFACE), ("grants.yaml", GRANTS)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o644)
        self.loader = Session(launch.guarded(
            [f"{self.folder}/loader", f"{self.folder}/hosts.bpf.o", f"{self.folder}/target"],
            preload=True, env={"LIBBPF_SHIM_POLICY": f"{self.folder}/grants.yaml"}),
            stdin=subprocess.PIPE)
        self.loader.until(b"ok\n")


def main() -> int:
    """Builds, measures, prints; 1 if a row is missing."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    side = Side({
        "target": build.make("target", [HERE / "target.c"], [*build.WARN, "-O2"]),
        "loader": build.make("loader", [HERE / "loader.c"], [*build.WARN, "-O2"], ["-lbpf"]),
        "bench.bpf.o": build.make("bench.bpf.o", [HERE / "bench.bpf.c"], build.BPF_FLAGS,
                                  compiler="clang-14"),
        "hosts.bpf.o": build.make("hosts.bpf.o", [HERE / "hosts.bpf.c"], build.BPF_FLAGS,
                                  compiler="clang-14"),
    })
    found: dict[str, list[float]] = {}
    try:
        for _ in range(rounds):
            for _, program in ROWS:
                for name in (program, f"{program}_call"):
                    row = bench.Row("", name, "f_nop5", "e", "f_nop5", 0)
                    value = side.probed(row)
                    if isinstance(value, str):
                        print(f"host calls: {name}: {value}")
                        return 1
                    found.setdefault(name, []).append(value)
    finally:
        side.close()
    print(f"{'ns a hit, above the bare function':40}{'without':>10}{'with':>10}{'the call':>10}")
    for label, program in ROWS:
        plain, call = (statistics.median(found[name]) for name in (program, f"{program}_call"))
        print(f"{f'host call, {label}':40}{plain:>10.1f}{call:>10.1f}{call - plain:>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
