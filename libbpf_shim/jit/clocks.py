"""bpf_ktime_get_ns() without a call: which programs read the time so, and the code.

The clock is read by rdtsc, on the thread's own scale (csrc/runtime/clock_own.c). What orders rdtsc
behind the loads before it, an lfence, takes as long as rdtsc itself. Without it the time may be
early, by what the processor had in flight, and the scale is a little behind; it is never late: it
is read before it can be stored. Early is seen only by who compares it with a time of another
thread's, or of the application's. So the code is for programs that can have none: no load from
anywhere but the program's own stack and frozen maps, no helper that gives or copies what others
have written, before the call or behind it, callbacks and functions included. All others call the
helper.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit import encode as x
from libbpf_shim.jit.encode import R9, R10, R12, RAX, RDX
from libbpf_shim.jit.features import counts_time
from libbpf_shim.jit.local import ABOVE_EQUAL, BELOW, EQUAL, NOT_EQUAL, Local
from libbpf_shim.jit.places import CLOCK, CLOCK_CYCLES, RUN
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import MapDesc, Program

KTIME: Final = 5  # enum bpf_func_id
OWN: Final = 253  # SHIM_FUNC_CLOCK_OWN
RDTSC: Final = b"\x0f\x31"
_RESERVE, _PERF_OUTPUT = 131, 25
# helpers that give what is of the thread or the link, or nothing that tells a time
_KEPT: Final = frozenset((
    KTIME, 7, 8, 14, 15, 16, 173, 174,  # prandom, CPU, pid and tgid, uid and gid, comm, ip, cookie
    3, 181, _RESERVE, 132, 133,  # map_delete_elem, loop, ringbuf_reserve, _submit, _discard
))  # fmt: skip
# helpers that copy from a pointer: from the stack, where the program can have no other.
# map_update_elem, map_push_elem, ringbuf_output, perf_event_output
_COPYING: Final = frozenset((2, 87, 130, _PERF_OUTPUT))
_TRACING: Final = frozenset((2, 5, 7, 17, 26))  # types whose bpf_perf_event_output has no packet


def _loads(i: Insn) -> bool:
    """The instruction gives the program something out of memory."""
    if i.klass == op.LDX:
        return True
    if i.klass == op.STX and i.code & 0xE0 == op.MODE_ATOMIC:
        return i.imm == op.LOAD_ACQ or (i.imm != op.STORE_REL and bool(i.imm & op.FETCH))
    return i.klass == op.LD and i.code not in (op.LD_IMM64, 0)


def _points(i: Insn, maps: Sequence[MapDesc]) -> bool:
    """The instruction gives an address of what others may write."""
    if i.code != op.LD_IMM64:
        return False
    value = i.src in (op.PSEUDO_MAP_VALUE, op.PSEUDO_MAP_IDX_VALUE)
    constant = value and 0 <= i.imm < len(maps) and maps[i.imm].constant
    return i.src == op.PSEUDO_BTF_ID or value and not constant


def unordered(program: Program, insns: Sequence[Insn], facts: Facts) -> bool:
    """Whether nothing in the program can compare the time with one of another thread's."""
    if facts.kfuncs or facts.reads_unset or not counts_time():
        return False
    called, points, half = set(), False, False
    for at, i in enumerate(insns):
        second, half = half, i.code == op.LD_IMM64 and not half
        if second or not facts.seen[at]:
            continue
        if _loads(i) and at not in facts.stack_at and at not in facts.constant_at:
            return False
        points |= _points(i, program.maps)
        if i.code == op.JMP | op.CALL and i.src != op.PSEUDO_CALL:
            called.add(i.imm if not i.src else -1)
    copies = called & _COPYING
    if _PERF_OUTPUT in copies and program.prog_type not in _TRACING:
        return False
    if copies and (points or _RESERVE in called):
        return False
    return KTIME in called and called <= _KEPT | _COPYING


def code() -> Local:
    """rax = the time, else it goes to the label "slow", which the caller has. Changes rdx, r9,
    r10. A handler's run that makes the scale anew in between is seen by its tsc."""
    made = Local()
    made.put(x.mem(b"\x8b", R9, R12, RUN["thread"], True), x.rr(b"\x85", R9, R9, True))
    made.jump("slow", EQUAL)
    made.put(x.mem(b"\x8b", R10, R9, CLOCK["tsc"], True), x.rr(b"\x85", R10, R10, True))
    made.jump("slow", EQUAL)
    made.put(RDTSC, x.shift(x.SHL, RDX, 32, True), x.alu(x.OR, RAX, RDX, True))
    made.put(x.alu(x.SUB, RAX, R10, True), x.alu_imm(x.CMP, RAX, CLOCK_CYCLES, True))
    made.jump("slow", ABOVE_EQUAL)
    made.put(x.mem(b"\x0f\xaf", RAX, R9, CLOCK["rate"], True), x.shift(x.SHR, RAX, 32, True))
    made.put(x.mem(b"\x03", RAX, R9, CLOCK["ns"], True))
    made.put(x.mem(b"\x39", R10, R9, CLOCK["tsc"], True))
    made.jump("slow", NOT_EQUAL)
    made.put(x.mem(b"\x3b", RAX, R9, CLOCK["last"], True))
    made.jump("slow", BELOW)
    made.put(x.mem(b"\x89", RAX, R9, CLOCK["last"], True))
    return made


# The same for LLVM, of the thread's block in $1: the time, or 0.
TEXT: Final = "\\0A\\09".join((
    f"movq {CLOCK['tsc']}($1), %r10", "testq %r10, %r10", "jz 1f", "rdtsc", "shlq $$32, %rdx",
    "orq %rdx, %rax", "subq %r10, %rax", f"cmpq $${CLOCK_CYCLES}, %rax", "jae 1f",
    f"imulq {CLOCK['rate']}($1), %rax", "shrq $$32, %rax", f"addq {CLOCK['ns']}($1), %rax",
    f"cmpq %r10, {CLOCK['tsc']}($1)", "jne 1f", f"cmpq {CLOCK['last']}($1), %rax", "jb 1f",
    f"movq %rax, {CLOCK['last']}($1)", "jmp 2f", "1: xorl %eax, %eax", "2:",
))  # fmt: skip
CONSTRAINTS: Final = "=&{ax},r,~{rdx},~{r10},~{memory},~{dirflag},~{fpsr},~{flags}"
