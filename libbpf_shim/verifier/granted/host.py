"""Memory of the host's: what registers hold it, and which of its bytes a class grants.

A pointer to an object of the host's is a BTF pointer that is not trusted: Reg.map is the node that
it leads to (policy.py), Reg.range 1 if it is known not to be NULL. Its bytes are granted one by
one; a load that faults gives 0. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.verifier.env import EACCES, Env, Reject, tnum
from libbpf_shim.verifier.granted import denial, lengths
from libbpf_shim.verifier.granted.denial import denied, policy
from libbpf_shim.verifier.policy import Node, Ranges
from libbpf_shim.verifier.state import (
    BTF_PTR,
    TYPE_MASK,
    UNKNOWN,
    UNTRUSTED,
    Reg,
    Slot,
    State,
    pointer,
)

REGS: Final = "read(regs)"
ANY_READ: Final = "read(*)"
ANY_WRITE: Final = "write(*)"
_HOST: Final = BTF_PTR | UNTRUSTED


def is_host(env: Env, reg: Reg) -> bool:
    """The register points to an object of the host's, or is NULL."""
    return env.policy is not None and reg.type & TYPE_MASK == BTF_PTR and reg.map >= 0


def register(env: Env, node: int, flags: int = 0) -> Reg:
    """A pointer to what that node is. flags: MAYBE_NULL."""
    p = policy(env)
    row = p.nodes[node]
    r = pointer(_HOST | flags)
    r.btf = env.btf_index(p.btf)
    r.type_id = row.type_id
    r.map = node
    r.range = 1 if row.nonnull else 0
    r.id = env.new_id()
    return r


def variable(env: Env, type_id: int) -> Reg:
    """The address of a variable of the host's (ksym.check has looked whether it is one)."""
    p = policy(env)
    for found, node in p.state:
        if found == type_id:
            return register(env, node)
    raise Reject(EACCES, f"ldimm64 insn specifies invalid btf_id {type_id}.")


def context(env: Env, off: int, size: int) -> Reg:
    """What a load of the context's registers gives. Raises Reject."""
    p = policy(env)
    for arg in p.args:  # an access is aligned, so it is of one register
        if not arg.off <= off < arg.off + 8:
            continue
        if not arg.granted and not p.registers:
            raise denied(env, f"reading argument {arg.name}, at {arg.off} of the context",
                         arg.capability)
        return register(env, arg.node) if arg.node >= 0 and size == 8 else UNKNOWN
    if not p.registers:
        text = f"reading {size} bytes at {off} of the context, which are no argument"
        raise denied(env, text, REGS)
    return UNKNOWN


def access(env: Env, reg: Reg, regno: int, off: int, size: int, write: bool) -> Reg:
    """A load or store of size bytes at reg + off. Returns what a load yields. Raises Reject."""
    check(env, reg, regno, off, size, write)
    if write:
        env.host_stores.add(env.insn_idx)
        return UNKNOWN
    env.probe_mem.add(env.insn_idx)
    env.host_loads.add(env.insn_idx)
    return led_to(env, reg, off) if size == 8 else UNKNOWN


def check_anywhere(env: Env, regno: int) -> None:
    """A load wherever a number points. Raises Reject."""
    if not policy(env).untyped_reads:
        raise denied(env, f"R{regno} points anywhere: reading through it", ANY_READ)


def led_to(env: Env, reg: Reg, off: int) -> Reg:
    """What the 8 bytes at reg + off hold: a number, or a pointer to what they lead to."""
    for at, node in policy(env).nodes[reg.map].links:
        if at == reg.off + off:
            return register(env, node)
    return UNKNOWN


def check(env: Env, reg: Reg, regno: int, off: int, size: int, write: bool) -> None:
    """All of size bytes at reg + off are granted. Raises Reject."""
    p = policy(env)
    node = p.nodes[reg.map]
    off += reg.off
    if p.untyped_writes if write else p.untyped_reads:
        return
    if node.bytes and not write and node.reads:
        raise lengths.refuse(node, regno)
    if reg.tm or reg.tv:
        text = f"R{regno} is {node.path}, variable offset: off={off}, var_off={tnum(reg)}"
        raise Reject(EACCES, text)
    ranges = node.writes if write else node.reads
    at = first_missing(ranges, off, size)
    if at == off + size:
        return
    if off < 0 or off + size > node.size:
        text = f"R{regno} is {node.path}, of {node.size} bytes: off={off} size={size} is outside"
        raise denied(env, text, ANY_WRITE if write else ANY_READ)
    name = path(env, node, at, off, size)
    verb = "writing" if write else "reading"
    text = f"R{regno} is {node.path}: {verb} {name} (off={off} size={size}) is not granted"
    raise denied(env, text, f"{'write' if write else 'read'}({name})")


def path(env: Env, node: Node, at: int, off: int, size: int) -> str:
    """What a capability calls the bytes off..off+size of the node, of which byte at is not
    granted: the member that has them all, else the one that has that byte."""
    btf = env.btf(env.btf_index(policy(env).btf))
    name = denial.field(btf, node.type_id, off, size) or denial.field(btf, node.type_id, at, 1)
    if not name:
        return node.path
    plain = node.path.removeprefix("*")
    return plain + name if name.startswith("[") else f"{plain}.{name}"


def first_missing(ranges: Ranges, off: int, size: int) -> int:
    """The first of the bytes off..off+size that is in no range; off+size: there is none."""
    at = off
    for low, high in ranges:
        if low <= at < high:
            at = high
    return min(at, off + size)


def learn(state: State, ident: int) -> None:
    """Every copy of that pointer is known not to be NULL in this state."""
    for frame in state.frames:
        for n in range(10):
            if _is(frame.regs[n], ident):
                frame.regs[n] = _known(frame.regs[n])
        for s in range(len(frame.stack)):
            spilled = frame.stack[s].reg
            if spilled is not None and _is(spilled, ident):
                frame.stack[s] = Slot(frame.stack[s].types, _known(spilled))


def _is(reg: Reg, ident: int) -> bool:
    return reg.type == _HOST and reg.map >= 0 and reg.id == ident and reg.range == 0


def _known(reg: Reg) -> Reg:
    r = reg.copy()
    r.range = 1
    return r
