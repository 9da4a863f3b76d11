"""Part of make bench: what isolation costs, by back end.

As hosts.py: the shim alone, in sessions with a policy; each program under a class that is verified
and under one that is isolated besides, in turn; mpk where the machine has protection keys, in
sessions of its own, since one such program puts all that its session has under the key, else what
its switch is made of is counted. The first row is an entry and an exit of each back end. Isolated
programs that work on maps may take WANTED more. 1 if one takes more, or a row is missing.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from compat_tests.victims import build  # noqa: E402
from libbpf_shim.cli.preload import LIBRARY  # noqa: E402
from libbpf_shim.uapi import machine  # noqa: E402
from tools.bench import bench, hosts  # noqa: E402

WANTED = 1.10
GRANTS = """grants: bench
interface: bench.yaml
classes:
  plain: {entries: [nop5], allow: [read(x), "helper(*)", "map(*)"]}
  within: {extends: plain, isolation: sfi}
  under_key: {extends: plain, isolation: mpk}
bindings:
- {class: under_key, name: "*_mpk"}
- {class: within, name: "*_sfi"}
- {class: plain, name: "*_plain"}
"""
ROWS = (("entry and exit", "nothing"), ("global variable", "global"), ("array value", "array"),
        ("per-CPU array value", "percpu"), ("hash value", "hash"), ("hash update", "update"),
        ("8 hash and 8 array values", "several"))
MAP_HEAVY = ("array", "percpu", "hash", "update", "several")


def main() -> int:
    """Builds, measures, prints."""
    parser = argparse.ArgumentParser(prog="make bench")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    files = {
        "target": build.make("target", [HERE / "target.c"], [*build.WARN, "-O2"]),
        "loader": build.make("loader", [HERE / "loader.c"], [*build.WARN, "-O2"], ["-lbpf"]),
        "bench.bpf.o": build.make("bench.bpf.o", [HERE / "bench.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG),
        "hosts.bpf.o": build.make("isolation.bpf.o", [HERE / "isolation.bpf.c"], build.BPF_FLAGS,
                                  compiler=build.CLANG),
    }
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for ways in (("plain", "sfi"), *[("mpk",)] * machine.has_keys()):
            if why := measured(files, ways, found):
                print(f"isolation: {why}")
                return 1
    return shown(found)


def measured(files: dict[str, Path], ways: tuple[str, ...], found: dict[str, list[float]]) -> str:
    """Adds a figure for each program, of a session and processes of its own: where code and maps
    lie is worth more than what is measured here. Why there is none."""
    side = hosts.Side(files, GRANTS)
    try:
        for _, program in ROWS:
            for name in (f"{program}_{way}" for way in ways):
                value = side.probed(bench.Row("", name, "f_nop5", "e", "f_nop5", 0))
                if isinstance(value, str):
                    return f"{name}: {value}"
                found.setdefault(name, []).append(value)
    finally:
        side.close()
    return ""


def shown(found: dict[str, list[float]]) -> int:
    print(f"{'ns a hit, above the bare function':40}{'verify-only':>12}{'sfi':>8}{'ratio':>8}")
    late = 0
    for label, program in ROWS:
        plain, within = (statistics.median(found[f"{program}_{n}"]) for n in ("plain", "sfi"))
        ratio = statistics.median(
            b / a for a, b in zip(found[f"{program}_plain"], found[f"{program}_sfi"],
                                     strict=True))
        missed = program in MAP_HEAVY and ratio > WANTED
        late += missed
        print(f"{label:40}{plain:>12.1f}{within:>8.1f}{ratio:>8.2f}"
              f"{f'  more than {WANTED:.2f}' if missed else ''}")
    for label, program in ROWS if machine.has_keys() else ():
        print(f"{f'{label}, mpk':40}{statistics.median(found[f'{program}_mpk']):>12.1f}")
    if not machine.has_keys():
        print(f"{'entry and exit, mpk':40}  no protection keys here: {switch()}")
    return 1 if late else 0


def switch() -> str:
    """What a hit by mpk executes besides the function in C, by the disassembly of keys.S."""
    listed = subprocess.run(["objdump", "-d", "--disassemble=agent_gate_hit", str(LIBRARY)],
                            capture_output=True, text=True, check=True).stdout
    words = [row.split("\t")[2].split()[0] for row in listed.splitlines() if row.count("\t") == 2]
    words = [word for word in words if word not in ("jmp", "ud2", "jne")]
    return (f"{len(words)} instructions, of them {words.count('rdpkru')} rdpkru and "
            f"{words.count('wrpkru')} wrpkru, and the way through C")


if __name__ == "__main__":
    sys.exit(main())
