"""bpf_usdt_arg() of programs whose class is of USDT probes: another body in the place of its own.

That of bpf/usdt.bpf.h looks an argument up in a map that the loader has filled: what it reads is
anything, from anywhere. The one here reads what the binary's notes say of the places of the
class's entries, and nothing else; so what it stores has the argument's type, and is granted or
refused as one. It is judged by the verifier as all code is; that loads are of arguments is told
to it by the slot (Program.probed).

Which place it is, where they differ, is seen by the last twelve bits of the address: a program
of the class is attached at those places alone (eim/entries.py).
"""

from __future__ import annotations

import errno
import struct
from dataclasses import replace

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.policy import FIXED, MEMORY, NOWHERE, Operand, Probes
from libbpf_shim.verifier.program import Program

NAME = "bpf_usdt_arg"
_FUNC = struct.Struct("<II")  # struct bpf_func_info
_SLOT = 8
_LAST = 2  # slots of the last end
_IP = 128  # in struct pt_regs
_ADDRESS = -1
_PAGE = 4096
_ENOENT, _EINVAL = -2, -22
_CTX, _NUMBER, _RESULT, _AT, _VALUE = 1, 2, 3, 4, 5  # registers; the first three as it is called
_LOADS = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
_STORE, _MOV, _EXIT, _JEQ, _JNE, _JA = 0x7B, 0xB7, 0x95, 0x15, 0x55, 0x05
_AND, _LSH, _RSH, _ARSH = 0x57, 0x67, 0x77, 0xC7
Mark = tuple[int, int, int, int]  # slot, position or _ADDRESS, 1: of memory, its offset


def applied(program: Program) -> Program:
    """The program with that body, if its class is of probes and it has such a function. EINVAL:
    there is no room for it."""
    policy = program.policy
    if policy is None or policy.probes is None:
        return program
    place = _place(program)
    if place is None:
        return program
    start, end = place
    code = _Body(policy.probes)
    if len(code.insns) > end - start:
        raise ShimError("EP0008", errno.EINVAL,
                        f"program {program.name} of class {policy.name}: the probes of its "
                        f"entries are passed their arguments in {len(policy.probes.ways)} ways: "
                        f"too many for {NAME}")
    # nothing may be left that no jump leads to: it comes before the last end, of what is not there
    rest = [Insn(_JA, 0, 0, 0, 0)] * (end - start - len(code.insns))
    data = op.encode([*code.insns[:-_LAST], *rest, *code.insns[-_LAST:]])
    insns = program.insns[: start * _SLOT] + data + program.insns[end * _SLOT :]
    return replace(program, insns=insns, probed=tuple(
        (start + slot, position, memory, at) for slot, position, memory, at in code.marks))


def _place(program: Program) -> tuple[int, int] | None:
    """The slots of the function, first and behind the last. That functions begin where the
    records say is looked at by the verifier."""
    size, slots = program.func_info_rec_size, len(program.insns) // _SLOT
    if not program.btf or size < _FUNC.size:
        return None
    rows = [_FUNC.unpack_from(program.func_info, at)
            for at in range(0, len(program.func_info) - _FUNC.size + 1, size)]
    btf = Btf(program.btf)
    for n, (start, number) in enumerate(rows):
        end = rows[n + 1][0] if n + 1 < len(rows) else slots
        if 0 < start < end <= slots and _named(btf, number):
            return start, end
    return None


def _named(btf: Btf, number: int) -> bool:
    try:
        found = btf.type(number)
    except (KeyError, IndexError):
        return False
    return found.kind == kinds.FUNC and found.name == NAME


class _Body:
    """int bpf_usdt_arg(struct pt_regs *ctx, __u64 arg_num, long *res)"""

    def __init__(self, probes: Probes) -> None:
        self.insns: list[Insn] = []
        self.marks: list[Mark] = []
        self._put(_MOV, 0)
        self._put(_STORE, _RESULT, 0)
        if len(probes.ways) > 1:
            self._marked(_AT, _IP, _ADDRESS)
            self._put(_AND, _AT, imm=_PAGE - 1)
        for lows, operands in probes.ways[:-1]:
            self._way(lows, operands)
        self._way((), probes.ways[-1][1])  # there are no other places

    def _put(self, code: int, dst: int, src: int = 0, off: int = 0, imm: int = 0) -> int:
        self.insns.append(Insn(code, dst, src, off, imm))
        return len(self.insns) - 1

    def _marked(self, dst: int, register: int, position: int, memory: int = 0,
                offset: int = 0) -> None:
        at = self._put(_LOADS[8], dst, _CTX, register)
        self.marks.append((at, position, memory, offset))

    def _end(self, result: int) -> None:
        self._put(_MOV, 0, imm=result)
        self._put(_EXIT, 0)

    def _way(self, lows: tuple[int, ...], operands: tuple[Operand, ...]) -> None:
        """The arguments of places whose addresses end so; (): of all that are left."""
        here = [self._put(_JEQ, _AT, imm=low) for low in lows]
        skip = self._put(_JA, 0) if lows else -1
        for at in here:
            self._lead(at)
        for position, operand in enumerate(operands):
            other = self._put(_JNE, _NUMBER, imm=position)
            self._argument(position, operand)
            self._lead(other)
        self._end(_ENOENT)
        if skip >= 0:
            self._lead(skip)

    def _lead(self, at: int) -> None:
        """The jump at that slot leads to what comes next."""
        self.insns[at].off = len(self.insns) - at - 1

    def _argument(self, position: int, operand: Operand) -> None:
        if operand.kind == FIXED:
            self._marked(_AT, _IP, position)  # it is granted, or not, as all are
            self._put(_MOV, _VALUE, imm=operand.value)
        elif operand.kind == NOWHERE:  # the load is what is refused
            self._marked(_VALUE, _IP, position)
            self._end(_EINVAL)
            return
        elif operand.kind == MEMORY:
            self._marked(_VALUE, operand.register, position, 1, operand.value)
            self._put(_LOADS[operand.size], _VALUE, _VALUE, operand.value)
        else:
            self._marked(_VALUE, operand.register, position)
        self._narrow(operand)
        self._put(_STORE, _RESULT, _VALUE)
        self._end(0)

    def _narrow(self, operand: Operand) -> None:
        """As wide as the argument is, and of its sign."""
        bits = 64 - 8 * operand.size
        if not bits or operand.kind == MEMORY and not operand.signed:
            return
        self._put(_LSH, _VALUE, imm=bits)
        self._put(_ARSH if operand.signed else _RSH, _VALUE, imm=bits)
