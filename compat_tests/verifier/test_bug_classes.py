"""Known ways in which verifiers have been unsound, as cases: nullness, types, lifetimes, limits.

Each mistake stands beside what differs from it by a token and is right; the kernel is asked the
same. Classes are those of the project's notes: c nullness and types (CVE-2022-23222,
CVE-2021-4204, CVE-2022-0500, CVE-2023-39191, CVE-2024-43910), g lifetimes (references, slices,
locks), h resources (depth of the stack, loops).
"""

from __future__ import annotations

import re
import struct

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import bug_cases_lifetimes, bug_cases_types, generate
from compat_tests.verifier.asm import assemble
from compat_tests.verifier.test_verdicts import row
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.isa import encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

TYPES = {"socket_filter": 1, "kprobe": 2, "sched_cls": 3, "xdp": 6}
HASH, RING, PROGS, FROZEN, LOCKED, NESTED = range(6)
MAPS = (
    MapDesc(1, 4, 48, 16), MapDesc(27, 0, 0, 4096), MapDesc(3, 4, 4, 4),
    MapDesc(2, 4, 32, 1, map_flags=128), generate.MAPS[generate.LOCKED],
    MapDesc(12, 4, 4, 4, inner=MapDesc(2, 4, 40, 4)),
)  # fmt: skip

KEY = "*(u32 *)(r10 - 4) = 0; r2 = r10; r2 += -4"
MACROS = {
    "lookup": f"{KEY}; r1 = map {HASH}; call 1",
    "lookup_locked": f"{KEY}; r1 = map {LOCKED}; call 1",
    "lookup_nested": f"{KEY}; r1 = map {NESTED}; call 1",
    "reserve": f"r1 = map {RING}; r2 = 16; r3 = 0; call 131",
    "lock r6": "r1 = r6; r1 += 8; call 93",
    "unlock r6": "r1 = r6; r1 += 8; call 94",
    "end": "r0 = 0; exit",
    "dynptr": f"r1 = value {FROZEN}; r2 = 16; r3 = 0; r4 = r10; r4 += -16; call 197",
    "ring_dynptr": f"r1 = map {RING}; r2 = 16; r3 = 0; r4 = r10; r4 += -16; call 198",
    "packet": "r7 = *(u32 *)(r6 + 76); r8 = *(u32 *)(r6 + 80); r2 = r7; r2 += 8",
}  # fmt: skip

CASES = (*bug_cases_types.CASES, *bug_cases_lifetimes.CASES)
# What we refuse too, in other words.
OTHER_WORDS = ("a map's address as memory", "a map in a map as memory")


def expand(text: str) -> str:
    """{macro} written out."""
    return re.sub(r"\{([^}]*)\}", lambda m: MACROS[m[1]], text)


def build(text: str, kind: str) -> Program:
    insns = assemble(expand(text))
    blob, info = infos([at + 1 + i.imm for at, i in enumerate(insns)
                        if i.src == 1 and i.code == op.JMP | op.CALL or
                        i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC])
    return Program(encode(insns), TYPES[kind], license="GPL", maps=MAPS, log_level=1, btf=blob,
                   func_info=info, func_info_rec_size=8)


def infos(entries: list[int]) -> tuple[bytes, bytes]:
    """BTF with the locked map's value, and func_info of static functions."""
    out = Writer()
    u32, u64 = out.integer("unsigned int", 4), out.integer("unsigned long", 8)
    lock = out.struct("bpf_spin_lock", 4, [("val", u32, 0)])
    out.struct("value", 24, [("a", u64, 0), ("lock", lock, 8), ("b", u64, 16)])
    proto = out.proto(u64, [(name, u64) for name in "abc"])
    main = out.func("main", out.proto(u64, [("ctx", out.ref(kinds.PTR, 0))]))
    rows = struct.pack("<II", 0, main)
    for entry in sorted(set(entries)):
        rows += struct.pack("<II", entry, out.func(f"f{entry}", proto, 0))
    return out.blob(), rows


@pytest.mark.parametrize(("name", "text", "kind", "errno", "words"), [c[1:] for c in CASES],
                         ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_verdict(name: str, text: str, kind: str, errno: int, words: str) -> None:
    verdict = verify(build(text, kind))
    if name in OTHER_WORDS:
        assert verdict.errno
        return
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


def asked(program: Program, kind: str) -> tuple[int, str]:
    """The kernel's errno and log."""
    rows = [{**row(m), "map_flags": m.map_flags, "btf_key_type_id": m.btf_key_type_id,
             "btf_value_type_id": m.btf_value_type_id} for m in MAPS]
    found = kernel.driver().kernel_verdict(
        program.insns, kind, maps=rows, btf=program.btf, func_info=program.func_info,
        license="GPL", log_level=1)
    return found.errno, found.log


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "text", "kind", "errno", "words"), [c[1:] for c in CASES],
                         ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_kernel_agrees(name: str, text: str, kind: str, errno: int, words: str) -> None:
    theirs, log = asked(build(text, kind), kind)
    assert theirs == errno, log
    assert words in log


BEHIND = "r6 = r1; {packet}; r2 += 12; if r2 > r8 goto far; {end}; "
DEAD = "if r2 > r8 goto out; r0 = *(u64 *)(r6 + 9999); out: {end}"


@pytest.mark.parametrize("back", ["r2 += -20", "r2 -= 20", "r3 = 20; r2 -= r3"])
def test_a_packet_pointer_that_came_back_from_behind_the_end(back: str) -> None:
    """What follows is reached. Linux 6.18 accepts this, later kernels don't."""
    assert verify(build(f"{BEHIND} far: {back}; {DEAD}", "sched_cls")).errno == 13
    assert verify(build(f"{BEHIND} far: r2 += 20; {DEAD}", "sched_cls")).errno == 0
