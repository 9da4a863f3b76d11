"""A class's rights in words, one a line: for `policy explain` and `policy diff`."""

from __future__ import annotations

import pwd
from collections.abc import Iterator

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.eim import ctype, sites
from libbpf_shim.eim.grants import Grants
from libbpf_shim.eim.interface import Entry
from libbpf_shim.eim.policy import compiled
from libbpf_shim.uapi.bpf import bpf_map_type
from libbpf_shim.uapi.bpf_func import bpf_func_id
from libbpf_shim.verifier.policy import Node, Policy, Ranges

_WHERE = {"before": "before", "after": "after", "instead": "before or instead of"}
_ALL_HELPERS = 150  # as many are not listed one by one


def rights(grants: Grants, name: str) -> list[str]:
    """What programs of the class may do. PolicyError: it cannot be held."""
    found = compiled(grants, name)
    if found.policy is None:
        raise found.wrong[0]
    policy, btf = found.policy, grants.interface.btf
    rows = [_runs(e) for e in (grants.interface.entries[n]
                               for n in grants.classes[name].entries)]
    rows += [f"runs in build {' or '.join(ids)} alone"
             for ids in (grants.interface.build_ids, grants.build_ids) if ids]
    rows += _bound(grants, name)
    rows += _arguments(policy)
    held = policy.probes.frames if policy.probes else ()
    for node in (node for n, node in enumerate(policy.nodes) if n not in held):
        for verb, ranges in (("reads", node.reads), ("writes", node.writes)):
            rows += [f"{verb} {what}" for what in _fields(btf, node, ranges)]
    rows += ["reads any memory"] * policy.untyped_reads
    rows += ["writes any memory"] * policy.untyped_writes
    rows += ["reads all registers"] * policy.registers
    rows += [f"calls {f.name}{_conditions(f.pre)}" for f in policy.functions if f.granted]
    rows += _bpf(policy)
    if policy.override is not None:
        rows.append(f"overrides the function with {_values(policy.override)}")
    rows += [f"is isolated: {policy.isolation}"] * bool(policy.isolation)
    if policy.spectre:
        rows.append(f"holds processors that run ahead: {policy.spectre}")
    return rows + _limits(policy)


def _bound(grants: Grants, name: str) -> Iterator[str]:
    """Which programs have the class: a line for each binding."""
    for row in grants.bindings:
        if row.of == name:
            given = [("named", row.name), ("with tag", row.tag), ("with SHA-256", row.sha256),
                     ("signed by", row.signature),
                     ("of user", " or ".join(_user(uid) for uid in row.users))]
            words = ", ".join(f"{what} {text}" for what, text in given if text)
            yield f"is the class of programs {words}"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _runs(entry: Entry) -> str:
    if entry.usdt:
        args = _shown(entry).partition("(")[2].rpartition(")")[0]
        return f"runs at probe {entry.usdt}({args}), in {sites.words(entry.sites)}"
    return f"runs {_WHERE[entry.where]} {_shown(entry)}"


def _shown(entry: Entry) -> str:
    args = ", ".join(f"{type.words} {name}".replace("* ", "*")
                     for name, type in entry.proto.params)
    return f"{entry.function}({args}) -> {entry.proto.result.words}"


def _arguments(policy: Policy) -> list[str]:
    every = (*policy.args, *(policy.probes.args if policy.probes else ()))
    return list(dict.fromkeys(f"reads argument {a.name}" for a in every
                              if a.granted and a.node < 0))


def _conditions(rules: object) -> str:
    texts = [rule.text for rule in rules] if isinstance(rules, tuple) else []
    return f" where {' and '.join(texts)}" if texts else ""


def _values(ranges: Ranges) -> str:
    if ranges == ((-(1 << 63), (1 << 63) - 1),):
        return "any value"
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in ranges)


def _bpf(policy: Policy) -> list[str]:
    helpers = policy.helpers or ()
    names = [bpf_func_id(n).name.removeprefix("BPF_FUNC_") for n in helpers]
    rows = [f"calls helper {name}" for name in names]
    if len(names) > _ALL_HELPERS:
        left = [m.name.removeprefix("BPF_FUNC_") for m in bpf_func_id if int(m) not in helpers]
        rows = [f"calls all helpers but {', '.join(left)}"]
    rows += [f"calls kernel function {name}" for name in policy.kfuncs or ()]
    types = policy.maps.types or ()
    if len(types) > len(bpf_map_type) - 4:
        return [*rows, "uses maps of all types"]
    words = [bpf_map_type(n).name.removeprefix("BPF_MAP_TYPE_").lower() for n in types]
    return rows + [f"uses maps of type {word}" for word in words]


def _limits(policy: Policy) -> list[str]:
    rows = [("instructions", policy.instructions), ("bytes of maps and stack", policy.memory),
            ("bytes of stack", policy.stack), ("maps", policy.maps.count),
            ("bytes in one map", policy.maps.bytes), ("entries in one map", policy.maps.entries)]
    found = [f"has at most {most} {what}" for what, most in rows if most >= 0]
    if not policy.counter:
        return found
    value = 0 if policy.default is None else policy.default
    skips = policy.default is not None and policy.override is not None
    end = f"skips the function with {value}" if skips else f"returns {value}"
    return [*found, f"is ended by a counter where that many are not proved: it then {end}"]


def _fields(btf: Btf, node: Node, ranges: Ranges) -> Iterator[str]:
    name = node.path.removeprefix("*")
    if node.bytes and ranges:
        yield f"{node.path} (as many bytes as {node.bytes.name} says, {node.bytes.most} at most)"
        return
    for low, high in ranges:
        if (low, high) == (0, node.size):
            yield f"{node.path} ({ctype.words(btf, node.type_id)}, {node.size} bytes)"
            continue
        for path, at, size in _named(btf, btf.strip(node.type_id), 0, low, high):
            yield f"{name}{path} ({size} bytes at {at})"


def _named(btf: Btf, found: Type | None, base: int, low: int,
           high: int) -> Iterator[tuple[str, int, int]]:
    """Fields that lie in low..high whole, and bytes of those that do not."""
    if found is not None and found.kind == kinds.ARRAY:
        each = ctype.sized(btf, found.ref)
        for n in range(found.nelems):
            yield from _part(btf, f"[{n}]", found.ref, base + n * each, each, low, high)
        return
    if found is None or found.kind not in kinds.COMPOSITE:
        yield "", max(low, base), min(high, base + (found.size if found else 0)) - max(low, base)
        return
    for row in found.members:
        start = base + row.offset // 8
        size = (row.offset % 8 + row.bits + 7) // 8 if row.bits else ctype.sized(btf, row.type)
        name = f".{row.name}" if row.name else ""
        yield from _part(btf, name, 0 if row.bits else row.type, start, size, low, high)


def _part(btf: Btf, name: str, type_id: int, start: int, size: int, low: int,
          high: int) -> Iterator[tuple[str, int, int]]:
    if start + size <= low or high <= start or not size:
        return
    if low <= start and start + size <= high and name:
        yield name, start, size
        return
    inner = btf.strip(type_id) if type_id else None
    for path, at, length in _named(btf, inner, start, low, high):
        yield name + path, at, length
