"""Attaches and detaches probes of a running victim in random order; run as an unprivileged user.

    driver.py OBJECT VICTIM LIBRARY THREADS SECONDS SEED

Prints one JSON object: what went wrong, and how much was done.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from libbpf_shim import Link, Object, ShimError
from libbpf_shim.elf.module import Module

LEAF, DEEP, TAIL, THROW, JUMP, SHAPE, END = 0, 40, 56, 72, 88, 104, 120  # functions.h
FAMILIES = {"leaf": (LEAF, DEEP), "deep": (DEEP, TAIL), "tail": (TAIL, THROW),
            "throw": (THROW, JUMP), "jump": (JUMP, SHAPE), "shape": (SHAPE, END)}
OTHERS = ("climb", "forked", "borrowed", "yielding", "leaving")
LIBC = ("malloc", "free", "calloc", "fork", "waitpid", "nanosleep", "pthread_create",
        "pthread_join", "pthread_exit", "pthread_cancel", "pthread_kill", "sigaltstack",
        "pthread_sigmask", "posix_spawn", "backtrace", "swapcontext", "longjmp", "siglongjmp",
        "_setjmp", "__sigsetjmp", "vfork", "dl_iterate_phdr")
LIBSTDCXX = ("__cxa_throw", "__cxa_begin_catch", "__cxa_end_catch", "__cxa_rethrow",
             "__cxa_allocate_exception", "__gxx_personality_v0")
LIBGCC = ("_Unwind_RaiseException", "_Unwind_Resume", "_Unwind_ForcedUnwind",
          "_Unwind_Backtrace", "_Unwind_GetIP")
PROBES, LEAST = 200, 20
STEADY = [(index, ret) for lo, hi in FAMILIES.values() for index in (lo, hi - 3)
          for ret in (False, True)]
LIMIT = 60.0  # seconds for anything the victim is to do


def names() -> list[str]:
    """Of functions.h, by index."""
    return [f"{family}_{n}" for family, (lo, hi) in FAMILIES.items() for n in range(hi - lo)]


def mappings(pid: int) -> list[list[str]]:
    """Fields of the lines of its maps."""
    return [line.split() for line in Path(f"/proc/{pid}/maps").read_text().splitlines()]


def _text(rows: list[list[str]], path: str, module: Module) -> list[tuple[int, Any]]:
    """Where the executable segments of a file lie: address, segment."""
    starts = [(int(row[0].split("-")[0], 16), int(row[2], 16)) for row in rows
              if len(row) > 5 and row[5] == path]
    base = min(lo - offset for lo, offset in starts if not offset)
    return [(base + s.vaddr - module.load_base, s) for s in module.text]


def altered(pid: int) -> list[str]:
    """Where the text of a file differs from the file, "FILE+OFFSET"."""
    found, rows = [], mappings(pid)
    files = {row[5] for row in rows if len(row) > 5 and "x" in row[1]}
    for path in sorted(f for f in files if f[0] == "/" and "libbpf_shim" not in f):
        module = Module(path)
        for lo, segment in _text(rows, path, module):
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(lo)
                now = memory.read(segment.filesz)
            want = module.read_at(segment.offset, segment.filesz)
            if now != want:
                found += [f"{path}+{segment.offset + at:#x}" for at, (a, b) in
                          enumerate(zip(now, want, strict=True)) if a != b]
    return found


def still_altered(pid: int) -> list[str]:
    """The same once closed links had time to be taken out."""
    end = time.monotonic() + LIMIT / 2
    while (found := altered(pid)) and time.monotonic() < end:
        time.sleep(0.05)
    return found[:20]


class Victim:
    """The process, told what to do line by line."""

    def __init__(self, path: str, library: str, threads: int) -> None:
        self.process = subprocess.Popen(
            [path, str(threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "LD_PRELOAD": library})
        self.pid = int(self.line().split()[1])

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def library(self, name: str) -> str:
        return next(row[5] for row in mappings(self.pid) if len(row) > 5 and name in row[5])


class Churn:
    """200 probes, some of them attached."""

    def __init__(self, loaded: Object, victim: Victim, path: str, rng: random.Random) -> None:
        self.program, self.rng = loaded.programs["churn"], rng
        taken = {index for index, _ in STEADY}
        places = [(path, name) for index, name in enumerate(names()) if index not in taken]
        places += [(path, name) for name in OTHERS]
        for library, symbols in (("libc.so", LIBC), ("libstdc++", LIBSTDCXX),
                                 ("libgcc_s", LIBGCC)):
            places += [(victim.library(library), name) for name in symbols]
        both = [(*place, ret) for place in places for ret in (False, True)]
        self.probes = rng.sample(both, PROBES)
        self.links: dict[int, Link] = {}
        self.refused: dict[str, str] = {}
        self.done = 0

    def step(self) -> None:
        n = self.rng.randrange(PROBES)
        if n in self.links:
            self.links.pop(n).close()
        else:
            path, name, ret = self.probes[n]
            attach = self.program.attach_uretprobe if ret else self.program.attach_uprobe
            try:
                self.links[n] = attach(path, name, cookie=n)
            except ShimError as error:
                self.refused[name + "%return" * ret] = error.message
        self.done += 1

    def end(self) -> None:
        for link in self.links.values():
            link.close()
        self.links.clear()


def attach_steady(loaded: Object, path: str) -> list[Link]:
    links = []
    for slot, (index, ret) in enumerate(STEADY):
        program = loaded.programs["leaving" if ret and THROW <= index < SHAPE else "steady"]
        attach = program.attach_uretprobe if ret else program.attach_uprobe
        links.append(attach(path, names()[index], cookie=slot))
    return links


def compare(loaded: Object, report: list[str]) -> list[str]:
    """The steady probes' counts with what the functions counted themselves."""
    wrong = []
    lacking = {"steady": 0, "leaving": 0}
    for slot, (index, ret) in enumerate(STEADY):
        want, found = int(report[index].split()[2 if ret else 1]), loaded.maps["counts"][slot]
        lacking["leaving" if ret and THROW <= index < SHAPE else "steady"] += want - found
        if found > want or want < 100 and not THROW <= index < SHAPE:
            wrong.append(f"{names()[index]} ret={ret}: {found} of {want}")
    missed = {name: int(loaded.programs[name].info()["recursion_misses"]) for name in lacking}
    # what is left by an exception is counted as missed, if it was, and does not return
    if lacking["steady"] != missed["steady"] or lacking["leaving"] > missed["leaving"]:
        wrong.append(f"{lacking} hits lacking, {missed} missed")
    return wrong


def torture(argv: list[str]) -> dict[str, object]:
    source, path, library, threads, seconds, seed = argv
    rng = random.Random(int(seed))
    victim = Victim(path, library, int(threads))
    loaded = Object.open(source)
    loaded.load()
    steady = attach_steady(loaded, path)
    churn = Churn(loaded, victim, path, rng)
    victim.go()
    wrong = [] if victim.line() == "running" else ["not running"]
    end = time.monotonic() + float(seconds)
    while (now := time.monotonic()) < end or (churn.done < LEAST and now < end + LIMIT):
        if victim.process.poll() is not None:
            break
        churn.step()
    churn.end()
    victim.go()
    verdict = victim.line()
    report = [victim.line() for _ in range(END)] if verdict else []
    if not verdict.startswith("wrong 0 ") or not verdict.endswith(" dead 0"):
        wrong.append(f"the victim: {verdict!r}")
    if verdict:
        wrong += compare(loaded, report)
        for link in steady:
            link.close()
        wrong += still_altered(victim.pid)
        victim.go()
    status = victim.process.wait(LIMIT)
    if status:
        wrong.append(f"the victim ended with {status}")
    hits = sum(loaded.maps["churned"].values())
    loaded.close()
    return {"wrong": wrong, "victim": verdict, "changes": churn.done, "hits": hits,
            "refused": churn.refused}


if __name__ == "__main__":
    print(json.dumps(torture(sys.argv[1:])))
