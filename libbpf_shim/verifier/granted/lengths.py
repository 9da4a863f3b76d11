"""Bytes of the host's whose number another field has: read by bpf_probe_read*() alone, checked
when it runs.

What is proved is that the read is of no more than the most there may be, and that one instruction
reads through one such pointer; the address and the length are looked at by the runtime, which goes
the same way from the entry's argument again (csrc/runtime/helpers_host.c). Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, EINVAL, Env, Reject
from libbpf_shim.verifier.granted.denial import denied, policy
from libbpf_shim.verifier.policy import Bytes, Node

NONE: Final = -1  # in Env.host_bytes: of an instruction that reads something else


def refuse(node: Node, regno: int) -> Reject:
    """To be raised where it is not read by those helpers."""
    assert node.bytes
    return Reject(EACCES, f"R{regno} is {node.path}, bytes as many as {node.bytes.name} says when "
                          "they are read: use bpf_probe_read_user()")


def read(env: Env, number: int, size: int, name: str) -> None:
    """A read of at most size bytes through R3, which is that node. Raises Reject."""
    node = policy(env).nodes[number]
    assert node.bytes
    if not node.reads:
        raise denied(env, f"{name} of {node.path}", f"read({node.path})")
    if size > node.bytes.most:
        raise Reject(EACCES, f"{name} of {size} bytes of {node.path}, which has at most "
                             f"{node.bytes.most}")
    same(env, number)


def same(env: Env, number: int) -> None:
    """The instruction reads through that node, or through none of this kind (NONE), on every
    path. Raises Reject."""
    before = env.host_bytes.setdefault(env.insn_idx, number)
    if before != number:
        nodes = policy(env).nodes
        names = " and ".join("other memory" if n == NONE else nodes[n].path
                             for n in (before, number))
        raise Reject(EINVAL, f"same insn cannot read {names}")


def packed(found: Bytes, string: bool) -> tuple[int, int]:
    """What the runtime is told: R4 and R5 of the call. R4: places on the way, 16 bits each. R5:
    pointer and length (16 bits each), how many of the former less 1 (2), log2 of the length's size
    (2), its sign, whether it is a string (1 each), the most (24)."""
    way = 0
    for n, place in enumerate(found.way):
        way |= place << 16 * n
    size = {1: 0, 2: 1, 4: 2, 8: 3}[found.size]
    what = found.pointer | found.length << 16 | (len(found.way) - 1) << 32 | size << 34
    return way, what | int(found.signed) << 36 | int(string) << 37 | found.most << 38
