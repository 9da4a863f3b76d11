"""Isolated programs with whatever facts a test makes up, put into an application by a session
without a backend (compat_tests/attach/host.py)."""

from __future__ import annotations

import mmap
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libbpf_shim._native import ffi, lib

from compat_tests.attach.host import Host, Victim
from compat_tests.jit.native import all_seen
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.target import look
from libbpf_shim.elf.module import Module
from libbpf_shim.jit import isolated
from libbpf_shim.jit.image import Image
from libbpf_shim.object.control import Control
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.policy import SFI, Policy
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


POLICY = Policy("c", "grants.yaml", b"", isolation=SFI, override=((-1, 3), (403, 403)))


def compiled(insns: bytes, facts: Facts | None = None, maps: tuple[MapDesc, ...] = MAPS,
             policy: Policy = POLICY) -> Image:
    """The image of an isolated program."""
    program = Program(insns, KPROBE, license="GPL", maps=maps, policy=policy)
    return isolated.compile_program(program, facts or facts_of(insns))


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

    def once(self, image: Image, rounds: int = 1) -> bool:
        """Attached, run, detached: whether it was contained. The application is as it was."""
        att = self.attach(image)
        self.run(rounds)
        found = self.contained(att)
        self.host.detach(att)
        assert self.say("check") == "fine"
        return found

    def clear(self) -> None:
        size = MAPS[0].value_size * MAPS[0].max_entries
        self.maps[0].memory[:size] = bytes(size)

    def close(self) -> None:
        for one in self.maps:
            os.close(one.fd)
