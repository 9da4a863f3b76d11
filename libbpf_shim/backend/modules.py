"""The BTF of the session's interfaces, as modules of the kernel's (eim/module.py), and what
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

    def there(self, number: int) -> int:
        """Of an id in its BTF, that in the interface's own. EINVAL: it has no such thing."""
        if number not in self.made.known:
            raise ShimError("BM0001", errno.EINVAL, f"btf_id {number} of {self.name}: neither a "
                            "host function nor a variable")
        return self.made.known[number]


Named = dict[int, ModuleBtf]  # by slot: whose function or variable it names


class Modules:
    """Those of one session. number: ids for BTF objects; base: the session's vmlinux. tokens: its
    loaders bring some."""

    def __init__(
        self, classes: Classes, store: Store, number: Callable[[], int], base: Callable[[], Btf],
        tokens: bool,
    ) -> None:  # fmt: skip
        self._classes, self._store, self._number, self._base = classes, store, number, base
        self._tokens = tokens
        self._there: list[ModuleBtf] = []

    def look(self) -> None:
        """Before ids are given: the interfaces as they are."""
        wanted = [one for one in self._classes.interfaces(self._tokens)
                  if one.functions or one.state]
        kept = []
        for there in self._there:
            same = [one for one in wanted if _offered(one) == _offered(there.interface)]
            if same:
                there.interface = same[0]
                wanted.remove(same[0])
                kept.append(there)
            else:
                there.refs -= 1
                self._store.collect(there)
        for interface in wanted:
            kept.append(ModuleBtf(self._number(), interface, self._base))
            self._store.add(kept[-1])
        self._there = kept

    @staticmethod
    def named(
        program: Program, by_index: Callable[[int], Object], by_fd: Callable[[int], Object]
    ) -> tuple[Program, Named]:
        """The program with ids of the interfaces' own BTF, and which those are. by_index, by_fd:
        what a place of fd_array, a descriptor, leads to. EINVAL, EBADF."""
        insns, of, at = isa.decode(program.insns), Named(), 0
        while at < len(insns):
            i = insns[at]
            if i.code == isa.JMP | isa.CALL and i.src == isa.PSEUDO_KFUNC_CALL and i.off > 0:
                of[at] = _module(by_index(i.off), i.imm)
                i.imm, i.off = of[at].there(i.imm), _OF_MODULE
            elif i.code == isa.LD_IMM64 and at + 1 < len(insns):
                high = insns[at + 1]
                if i.src == isa.PSEUDO_BTF_ID and high.imm > 0:
                    of[at] = _module(by_fd(high.imm), i.imm)
                    i.imm, high.imm = of[at].there(i.imm), _OF_MODULE
                at += 1
            at += 1
        return (replace(program, insns=isa.encode(insns)) if of else program), of


def of_class(program: Program, named: Named) -> Program:
    """The program, which has its class now, with ids of that one's interface: of several that
    have the same name, a loader has found some. EINVAL: it has none, or the program no class."""
    policy = program.policy
    if not named:
        return program
    if policy is None:
        raise ShimError("BM0002", errno.EINVAL, f"program {program.name}: names functions or "
                        "variables of an application, and is bound to no class")
    insns = isa.decode(program.insns)
    for at, of in named.items():
        if of.interface.blob != policy.btf:
            name = of.interface.btf.type(insns[at].imm).name
            if insns[at].code == isa.LD_IMM64:
                found = [n for n, node in policy.state if policy.nodes[node].path == name]
            else:
                found = [f.id for f in policy.functions if f.name == name]
            if not found:
                raise ShimError("BM0002", errno.EINVAL, f"program {program.name}: {name} is of "
                                f"the interface {of.name}, not of that of class {policy.name}")
            insns[at].imm = found[0]
    return replace(program, insns=isa.encode(insns))


def _module(found: Object, number: int) -> ModuleBtf:
    """EINVAL: that is none."""
    if not isinstance(found, ModuleBtf):
        raise ShimError("BM0001", errno.EINVAL, f"btf_id {number}: not of a module's BTF")
    return found


def _offered(interface: Interface) -> tuple[object, ...]:
    """What a loader could tell apart."""
    return interface.name, interface.blob, tuple(interface.functions), tuple(interface.state)
