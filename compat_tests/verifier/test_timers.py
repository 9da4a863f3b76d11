"""bpf_timer: where it may stand, what its callback gets and returns, on a stack of its own.

Cases differ by little from the one that is right; each is loaded into the kernel as well. The
map's values are {u64 a; struct bpf_timer t; u64 b}.
"""

from __future__ import annotations

import struct

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_locks import END, EXIT, MOV, MOVX, call, element, use
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

TYPES = {"socket_filter": 1, "kprobe": 2, "sched_cls": 3, "xdp": 6}
TIMER_AT = 8
INIT, SET, START, CANCEL = 169, 170, 171, 172


class Types:
    """BTF of the map's value and of main and its callback."""

    def __init__(self) -> None:
        out = Writer()
        self.u32 = out.integer("unsigned int", 4)
        u64 = out.integer("unsigned long", 8)
        words = out.array(u64, self.u32, 2)
        timer = out.struct("bpf_timer", 16, [("__opaque", words, 0)])
        self.value = out.struct("value", 32, [("a", u64, 0), ("t", timer, TIMER_AT),
                                              ("b", u64, 24)])  # fmt: skip
        pointer = out.ref(kinds.PTR, 0)
        self.main = out.func("main", out.proto(u64, [("ctx", pointer)]))
        args = [("map", pointer), ("key", pointer), ("value", pointer)]
        self.body = out.func("body", out.proto(self.u32, args), 0)
        self.blob = out.blob()


def map_(index: int) -> list[Insn]:
    return [Insn(op.LD_IMM64, 2, op.PSEUDO_MAP_FD, 0, index), Insn(0, 0, 0, 0, 0)]


def at(reg: int, off: int = TIMER_AT) -> list[Insn]:
    return use(0, reg, off)[:2]


INITED = [*at(6), *map_(0), Insn(MOV, 3, 0, 0, 1), call(INIT)]
STARTED = [*at(6), Insn(MOV, 2, 0, 0, 0), Insn(MOV, 3, 0, 0, 0), call(START)]


def timed(body: list[Insn], again: bool = False) -> tuple[list[Insn], int]:
    """A timer inited, set and started, and where its callback begins. again: it sets itself."""
    before = [*element(6), *INITED, *at(6)]
    after = [call(SET), *STARTED, *END]
    entry = len(before) + 2 + len(after)
    func = [Insn(op.LD_IMM64, 2, op.PSEUDO_FUNC, 0, entry - len(before) - 1), Insn(0, 0, 0, 0, 0)]
    if again:
        here = entry + len(body)
        body = [*body, Insn(op.LD_IMM64, 2, op.PSEUDO_FUNC, 0, entry - here - 1),
                Insn(0, 0, 0, 0, 0), call(SET), *END]  # fmt: skip
    return [*before, *func, *after, *body], entry


def alone(*insns: Insn) -> tuple[list[Insn], int]:
    return [*element(6), *insns, *END], 0


AGAIN = [Insn(MOVX, 6, 3, 0, 0), *at(6)]
# name, instructions with the callback's place, type, errno, words of the log
CASES = [
    ("set and started", timed(END), "sched_cls", 0, ""),
    ("in an XDP program", timed(END), "xdp", 0, ""),
    ("in a socket filter", timed(END), "socket_filter", 0, ""),
    ("in a kprobe", timed(END), "kprobe", 22, "tracing progs cannot use bpf_timer yet"),
    ("a callback that returns 1", timed([Insn(MOV, 0, 0, 0, 1), EXIT]), "sched_cls", 22,
     "At async callback return the register R0 has"),
    ("a callback that returns a pointer", timed([Insn(MOVX, 0, 3, 0, 0), EXIT]), "sched_cls", 22,
     "At async callback return the register R0 is not a known value"),
    ("its value read", timed([Insn(0x79, 1, 3, 24, 0), *END]), "sched_cls", 0, ""),
    ("its timer read", timed([Insn(0x79, 1, 3, 8, 0), *END]), "sched_cls", 13,
     "bpf_timer cannot be accessed directly by load/store"),
    ("its key read", timed([Insn(0x61, 1, 2, 0, 0), *END]), "sched_cls", 0, ""),
    ("its key written", timed([Insn(0x62, 2, 0, 0, 1), *END]), "sched_cls", 13,
     "write to change key R2 not allowed"),
    ("a fourth argument", timed([Insn(0x79, 1, 4, 0, 0), *END]), "sched_cls", 13, "R4 !read_ok"),
    ("the caller's stack", timed([Insn(0x79, 1, 10, 8, 0), *END]), "sched_cls", 13,
     "invalid read from stack"),
    ("started again by its callback",
     timed([*AGAIN, Insn(MOV, 2, 0, 0, 0), Insn(MOV, 3, 0, 0, 0), call(START), *END]),
     "sched_cls", 0, ""),
    ("set again by its callback", timed(AGAIN, again=True), "sched_cls", 0, ""),
    ("with another map", alone(*at(6), *map_(1), Insn(MOV, 3, 0, 0, 1), call(INIT)),
     "sched_cls", 22, "timer pointer in R1 map_uid=0 doesn't match map pointer in R2 map_uid=0"),
    ("beside the timer", alone(*at(6, 0), *map_(0), Insn(MOV, 3, 0, 0, 1), call(INIT)),
     "sched_cls", 22, "off 0 doesn't point to 'struct bpf_timer' that is at 8"),
    ("on the stack", alone(*at(10, -16), *map_(0), Insn(MOV, 3, 0, 0, 1), call(INIT)),
     "sched_cls", 13, "R1 type=fp expected=map_value"),
    ("a number for a callback", alone(*at(6), Insn(MOV, 2, 0, 0, 0), call(SET)), "sched_cls", 13,
     "R2 type=scalar expected=func"),
    ("cancelled", alone(*at(6), call(CANCEL)), "sched_cls", 0, ""),
]  # fmt: skip
NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize(("name", "code", "kind", "errno", "words"), CASES, ids=NAMES)
def test_verdict(
    name: str, code: tuple[list[Insn], int], kind: str, errno: int, words: str
) -> None:
    types = Types()
    desc = [MapDesc(t, 4, 32, 4, btf=types.blob, btf_key_type_id=types.u32,
                    btf_value_type_id=types.value, fields=(("bpf_timer", TIMER_AT),))
            for t in (1, 2)]  # fmt: skip
    insns, entry = code
    rows = struct.pack("<IIII", 0, types.main, entry, types.body) if entry else b""
    verdict = verify(Program(encode(insns), TYPES[kind], license="GPL", maps=tuple(desc),
                             log_level=1, btf=types.blob if entry else None, func_info=rows,
                             func_info_rec_size=8 if entry else 0))  # fmt: skip
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "code", "kind", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(
    name: str, code: tuple[list[Insn], int], kind: str, errno: int, words: str
) -> None:
    types = Types()
    maps = [{"type": t, "key_size": 4, "value_size": 32, "max_entries": 4,
             "btf_key_type_id": types.u32, "btf_value_type_id": types.value}
            for t in (1, 2)]  # fmt: skip
    insns, entry = code
    rows = struct.pack("<IIII", 0, types.main, entry, types.body) if entry else b""
    found = kernel.driver().kernel_verdict(encode(insns), kind, maps=maps, btf=types.blob,
                                           func_info=rows, license="GPL")  # fmt: skip
    assert found.errno == errno, found.log
    assert words in found.log
