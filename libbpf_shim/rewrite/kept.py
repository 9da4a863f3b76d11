"""Plans kept between backends: a file a module, for every process and session of the user's.

A plan depends on the module's bytes and on this code: the file's name is a digest of the build-id
(or what stands for it), the size and the time of the module's file, and of what decodes and
plans. How it is trusted is libbpf_shim/keep.py's. A module's rows are read at once and made into
values one by one, when they are asked for.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import marshal
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from libbpf_shim.elf.module import Module
from libbpf_shim.keep import DIGEST, Files, sources
from libbpf_shim.rewrite.plan import CopyKind, Displaced, Hole, SitePlan
from libbpf_shim.rewrite.template import Template, template

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    Row: TypeAlias = tuple[tuple[Any, ...] | None, bytes]  # of the template; of the plan, packed
_FORMAT = 1
_LARGEST = 8 << 20  # bytes of a file
_ALL = 64 << 20  # bytes of all files
_MOST = 16384  # plans of a module
_QUIET = 0.5  # seconds without a new plan, before they are written


@functools.cache
def _here() -> bytes:
    """This code, and the decoder's."""
    rows = [_FORMAT, *sources(("elf", "rewrite"))]
    found = importlib.util.find_spec("capstone")
    if found and found.origin:
        rows.append(os.stat(found.origin).st_mtime_ns)
    return hashlib.blake2b(repr(rows).encode()).digest()


def _name(module: Module) -> str:
    known: str | None = module.__dict__.get("_kept_as")
    if known is None:
        what = f"{module.key} {len(module.data)} {module.mtime_ns}"
        known = hashlib.blake2b(what.encode(), digest_size=DIGEST, key=_here()).hexdigest()
        module.__dict__["_kept_as"] = known
    return known


def _row(plan: SitePlan) -> tuple[Any, ...]:
    """In what marshal knows."""
    return (
        plan.vaddr, plan.window, plan.orig,
        tuple((d.vaddr, d.code, d.text, d.kind.value, d.target, d.disp_at, d.ends)
              for d in plan.displaced),
        plan.at_entry, plan.tactic, plan.hole and (plan.hole.vaddr, plan.hole.orig), plan.fixed,
        plan.carrier and _row(plan.carrier), tuple(_row(p) for p in plan.others))


def _plan(row: tuple[Any, ...]) -> SitePlan:
    vaddr, window, orig, displaced, at_entry, tactic, hole, fixed, carrier, others = row
    return SitePlan(
        vaddr, window, orig,
        tuple(Displaced(at, code, text, CopyKind(kind), *rest)
              for at, code, text, kind, *rest in displaced),
        at_entry, tactic, hole and Hole(*hole), fixed, carrier and _plan(carrier),
        tuple(_plan(other) for other in others))  # fmt: skip


class Kept:
    """Of one user. folder: private to the user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = Files(folder, _LARGEST, _ALL)
        self._rows: dict[str, dict[int, Row]] = {}  # by the file's name
        self._new: set[str] = set()
        self._last = 0.0  # when the last one was added

    def _of(self, module: Module) -> dict[int, Row]:
        name = _name(module)
        if name not in self._rows:
            self._rows[name] = self._read(name)
        return self._rows[name]

    def _read(self, name: str) -> dict[int, Row]:
        content = self._files.read(name)
        rows: dict[int, Row] = marshal.loads(content) if content else {}
        return rows

    def plan(self, module: Module, vaddr: int) -> SitePlan | None:
        """The plan of an instruction; None: it is to be made."""
        row = self._of(module).get(vaddr)
        return _plan(marshal.loads(row[1])) if row else None

    def template(self, module: Module, vaddr: int) -> tuple[Template | None] | None:
        """The template of that plan, or that there can be none; None: it is not known."""
        row = self._of(module).get(vaddr)
        return row and ((Template(*row[0]) if row[0] else None),)

    def add(self, module: Module, plan: SitePlan) -> None:
        rows = self._of(module)
        if len(rows) < _MOST:
            made = template(plan)
            rows[plan.vaddr] = made and made.plain(), marshal.dumps(_row(plan))
            self._new.add(_name(module))
            self._last = time.monotonic()

    def write(self, at_once: bool = False) -> None:
        """What is new, with what others have written meanwhile; some time after the last one came.
        Best effort: what is not kept costs time only."""
        if not self._new or (not at_once and time.monotonic() - self._last < _QUIET):
            return
        try:
            for folder in (self._folder.parent, self._folder):
                folder.mkdir(mode=0o700, exist_ok=True)
        except OSError:
            return
        for name in self._new:
            rows = {**self._read(name), **self._rows[name]}
            self._files.write(name, marshal.dumps(rows))
        self._new.clear()
