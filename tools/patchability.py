"""How each exported function of some Debian programs and libraries would be diverted.

    .venv/bin/python tools/patchability.py                   # writes docs/patchability.md
    .venv/bin/python tools/patchability.py --any 2000 -n     # instructions, print only

A row a file: functions (or instructions picked at random), how many got which rung of the ladder
(docs/architecture.md), what is refused, and what planning costs: once for the module, and a site.
Files that are not there are left out, with a line on stderr.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import glob
import os
import platform
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from libbpf_shim.elf.module import STT_FUNC, STT_GNU_IFUNC, Module  # noqa: E402
from libbpf_shim.errors import ShimError  # noqa: E402
from libbpf_shim.rewrite.body import body, extents  # noqa: E402
from libbpf_shim.rewrite.site import plan_site  # noqa: E402
from libbpf_shim.rewrite.targets import jump_targets  # noqa: E402

OUT = ROOT / "docs" / "patchability.md"
LIB = "/lib/x86_64-linux-gnu"
# shared/TARGETS.md: what its applications and libraries are called in Debian; and large ones
FILES = {
    "libc": f"{LIB}/libc.so.6",
    "libssl": f"{LIB}/libssl.so.3",
    "libcrypto": f"{LIB}/libcrypto.so.3",
    "nginx": "/usr/sbin/nginx",
    "redis-server": "/usr/bin/redis-server",
    "bash": "/bin/bash",
    "postgres": "/usr/lib/postgresql/*/bin/postgres",
    "libstdc++": f"{LIB}/libstdc++.so.6",
    "python3.11": "/usr/bin/python3.11",
    "libsqlite3": f"{LIB}/libsqlite3.so.0",
    "cc1": "/usr/lib/gcc/x86_64-linux-gnu/*/cc1",
    "libclang-cpp": f"{LIB}/libclang-cpp.so.14",
    "libLLVM": f"{LIB}/libLLVM-14.so.1",
}
RUNGS = ("single", "forward", "backward", "padding", "short", "pun", "evict", "int3", "refused")


@dataclass
class Row:
    """Of one file. module_s: seconds of finding its jump targets; site_us: of one plan."""

    name: str
    path: str
    counts: collections.Counter[str] = field(default_factory=collections.Counter)
    refused: list[str] = field(default_factory=list)
    module_s: float = 0.0
    site_us: float = 0.0

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def exported(module: Module) -> list[int]:
    """Addresses of the functions of the symbol tables (stripped files have the dynamic one)."""
    return sorted({s.vaddr for s in module.symbols if s.type in (STT_FUNC, STT_GNU_IFUNC)
                   and module.executable_at(s.vaddr)})  # fmt: skip


def at_random(module: Module, count: int, seed: int = 1) -> list[int]:
    """Instructions of its functions."""
    pick = random.Random(seed)
    found: list[int] = []
    known = extents(module)
    while len(found) < count:
        addrs = body(module, *pick.choice(known)).addrs
        if addrs:
            found.append(pick.choice(addrs))
    return found


def sweep(name: str, path: str, any_of: int) -> Row:
    """Plans them all."""
    module, row = Module(path), Row(name, os.path.realpath(path))
    began = time.perf_counter()
    jump_targets(module)
    row.module_s = time.perf_counter() - began
    sites = at_random(module, any_of) if any_of else exported(module)
    began = time.perf_counter()
    for vaddr in sites:
        try:
            row.counts[plan_site(module, vaddr).tactic] += 1
        except ShimError as error:
            row.counts["refused"] += 1
            row.refused.append(error.message)
    row.site_us = (time.perf_counter() - began) / max(len(sites), 1) * 1e6
    return row


def table(rows: list[Row]) -> str:
    """Markdown."""
    total = Row("all", "")
    for row in rows:
        total.counts.update(row.counts)
    shown = [r for r in RUNGS if total.counts[r] or r in ("int3", "refused")]
    lines = ["| file | sites | " + " | ".join(shown) + " | module, s | site, µs |",
             "|---|" + "---:|" * (len(shown) + 3)]
    for row in [*rows, total]:
        cells = [f"{row.counts[r]}" for r in shown]
        cost = [f"{row.module_s:.2f}", f"{row.site_us:.0f}"] if row.path else ["", ""]
        lines.append(f"| {row.name} | {row.total} | " + " | ".join([*cells, *cost]) + " |")
    share = 100 * (total.counts["int3"] + total.counts["refused"]) / max(total.total, 1)
    lines += ["", f"Neither a jump of five bytes nor of two: {share:.2f} %."]
    return "\n".join(lines)


def _cpu() -> str:
    names = [line.partition(":")[2].strip() for line in open("/proc/cpuinfo")
             if line.startswith("model name")]  # fmt: skip
    return f"{names[0] if names else platform.machine()}, {len(names)} CPUs"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--any", type=int, default=0, metavar="N",
                        help="N instructions at random of each file, instead of its functions")
    parser.add_argument("-n", "--dry-run", action="store_true", help="leave docs as they are")
    parser.add_argument("files", nargs="*", help="some of: " + " ".join(FILES))
    chosen = parser.parse_args()
    rows = {0: [], chosen.any or 1000: []}  # type: dict[int, list[Row]]
    if chosen.any:
        del rows[0]
    for name in chosen.files or FILES:
        found = sorted(glob.glob(FILES.get(name, name)))
        if not found:
            print(f"patchability: {name}: not here", file=sys.stderr)
            continue
        for any_of, into in rows.items():
            into.append(sweep(os.path.basename(name), found[-1], any_of))
            for text in into[-1].refused[:3]:
                print(f"patchability: {text}", file=sys.stderr)
    text = "\n\n".join(
        (f"## {n} instructions of each, at random\n\n" if n else "## Exported functions\n\n")
        + table(found) for n, found in rows.items())
    print(text)
    if not (chosen.dry_run or chosen.any or chosen.files):
        when = datetime.date.today().isoformat()
        OUT.write_text(
            "# What can be patched\n\nWhich rung of the ladder (architecture.md) each site gets, "
            "as planned from the file.\n"
            f"{when}, {_cpu()}, Debian packages, by `.venv/bin/python tools/patchability.py`.\n"
            f"Costs are of one busy machine.\n\n{text}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
