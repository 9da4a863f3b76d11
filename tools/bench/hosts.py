"""Part of make bench: what programs cost that are held to a class, where something is done at run
time: calls of the application's functions, lengths that are looked at, functions that are skipped.

As bench.py, the shim alone, in a session with a policy: programs in pairs, in turn. A call: vector
registers are kept, and a virtual CPU is let go and taken again. A length: the object is found
again, and pointer and length are read. What is proved costs nothing, fields and numbers of
instructions; a number that is not proved is counted, in each round of a loop.
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
entries:
  nop5: {function: f_nop5, where: before, prototype: "long (long x)"}
  text: {function: f_text, where: instead, override: "in [0, 1]", nonnull: [text],
         prototype: "long (struct bench_text *text)"}
bytes: [{type: struct bench_text, pointer: data, length: len, most: 64}]
functions: {f_push: {prototype: "long (long x)"}}
"""
GRANTS = """grants: bench
interface: bench.yaml
classes:
  all: {entries: [nop5], allow: ["helper(*)", "map(*)", call(f_push)]}
  masked: {extends: all, spectre: mask-indices}
  full: {extends: all, spectre: full}
  any: {entries: [text], allow: ["read(*)", read(text)], override: true}
  some: {entries: [text], allow: [read(text.len), "read(*text.data)"]}
  proved: {entries: [nop5], allow: ["helper(*)", "map(*)"], instructions: 100, budget: counter}
  counted: {entries: [nop5], allow: ["map(*)"], instructions: 500, budget: counter}
bindings: [{class: all, name: array}, {class: all, name: array_call},
           {class: all, name: "percpu*"},
           {class: proved, name: array_proved}, {class: counted, name: counted_rounds},
           {class: all, name: array_rounds}, {class: all, name: array_indexed},
           {class: masked, name: masked_indexed}, {class: full, name: full_indexed},
           {class: some, name: "some_*"}, {class: any, name: "any_*"},
           {class: any, name: skips}, {class: any, name: goes_on}]
"""
# label, programs without and with, function
ROWS = (
    ("host call, array counter", "array", "array_call", "f_nop5"),
    ("host call, per-CPU counter", "percpu", "percpu_call", "f_nop5"),
    ("16 bytes, their number looked at", "any_text", "some_text", "f_text"),
    ("8 bytes of a field, proved", "any_length", "some_length", "f_text"),
    ("16 bytes read, of 8 bytes", "any_length", "any_text", "f_text"),
    ("at most 100 instructions, proved", "array", "array_proved", "f_nop5"),
    ("16 rounds, a counter at back edges", "array_rounds", "counted_rounds", "f_nop5"),
    ("8 indices, spectre: mask-indices", "array_indexed", "masked_indexed", "f_nop5"),
    ("8 indices, spectre: full", "array_indexed", "full_indexed", "f_nop5"),
    ("the function is skipped", "goes_on", "skips", "f_text"),
)


class Side(bench.Side):
    """With a loader in a session with a policy."""

    def __init__(
        self, files: dict[str, Path], grants: str = GRANTS, quick: bool = True
    ) -> None:
        super().__init__(SHIM, files)
        self.loader.__exit__()
        for name, text in (("bench.yaml", INTERFACE), ("grants.yaml", grants)):
            (self.folder / name).write_text(text)
            (self.folder / name).chmod(0o644)
        self.loader = Session(launch.guarded(
            [f"{self.folder}/loader", f"{self.folder}/hosts.bpf.o", f"{self.folder}/target"],
            preload=True, env={"LIBBPF_SHIM_POLICY": f"{self.folder}/grants.yaml",
                               "LIBBPF_SHIM_QUICK_READS": str(int(quick))}),
            stdin=subprocess.PIPE)
        self.loader.until(b"ok\n")


def main() -> int:
    """Builds, measures, prints; 1 if a row is missing."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--asking", action="store_true", help="with LIBBPF_SHIM_QUICK_READS=0")
    chosen = parser.parse_args()
    rounds = chosen.rounds
    side = Side({
        "target": build.make("target", [HERE / "target.c"], [*build.WARN, "-O2"]),
        "loader": build.make("loader", [HERE / "loader.c"], [*build.WARN, "-O2"], ["-lbpf"]),
        "bench.bpf.o": build.make("bench.bpf.o", [HERE / "bench.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG),
        "hosts.bpf.o": build.make("hosts.bpf.o", [HERE / "hosts.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG),
    }, quick=not chosen.asking)
    found: dict[str, list[float]] = {}
    try:
        for _ in range(rounds):
            for _, without, program, function in ROWS:
                for name in (without, program):
                    row = bench.Row("", name, function, "e", function, 0)
                    value = side.probed(row)
                    if isinstance(value, str):
                        print(f"{name}: {value}")
                        return 1
                    found.setdefault(name, []).append(value)
    finally:
        side.close()
    print(f"{'ns a hit, above the bare function':40}{'without':>10}{'with':>10}{'more':>10}")
    for label, without, program, _ in ROWS:
        plain, more = (statistics.median(found[name]) for name in (without, program))
        print(f"{label:40}{plain:>10.1f}{more:>10.1f}{more - plain:>10.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
