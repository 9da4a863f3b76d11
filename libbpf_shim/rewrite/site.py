"""`plan_site`: which bytes to replace so that a jump fits, or why that cannot be.

The ladder, as far as it goes today: one instruction of at least five bytes; whole instructions
onwards with no jump target inside; the same over the function's end into dead padding. A window
extended backwards, short jumps into padding, punned jumps and int3 are refused: EOPNOTSUPP.
"""

from __future__ import annotations

import errno
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn

from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite import decode
from libbpf_shim.rewrite.near import surroundings
from libbpf_shim.rewrite.plan import CopyKind, Displaced, SitePlan
from libbpf_shim.rewrite.targets import inside, jump_targets

JUMP = 5  # bytes of jmp rel32
_LONGEST = 32  # SHIM_WINDOW_MAX
_CALLS = (CopyKind.CALL, CopyKind.CALL_INDIRECT)
# Its bytes are matched by unwinders (libgcc, gdb): the signal restorer stays as it is.
_RESTORER = bytes.fromhex("48c7c00f0000000f05")


def _refuse(module: Module, vaddr: int, why: str, code: int = errno.EOPNOTSUPP) -> NoReturn:
    raise ShimError("RW0001", code, f"{module.path}+{vaddr:#x}: cannot be patched: {why}")


class _Window:
    """A window as it grows by whole instructions."""

    def __init__(self, module: Module, vaddr: int, window: int, insns: list[Any]) -> None:
        self.module, self.vaddr, self.start = module, vaddr, window
        self.taken: list[Displaced] = []
        self.size = 0
        self.padded = False
        self.left = insns

    def grow(self) -> None:
        """Takes the next instruction; raises ShimError if the window must not hold it."""
        at = self.start + self.size
        if not self.left:
            _refuse(self.module, self.vaddr, f"no instruction decodes at {at:#x}")
        insn = self.left.pop(0)
        before = self.taken[-1] if self.taken else None
        if before and (self.padded or before.ends):
            if not decode.is_padding(insn):
                _refuse(self.module, self.vaddr, f"control ends before {decode.text(insn)}")
            self.padded = True
            self.size += insn.size
            return
        if before and before.kind in _CALLS:
            _refuse(self.module, self.vaddr, "a call returns into the window")
        try:
            self.taken.append(decode.displaced(insn))
        except decode.NotMovableError as err:
            _refuse(self.module, self.vaddr, str(err))
        self.size += insn.size

    @property
    def tactic(self) -> str:
        if self.padded:
            return "padding"
        return "single" if len(self.taken) == 1 else "forward"


def _check_targets(module: Module, w: _Window, cache: Path | None) -> None:
    lo, hi = w.start + 1, w.start + w.size
    near = surroundings(module, w.start, hi)
    if near.boundaries and w.vaddr not in near.boundaries:
        _refuse(module, w.vaddr, "inside an instruction", errno.EINVAL)
    if w.tactic == "single":
        return
    targets = jump_targets(module, cache)
    found = inside(targets, lo, hi)
    # Those are found bytewise too: one between two instructions' beginnings is an accident, or a
    # branch over a prefix, which the function's own decoding shows.
    while found is not None and near.boundaries and found not in near.boundaries:
        found = inside(targets, found + 1, hi)
    if found is None:
        found = next((t for t in sorted(near.targets) if lo <= t < hi), None)
    if found is not None:
        _refuse(module, w.vaddr, f"{found:#x}, inside the window, is a jump target")


def _skip_endbr(module: Module, vaddr: int) -> int:
    return vaddr + 4 if module.read(vaddr, 4) == decode.ENDBR64 else vaddr


@lru_cache(maxsize=4096)
def _is_start(module: Module, vaddr: int) -> bool:
    return vaddr in module.starts or any(s.vaddr == vaddr for s in module.symbols)


def plan_site(
    module: Module,
    vaddr: int | None = None,
    *,
    offset: int | None = None,
    cache: Path | None = None,
) -> SitePlan:
    """How to divert control at one instruction of a module.

    vaddr: virtual address in the file's terms, or offset: file offset (uprobes give these).
    cache: a private directory where what is known of a module is kept between processes.
    Raises ShimError: EINVAL (not in an executable segment, or inside an instruction), EOPNOTSUPP
    with the reason (what stands there, and why no window fits).
    """
    if vaddr is None:
        vaddr = module.offset_to_vaddr(offset or 0)
    if module.executable_at(vaddr) is None:
        _refuse(module, vaddr, "not in an executable segment", errno.EINVAL)
    start = _skip_endbr(module, vaddr)
    code = module.read(start, _LONGEST)
    if code.startswith(_RESTORER):
        _refuse(module, vaddr, "the signal restorer is recognised by its bytes")
    w = _Window(module, vaddr, start, list(decode.instructions(code, start)))
    while w.size < JUMP:
        w.grow()
    _check_targets(module, w, cache)
    return SitePlan(
        vaddr=vaddr,
        window=start,
        orig=code[: w.size],
        displaced=tuple(w.taken),
        at_entry=_is_start(module, vaddr),
        tactic=w.tactic,
    )
