"""Contexts and results of every program type: pairs that differ by one token, and the kernel asked
about accesses drawn at random. Source: net/core/filter.c, kernel/bpf/cgroup.c (is_valid_access),
kernel/bpf/verifier.c (check_return_code)."""

from __future__ import annotations

import random

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_calls import ATTACH, LEAVE, TYPES, insn, last
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.facts import Verdict
from libbpf_shim.verifier.program import Program

LDX = {1: 0x71, 2: 0x69, 4: 0x61, 8: 0x79}
STX = {1: 0x73, 2: 0x6B, 4: 0x63, 8: 0x7B}
MOV, EXIT, SLEEPABLE = 0xB7, 0x95, 1 << 4
LOWEST = {5: 0}  # 6.18 reads before the context of a tracepoint; we do not

# name, type, attach type, offset, size, store, allowed
ACCESSES = [
    ("user_ip4 of an IPv4 connect", 18, 10, 4, 4, False, True),
    ("user_ip4 of an IPv6 connect", 18, 11, 4, 4, False, False),
    ("user_ip6 of an IPv6 connect, 8 bytes", 18, 11, 8, 8, True, True),
    ("user_ip6 of an IPv4 connect", 18, 10, 8, 8, True, False),
    ("msg_src_ip4 of sendmsg", 18, 14, 40, 4, True, True),
    ("msg_src_ip4 of recvmsg", 18, 19, 40, 4, True, False),
    ("a byte of user_port", 18, 10, 24, 1, False, True),
    ("a byte stored into user_port", 18, 10, 24, 1, True, False),
    ("a Unix connect's address", 18, 49, 4, 4, False, False),
    ("mark of a socket that is made", 9, 2, 16, 4, True, True),
    ("mark of a socket that is bound", 9, 12, 16, 4, True, False),
    ("src_ip4 of an IPv4 socket that is bound", 9, 12, 24, 4, False, True),
    ("src_ip4 of an IPv6 socket that is bound", 9, 13, 24, 4, False, False),
    ("optval of setsockopt", 25, 22, 8, 8, False, True),
    ("half of optval", 25, 22, 8, 4, False, False),
    ("level changed by setsockopt", 25, 22, 24, 4, True, True),
    ("level changed by getsockopt", 25, 21, 24, 4, True, False),
    ("retval changed by getsockopt", 25, 21, 36, 4, True, True),
    ("retval changed by setsockopt", 25, 22, 36, 4, True, False),
    ("egress_ifindex of a device map's XDP", 6, 33, 20, 4, False, True),
    ("egress_ifindex of another XDP", 6, 37, 20, 4, False, False),
    ("reply of sock_ops", 13, 0, 4, 4, True, True),
    ("op of sock_ops changed", 13, 0, 0, 4, True, False),
    ("bytes_acked of sock_ops", 13, 0, 176, 8, False, True),
    ("half of bytes_acked", 13, 0, 176, 4, False, False),
    ("a byte of access_type", 15, 6, 0, 1, False, True),
    ("a byte of major", 15, 6, 4, 1, False, False),
    ("file_pos of a sysctl changed", 23, 18, 4, 4, True, True),
    ("write of a sysctl changed", 23, 18, 0, 4, True, False),
    ("flow keys of a flow dissector", 22, 17, 144, 8, False, True),
    ("the length of a flow dissector's packet", 22, 17, 0, 4, False, False),
    ("the last argument of a writable tracepoint", 24, 0, 88, 8, False, True),
    ("its buffer's address, in part", 24, 0, 0, 4, False, False),
    ("mark of sk_skb", 14, 4, 8, 4, False, False),
    ("priority of sk_skb", 14, 4, 32, 4, True, True),
    ("local_port of sk_lookup, a byte", 30, 36, 64, 1, False, True),
    ("behind sk_lookup", 30, 36, 68, 4, False, False),
    ("the packet of a netfilter hook", 32, 45, 8, 8, False, True),
    ("half of its address", 32, 45, 8, 4, False, False),
    ("the packet changed", 32, 45, 8, 8, True, False),
]

# name, type, attach type, R0, allowed
RESULTS = [
    ("a cgroup sock program's 1", 9, 2, 1, True),
    ("a cgroup sock program's 2", 9, 2, 2, False),
    ("bind's 3", 18, 8, 3, True),
    ("bind's 4", 18, 8, 4, False),
    ("connect's 2", 18, 10, 2, False),
    ("recvmsg's 1", 18, 19, 1, True),
    ("recvmsg's 0", 18, 19, 0, False),
    ("getpeername's 0", 18, 29, 0, False),
    ("egress's 3", 8, 1, 3, True),
    ("ingress's 3", 8, 0, 3, False),
    ("sk_lookup's 1", 30, 36, 1, True),
    ("sk_lookup's 2", 30, 36, 2, False),
    ("sock_ops' 2", 13, 0, 2, False),
    ("a device program's -1", 15, 6, -1, False),
    ("sk_msg's 7", 16, 7, 7, True),
    ("sk_reuseport's 7", 21, 39, 7, True),
    ("a flow dissector's 129", 22, 17, 129, True),
    ("netfilter's 1", 32, 45, 1, True),
    ("netfilter's 2", 32, 45, 2, False),
    ("a writable tracepoint's 5", 24, 0, 5, True),
]


def access(off: int, size: int, store: bool) -> bytes:
    if store:
        return insn(MOV, 2) + insn(STX[size], 1, 2, off) + LEAVE
    return insn(LDX[size], 2, 1, off) + LEAVE


def ours(code: bytes, kind: int, attach: int) -> Verdict:
    flags = SLEEPABLE if kind == 31 else 0
    return verify(Program(code, kind, expected_attach_type=attach, prog_flags=flags,
                          license="GPL", log_level=1, kernel_btf=MACHINE))  # fmt: skip


@pytest.mark.parametrize("case", ACCESSES, ids=[case[0] for case in ACCESSES])
def test_access(case: tuple[str, int, int, int, int, bool, bool]) -> None:
    _, kind, attach, off, size, store, allowed = case
    verdict = ours(access(off, size, store), kind, attach)
    assert verdict.errno == (0 if allowed else 13), verdict.log
    words = "processed" if allowed else f"invalid bpf_context access off={off} size={size}"
    assert words in verdict.log


@pytest.mark.parametrize("case", RESULTS, ids=[case[0] for case in RESULTS])
def test_result(case: tuple[str, int, int, int, bool]) -> None:
    _, kind, attach, value, allowed = case
    verdict = ours(insn(MOV, imm=value) + insn(EXIT), kind, attach)
    assert verdict.errno == (0 if allowed else 22), verdict.log
    assert allowed or f"the register R0 has smin={value} smax={value}" in verdict.log


@pytest.mark.kernel
@pytest.mark.parametrize("kind", TYPES)
def test_kernel_agrees(kind: int) -> None:
    """On accesses drawn at random, and on results."""
    rnd, real = random.Random(kind), kernel.driver()
    flags = SLEEPABLE if kind == 31 else 0
    for attach in ATTACH.get(kind, (0,)):
        codes = [insn(MOV, imm=value) + insn(EXIT) for value in (-1, 0, 1, 2, 3, 4)]
        for _ in range(60):
            size = rnd.choice((1, 2, 4, 8))
            off = rnd.randrange(LOWEST.get(kind, -8), 232)
            off = off if rnd.random() < 0.2 else off // size * size
            codes.append(access(off, size, rnd.random() < 0.3))
        for code in codes:
            theirs = real.kernel_verdict(code, kind, license="GPL", log_level=1, prog_flags=flags,
                                         expected_attach_type=attach)
            verdict = ours(code, kind, attach)
            assert (theirs.errno, last(theirs.log)) == (verdict.errno, last(verdict.log)), code
