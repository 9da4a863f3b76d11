"""Isolated programs with whatever facts a test makes up, put into an application by a session
without a backend (compat_tests/attach/host.py)."""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libbpf_shim._native import ffi, lib

from compat_tests.attach.host import Host, Victim
from compat_tests.jit.native import all_seen
from compat_tests.verifier.asm import assemble
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.target import look
from libbpf_shim.elf.module import Module
from libbpf_shim.isa import Insn
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import isolated
from libbpf_shim.jit.image import Image
from libbpf_shim.object.control import Control
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import (
    ENTRY,
    HOST,
    NUMBER,
    READS,
    SFI,
    Arg,
    HostFunction,
    HostParam,
    Node,
    Policy,
    Rule,
)
from libbpf_shim.verifier.program import MapDesc, Program

HERE = Path(__file__).parent
KPROBE = 2
ARRAY, HASH, PERCPU_ARRAY, RINGBUF, PROG_ARRAY = 2, 1, 6, 27, 3
RDONLY_PROG = 1 << 7
TEXT = b"counted %d of %s\0%d only\0/private/\0%pI4\0".ljust(64, b"\0")
# by index: what programs of these tests have
MAPS = (MapDesc(ARRAY, 4, 64, 4, name="slots"), MapDesc(HASH, 8, 24, 16, name="counts"),
        MapDesc(PERCPU_ARRAY, 4, 16, 2, name="cpus"), MapDesc(RINGBUF, 0, 0, 4096, name="events"),
        MapDesc(PROG_ARRAY, 4, 4, 4, name="progs"),
        MapDesc(ARRAY, 4, 64, 1, map_flags=RDONLY_PROG, name="text", contents=TEXT))
EVENTS, PROGS, STRINGS = 3, 4, 5


class Map:
    """A map's file, as a session's objects have one."""

    def __init__(self, number: int, desc: MapDesc, control: Control) -> None:
        hdr = ffi.new("struct shim_map_hdr *")
        hdr.magic, hdr.version, hdr.id = lib.SHIM_MAP_MAGIC, lib.SHIM_MAP_VERSION, number
        hdr.type, hdr.key_size, hdr.value_size = desc.type, desc.key_size, desc.value_size
        hdr.max_entries, hdr.nr_vcpus = desc.max_entries, control.nr_vcpus
        hdr.map_flags = desc.map_flags
        assert lib.shim_map_layout(hdr) == 0
        self.id, self.file_size = number, int(hdr.file_size)
        self.fd = os.memfd_create("bpf-map")
        self.ino, self.frozen = os.fstat(self.fd).st_ino, desc.contents is not None
        self.contents: list[Prog] | None = [] if desc.type == PROG_ARRAY else None
        os.ftruncate(self.fd, self.file_size)
        self.memory = mmap.mmap(self.fd, self.file_size)
        view = ffi.from_buffer(self.memory)
        assert lib.shim_map_format(view, hdr) == 0
        self.desc: Any = ffi.new("struct shim_map_desc *")
        assert lib.shim_map_desc_init(self.desc, view, self.file_size) == 0
        self.desc.perf_size = control.perf_size
        if desc.contents:
            self.memory[: len(desc.contents)] = desc.contents

    def put(self, index: int, prog: Prog) -> None:
        """A program that tail calls lead to, before anything that has the map is attached."""
        assert self.contents is not None
        self.contents.append(prog)
        self.memory[index * 8 : index * 8 + 4] = prog.id.to_bytes(4, "little")

    def word(self, index: int) -> int:
        """Of the first value, 8 bytes each."""
        return int.from_bytes(self.memory[index * 8 : index * 8 + 8], "little")


@dataclass
class Prog:
    id: int
    image: Image
    maps: Sequence[Map]


def facts_of(insns: bytes, **wrong: Any) -> Facts:
    """What no verifier has said: every slot may run; and what else the test believes."""
    plain = all_seen(insns)
    return Facts(**{"subprogs": plain.subprogs, "stack_depth": plain.stack_depth,
                    "seen": plain.seen} | wrong)


_HOSTED = 20000  # what offsets in the host's memory have more, until it is known which those are
DI, SI = 112, 104  # of the first two arguments, in struct pt_regs
THING, NEXT, GIVEN = 0, 1, 2  # nodes: what two() gets, what its `next` leads to, what give() gives
_ROWS: dict[str, Any] = {"type_id": 1, "size": 40, "writes": ((16, 20),)}
POKE = HostFunction(
    "poke", 1, (HostParam("t", HOST, type_id=1, nonnull=True), HostParam("how", NUMBER, 4, True)),
    NUMBER, 4, True, pre=(Rule("how in [1, 3]", 1, "in", ranges=((1, 3),)),), granted=True,
    symbol="poke")
SUM = HostFunction(
    "sum", 2, (HostParam("bytes", READS, -1, nonnull=True, size_of=1),
               HostParam("size", NUMBER, 8, True)),
    NUMBER, 8, True, pre=(Rule("size <= 64", 1, "<=", value=64),), granted=True, symbol="sum")
GIVE = HostFunction(
    "give", 3, (HostParam("t", HOST, type_id=1, nonnull=True),), HOST, node=GIVEN, acquires=True,
    pre=(Rule("t == entry.t", 0, "==", ENTRY, THING),), granted=True, symbol="give")
BACK = HostFunction("back", 4, (HostParam("t", HOST, type_id=1, nonnull=True),), releases=0,
                    granted=True, symbol="back")
POLICY = Policy(
    "c", "grants.yaml", b"", isolation=SFI, override=((-1, 3), (403, 403)),
    nodes=(Node("t", reads=((0, 16), (24, 40)), links=((8, NEXT),), nonnull=True, **_ROWS),
           Node("t.next", reads=((0, 8),), **_ROWS), Node("give()", reads=((0, 8),), **_ROWS)),
    args=(Arg(DI, "t", "read(t)", THING, True),), functions=(POKE, SUM, GIVE, BACK))


def compiled(insns: bytes, facts: Facts | None = None, maps: tuple[MapDesc, ...] = MAPS,
             policy: Policy = POLICY) -> Image:
    """The image of an isolated program."""
    program = Program(insns, KPROBE, license="GPL", maps=maps, policy=policy)
    return isolated.compile_program(program, facts or facts_of(insns))


def hosted(text: str) -> tuple[list[Insn], dict[str, Any]]:
    """A program with "call NAME" of functions of POLICY, "(u32 host *)" of the host's memory; and
    the facts of that."""
    numbers = {f.name: 9000 + f.id for f in POLICY.functions}
    for name, number in numbers.items():
        text = text.replace(f"call {name}", f"call {number}")
    text = re.sub(r"host \*\)\(r(\d+) \+ (\d+)",
                  lambda m: f"*)(r{m[1]} + {int(m[2]) + _HOSTED}", text)
    insns = assemble(text)
    facts: dict[str, Any] = {"kfuncs": {}, "host_loads": set(), "host_stores": set()}
    for at, i in enumerate(insns):
        if i.code == op.JMP | op.CALL and i.imm >= 9000:
            name = next(name for name, number in numbers.items() if number == i.imm)
            facts["kfuncs"][at] = f"host:{name}"
            insns[at] = Insn(i.code, 0, op.PSEUDO_KFUNC_CALL, 1, i.imm)
        elif i.klass in (op.LDX, op.ST, op.STX) and i.off >= _HOSTED:
            facts["host_loads" if i.klass == op.LDX else "host_stores"].add(at)
            insns[at] = Insn(i.code, i.dst, i.src, i.off - _HOSTED, i.imm)
    return insns, {name: frozenset(v) if isinstance(v, set) else v for name, v in facts.items()}


def application() -> Path:
    return build.make("isolation-guarded", [HERE / "guarded.c"], ["-g", "-O1", "-pthread"])


class Application(Victim):
    """guarded.c, and what is attached to its function `one`."""

    def __init__(self, host: Host, program: Path, runtime_dir: Path) -> None:
        super().__init__(program, runtime_dir, host)
        self.host, self.program = host, program
        module = Module(str(program))
        self.offsets = {}
        for name in ("one", "two"):
            found = module.find(name)
            assert found
            self.offsets[name] = module.vaddr_to_offset(found.vaddr)
        target = look(self.pid)
        assert target
        self.target = target
        self.maps = tuple(Map(host.number(), desc, host.control) for desc in MAPS)

    def attach(self, image: Image, function: str = "one") -> Attachment:
        prog = Prog(self.host.number(), image, self.maps)
        att = Attachment(self.host.number(), self.host.control.take_link(0), prog,
                         Code(str(self.program), self.offsets[function]), 0, 0)
        self.host.delivery.attach(att)
        self.host.control.enable(att.link, True)
        return att

    def contained(self, att: Attachment) -> bool:
        """The program has left its window, or one that it called has: it was told of, and the
        link of the former is silent."""
        ctl, found = self.host.control.ctl, False
        called = {prog.id for prog in self.maps[PROGS].contents or ()}
        for row in ctl.contained:
            if row.state != lib.SHIM_CONTAINED_TOLD or row.prog_id not in {att.prog.id, *called}:
                continue
            assert row.pid == self.pid
            assert row.prog_id in called or self.silent(att)
            row.state, found = lib.SHIM_CONTAINED_FREE, True
        return found

    def silent(self, att: Attachment) -> bool:
        return not self.host.control.ctl.link[att.link].enabled

    def once(self, image: Image, rounds: int = 1, function: str = "one") -> bool:
        """Attached, run, detached: whether it was contained. The application is as it was."""
        att = self.attach(image, function)
        self.run(rounds)
        found = self.contained(att)
        self.host.detach(att)
        assert (said := self.say("check")) == "fine", said
        return found

    def clear(self) -> None:
        """Nothing is in the array, and what is in the ring has been read."""
        size = MAPS[0].value_size * MAPS[0].max_entries
        self.maps[0].memory[:size] = bytes(size)
        ring = self.maps[EVENTS].memory
        ring[:8] = ring[4096:4104]

    def close(self) -> None:
        for one in self.maps:
            os.close(one.fd)
