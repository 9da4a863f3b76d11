"""Plans kept between backends: a file a module, for every process and session of the user's.

A plan depends on the module's bytes and on this code: the file's name is a digest of the build-id
(or what stands for it), the size and the time of the module's file, and of what decodes and
plans. How it is trusted is libbpf_shim/keep.py's. A module's rows are read at once and made into
values one by one, when they are asked for; templates of one shape share it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import marshal
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from libbpf_shim.elf.module import Module
from libbpf_shim.keep import DIGEST, Files, sources
from libbpf_shim.rewrite.plan import CopyKind, Displaced, Hole, SitePlan
from libbpf_shim.rewrite.template import Row, Shape, Template, template

if TYPE_CHECKING:
    from typing import Any, TypeAlias

    # of the template, its window and the number of its shape, -1: none; of the plan, packed
    Known: TypeAlias = tuple[int, int, bytes]
    # how many system calls, and those that matter: address, place, numbers (numbers.py)
    Calls: TypeAlias = tuple[int, tuple[tuple[int, int, tuple[int, ...]], ...]]
_FORMAT = 3
_LARGEST = 8 << 20  # bytes of a file
_ALL = 64 << 20  # bytes of all files
_MOST = 16384  # plans of a module
_QUIET = 0.5  # seconds without a new plan, before they are written


@functools.cache
def _here() -> bytes:
    """This code, and the decoder's."""
    rows = [_FORMAT, *sources(("elf", "rewrite"))]
    for place in sys.path:  # as import looks, but that it reads no folder
        with contextlib.suppress(OSError):
            rows.append(os.stat(f"{place}/capstone/__init__.py").st_mtime_ns)
            break
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


class _Rows:
    """Of a module, by virtual address. content: as `packed` made it."""

    def __init__(self, content: bytes | None) -> None:
        self.rows: dict[int, Known] = {}
        self._plain: list[tuple[Any, ...]] = []  # of shapes, by their numbers
        self._shapes: dict[int, Shape] = {}  # those that were asked for
        self._numbers: dict[tuple[Any, ...], int] | None = None
        self.calls: Calls | None = None
        if content:
            self._plain, self.rows, self.calls = marshal.loads(content)

    def packed(self) -> bytes:
        return marshal.dumps((self._plain, self.rows, self.calls))

    def template(self, row: Known) -> Template | None:
        window, number, _ = row
        if number < 0:
            return None
        shape = self._shapes.get(number)
        if shape is None:
            shape = self._shapes[number] = Shape(Row(*self._plain[number]))
        return Template(window, shape)

    def add(self, vaddr: int, made: Template | None, packed: bytes) -> None:
        """Another row."""
        if made is None:
            self.rows[vaddr] = 0, -1, packed
            return
        if self._numbers is None:
            self._numbers = {plain: number for number, plain in enumerate(self._plain)}
        plain = tuple(made.shape.row)
        number = self._numbers.setdefault(plain, len(self._plain))
        if number == len(self._plain):
            self._plain.append(plain)
        self.rows[vaddr] = made.window, number, packed

    def merge(self, other: _Rows) -> None:
        """What it has besides."""
        self.calls = self.calls or other.calls
        for vaddr, row in other.rows.items():
            if vaddr not in self.rows:
                self.add(vaddr, other.template(row), row[2])


class Kept:
    """Of one user. folder: private to the user."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files = Files(folder, _LARGEST, _ALL)
        self._rows: dict[str, _Rows] = {}  # by the file's name
        self._new: set[str] = set()
        self._last = 0.0  # when the last one was added

    def _of(self, module: Module) -> _Rows:
        name = _name(module)
        if name not in self._rows:
            self._rows[name] = self._read(name)
        return self._rows[name]

    def _read(self, name: str) -> _Rows:
        return _Rows(self._files.read(name))

    def plan(self, module: Module, vaddr: int) -> SitePlan | None:
        """The plan of an instruction; None: it is to be made."""
        row = self._of(module).rows.get(vaddr)
        return _plan(marshal.loads(row[2])) if row else None

    def template(self, module: Module, vaddr: int) -> tuple[Template | None] | None:
        """The template of that plan, or that there can be none; None: it is not known."""
        known = self._of(module)
        row = known.rows.get(vaddr)
        return row and (known.template(row),)

    def add(self, module: Module, plan: SitePlan) -> None:
        known = self._of(module)
        if len(known.rows) < _MOST:
            known.add(plan.vaddr, template(plan), marshal.dumps(_row(plan)))
            self._new.add(_name(module))
            self._last = time.monotonic()

    def calls(self, module: Module) -> Calls | None:
        """Which system calls the module makes; None: that is to be found out."""
        return self._of(module).calls

    def add_calls(self, module: Module, calls: Calls) -> None:
        self._of(module).calls = calls
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
            rows = self._read(name)
            rows.merge(self._rows[name])
            self._files.write(name, rows.packed())
        self._new.clear()
