"""`plan_site`: which bytes to replace so that control is diverted, or why that cannot be.

The ladder: the run of instructions that the probed one belongs to (blocks.py), alone or from it
onwards or beginning before it; the same over the function's end into dead padding; a two-byte
jump into dead padding nearby; a punned jump, whose displacement ends with bytes that stay as they
are; a two-byte jump into another run's window, which has room for a second jump; one byte of int3,
whose signal leads to the trampoline. What a plan cannot do in some process, the next of its
`others` may.
"""

from __future__ import annotations

import array
import errno
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from libbpf_shim.elf.module import ET_EXEC, STT_FUNC, STT_GNU_IFUNC, Module
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite import decode
from libbpf_shim.rewrite.blocks import JUMP, Blocks, Run
from libbpf_shim.rewrite.body import BARRIER, Body, begun, find
from libbpf_shim.rewrite.plan import TRAP, Displaced, Hole, SitePlan
from libbpf_shim.rewrite.render import reachable
from libbpf_shim.rewrite.targets import jump_targets

_LOWEST = 0x10000  # vm.mmap_min_addr's usual value
_HOLES = 4  # that are tried for one site


def _refuse(module: Module, vaddr: int, why: str, code: int = errno.EOPNOTSUPP) -> NoReturn:
    raise ShimError("RW0001", code, f"{module.path}+{vaddr:#x}: cannot be patched: {why}")


class _Site:
    """One instruction, index, of a known function."""

    def __init__(self, module: Module, made: Body, index: int, targets: array.array[int]) -> None:
        self.module, self.body, self.index = module, made, index
        self.vaddr = made.addrs[index]
        self.blocks = Blocks(module, made, targets)
        self._copied: dict[int, Displaced] = {}  # by index

    def plans(self) -> list[SitePlan]:
        """In the ladder's order."""
        while True:
            run = self.blocks.run(self.index)
            if run is None:
                _refuse(self.module, self.vaddr, "it stays where it is, and may be jumped to")
            try:
                return self._of_run(run)
            except _Stays as found:
                found.body.flags[found.index] |= BARRIER

    def _of_run(self, run: Run) -> list[SitePlan]:
        size = self.blocks.size(run.first, run.last)
        if size + run.dead >= JUMP:
            return [self._window(run, size)] + self._alone(run) + self._trap()
        return (self._short(run) + self._punned(run, size + run.dead) + self._evicting(run)
                + self._trap())

    def _insns(self, first: int, last: int, of: Body | None = None) -> list[Displaced]:
        if of is None and all(k in self._copied for k in range(first, last)):
            return [self._copied[k] for k in range(first, last)]
        b = of or self.body
        start = b.addrs[first]
        code = self.module.read(start, b.addrs[last - 1] + b.sizes[last - 1] - start)
        found = []
        for k, insn in enumerate(decode.plain(code, start), first):
            try:
                found.append(decode.displaced(insn, begins=not k))
            except decode.NotMovableError:
                raise _Stays(b, k) from None
            if of is None:
                self._copied[k] = found[-1]
        return found

    def _beside(self, index: int) -> Displaced:
        b = self.body
        code = self.module.read(b.addrs[index], b.sizes[index])
        return decode.staying(decode.plain(code, b.addrs[index])[0])

    def _plan(self, window: int, size: int, insns: list[Displaced], tactic: str,
              hole: Hole | None = None, fixed: bytes = b"") -> SitePlan:  # fmt: skip
        return SitePlan(
            vaddr=self.vaddr, window=window, orig=self.module.read(window, size),
            displaced=tuple(insns), at_entry=_is_entry(self.module, self.vaddr), tactic=tactic,
            hole=hole, fixed=fixed)  # fmt: skip

    def _window(self, run: Run, size: int) -> SitePlan:
        insns = self._insns(run.first, run.last)
        window = insns[0].vaddr
        if run.dead:
            # whole fill instructions are not needed: nobody executes what is left of them
            size, tactic = max(JUMP, size), "padding"
        elif self.vaddr not in (window, insns[0].vaddr - 4 * run.lead):
            tactic = "backward"
        else:
            tactic = "single" if len(insns) == 1 else "forward"
        if run.lead:
            insns.insert(0, self._beside(run.first - 1))
        if run.trail:
            insns.append(self._beside(run.last))
        return self._plan(window, size, insns, tactic)

    def _alone(self, run: Run) -> list[SitePlan]:
        """The instruction by itself, for processes where a window must be one."""
        b = self.body
        if run.last - run.first == 1 or b.sizes[self.index] < JUMP or self.index >= run.last:
            return []
        if self.index < run.first:
            return []
        return [self._plan(self.vaddr, b.sizes[self.index],
                           self._insns(self.index, self.index + 1), "single")]  # fmt: skip

    def _trap(self) -> list[SitePlan]:
        """The instruction's first byte, if it can be executed elsewhere."""
        try:
            return [_trap_plan(self.module, self.vaddr, self._insns(self.index, self.index + 1))]
        except _Stays:
            return []

    def _beginnings(self, run: Run) -> list[int]:
        """Where a jump may stand: the instruction itself, or one before it in its run."""
        here = min(max(self.index, run.first), run.last - 1)
        return [here, *range(run.first, here)]

    def _covered(self, run: Run, first: int, size: int) -> list[Displaced]:
        """The instructions that a jump of so many bytes at `first` overwrites, and the probed
        one."""
        last = first + 1
        while last < run.last and (self.blocks.size(first, last) < size or last <= self.index):
            last += 1
        insns = self._insns(first, last)
        if run.lead and first == run.first:
            insns.insert(0, self._beside(first - 1))
        if run.trail and last == run.last:
            insns.append(self._beside(last))
        return insns

    def _short(self, run: Run) -> list[SitePlan]:
        found = []
        for first in self._beginnings(run):
            left = self.blocks.size(first, run.last) + run.dead
            if left < 2:
                continue
            window = self.body.addrs[first]
            insns = self._covered(run, first, 2)
            if not any(d.vaddr == self.vaddr for d in insns):
                continue
            for place in self.blocks.holes(window)[:_HOLES]:
                hole = Hole(place, self.module.read(place, JUMP))
                if place + JUMP <= window or place >= window + max(left, 2):
                    found.append(self._plan(window, 2, insns, "short", hole))
        return found

    def _evicting(self, run: Run) -> list[SitePlan]:
        """A two-byte jump into the window of another run, which is moved to make room."""
        found: list[SitePlan] = []
        for first in self._beginnings(run):
            window = self.body.addrs[first]
            insns = self._covered(run, first, 2)
            if self.blocks.size(first, run.last) + run.dead < 2 or not any(
                d.vaddr == self.vaddr for d in insns
            ):
                continue
            for made, a, z in self.blocks.carriers(window)[:_HOLES]:
                carrier = carrier_plan(self.module, made.addrs[a], self._insns(a, z, made))
                hole = Hole(carrier.window + JUMP, carrier.orig[JUMP : 2 * JUMP])
                found.append(replace(self._plan(window, 2, insns, "evict", hole), carrier=carrier))
        return found

    def _punned(self, run: Run, size: int) -> list[SitePlan]:
        """Most free bytes first. size: of the run and the dead bytes behind it."""
        found = []
        for first in sorted(self._beginnings(run)):
            window = self.body.addrs[first]
            free = self.body.addrs[run.first] + size - window
            insns = self._covered(run, first, free)
            fixed = self.module.read(window + free, JUMP - free)
            if len(fixed) == JUMP - free and any(d.vaddr == self.vaddr for d in insns):
                plan = self._plan(window, free, insns, "pun", None, fixed)
                if self.module.type != ET_EXEC or _leads_somewhere(plan):
                    found.append(plan)
        return found


def _leads_somewhere(plan: SitePlan) -> bool:
    """For code at a fixed address: where a punned jump leads there may be memory."""
    places = reachable(plan, 0)
    return places is not None and places[1] >= _LOWEST


def carrier_plan(module: Module, vaddr: int, insns: list[Displaced]) -> SitePlan:
    """A window that holds no probe of its own."""
    size = insns[-1].vaddr + len(insns[-1].code) - vaddr
    return SitePlan(0, vaddr, module.read(vaddr, size), tuple(insns), False, "carrier")


def plan_window(module: Module, vaddr: int, size: int) -> SitePlan:
    """The carrier_plan of the window at vaddr. EINVAL: none begins and ends there."""
    try:
        insns = [decode.displaced(i) for i in decode.instructions(module.read(vaddr, size), vaddr)]
    except decode.NotMovableError as err:
        _refuse(module, vaddr, str(err), errno.EINVAL)
    if not insns or insns[-1].vaddr + len(insns[-1].code) != vaddr + size:
        _refuse(module, vaddr, f"no whole instructions in {size} bytes", errno.EINVAL)
    return carrier_plan(module, vaddr, insns)


def _trap_plan(module: Module, vaddr: int, insns: list[Displaced]) -> SitePlan:
    return SitePlan(vaddr, vaddr, insns[0].code, tuple(insns), _is_entry(module, vaddr), TRAP)


class _Stays(Exception):
    """This instruction of the body cannot be copied."""

    def __init__(self, of: Body, index: int) -> None:
        self.body, self.index = of, index


def _is_entry(module: Module, vaddr: int) -> bool:
    """A function begins there that is called by the ABI. The cold part of one is jumped to, with
    flags and a red zone that may be in use, and has an entry in the unwind table too."""
    known: set[int] | None = module.__dict__.get("_entries")
    if known is None:
        known = module.__dict__["_entries"] = {
            s.vaddr for s in module.symbols
            if s.type in (STT_FUNC, STT_GNU_IFUNC) and ".cold" not in s.name
        }
    return vaddr in known


def _with_others(plans: list[SitePlan]) -> SitePlan:
    return replace(plans[0], others=tuple(plans[1:])) if len(plans) > 1 else plans[0]


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
    targets = jump_targets(module, cache)
    made = find(module, vaddr) or begun(module, vaddr)
    if made is None:
        _refuse(module, vaddr, "no instructions decode there")
    index = made.index(vaddr)
    if index is None:
        _refuse(module, vaddr, "inside an instruction", errno.EINVAL)
    plans = _Site(module, made, index, targets).plans()
    if not plans:
        _refuse(module, vaddr, _why(made, index))
    return _with_others(plans)


def _why(made: Body, index: int) -> str:
    return (f"{made.sizes[index]} bytes between jump targets, and no room for a jump nearby")


__all__ = ["JUMP", "plan_site", "plan_window"]
