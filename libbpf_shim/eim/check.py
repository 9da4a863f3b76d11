"""Everything that is wrong with an interface or with grants, before any program is loaded."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

from libbpf_shim.btf import kinds
from libbpf_shim.btf.lazy import SYNTHETIC
from libbpf_shim.btf.parse import Btf
from libbpf_shim.eim import builds, document, interface, isolation, policy
from libbpf_shim.eim import grants as files
from libbpf_shim.eim.document import PolicyError
from libbpf_shim.eim.grants import Grants
from libbpf_shim.eim.interface import Interface

_LONGEST = 63  # characters of a module's name that loaders have room for: libbpf, bpftool
_MACHINE = Path("/sys/kernel/btf/vmlinux")


def file(path: str) -> list[PolicyError]:
    """Of an interface or of grants, whichever it is."""
    try:
        found = document.read(path)
    except PolicyError as error:
        return [error]
    if isinstance(found.value, dict) and "grants" in found.value:
        given, wrong = grants(path)
        return wrong + (binary(given.interface, given) if given else [])
    declared, wrong = interface.read(path)
    return wrong + (names(declared) + binary(declared) if declared else [])


def binary(declared: Interface, given: Grants | None = None) -> list[PolicyError]:
    """The binary is another build than the interface, or these grants, are for. It may be that
    on another machine it is not: nothing is attached where it is."""
    path = declared.binary
    if not path or not os.path.exists(path):
        return []
    rows = [(declared.document, declared.build_ids)]
    rows += [(given.document, given.build_ids)] if given else []
    return [of.error(("build_id",), why) for of, wanted in rows
            if (why := builds.wrong(path, wanted))]


def here(path: str) -> list[str]:
    """Of grants that are right: what this machine cannot do of them. They may be for another."""
    if not isinstance(value := document.read(path).value, dict) or "grants" not in value:
        return []
    found, _ = files.read(path)
    rows = found.classes.values() if found else ()
    return [f"{path}: classes.{row.name}: {why}" for row in rows
            if (why := isolation.without_keys(row))]


def grants(path: str) -> tuple[Grants | None, list[PolicyError]]:
    """The grants, every class of them held against the interface; what is wrong."""
    found, wrong = files.read(path)
    if found is None:
        return None, wrong
    wrong = wrong + names(found.interface)
    if not wrong:
        wrong = [e for name in found.classes for e in policy.compiled(found, name).wrong]
    return found, wrong


def names(declared: Interface) -> list[PolicyError]:
    """Functions and variables whose names the kernel has too: a loader would find the kernel's."""
    wrong = []
    if declared.name == "vmlinux":
        wrong.append(declared.document.error(
            ("interface",), "vmlinux is the kernel: loaders would pass over it"))
    if len(declared.name) > _LONGEST:
        wrong.append(declared.document.error(
            ("interface",), f"{len(declared.name)} characters, {_LONGEST} at most: loaders have "
                            "no room for more"))
    for what, kind, rows in (("functions", kinds.FUNC, declared.functions),
                             ("state", kinds.VAR, declared.state)):
        for name in rows:
            if any(btf.find(name, kind) for btf in _kernels()):
                other = f"{declared.name}_{name}"
                hint = f"call it {other}: {{function: {name}, ...}}" if what == "functions" else ""
                wrong.append(declared.document.error(
                    (what, name), "the kernel has something of that name, which loaders find "
                                  "first", hint))
    return wrong


@functools.cache
def _kernels() -> tuple[Btf, ...]:
    found = [SYNTHETIC.btf]
    with contextlib.suppress(OSError):
        found.append(Btf(_MACHINE.read_bytes()))
    return tuple(found)
