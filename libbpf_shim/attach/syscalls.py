"""System calls of one process: regions of trampolines into it, and the windows that lead there.

The process remembers its regions (struct shim_agent.calls), so that sessions share them and a
second attach finds what the first one left. The keeper, or the process itself, restores the
windows with the last link to a system call (csrc/keeper/calls.c, csrc/agent/calls.c).
"""

from __future__ import annotations

import contextlib
import errno
import os
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate, count
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.exchange import Pending
from libbpf_shim.attach.keeper import Window
from libbpf_shim.attach.met import Head, any_met, claims, heads, left_out, over
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process
from libbpf_shim.attach.target import IMAGE
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import LoadedModule, Mapping, read_maps
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.region import find_gap

if TYPE_CHECKING:  # loaded where a process has a call that is attached to
    from libbpf_shim.rewrite.callregion import Change, Region
    from libbpf_shim.rewrite.syscalls import CallPlan

MASKED = "AY0004"  # the code of an error
_KEEPER, _MAP = 2, 8  # SHIM_SYNC_*
_NOTE, _WRITE, _FRESH, _FORGET = 1, 2, 3, 5  # SHIM_CALLS_*
_READ_EXEC, _PRIVATE_ANON = 5, 0x22
_LIBRARY = "libbpf_shim.so"
_OWN = "syscall"  # the one function of it that makes the application's calls
_PAGE = 4096
_MOST = 1 << 16  # bytes of such code that are looked at


def is_call(event: int) -> bool:
    """SHIM_EVENT_* that is met at system calls."""
    from libbpf_shim._native import lib

    if event <= lib.SHIM_LAST_OF_CALLS:
        return bool(event != lib.SHIM_EVENT_SCHED_EXEC)
    return bool(0 <= event - lib.SHIM_EVENT_FUNC < lib.SHIM_MAX_SYSCALLS)


class _Found(NamedTuple):
    """A module, or code of no file, with calls."""

    module: LoadedModule
    bias: int
    plan: CallPlan


@dataclass(slots=True)
class CallPlaces:
    """For all processes of a session. bases: where a plan's region lay last, less the bias. sides:
    of a plan, how many calls it meets, and how many of them on one side only."""

    plans: Plans
    cache: Path
    bases: dict[str, int] = field(default_factory=dict)
    sides: dict[str, tuple[int, int]] = field(default_factory=dict)

    def watchable(self, process: Process, addr: int) -> None:
        """ShimError EOPNOTSUPP: the process has calls that change what signals do to it and
        cannot be met, or may have; or the instruction at addr is not executed there then."""
        from libbpf_shim.rewrite.callcache import plan_calls
        from libbpf_shim.rewrite.callregion import OF_SIGNALS

        for module in process.modules:
            if module.path.startswith(IMAGE):
                continue  # the agent: what it does to signals is for these sites
            file = self._file(process.pid, module)
            if file is None:
                why = "is no file that can be read"
            elif file.section(".gopclntab"):
                why = "is Go's"
            else:
                only = _OWN if os.path.basename(module.path) == _LIBRARY else ""
                plan = plan_calls(file, self.cache, only)
                lost = [s for s in (*plan.left, *plan.sites)
                        if s.nr in OF_SIGNALS and not s.before]
                why = f"has a call at {lost[0].vaddr:#x} that cannot be met" if lost else ""
                at = addr - module.bias(file)
                if any(s.before and s.before.window <= at < s.before.end
                       for s in plan.sites if s.nr in OF_SIGNALS):
                    why = f"meets one at {at:#x}"
            if why:
                raise ShimError("AY0003", errno.EOPNOTSUPP,
                                f"no jump fits, and int3 needs to see signal calls: {module.path} "
                                f"{why}")

    def place(
        self, talk: Conversation, process: Process, windows: dict[int, Window]
    ) -> None:
        """All modules that are mapped. The windows that the keeper is to write are added to
        `windows`, under numbers below 0. ShimError: EBUSY (the process may not write now)."""
        from libbpf_shim._native import lib
        from libbpf_shim.rewrite.callcache import plan_calls

        known = {h.bias: h for h in heads(talk)}
        found: list[_Found] = []
        for module in process.modules:
            file = self._file(process.pid, module)
            if file is None:
                continue
            only = _OWN if os.path.basename(module.path) == _LIBRARY else ""
            plan = plan_calls(file, self.cache, only)
            if plan.key not in self.sides:
                self.sides[plan.key] = len(plan.sites), sum(bool(s.why) for s in plan.sites)
            process.calls[module.path] = self.sides[plan.key]
            if plan.sites:
                found.append(_Found(module, module.bias(file), plan))
        lo, hi = talk.hello.syms[lib.SHIM_SYM_MAPPED], talk.hello.syms[lib.SHIM_SYM_MAPPED_END]
        if lo and not any(m.base <= lo < m.mappings[-1].end for m in process.modules):
            if made := _anonymous(talk, read_maps(process.pid), lo, hi):
                found.append(made)
        # a process that begins waits for each answer: all modules' are asked for at once
        asked = {f.bias: self._again(talk, process, f) for f in found if f.bias not in known}
        ready = [row for f in found if (row := self._module(
            talk, process, f, known, asked.get(f.bias), windows))]
        talk.settle()
        talk.calls_all(ready)

    @staticmethod
    def clear(talk: Conversation, process: Process) -> None:
        """ShimError MASKED: sites where masks of signals change (quick.py) stand, of any session,
        where calls are to be met."""
        from libbpf_shim._native import ffi

        at = process.root + int(ffi.offsetof("struct shim_agent", "masked"))
        if talk.hello.reason == _KEEPER and talk.read(at, 4) != bytes(4):
            raise ShimError(MASKED, errno.EBUSY, f"process {process.pid}: sites of masks")

    @staticmethod
    def met(talk: Conversation, process: Process) -> bool:
        """Some are, or are to be: this session's, or another's."""
        return process.meets or any(head.patched for head in heads(talk))

    @staticmethod
    def under(talk: Conversation, process: Process, windows: dict[int, Window]) -> None:
        """Windows of sites that are to be written over those of calls: there a jump stands, not
        the file's bytes. The call behind it is not seen as long as the site is there. ShimError
        EOPNOTSUPP: it cannot be."""
        waiting = [index for index in windows if index < 0]  # since a try that has failed
        if not windows or not (waiting or any_met(talk, process) or any(
                w.bare for w in windows.values())):
            return
        for index in [index for index in windows if index >= 0]:
            windows[index], why = over(talk, process, windows[index])
            site = windows[index].bare or windows[index]
            for call in [i for i in waiting if _overlap(windows[i], site)]:
                why = why or left_out(talk, process, windows.pop(call))
                waiting.remove(call)
            if why:
                raise ShimError("AY0003", errno.EOPNOTSUPP, f"{site.addr:#x}: {why}")

    def _file(self, pid: int, module: LoadedModule) -> Module | None:
        """The file as it was mapped; None: it is not there any more, or no ELF file."""
        for path in (module.path, f"/proc/{pid}/root{module.path}"):
            try:
                file = self.plans.module(path)
            except ShimError:
                continue
            if file.ino == module.ino:
                return file
        with contextlib.suppress(ShimError, OSError):
            # no name leads there (memfd, deleted); not kept, since it would keep the file
            exe = f"/proc/{pid}/exe"
            if os.stat(exe).st_ino == module.ino:
                return Module(exe)
        return None

    def _module(
        self, talk: Conversation, process: Process, found: _Found,
        known: dict[int, Head], asked: Pending | None,
        windows: dict[int, Window],
    ) -> tuple[int, int] | None:  # fmt: skip
        """Its region, and what is to be done with that once it is written; None: nothing."""
        from libbpf_shim._native import lib
        from libbpf_shim.rewrite.callregion import render_calls

        module, bias, plan = found
        reason = talk.hello.reason
        lo, hi = talk.hello.syms[lib.SHIM_SYM_MAPPED], talk.hello.syms[lib.SHIM_SYM_MAPPED_END]
        fresh = reason == _MAP and any(lo < m.end and m.start < hi for m in module.mappings)
        if head := known.get(bias):
            at = head.at
            if head.patched and not fresh:
                if any(w.trap for w in windows.values()):
                    self._missing(talk, bias, render_calls(plan, at - bias), windows)
                return None
            region = render_calls(plan, at - bias)
            if region.key != head.key:  # of another module that was there before
                talk.calls(at, _FORGET)
                at, region = self._region(talk, process, found, None)
        else:
            at, region = self._region(talk, process, found, asked)
        if reason == _KEEPER:
            self._for_keeper(talk, process, bias, region, windows)
        elif process.trapped:
            self._for_keeper(talk, process, bias, region, {})  # it leaves the same ones out
        return at, _NOTE if reason == _KEEPER else _FRESH if fresh else _WRITE

    def _region(
        self, talk: Conversation, process: Process, found: _Found, asked: Pending | None
    ) -> tuple[int, Region]:
        """Room for the trampolines, and they in it."""
        from libbpf_shim._native import lib
        from libbpf_shim.rewrite.callregion import render_calls

        (_, bias, plan), syms = found, talk.hello.syms
        at = self._take(talk, process, found, asked)
        self.bases[plan.key] = at - bias
        region = render_calls(plan, at - bias)
        enter, leave = lib.SHIM_SYM_CALL_ENTER, lib.SHIM_SYM_CALL_EXIT
        if plan.own:
            enter, leave = lib.SHIM_SYM_CALL_ENTER_OWN, lib.SHIM_SYM_CALL_EXIT_OWN
        head = region.head(bias, syms[enter], syms[leave], syms[lib.SHIM_SYM_CALL_WANTED])
        talk.write(at, head + region.text, ahead=True)
        return at, region

    def _again(self, talk: Conversation, process: Process, found: _Found) -> Pending | None:
        """Asks for room where the plan's region lay last; None: there was none yet, or something
        is there."""
        at, size = self.bases.get(found.plan.key, 0) + found.bias, _room(found.plan)
        if found.plan.key not in self.bases or any(
                m.start < at + size and at < m.end for m in process.near.seen):
            return None
        return talk.begin_mmap(size, _READ_EXEC, _PRIVATE_ANON, address=at)

    @staticmethod
    def _take(
        talk: Conversation, process: Process, found: _Found, asked: Pending | None
    ) -> int:
        lo, hi, size = found.module.base, found.module.mappings[-1].end, _room(found.plan)
        if asked:
            try:
                at = talk.mapped(asked)
            except ShimError as error:
                if error.errno != errno.EEXIST:
                    raise
            else:
                process.near.mapped(at, size)
                return at
        return process.near.map(
            talk, lambda maps: find_gap(maps, lo, hi, size), size, size, lo)[0]

    def _for_keeper(
        self, talk: Conversation, process: Process, bias: int, region: Region,
        windows: dict[int, Window],
    ) -> None:  # fmt: skip
        """What differs from the file's bytes is somebody else's and is left out, and what leads
        there; beside int3 none may be that those need."""
        pages: dict[int, bytes] = {}
        sites = sorted(claims(talk, process) + [w.claim for i, w in windows.items() if i >= 0])
        ends = list(accumulate((end for _, end in sites), max))  # of each and those before
        taken: set[int] = set()  # changes, by address
        for change in region.changes:
            where = change.at + bias
            before = bisect_left(sites, (change.end + bias,))
            if _there(talk, pages, where, len(change.orig)) != change.orig or (
                    before and where < ends[before - 1]):
                taken.add(change.at)
        changes = list(region.changes)
        if taken:
            lost = [c for c in changes if c.at in taken or c.leads in taken]
            if process.trapped and (needed := next((c for c in lost if c.needed), None)):
                raise _in_its_way(needed.at + bias)
            # nor does anybody need the fill that those would have led to
            unused = {c.leads or c.at for c in lost}
            changes = [c for c in changes if c.at not in unused and c.leads not in unused]
        _add(windows, [_window(region, c, bias) for c in changes])

    @staticmethod
    def _missing(
        talk: Conversation, bias: int, region: Region, windows: dict[int, Window]
    ) -> None:
        """Calls are met, but one that probes by int3 need may have been left out, or taken away
        by a site that has gone since."""
        pages: dict[int, bytes] = {}
        sites = [w for i, w in windows.items() if i >= 0]
        waiting = {w.addr for i, w in windows.items() if i < 0}
        missing: list[Window] = []
        for change in region.changes:
            where = change.at + bias
            if not change.needed or where in waiting:
                continue
            there, window = _there(talk, pages, where, len(change.orig)), _window(
                region, change, bias)
            if there == change.orig and not any(_overlap(window, site) for site in sites):
                missing.append(window)
            elif there != change.patch:
                raise _in_its_way(where)
        _add(windows, missing)


def _window(region: Region, change: Change, bias: int) -> Window:
    """As the keeper writes it."""
    at, where = region.base + bias, change.at + bias
    fixups = tuple((a + bias, at + off) for a, off in change.fixups)
    scan = (min(f[0] for f in fixups), where + len(change.orig)) if fixups else (0, 0)
    return Window(where, change.orig, change.patch, fixups, scan)


def _add(windows: dict[int, Window], made: list[Window]) -> None:
    """Of calls: under numbers below 0."""
    lowest = min((0, *windows))
    windows.update(zip(count(lowest - 1, -1), made, strict=False))


def _room(plan: CallPlan) -> int:
    """Bytes, in pages, that its region takes."""
    from libbpf_shim.rewrite.callregion import region_size

    return -(-region_size(plan) // _PAGE) * _PAGE


def _anonymous(
    talk: Conversation, maps: Sequence[Mapping], lo: int, hi: int
) -> _Found | None:
    """Code that is no file's, as it stands in memory. Only what is private: another mapping of it
    could be written to still. None: no call is there that can be met."""
    from libbpf_shim.rewrite.callmemory import Memory, plan_memory

    here = [m for m in maps if m.start <= lo < m.end and m.perms == "r-xp" and not m.ino]
    if not here or talk.hello.nthreads != 1 or hi - lo > _MOST:
        return None
    try:
        text = talk.read(lo, min(hi, here[0].end) - lo)
    except ShimError:
        return None
    file = Memory(text)
    plan = plan_memory(file)
    module = LoadedModule("", 0, 0, lo, (here[0],))
    return _Found(module, lo - Memory.BASE, plan) if plan.sites else None


def _there(talk: Conversation, pages: dict[int, bytes], at: int, size: int) -> bytes:
    """Bytes of the process, a page at a time."""
    found = b""
    for page in range(at // _PAGE, (at + size - 1) // _PAGE + 1):
        if page not in pages:
            try:
                pages[page] = talk.read(page * _PAGE, _PAGE)
            except ShimError:
                pages[page] = b""
        found += pages[page]
    return found[at % _PAGE : at % _PAGE + size]


def _overlap(one: Window, other: Window) -> bool:
    return one.addr < other.addr + len(other.new) and other.addr < one.addr + len(one.new)


def _in_its_way(where: int) -> ShimError:
    return ShimError("AY0003", errno.EOPNOTSUPP, f"{where:#x}: a call that probes by int3 need "
                     "to see has another probe in its way")
