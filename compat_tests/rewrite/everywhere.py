"""Probes at any instruction: one program that counts by cookie, so that thousands of attachments
share a map, and the corpus with its true counts."""

from __future__ import annotations

import random
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from libbpf_shim._native import ffi, lib

from compat_tests.attach.host import GET_ATTACH_COOKIE, Counter, Host, Prog, by_hand
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import Image
from libbpf_shim.object.control import Control
from libbpf_shim.rewrite.body import body
from libbpf_shim.rewrite.decode import ENDBR64

HERE = Path(__file__).resolve().parent
PLACES = 8192  # that are told apart


class Counters(Counter):
    """An array of one value: a u64 for each cookie."""

    def __init__(self, number: int, control: Control) -> None:
        super().__init__(number, control, 8 * PLACES)

    def __getitem__(self, cookie: int) -> int:
        return self.word(cookie)


def counting_by_cookie() -> Image:
    """value[bpf_get_attach_cookie()]++"""
    return by_hand(
        "4883ec08 4989f1",  # sub $8, %rsp; mov %rsi, %r9: helpers take 'run' there
        "48b8", f"helper:{GET_ATTACH_COOKIE}",  # movabs, %rax
        "ffd0",  # call *%rax
        "48b9", "mapval:0",  # movabs, %rcx
        "f048ff04c1 31c0 4883c408 c3")  # lock incq (%rcx,%rax,8); xor %eax, %eax; add; ret


class Everywhere:
    """Attaches one program at many addresses of a file; each address has a cookie."""

    def __init__(self, host: Host, path: Path) -> None:
        self.host, self.path, self.module = host, path, Module(str(path))
        self.counters = Counters(host.number(), host.control)
        self.prog = Prog(host.number(), counting_by_cookie(), (self.counters,))
        self.cookies: dict[int, int] = {}
        self.atts: dict[int, Attachment] = {}
        self.refused: dict[int, str] = {}

    def attach(self, vaddr: int, pid: int = 0, ret: bool = False) -> bool:
        """False: it was refused; why is in `refused`."""
        cookie = self.cookies.setdefault(vaddr, len(self.cookies))
        host, notices = self.host, len(self.host.notices)
        place = Code(str(self.path), self.module.vaddr_to_offset(vaddr), ret)
        att = Attachment(host.number(), host.control.take_link(pid), self.prog, place, cookie, pid)
        try:
            host.delivery.attach(att)
        except ShimError as error:
            self.refused[vaddr] = error.message
            host.control.put_link(att.link)
            return False
        self.atts[vaddr] = att
        host.control.enable(att.link, True)
        if len(host.notices) > notices:
            self.refused[vaddr] = host.notices[-1]
            self.detach(vaddr)
            return False
        return True

    def attach_together(self, vaddrs: list[int], pid: int) -> None:
        """All at once, as a link of many; if that is refused, one by one."""
        host, link_id = self.host, self.host.number()
        made = {}
        for vaddr in vaddrs:
            cookie = self.cookies.setdefault(vaddr, len(self.cookies))
            place = Code(str(self.path), self.module.vaddr_to_offset(vaddr))
            made[vaddr] = Attachment(
                link_id, host.control.take_link(pid), self.prog, place, cookie, pid)
        try:
            host.delivery.attach(*made.values())
        except ShimError:
            for att in made.values():
                host.control.put_link(att.link)
            for vaddr in vaddrs:
                self.attach(vaddr, pid)
            return
        for att in made.values():
            host.control.enable(att.link, True)
        self.atts.update(made)

    def detach_all(self) -> None:
        """Links of many as such."""
        links: dict[int, list[Attachment]] = {}
        for att in self.atts.values():
            self.host.control.enable(att.link, False)
            links.setdefault(att.link_id, []).append(att)
        for atts in links.values():
            self.host.delivery.detach(*atts)
        for att in self.atts.values():
            self.host.control.put_link(att.link)
        self.atts.clear()

    def detach(self, vaddr: int) -> None:
        att = self.atts.pop(vaddr)
        self.host.detach(att)
        self.host.control.put_link(att.link)

    def count(self, vaddr: int) -> int:
        return self.counters[self.cookies[vaddr]]

    def tactics(self, vaddrs: list[int]) -> dict[str, int]:
        """Sites of these by tactic, of all processes."""
        found: dict[str, int] = {}
        places = {str(self.atts[v].place) for v in vaddrs}
        for process in self.host.delivery.processes():
            for site in process["sites"]:  # type: ignore[attr-defined]
                if site["where"] in places:
                    found[site["tactic"]] = found.get(site["tactic"], 0) + 1
        return found


FLAGS = ["-std=gnu11", "-g", "-Wall", "-Wextra", "-rdynamic", "-pthread"]
# name: compiler, flags
BUILDS: dict[str, tuple[str, list[str]]] = {
    "gcc-O2": ("gcc", ["-O2"]),
    "gcc-Os-packed": ("gcc", ["-Os", "-falign-functions=1", "-falign-jumps=1", "-falign-loops=1"]),
    "gcc-O0": ("gcc", ["-O0"]),
    "gcc-O3": ("gcc", ["-O3", "-march=x86-64-v2"]),
    "gcc-fixed-address": ("gcc", ["-O2", "-no-pie", "-fno-pie"]),
    "gcc-one-segment": ("gcc", ["-O2", "-Wl,-z,noseparate-code"]),
    "gcc-cet-patchable": (
        "gcc", ["-O2", "-fcf-protection=full", "-fpatchable-function-entry=5,2"]),
    "gcc-no-tables": ("gcc", ["-O2", "-fno-asynchronous-unwind-tables", "-s"]),
    "clang-O2": (build.CLANG, ["-O2"]),
    "clang-Os-patchable": (build.CLANG, ["-Os", "-fpatchable-function-entry=5"]),
    "clang-cet": (build.CLANG, ["-O1", "-fcf-protection=full", "-no-pie"]),
}


def corpus(name: str) -> Path:
    compiler, flags = BUILDS[name]
    return build.make("corpus", [HERE / "corpus.c"], [*FLAGS, *flags], compiler=compiler)


@dataclass(frozen=True)
class Truth:
    """What a run of so many rounds does: executions by address, and its sum."""

    counts: dict[int, int]
    sum: str


@cache
def truth(path: Path, rounds: int) -> Truth:
    """By single step."""
    text = subprocess.run([path, "steps", str(rounds)], capture_output=True, text=True, timeout=60,
                          check=True).stdout.splitlines()  # fmt: skip
    rows = (line.split() for line in text[:-1])
    return Truth({int(a, 16): int(n) for a, n in rows}, text[-1])


def instructions(path: Path, prefix: str = "c_") -> list[int]:
    """Of the functions whose names begin so, in order."""
    module = Module(str(path))
    found: set[int] = set()
    for symbol in module.symbols:
        if symbol.name.startswith(prefix) and symbol.type == 2:
            found.update(body(module, symbol.vaddr, symbol.vaddr + symbol.size).addrs)
    return sorted(found)


def repeats(module: Module, vaddr: int) -> bool:
    """A string instruction with a prefix: single step counts its rounds, a probe the whole."""
    code = module.read(vaddr, 4)
    return code[:1] in (b"\xf3", b"\xf2") and code != ENDBR64


def shuffled(what: list[int], seed: int) -> list[int]:
    out = list(what)
    random.Random(seed).shuffle(out)
    return out


__all__ = ["BUILDS", "Everywhere", "Truth", "corpus", "ffi", "instructions", "lib", "repeats",
           "shuffled", "truth"]  # fmt: skip
