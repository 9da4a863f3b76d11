"""Sockets: looked up, looked into, cast, stored and given back. Cases differ by little from one
that is right; each is loaded into the kernel as well, for its errno and words.

Source: tools/testing/selftests/bpf/progs/verifier_sock.c, verifier_ref_tracking.c.
"""

from __future__ import annotations

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_calls import LEAVE, insn
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

CLS, XDP, CG_SKB, SK_MSG, SOCK_ADDR, SOCK_OPS, FLOW, SK_LOOKUP, WRITABLE = (
    3, 6, 8, 16, 18, 13, 22, 30, 24)  # fmt: skip
ATTACH = {SOCK_ADDR: 10, SK_LOOKUP: 36, FLOW: 17}
SOCKMAP, XSKMAP, DEVMAP, ARRAY = (
    MapDesc(15, 4, 4, 4), MapDesc(17, 4, 4, 4), MapDesc(14, 4, 4, 4), MapDesc(2, 4, 8, 4))
READ_ONLY = MapDesc(2, 4, 8, 4, map_flags=128)
CALL, MOV, MOVX, ADD, LDX4, LDX8, STX4, JNE, JEQ = (
    0x85, 0xB7, 0xBF, 0x07, 0x61, 0x79, 0x63, 0x55, 0x15)  # fmt: skip


def call(number: int) -> bytes:
    return insn(CALL, imm=number)


def move(dst: int, src: int) -> bytes:
    return insn(MOVX, dst, src)


def found(reg: int = 0) -> bytes:
    """If reg is NULL, leave."""
    return insn(JNE, reg, off=2) + LEAVE


def lookup(number: int = 84) -> bytes:
    """bpf_sk_lookup_tcp(ctx, 12 bytes of stack, 12, 0, 0)"""
    tuple_ = insn(0x7A, 10, off=-8) + insn(0x7A, 10, off=-16) + move(2, 10) + insn(ADD, 2, imm=-16)
    return tuple_ + insn(MOV, 3, imm=12) + insn(MOV, 4) + insn(MOV, 5) + call(number)


RELEASE = move(1, 0) + call(86)
SK = insn(LDX8, 1, 1, 168) + found(1)  # r1 = skb->sk
IN_MAP = (insn(0x62, 10, off=-4) + move(2, 10) + insn(ADD, 2, imm=-4) + insn(0x18, 1, 1)
          + insn(0) + call(1))  # fmt: skip
PUT = (insn(0x62, 10, off=-4) + insn(0x7A, 10, off=-16) + move(2, 10) + insn(ADD, 2, imm=-4)
       + move(3, 10) + insn(ADD, 3, imm=-16) + insn(MOV, 4) + insn(0x18, 1, 1) + insn(0)
       + call(2))  # fmt: skip

# name, code (LEAVE follows), type, map, errno, words of the log
CASES = [
    ("looked up and given back", lookup() + found() + RELEASE, CLS, None, 0, ""),
    ("given back without a check", lookup() + RELEASE, CLS, None, 13,
     "R1 type=sock_or_null expected=sock_common, sock, tcp_sock, xdp_sock, ptr_, trusted_ptr_"),
    ("never given back", lookup() + found(), CLS, None, 22, "would lead to reference leak"),
    ("never looked at", lookup(), CLS, None, 22, "would lead to reference leak"),
    ("given back twice", lookup() + found() + move(6, 0) + RELEASE + move(1, 6) + call(86), CLS,
     None, 13, "R1 type=scalar expected=sock_common"),
    ("used after it", lookup() + found() + move(6, 0) + RELEASE + insn(LDX4, 2, 6, 4), CLS, None,
     13, "R6 invalid mem access 'scalar'"),
    ("a field before it", lookup() + found() + insn(LDX4, 2, 0, 4) + RELEASE, CLS, None, 0, ""),
    ("a field without a check", lookup() + insn(LDX4, 2, 0, 4), CLS, None, 13,
     "R0 invalid mem access 'sock_or_null'"),
    ("a field stored into", lookup() + found() + insn(STX4, 0, 3, 4), CLS, None, 13,
     "R3 !read_ok"),
    ("a field set", lookup() + found() + insn(MOV, 3) + insn(STX4, 0, 3, 4), CLS, None, 13,
     "R0 cannot write into sock"),
    ("beyond its fields", lookup() + found() + insn(LDX4, 2, 0, 80), CLS, None, 13,
     "R0 invalid sock access off=80 size=4"),
    ("moved", lookup() + found() + insn(ADD, 0, imm=4), CLS, None, 13,
     "R0 pointer arithmetic on sock prohibited"),
    ("not acquired and given back", SK + call(86), CLS, None, 22,
     "R1 must be referenced when passed to release function"),
    ("of the context, unchecked", insn(LDX8, 1, 1, 168) + insn(LDX4, 2, 1, 4), CLS, None, 13,
     "R1 invalid mem access 'sock_common_or_null'"),
    ("of the context, family", SK + insn(LDX4, 2, 1, 4), CLS, None, 0, ""),
    ("of the context, type", SK + insn(LDX4, 2, 1, 8), CLS, None, 13,
     "R1 invalid sock_common access off=8 size=4"),
    ("made whole, type", SK + call(95) + found() + insn(LDX4, 2, 0, 8), CLS, None, 0, ""),
    ("made whole, unchecked", SK + call(95) + insn(LDX4, 2, 0, 8), CLS, None, 13,
     "R0 invalid mem access 'sock_or_null'"),
    ("of TCP, a field", SK + call(96) + found() + insn(LDX4, 2, 0, 0), CLS, None, 0, ""),
    ("of TCP, beyond", SK + call(96) + found() + insn(LDX4, 2, 0, 116), CLS, None, 13,
     "R0 invalid tcp_sock access off=116 size=4"),
    ("a cast given back for it", lookup() + found() + move(6, 0) + move(1, 0) + call(96)
     + insn(JNE, 0, off=3) + move(1, 6) + call(86) + insn(0x05, off=2) + RELEASE, CLS, None, 0,
     ""),
    ("a cast used after it", lookup() + found() + move(6, 0) + move(1, 0) + call(96) + move(7, 0)
     + move(1, 6) + call(86) + insn(LDX4, 2, 7), CLS, None, 13, "R7 invalid mem access 'scalar'"),
    ("the listener is not it", lookup() + found() + move(6, 0) + move(1, 0) + call(98)
     + insn(JEQ, 0, off=2) + RELEASE, CLS, None, 22,
     "R1 must be referenced when passed to release function"),
    ("of XDP", lookup() + found() + RELEASE, XDP, None, 0, ""),
    ("of a flow dissector", lookup(), FLOW, None, 22,
     "program of this type cannot use helper bpf_sk_lookup_tcp#84"),
    ("common, given back", lookup(99) + found() + RELEASE, CLS, None, 0, ""),
    ("in a socket map", IN_MAP + found() + move(6, 0) + insn(LDX4, 2, 0, 8) + RELEASE, CLS,
     SOCKMAP, 0, ""),
    ("in a socket map, unchecked", IN_MAP + insn(LDX4, 2, 0, 8), CLS, SOCKMAP, 13,
     "R0 invalid mem access 'map_value_or_null'"),
    ("in a socket map, kept", IN_MAP + found(), CLS, SOCKMAP, 22, "reference leak"),
    ("in an XSK map", IN_MAP + found() + insn(LDX4, 2, 0, 0), XDP, XSKMAP, 0, ""),
    ("in an XSK map, beyond", IN_MAP + found() + insn(LDX4, 2, 0, 4), XDP, XSKMAP, 13,
     "R0 invalid xdp_sock access off=4 size=4"),
    ("in a device map, read", IN_MAP + found() + insn(LDX4, 2, 0, 0), XDP, DEVMAP, 0, ""),
    ("in a device map, written", IN_MAP + found() + insn(MOV, 2) + insn(STX4, 0, 2), XDP, DEVMAP,
     13, "write into map forbidden, value_size=4 off=0 size=4"),
    ("put into a socket map", IN_MAP + found() + move(6, 0) + move(3, 6) + move(2, 10)
     + insn(ADD, 2, imm=-4) + insn(MOV, 4) + insn(0x18, 1, 1) + insn(0) + call(2) + move(1, 6)
     + call(86), CLS, SOCKMAP, 0, ""),
    ("put there by a cgroup program", PUT, CG_SKB, SOCKMAP, 13, "R3 type=fp expected=sock_common"),
    ("no socket put there", PUT, CLS, SOCKMAP, 13, "R3 type=fp expected=sock_common"),
    ("deleted there by a cgroup program",
     insn(0x62, 10, off=-4) + move(2, 10) + insn(ADD, 2, imm=-4) + insn(0x18, 1, 1) + insn(0)
     + call(3), CG_SKB, SOCKMAP, 22, "cannot update sockmap in this context"),
    ("put into an array", PUT, CLS, ARRAY, 0, ""),
    ("put into an array that is read-only", PUT, CLS, READ_ONLY, 13, "write into map forbidden"),
    ("assigned by sk_lookup", insn(LDX8, 2, 1, 0) + insn(MOV, 3) + call(124), SK_LOOKUP, None, 0,
     ""),
    ("a number assigned", insn(MOV, 2, imm=1) + insn(MOV, 3) + call(124), SK_LOOKUP, None, 13,
     "R2 type=scalar expected=sock"),
    ("NULL assigned", insn(MOV, 2) + insn(MOV, 3) + call(124), SK_LOOKUP, None, 0, ""),
    ("of a message, whole at once", insn(LDX8, 2, 1, 72) + insn(LDX4, 3, 2, 8), SK_MSG, None, 0,
     ""),
    ("a message's bytes, unchecked", insn(LDX8, 2, 1, 0) + insn(0x71, 3, 2), SK_MSG, None, 13,
     "R2 offset is outside of the packet"),
    ("of sock_addr, whole at once", insn(LDX8, 2, 1, 64) + insn(LDX4, 3, 2, 8), SOCK_ADDR, None, 0,
     ""),
    ("of sock_ops, unchecked", insn(LDX8, 2, 1, 184) + insn(LDX4, 3, 2, 8), SOCK_OPS, None, 13,
     "R2 invalid mem access 'sock_or_null'"),
    ("equal to one that is there", insn(LDX8, 6, 1, 168) + found(6) + insn(LDX8, 7, 1, 168)
     + insn(0x5D, 6, 7, 1) + insn(LDX4, 2, 7, 4), CLS, None, 0, ""),
    ("not equal to it", insn(LDX8, 6, 1, 168) + found(6) + insn(LDX8, 7, 1, 168)
     + insn(0x1D, 6, 7, 1) + insn(LDX4, 2, 7, 4), CLS, None, 13,
     "R7 invalid mem access 'sock_common_or_null'"),
    ("atomically", SK + insn(MOV, 2) + insn(0xDB, 1, 2), CLS, None, 13,
     "BPF_ATOMIC stores into R1 sock_common is not allowed"),
    ("flow keys' last byte", insn(LDX8, 2, 1, 144) + insn(0x71, 3, 2, 55), FLOW, None, 0, ""),
    ("behind the flow keys", insn(LDX8, 2, 1, 144) + insn(0x71, 3, 2, 56), FLOW, None, 13,
     "invalid access to flow keys off=56 size=1"),
    ("flow keys written", insn(LDX8, 2, 1, 144) + insn(MOV, 3) + insn(0x73, 2, 3, 4), FLOW, None,
     0, ""),
    ("flow keys at a number", insn(LDX8, 2, 1, 144) + insn(LDX4, 3, 2) + insn(0x57, 3, imm=7)
     + insn(0x0F, 2, 3), FLOW, None, 13, "R2 pointer arithmetic on flow_keys prohibited"),
    ("a tracepoint's buffer written", insn(LDX8, 2, 1) + insn(MOV, 3) + insn(0x73, 2, 3, 4),
     WRITABLE, None, 0, ""),
    ("before the buffer", insn(LDX8, 2, 1) + insn(0x71, 3, 2, -1), WRITABLE, None, 13,
     "R2 invalid tracepoint buffer access: off=-1, size=1"),
    ("the buffer at a number", insn(LDX8, 2, 1) + insn(LDX8, 3, 1, 8) + insn(0x57, 3, imm=8)
     + insn(0x0F, 2, 3) + insn(0x71, 3, 2), WRITABLE, None, 13,
     "R2 invalid variable buffer offset: off=0, var_off=(0x0; 0x8)"),
]  # fmt: skip
NAMES = [case[0] for case in CASES]
Case = tuple[str, bytes, int, MapDesc | None, int, str]


@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_verdict(case: Case) -> None:
    _, code, kind, desc, errno, words = case
    verdict = verify(Program(code + LEAVE, kind, expected_attach_type=ATTACH.get(kind, 0),
                             license="GPL", maps=(desc,) if desc else (), log_level=1))
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize("case", CASES, ids=NAMES)
def test_kernel_agrees(case: Case) -> None:
    _, code, kind, desc, errno, words = case
    maps = [{"type": desc.type, "key_size": desc.key_size, "value_size": desc.value_size,
             "max_entries": desc.max_entries, "map_flags": desc.map_flags}] if desc else []
    theirs = kernel.driver().kernel_verdict(code + LEAVE, kind, maps=maps, license="GPL",
                                            expected_attach_type=ATTACH.get(kind, 0), log_level=1)
    assert theirs.errno == errno, theirs.log
    assert words in theirs.log
