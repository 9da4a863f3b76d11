"""The BTF of the session's interface, as a module of the kernel's (eim/module.py), and what
programs name of it.

Loaders find it as they find the kernel's modules: by BTF_GET_NEXT_ID, BTF_GET_FD_BY_ID, and in its
information kernel_btf and a name, the interface's. In a program, a call of one of its functions
says by `off` which descriptor of fd_array is the BTF; a variable's ld_imm64 has the descriptor
itself. What the verifier is given has 1 in both places, and the id of the interface's own BTF.

Source: kernel/bpf/verifier.c, add_kfunc_call, __find_kfunc_desc_btf, check_pseudo_btf_id.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from libbpf_shim.btf.parse import Btf
from libbpf_shim.eim import module
from libbpf_shim.eim.interface import Interface
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as isa
from libbpf_shim.object.btf import KernelBtf
from libbpf_shim.object.store import Object, Store
from libbpf_shim.verifier.program import Program

if TYPE_CHECKING:
    from libbpf_shim.backend.classes import Classes

_OF_MODULE: Final = 1  # what `off` and a descriptor become


class ModuleBtf(KernelBtf):
    """Of one interface. There until the interface is another one and nobody has it any more."""

    def __init__(self, number: int, interface: Interface, base: Callable[[], Btf]) -> None:
        super().__init__(number)
        self.interface, self._base = interface, base
        self._made: module.Module | None = None

    @property
    def made(self) -> module.Module:
        if self._made is None:
            self._made = module.of(self.interface, self._base())
        return self._made

    @property
    def blob(self) -> bytes:
        return self.made.blob

    @property
    def name(self) -> str:
        return self.interface.name

    def check(self, program: Program) -> None:
        """The program, which names something of this one, has a class of its interface. EINVAL."""
        if program.policy is None or program.policy.btf != self.interface.blob:
            why = "it is bound to no class" if program.policy is None else \
                "the interface has changed"
            raise ShimError("BM0002", errno.EINVAL, f"program {program.name}: names functions or "
                            f"variables of {self.name}, and {why}")


class Modules:
    """Those of one session. number: ids for BTF objects; base: the session's vmlinux."""

    def __init__(
        self, classes: Classes, store: Store, number: Callable[[], int], base: Callable[[], Btf]
    ) -> None:
        self._classes, self._store, self._number, self._base = classes, store, number, base
        self._now: ModuleBtf | None = None

    def look(self) -> None:
        """Before ids are given: the interface as it is."""
        interface = self._classes.interface
        if self._now and _offered(self._now.interface) == _offered(interface):
            self._now.interface = interface
            return
        before, self._now = self._now, None
        if before:
            before.refs -= 1
            self._store.collect(before)
        if interface.functions or interface.state:
            self._now = ModuleBtf(self._number(), interface, self._base)
            self._store.add(self._now)

    def named(
        self, program: Program, by_index: Callable[[int], Object], by_fd: Callable[[int], Object]
    ) -> tuple[Program, ModuleBtf | None]:
        """The program with ids of the interface's own BTF, and whose those are. by_index, by_fd:
        what a place of fd_array, a descriptor, leads to. EINVAL, EBADF."""
        insns, of, at = isa.decode(program.insns), None, 0
        while at < len(insns):
            i = insns[at]
            if i.code == isa.JMP | isa.CALL and i.src == isa.PSEUDO_KFUNC_CALL and i.off > 0:
                of = _module(by_index(i.off), i.imm)
                i.imm, i.off = of.made.known[i.imm], _OF_MODULE
            elif i.code == isa.LD_IMM64 and at + 1 < len(insns):
                high = insns[at + 1]
                if i.src == isa.PSEUDO_BTF_ID and high.imm > 0:
                    of = _module(by_fd(high.imm), i.imm)
                    i.imm, high.imm = of.made.known[i.imm], _OF_MODULE
                at += 1
            at += 1
        return (replace(program, insns=isa.encode(insns)) if of else program), of


def _module(found: Object, number: int) -> ModuleBtf:
    """EINVAL: that is none, or it has no such thing."""
    if not isinstance(found, ModuleBtf):
        raise ShimError("BM0001", errno.EINVAL, f"btf_id {number}: not of a module's BTF")
    if number not in found.made.known:
        raise ShimError("BM0001", errno.EINVAL, f"btf_id {number} of {found.name}: neither a "
                        "host function nor a variable")
    return found


def _offered(interface: Interface) -> tuple[object, ...]:
    """What a loader could tell apart."""
    return interface.name, interface.blob, tuple(interface.functions), tuple(interface.state)
