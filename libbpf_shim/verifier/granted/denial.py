"""A denial's words: what was tried, the class, the capability that is missing, and the line to
add. Source of the order: docs/eim.md."""

from __future__ import annotations

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.env import EACCES, Env, Reject
from libbpf_shim.verifier.policy import Policy


def policy(env: Env) -> Policy:
    """The program's class. Only where there is one."""
    found = env.policy
    assert found is not None
    return found


def denied(env: Env, what: str, capability: str) -> Reject:
    """To be raised. capability: one of `allow`."""
    p = policy(env)
    return Reject(EACCES, f"{what}\nclass {p.name}: missing capability {capability}\n"
                          f"to grant it, add to {p.where}, classes.{p.name}.allow: "
                          f"- {capability}")


def beyond(env: Env, what: str, key: str, line: str) -> Reject:
    """To be raised: a limit of the class. key: of the class, line: what it would have to be."""
    p = policy(env)
    inner = "" if line.startswith(f"{key}:") else f".{key}"
    return Reject(EACCES, f"{what}\nclass {p.name}: missing capability {line}\n"
                          f"to grant it, set in {p.where}, classes.{p.name}{inner}: {line}")


def check_kfunc(env: Env, name: str) -> None:
    """A function of the kernel's own may be called. Raises Reject."""
    p = policy(env)
    if p.kfuncs is not None and name not in p.kfuncs:
        raise denied(env, f"calling kernel function {name}", f"kfunc({name})")


def field(btf: Btf, type_id: int, off: int, size: int) -> str:
    """The path to the member at off of a type that has all of size bytes, as far as there is one:
    `headers_out.status`; "": the type itself."""
    found = btf.strip(type_id)
    names = ""
    while found is not None:
        if found.kind == kinds.ARRAY:
            each = btf.sizeof(found.ref)
            if not each or off // each != (off + max(size, 1) - 1) // each:
                return names
            names += f"[{off // each}]"
            off %= each
            found = btf.strip(found.ref)
            continue
        inside = _member(btf, found, off, size)
        if inside is None:
            return names
        name, start, found = inside
        off -= start
        if name:
            names += f".{name}" if names else name
    return names


def _member(btf: Btf, found: Type, off: int, size: int) -> tuple[str, int, Type | None] | None:
    if found.kind not in kinds.COMPOSITE:
        return None
    for row in found.members:
        start = row.offset // 8
        try:
            end = (row.offset + row.bits + 7) // 8 if row.bits else start + btf.sizeof(row.type)
        except KeyError:
            continue
        if start <= off and off + max(size, 1) <= end:
            return row.name, start, None if row.bits else btf.strip(row.type)
    return None
