"""Plans of system calls, kept between backends: a file a module, named by its build-id.

The folder is private to the user; a file that another could have written is as if it was not
there. What is written is a tree of tuples (marshal), which only this code reads.
"""

from __future__ import annotations

import marshal
import os
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite.bridge import Bridge
from libbpf_shim.rewrite.plan import CopyKind, Displaced
from libbpf_shim.rewrite.syscalls import CallPlan, CallSite, Half, make_plan

_MAGIC = b"SHIMSC05"  # another one for each change of what plans say
_plans: dict[str, CallPlan] = {}


def _plain(value: Any) -> Any:
    """Tuples, numbers, text and bytes for what astuple gives."""
    if isinstance(value, tuple | list):
        return tuple(_plain(v) for v in value)
    return value.value if isinstance(value, CopyKind) else value


def _half(row: Any) -> Half | None:
    if row is None:
        return None
    window, orig, displaced, *island = row
    copies = tuple(Displaced(d[0], d[1], d[2], CopyKind(d[3]), *d[4:]) for d in displaced)
    return Half(window, orig, copies, *island)


def _site(row: Any) -> CallSite:
    vaddr, nr, before, after, shared, inside, why, bridge, kept = row
    return CallSite(vaddr, nr, _half(before), _half(after), shared, inside, why,
                    Bridge(*bridge) if bridge else None, kept)


def _load(path: Path, key: str) -> CallPlan | None:
    try:
        if path.stat().st_uid not in (0, os.geteuid()):
            return None
        data = path.read_bytes()
        if data[:8] != _MAGIC:
            return None
        sites, left = marshal.loads(data[8:])
        return CallPlan(key, tuple(_site(s) for s in sites), tuple(_site(s) for s in left))
    except (OSError, ValueError, EOFError, TypeError):
        return None


def _store(path: Path, plan: CallPlan) -> None:
    """Best effort: a cache that cannot be written costs time only."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    _, sites, left, _ = astuple(plan)
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        aside.write_bytes(_MAGIC + marshal.dumps(_plain((sites, left))))
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)


def plan_calls(module: Module, cache: Path | None = None, only: str = "") -> CallPlan:
    """As syscalls.make_plan, each module's made once. cache: a directory private to the user."""
    key = f"{module.key}-{only}"
    if key not in _plans:
        path = cache / f"{key}.calls" if cache else None
        plan = _load(path, key) if path else None
        if plan is None:
            plan = make_plan(module, cache, only)
            if path:
                _store(path, plan)
        _plans[key] = replace(plan, own=is_go(module))
    return _plans[key]
