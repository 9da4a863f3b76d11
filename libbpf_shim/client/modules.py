"""BTF of the session's modules: of the kernel's there are none, of applications those that the
session's policy knows (docs/eim.md). What programs name of an application is found there.

Source: libbpf 1.1 src/libbpf.c, load_module_btfs.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.client import btf, handle
from libbpf_shim.client.session import Command, Session
from libbpf_shim.elf.typeinfo import Extern
from libbpf_shim.isa import insn as isa
from libbpf_shim.uapi.bpf import bpf_cmd

_VMLINUX = "vmlinux"


@dataclass(slots=True)
class Modules:
    """fds: owned, until `close`; blobs: what is behind each, split on the kernel's."""

    fds: list[int] = field(default_factory=list)
    blobs: list[Btf] = field(default_factory=list)

    def close(self) -> None:
        for fd in self.fds:
            os.close(fd)
        self.fds = []

    def __enter__(self) -> Modules:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def of(session: Session, externs: Iterable[Extern], types: Btf | None) -> Modules:
    """All of a session, if one of the externs is not in the kernel's types; else none."""
    found = Modules()
    if types is None or not any(_elsewhere(extern, types) for extern in externs):
        return found
    try:
        number = 0
        while number := _next(session, number):
            fd = handle.from_id(session, bpf_cmd.BPF_BTF_GET_FD_BY_ID, number)
            found.fds.append(fd)
            said = btf.about(session, fd)
            if not said.kernel or said.name == _VMLINUX:
                os.close(found.fds.pop())
                continue
            found.blobs.append(Btf(btf.bytes_of(session, fd, said.size), types))
    except BaseException:
        found.close()
        raise
    return found


def _elsewhere(extern: Extern, types: Btf) -> bool:
    kind = kinds.FUNC if extern.function else kinds.VAR
    return bool(extern.type) and not extern.kconfig and not types.find(extern.name, kind)


def _next(session: Session, number: int) -> int:
    """The id that comes next; 0: none."""
    command = Command(bpf_cmd.BPF_BTF_GET_NEXT_ID, "by_id", start_id=number)
    reply = session.bpf(command)
    return command.field("next_id") if reply.ret == 0 else 0


def named(insns: Sequence[isa.Insn], fds: Sequence[int]) -> tuple[list[int], bytes]:
    """Puts descriptors where the linker has put numbers of modules. Those that are named, and
    fd_array (b"": no function is called)."""
    used: dict[int, None] = {}
    calls = False
    for at, one in enumerate(insns):
        if one.code == isa.JMP | isa.CALL and one.src == isa.PSEUDO_KFUNC_CALL and one.off > 0:
            used[fds[one.off - 1]] = None
            calls = True
        elif one.code == isa.LD_IMM64 and one.src == isa.PSEUDO_BTF_ID and insns[at + 1].imm > 0:
            insns[at + 1].imm = fds[insns[at + 1].imm - 1]
            used[insns[at + 1].imm] = None
    array = b"".join(fd.to_bytes(4, "little") for fd in (0, *fds)) if calls else b""
    return list(used), array

