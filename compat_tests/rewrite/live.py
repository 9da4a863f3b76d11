"""Exported functions of stock programs, really patched while the programs work.

    python -m compat_tests.rewrite.live WORKLOAD COUNT SEED [any]

Attaches to COUNT functions (or instructions of any) picked at random, in batches: while a round
is under way, then for a whole round, then takes them out. Prints JSON: how many were attached and
executed, those that were refused with the reason, sites by tactic, rounds whose answer was another
than without probes, bytes of text that were not put back.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from libbpf_shim._native import lib

from compat_tests.attach.host import LIBRARY, Host, serve
from compat_tests.rewrite.everywhere import Everywhere
from compat_tests.rewrite.workloads import ALL, Workload
from libbpf_shim.elf.module import STT_FUNC, STT_GNU_IFUNC, Module
from libbpf_shim.elf.process import loaded_modules, read_maps
from libbpf_shim.rewrite.body import body, extents

BATCH = 250  # functions at a time


def pick(files: list[str], count: int, seed: int) -> list[tuple[str, int]]:
    """Functions of all files together."""
    found = []
    for path in files:
        module = Module(path)
        functions = {s.vaddr for s in module.symbols if s.type in (STT_FUNC, STT_GNU_IFUNC)}
        found += [(path, v) for v in sorted(functions) if module.executable_at(v)]
    return random.Random(seed).sample(found, min(count, len(found)))


def pick_any(files: list[str], count: int, seed: int) -> list[tuple[str, int]]:
    """Instructions of functions that have a symbol or an entry in the unwind table."""
    choose = random.Random(seed)
    modules = [Module(path) for path in files]
    found: set[tuple[str, int]] = set()
    while len(found) < count:
        module = choose.choice(modules)
        if addrs := body(module, *choose.choice(extents(module))).addrs:
            found.add((module.path, choose.choice(addrs)))
    return sorted(found, key=lambda _: choose.random())


def changed(pid: int, path: str) -> int:
    """Bytes of the file's text that are others in the process."""
    module, bad = Module(path), 0
    for loaded in loaded_modules(read_maps(pid)):
        if loaded.ino != module.ino:
            continue
        bias = loaded.bias(module)
        with open(f"/proc/{pid}/mem", "rb") as memory:
            for seg in module.text:
                memory.seek(seg.vaddr + bias)
                there, file = memory.read(seg.filesz), module.read(seg.vaddr, seg.filesz)
                if there != file:
                    bad += sum(a != b for a, b in zip(there, file, strict=True))
    return bad


def batch(work: Workload, probes: dict[str, Everywhere], chosen: list[tuple[str, int]],
          want: str, out: dict[str, Any]) -> None:  # fmt: skip
    """Attaches, lets it work, takes out."""
    pid = work.process.pid if work.process else 0
    by_file: dict[str, list[int]] = {}
    for path, vaddr in chosen:
        by_file.setdefault(path, []).append(vaddr)
    work.ask()
    for path, vaddrs in by_file.items():
        probes[path].attach_together(vaddrs, pid)
    answers = [work.told()]
    work.ask()
    answers.append(work.told())
    out["wrong"] += [a for a in answers if a != want]
    for path, vaddrs in by_file.items():
        there = [v for v in vaddrs if v in probes[path].atts]
        out["attached"] += len(there)
        out["executed"] += sum(probes[path].count(v) > 0 for v in there)
        for tactic, count in probes[path].tactics(there).items():
            out["tactics"][tactic] = out["tactics"].get(tactic, 0) + count
    work.ask()
    for path in by_file:
        probes[path].detach_all()
    answer = work.told()
    out["wrong"] += [answer] if answer != want else []
    out["not_restored"] += sum(changed(pid, path) for path in by_file)


def live(name: str, count: int, seed: int, some: Any = pick) -> dict[str, Any]:
    """One workload."""
    out: dict[str, Any] = {"workload": name, "attached": 0, "executed": 0, "wrong": [],
                           "tactics": {}, "not_restored": 0}
    with tempfile.TemporaryDirectory(prefix="lv") as folder:
        scratch = Path(folder) / "work"
        scratch.mkdir()
        work = ALL[name](scratch)
        host = Host(Path(folder), 1)
        try:
            work.start({})
            work.wait_ready()
            work.ask()
            work.told()  # the first round may find things new
            work.ask()
            want = work.told()
            assert work.stop() in (0, -15)
            work.start({"LD_PRELOAD": str(LIBRARY), "XDG_RUNTIME_DIR": folder})
            serve(host, reason=lib.SHIM_SYNC_START)
            work.wait_ready()
            work.ask()
            work.told()
            chosen = some(work.files, count, seed)
            probes = {path: Everywhere(host, Path(path)) for path in work.files}
            for at in range(0, len(chosen), BATCH):
                batch(work, probes, chosen[at : at + BATCH], want, out)
            out["refused"] = [why for p in probes.values() for why in p.refused.values()]
            out["notices"] = host.notices
            out["status"] = work.stop()
        finally:
            work.kill()
            host.end()
            host.close()
    return out


if __name__ == "__main__":
    print(json.dumps(live(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]),
                          pick_any if sys.argv[4:] == ["any"] else pick)))  # fmt: skip
