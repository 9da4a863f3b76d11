"""System calls of one process: regions of trampolines into it, and the windows that lead there.

The process remembers its regions (struct shim_agent.calls), so that sessions share them and a
second attach finds what the first one left. The keeper, or the process itself, restores the
windows with the last link to a system call (csrc/keeper/calls.c, csrc/agent/calls.c).
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.exchange import Pending
from libbpf_shim.attach.keeper import Window
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import LoadedModule, Mapping, read_maps
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.region import find_gap

if TYPE_CHECKING:  # loaded where a process has a call that is attached to
    from libbpf_shim.rewrite.callregion import Region
    from libbpf_shim.rewrite.syscalls import CallPlan

MASKED = "AY0004"  # the code of an error
# SIGTRAP may be blocked by these, or its handler taken away (csrc/agent/trapcalls.c); -1: which
# one it is cannot be told
_OF_SIGNALS = (-1, 13, 14, 130, 270, 271, 281, 333, 426, 441)
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

        for module in process.modules:
            file = self._file(process.pid, module)
            if file is None:
                why = "is no file that can be read"
            elif file.section(".gopclntab"):
                why = "is Go's"
            else:
                only = _OWN if os.path.basename(module.path) == _LIBRARY else ""
                plan = plan_calls(file, self.cache, only)
                lost = [s for s in (*plan.left, *plan.sites)
                        if s.nr in _OF_SIGNALS and not s.before]
                why = f"has a call at {lost[0].vaddr:#x} that cannot be met" if lost else ""
                at = addr - module.bias(file)
                if any(half and half.window <= at < half.end
                       for site in plan.sites for half in (site.before, site.after)):
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

        known = dict(_regions(talk, process))
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
        return process.meets or any(patched for _, _, patched, _, _ in _heads(talk, process))

    @staticmethod
    def foresee(talk: Conversation, process: Process) -> None:
        """`under` is what is called next."""
        talk.foresee(*_table(process))

    def under(
        self, talk: Conversation, process: Process, windows: dict[int, Window]
    ) -> None:
        """Windows of sites that are to be written over those of calls: there a jump stands, not
        the file's bytes. The call behind it is not seen as long as the site is there."""
        if not windows or not (heads := [h for h in _heads(talk, process) if h[2]]):
            return
        from libbpf_shim.rewrite.callregion import WINDOW_FORMAT

        strict = process.trapped
        table = [(at, struct.iter_unpack(WINDOW_FORMAT, talk.read(at + table, nr * 16)))
                 for at, _, _, table, nr in heads]
        jumps = [(at + row[0], row[2][: row[1]], row[3][: row[1]])
                 for at, rows in table for row in rows]
        for index, window in windows.items():
            lo, hi = window.addr, window.addr + len(window.expect)
            for at, orig, patch in jumps:
                # what begins before the site's window would go on in the middle of it
                if lo <= at < hi and window.expect[at - lo : at - lo + len(orig)] == \
                        orig[: hi - at] and \
                        talk.read(at, min(len(patch), hi - at)) == patch[: hi - at]:
                    if strict:
                        raise ShimError("AY0003", errno.EOPNOTSUPP, f"{window.addr:#x}: a call is "
                                        "met there, which probes by int3 need")
                    expect = bytearray(window.expect)
                    expect[at - lo : at - lo + len(patch)] = patch[: hi - at]
                    window = windows[index] = window._replace(expect=bytes(expect))

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
        known: dict[int, tuple[int, int, bool]], asked: Pending | None,
        windows: dict[int, Window],
    ) -> tuple[int, int] | None:  # fmt: skip
        """Its region, and what is to be done with that once it is written; None: nothing."""
        from libbpf_shim._native import lib
        from libbpf_shim.rewrite.callregion import render_calls

        module, bias, plan = found
        reason = talk.hello.reason
        lo, hi = talk.hello.syms[lib.SHIM_SYM_MAPPED], talk.hello.syms[lib.SHIM_SYM_MAPPED_END]
        fresh = reason == _MAP and any(lo < m.end and m.start < hi for m in module.mappings)
        if bias in known:
            at, key, patched = known[bias]
            if patched and not fresh:
                return None
            region = render_calls(plan, at - bias)
            if region.key != key:  # of another module that was there before
                talk.calls(at, _FORGET)
                at, region = self._region(talk, process, found, None)
        else:
            at, region = self._region(talk, process, found, asked)
        if reason == _KEEPER:
            self._for_keeper(talk, bias, region, windows, process.trapped)
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
        self, talk: Conversation, bias: int, region: Region, windows: dict[int, Window],
        strict: bool,
    ) -> None:  # fmt: skip
        """What differs from the file's bytes is somebody else's and is left out; strict: none may
        be."""
        at = region.base + bias
        pages: dict[int, bytes] = {}
        sites = sorted((w.addr, w.addr + len(w.new)) for i, w in windows.items() if i >= 0)
        ends = list(accumulate((end for _, end in sites), max))  # of each and those before
        for change in region.changes:
            where = change.at + bias
            before = bisect_left(sites, (where + len(change.orig),))
            if _there(talk, pages, where, len(change.orig)) != change.orig or (
                    before and where < ends[before - 1]):
                if strict:
                    raise ShimError("AY0003", errno.EOPNOTSUPP, f"{where:#x}: a call that probes "
                                    "by int3 need to see has another probe in its way")
                continue
            fixups = tuple((a + bias, at + off) for a, off in change.fixups)
            scan = (min(f[0] for f in fixups), where + len(change.orig)) if fixups else (0, 0)
            windows[-1 - len(windows)] = Window(where, change.orig, change.patch, fixups, scan)


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


def _regions(talk: Conversation, process: Process) -> Iterator[tuple[int, tuple[int, int, bool]]]:
    """By module's bias: address, key, are its windows written."""
    for at, (key, bias), patched, _, _ in _heads(talk, process):
        yield bias, (at, key, patched)


def _table(process: Process) -> tuple[int, int]:
    """Where its agent lists the regions, and how many bytes that are."""
    from libbpf_shim._native import ffi, lib

    size = ffi.sizeof("struct shim_call_region") * int(lib.SHIM_MAX_CALLS)
    return process.root + int(ffi.offsetof("struct shim_agent", "calls")), size


def _heads(
    talk: Conversation, process: Process
) -> Iterator[tuple[int, tuple[int, int], bool, int, int]]:
    """Address, key and module's bias, are its windows written, where they are listed, how many."""
    from libbpf_shim._native import ffi, lib

    regions = ffi.new("struct shim_call_region[]", int(lib.SHIM_MAX_CALLS))
    ffi.memmove(regions, talk.read(*_table(process)), ffi.sizeof(regions))
    rows = [row for row in regions if row.at]
    if not rows:
        return
    from libbpf_shim.rewrite.callregion import HEAD

    for row in rows:
        _, nr, key, bias, _, _, _, table, _ = HEAD.unpack(talk.read(int(row.at), HEAD.size))
        yield int(row.at), (key, bias), bool(row.patched), table, nr
