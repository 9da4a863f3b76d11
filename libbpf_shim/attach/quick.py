"""Processes in which reads of memory may fault, so that they need no system call each.

The agent's handler of SIGSEGV and SIGBUS (csrc/agent/quick.c) is put where nobody has one, and
goes before anybody asks for one: so all that could do that has to be met. That is known of
processes with glibc's libc.so.6, in which nothing else makes system calls: sites at its one
rt_sigaction(2) and at syscall(). Where masks of signals change there are sites too, if they can
be had: each run asks for the mask otherwise. Processes with programs that read in their code (a
system call takes long by itself) are looked at some time after their attach, as nothing waits for
that, a module or a plan at a time. Not if LIBBPF_SHIM_QUICK_READS is 0.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.keeper import Window
from libbpf_shim.attach.objects import ProgRef
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process
from libbpf_shim.attach.sites import Sites
from libbpf_shim.attach.target import Target, loaded_in, look, reach_all
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.object.control import start_time

log = logging.getLogger("libbpf_shim.attach")
VARIABLE = "LIBBPF_SHIM_QUICK_READS"
_AFTER = 0.3  # seconds after an attach
_PAUSES = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2)  # seconds until it is tried again
_RT_SIGACTION = (13,)  # what is in rax
# helpers that read memory, of the kernel's and ours (shim_runtime.h)
_READERS = frozenset(f"helper:{n}" for n in (4, 27, 45, 67, 112, 113, 114, 115, 214, 216, 219))
_LIBC, _LINKER, _SHIM = "libc.so.6", "ld-linux-x86-64.so.2", "libbpf_shim.so"
_SIGACTION, _CALL, _MASK = 1, 2, 3  # whose arguments a place has; a mask may change behind it
_ENTRY = 0  # SHIM_LINK_ENTRY
_BROKEN = (errno.EPROTO, errno.ETIMEDOUT)  # what ends a conversation
_MOST = 127  # places of a kind
_SIGNALS = 1 << signal.SIGSEGV - 1 | 1 << signal.SIGBUS - 1


class Place(NamedTuple):
    """Where a handler may be asked for, or a mask changed."""

    module: LoadedModule
    file: Module
    vaddr: int
    kind: int


class Made(NamedTuple):
    """By a file's system calls: where handlers may be asked for, with what the place has, None: it
    cannot be told; before what may change a mask, None: one has no place."""

    handlers: tuple[tuple[int, int], ...] | None
    masks: tuple[int, ...] | None


def is_quick(process: Process) -> bool:
    """It is to be, or may have it from its parent."""
    from libbpf_shim._native import lib

    return process.quick or any(i == 1 << lib.SHIM_QUICK_SHIFT for i, _ in process.linked)


def reads(prog: ProgRef) -> bool:
    """The program reads memory that may not be there."""
    return any(reloc.symbol in _READERS for reloc in prog.image.relocs)


def _has_handler(pid: int) -> bool:
    """Somebody else has seen to one of the two signals."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/status", "rb") as status:
        return any(int(line.split()[1], 16) & _SIGNALS for line in status
                   if line.startswith((b"SigIgn:", b"SigCgt:")))
    return False


def _leads(talk: Conversation, index: int, enter: int) -> bool:
    """The site's trampoline calls that function."""
    record = talk.site_record(index)
    return struct.pack("<Q", enter) in talk.read(record.tramp, record.tramp_len)


class Quick:
    """Of one session."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self._known: dict[Module, Made] = {}
        self._tries: dict[tuple[int, int], int] = {}  # by process: number and start
        self._steps: dict[tuple[int, int], Iterator[None]] = {}
        self._in_the_way = False  # of a site, now
        self.on = os.environ.get(VARIABLE, "") != "0"
        self.due: float | None = None  # when `tidy` is to be called, time.monotonic()

    def attached(self) -> None:
        """Programs that read have come into a process."""
        if self.on and self.due is None:
            self.due = time.monotonic() + _AFTER

    def tidy(
        self, processes: dict[int, Process], transact: Callable[[Target], None]
    ) -> None:
        """One step, of one process that is known. transact: puts what is wanted of it into it."""
        if self.due is None or time.monotonic() < self.due:
            return
        for pid, process in list(processes.items()):
            known = (pid, process.start_time)
            if not process.reads or self._tries.get(known, 0) > len(_PAUSES):
                continue
            steps = self._steps.setdefault(known, self._prepare(process))
            with contextlib.suppress(ShimError, OSError):
                for _ in steps:
                    return
            self._put(pid, process, transact)
            return
        self._steps.clear()
        self.due = None

    def _prepare(self, process: Process) -> Iterator[None]:
        """What is to be known of the process's files, before it is held."""
        modules = loaded_in(process.pid)[1]
        for loaded in modules:
            if file := self._file(loaded):
                self._made(file, os.path.basename(loaded.path))
                yield
        places = self._places(process.pid, modules)
        for place in places + (self._masks(modules) if places else []):
            self._plans.at(place.file, place.vaddr)
            yield

    def _put(self, pid: int, process: Process, transact: Callable[[Target], None]) -> None:
        known = (pid, process.start_time)
        tries = self._tries.get(known, 0)
        self._tries[known] = len(_PAUSES) + 1
        target = look(pid)
        if target is None or (process.root, process.start_time) != (
                target.root, start_time(pid)):
            return
        if not is_quick(process):
            if _has_handler(pid):
                return
            if not self._places(pid, reach_all(pid, list(target.modules))):
                self._again(known, tries)  # its libc may not be mapped yet
                return
        process.quick, self._in_the_way = True, False
        try:
            transact(target)
        except ShimError as error:
            log.debug("process %d: no quick reads yet: %s", pid, error)
            self._in_the_way = True
        if self._in_the_way:
            self._again(known, tries)

    def _again(self, known: tuple[int, int], tries: int) -> None:
        """It is tried once more, of the files that it has then."""
        if tries < len(_PAUSES):
            self._steps.pop(known, None)
            self._tries[known] = tries + 1
            self.due = time.monotonic() + _PAUSES[tries]

    def watch(
        self, talk: Conversation, process: Process, windows: dict[int, Window], met: bool
    ) -> None:
        """Sites where handlers of signals are asked for, or none any more: a module that has come
        may make system calls of its own. And where masks change, unless system calls are met:
        each would be in the other's way. No reason to refuse anything."""
        from libbpf_shim._native import lib

        places = self._places(process.pid, process.modules)
        link_id = 1 << lib.SHIM_QUICK_SHIFT
        if not places:
            process.quick = False
            for link in (link_id, 1 << lib.SHIM_MASKS_SHIFT):
                talk.unlink(link, process.session)
                process.unlinked(link)
            return
        try:
            self._watch(talk, process, windows, places, link_id)
        except ShimError as error:
            if error.errno in _BROKEN:
                raise
            log.debug("process %d: no quick reads: %s", process.pid, error)
            self._in_the_way = True
            return
        if met:
            return
        try:
            self._watch(talk, process, windows, self._masks(process.modules),
                        1 << lib.SHIM_MASKS_SHIFT)
        except ShimError as error:
            if error.errno in _BROKEN:
                raise
            log.debug("process %d: each run asks for its mask: %s", process.pid, error)

    def _watch(
        self, talk: Conversation, process: Process, windows: dict[int, Window],
        places: list[Place], link_id: int,
    ) -> None:  # fmt: skip
        """Those of a kind: all of them, or ShimError."""
        from libbpf_shim._native import lib

        enter = talk.hello.syms[lib.SHIM_SYM_WATCHED]
        sites = Sites(talk, process, enter, windows)
        wanted = [(number, place, self._plans.at(place.file, place.vaddr),
                   place.module.bias(place.file)) for number, place in enumerate(places)]
        wanted = [w for w in wanted if (link_id, w[2].vaddr + w[3]) not in process.linked]
        for _, _, plan, bias in wanted:
            sites.foresee(plan, bias)
        try:
            for number, place, plan, bias in wanted:
                index = sites.put(plan, bias, "signals", partial(self._plans.at, place.file))
                if index not in sites.made and not _leads(talk, index, enter):
                    return  # one of programs was there: one is missing then
                talk.link(
                    index, session=process.session, link=0, kind=_ENTRY, flags=0, prog_id=0,
                    tgid=0, image=enter, link_id=link_id,
                    cookie=place.kind | number << 8 | len(places) << 16)
                process.linked.add((link_id, plan.vaddr + bias))
        finally:
            sites.forgo()

    def _places(self, pid: int, modules: list[LoadedModule]) -> list[Place]:
        """All by which a handler may be asked for; none if there may be others."""
        found: list[Place] = []
        for loaded in modules:
            name = os.path.basename(loaded.path)
            if "memfd:bpf-" in loaded.path or name == _LINKER:
                continue
            file = self._file(loaded)
            made = self._made(file, name) if file else None
            if not file or not made or made.handlers is None:
                log.debug("process %d: no quick reads: %s", pid, loaded.path)
                return []
            found += (Place(loaded, file, vaddr, kind) for vaddr, kind in made.handlers)
        kinds = [place.kind for place in found]
        return found if kinds.count(_SIGACTION) == 1 and _CALL in kinds else []

    def _masks(self, modules: list[LoadedModule]) -> list[Place]:
        """All by which a mask may change; none if one of them cannot be met."""
        found: list[Place] = []
        for loaded in modules:
            name = os.path.basename(loaded.path)
            if name not in (_LIBC, _LINKER):
                continue
            file = self._file(loaded)
            made = self._made(file, name) if file else None
            if not file or not made or made.masks is None:
                return []
            found += (Place(loaded, file, vaddr, _MASK) for vaddr in made.masks)
        return found if len(found) <= _MOST else []

    def _file(self, loaded: LoadedModule) -> Module | None:
        """None: it is not there any more as it was mapped."""
        with contextlib.suppress(ShimError, OSError):
            file = self._plans.module(loaded.path)
            return file if file.ino == loaded.ino else None
        return None

    def _made(self, file: Module, name: str) -> Made:
        """By the system calls of a file."""
        if file not in self._known:
            number, calls = self._plans.calls(file)
            handlers: tuple[tuple[int, int], ...] | None = None
            masks: tuple[int, ...] | None = ()
            if name in (_LIBC, _LINKER, _SHIM):
                by_number = _extent(file, "syscall")
                handlers = ((by_number.start, _CALL),) if by_number else ()
                own = _extent(file, "__libc_sigaction")
                if [at in own for at, _, numbers in calls if numbers == _RT_SIGACTION] == [True]:
                    handlers += ((own.start, _SIGACTION),)
                places = [place for at, place, numbers in calls
                          if at not in by_number and numbers != _RT_SIGACTION]
                masks = tuple(places) if all(places) else None
            elif not number and not is_go(file):
                handlers = ()
            self._known[file] = Made(handlers, masks)
        return self._known[file]


def _extent(file: Module, name: str) -> range:
    symbol = file.find(name)
    return range(symbol.vaddr, symbol.vaddr + symbol.size) if symbol else range(0)
