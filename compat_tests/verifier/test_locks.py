"""bpf_spin_lock: one at a time, given back by who took it, and nothing called meanwhile.

Cases differ by little from the one that is right; each is loaded into the kernel as well. The
map's values are {u32 a; struct bpf_spin_lock lock; u64 b}.
"""

from __future__ import annotations

import pytest

from compat_tests.oracle import kernel
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

TYPES = {"socket_filter": 1, "kprobe": 2, "sched_cls": 3, "xdp": 6, "raw_tracepoint": 17}
CALL, EXIT = op.JMP | op.CALL, Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
MOV, MOVX, ADD, ADDX, AND, JNE = 0xB7, 0xBF, 0x07, 0x0F, 0x57, 0x55
LOCK_AT = 4


def types() -> tuple[bytes, int, int]:
    """BTF, the key's type and the value's."""
    out = Writer()
    u32 = out.integer("unsigned int", 4)
    u64 = out.integer("unsigned long", 8)
    lock = out.struct("bpf_spin_lock", 4, [("val", u32, 0)])
    value = out.struct("value", 16, [("a", u32, 0), ("lock", lock, LOCK_AT), ("b", u64, 8)])
    return out.blob(), u32, value


def call(number: int) -> Insn:
    return Insn(CALL, 0, 0, 0, number)


def element(into: int) -> list[Insn]:
    """R[into] = an element of the map, or the program ends."""
    return [
        Insn(0x62, 10, 0, -4, 0), Insn(MOVX, 2, 10, 0, 0), Insn(ADD, 2, 0, 0, -4),
        Insn(op.LD_IMM64, 1, op.PSEUDO_MAP_FD, 0, 0), Insn(0, 0, 0, 0, 0), call(1),
        Insn(JNE, 0, 0, 1, 0), EXIT, Insn(MOVX, into, 0, 0, 0),
    ]  # fmt: skip


def use(number: int, reg: int, off: int = LOCK_AT) -> list[Insn]:
    return [Insn(MOVX, 1, reg, 0, 0), Insn(ADD, 1, 0, 0, off), call(number)]


def lock(reg: int) -> list[Insn]:
    return use(93, reg)


def unlock(reg: int) -> list[Insn]:
    return use(94, reg)


SAVE = Insn(MOVX, 9, 1, 0, 0)
END = [Insn(MOV, 0, 0, 0, 0), EXIT]
RIGHT = [SAVE, *element(6), *lock(6), Insn(0x7A, 6, 0, 8, 1), *unlock(6), *END]

# name, instructions, type, errno, words of the log
CASES = [
    ("taken and given back", RIGHT, "sched_cls", 0, ""),
    ("in an XDP program", RIGHT, "xdp", 0, ""),
    ("in a socket filter", RIGHT, "socket_filter", 22,
     "socket filter progs cannot use bpf_spin_lock yet"),
    ("in a kprobe", RIGHT, "kprobe", 22, "tracing progs cannot use bpf_spin_lock yet"),
    ("in a raw tracepoint", RIGHT, "raw_tracepoint", 22,
     "tracing progs cannot use bpf_spin_lock yet"),
    ("never given back", [*element(6), *lock(6), *END], "sched_cls", 22,
     "BPF_EXIT instruction in main prog cannot be used inside bpf_spin_lock-ed region"),
    ("never taken", [*element(6), *unlock(6), *END], "sched_cls", 22,
     "bpf_spin_unlock without taking a lock"),
    ("taken twice", [*element(6), *lock(6), *lock(6), *unlock(6), *END], "sched_cls", 22,
     "function calls are not allowed while holding a lock"),
    ("a call meanwhile", [*element(6), *lock(6), call(5), *unlock(6), *END], "sched_cls", 22,
     "function calls are not allowed while holding a lock"),
    ("a kptr exchanged meanwhile", [*element(6), *lock(6), *use(194, 6, 0), *unlock(6), *END],
     "sched_cls", 22, "function calls are not allowed while holding a lock"),
    ("another element's given back",
     [*element(7), *element(6), *lock(6), *unlock(7), *END], "sched_cls", 22,
     "bpf_spin_unlock of different lock"),
    ("one after the other",
     [*element(7), *element(6), *lock(6), *unlock(6), *lock(7), *unlock(7), *END], "sched_cls", 0,
     ""),
    ("beside the lock", [*element(6), *use(93, 6, 0), *END], "sched_cls", 22,
     "off 0 doesn't point to 'struct bpf_spin_lock' that is at 4"),
    ("somewhere in the value",
     [*element(6), Insn(0x61, 3, 6, 0, 0), Insn(AND, 3, 0, 0, 4), Insn(MOVX, 1, 6, 0, 0),
      Insn(ADDX, 1, 3, 0, 0), call(93), *END], "sched_cls", 22,
     "R1 doesn't have constant offset. bpf_spin_lock has to be at the constant offset"),
    ("on the stack", [Insn(MOVX, 1, 10, 0, 0), call(93), *END], "sched_cls", 13,
     "R1 type=fp expected=map_value, ptr_"),
    ("its word read", [*element(6), Insn(0x61, 1, 6, 4, 0), *END], "sched_cls", 13,
     "bpf_spin_lock cannot be accessed directly by load/store"),
    ("the word behind it", [*element(6), Insn(0x61, 1, 6, 8, 0), *END], "sched_cls", 0, ""),
    ("eight bytes that end in it", [*element(6), Insn(0x7A, 6, 0, 0, 0), *END], "sched_cls", 13,
     "bpf_spin_lock cannot be accessed directly by load/store"),
    ("given to a helper as memory",
     [*element(6), Insn(MOVX, 3, 6, 0, 0), Insn(MOVX, 2, 10, 0, 0), Insn(ADD, 2, 0, 0, -4),
      Insn(MOV, 4, 0, 0, 0), Insn(op.LD_IMM64, 1, 1, 0, 0), Insn(0, 0, 0, 0, 0), call(2), *END],
     "sched_cls", 13, "bpf_spin_lock cannot be accessed directly by load/store"),
    ("a packet load meanwhile",
     [SAVE, *element(7), Insn(MOVX, 8, 7, 0, 0), *lock(7), Insn(MOVX, 6, 9, 0, 0),
      Insn(0x20, 0, 0, 0, 0), *unlock(7), *END], "sched_cls", 22,
     "BPF_LD_[ABS|IND] cannot be used inside bpf_spin_lock-ed region"),
    ("held on one branch only",
     [*element(6), Insn(0x61, 7, 6, 0, 0), Insn(0x15, 7, 0, 3, 0), *lock(6), *unlock(6), *END],
     "sched_cls", 22, "bpf_spin_unlock without taking a lock"),
    ("held on both branches or none",
     [*element(6), Insn(0x61, 7, 6, 0, 0), Insn(0x15, 7, 0, 3, 0), *lock(6),
      Insn(0x15, 7, 0, 3, 0), *unlock(6), *END], "sched_cls", 0, ""),
    ("R0 after it", [*element(6), *lock(6), Insn(MOVX, 7, 0, 0, 0), *unlock(6), *END],
     "sched_cls", 13, "R0 !read_ok"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]


@pytest.mark.parametrize(("name", "insns", "kind", "errno", "words"), CASES, ids=NAMES)
def test_verdict(name: str, insns: list[Insn], kind: str, errno: int, words: str) -> None:
    btf, key, value = types()
    desc = MapDesc(1, 4, 16, 4, btf=btf, btf_key_type_id=key, btf_value_type_id=value,
                   fields=(("bpf_spin_lock", LOCK_AT),))  # fmt: skip
    verdict = verify(Program(encode(insns), TYPES[kind], license="GPL", maps=(desc,), log_level=1))
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "insns", "kind", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(name: str, insns: list[Insn], kind: str, errno: int, words: str) -> None:
    btf, key, value = types()
    maps = [{"type": 1, "key_size": 4, "value_size": 16, "max_entries": 4,
             "btf_key_type_id": key, "btf_value_type_id": value}]  # fmt: skip
    found = kernel.driver().kernel_verdict(encode(insns), kind, maps=maps, btf=btf, license="GPL")
    assert found.errno == errno, found.log
    assert words in found.log
