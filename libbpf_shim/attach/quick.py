"""Processes in which reads of memory may fault, so that they need no system call each.

The agent's handler of SIGSEGV and SIGBUS (csrc/agent/quick.c) is put where nobody has one, and
goes before anybody asks for one: so all that could do that has to be met. That is known of
processes with glibc's libc.so.6, in which nothing else makes system calls: sites at its one
rt_sigaction(2) and at syscall(). Where masks of signals change there are sites too, if they can
be had: each run asks for the mask otherwise. Who is asked for it by LIBBPF_SHIM_QUICK_READS looks
at processes some time after their attach, as nothing waits for that.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import struct
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.keeper import Window
from libbpf_shim.attach.objects import ProgRef
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process
from libbpf_shim.attach.sites import Sites
from libbpf_shim.attach.target import Target, look
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


class Place(NamedTuple):
    """Where a handler may be asked for, or a mask changed."""

    module: LoadedModule
    file: Module
    vaddr: int
    kind: int


def is_quick(process: Process) -> bool:
    """It is to be, or may have it from its parent."""
    from libbpf_shim._native import lib

    return process.quick or any(i == 1 << lib.SHIM_QUICK_SHIFT for i, _ in process.linked)


def reads(prog: ProgRef) -> bool:
    """The program reads memory that may not be there."""
    return any(reloc.symbol in _READERS for reloc in prog.image.relocs)


class Quick:
    """Of one session."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        self._alone: dict[Module, bool] = {}
        self._tries: dict[tuple[int, int], int] = {}  # by process: number and start
        self._in_the_way = False  # of a site, now
        self.on = os.environ.get(VARIABLE, "") not in ("", "0")
        self.due: float | None = None  # when `tidy` is to be called, time.monotonic()

    def attached(self) -> None:
        """Programs that read have come into a process."""
        if self.on and self.due is None:
            self.due = time.monotonic() + _AFTER

    def tidy(
        self, processes: dict[int, Process], transact: Callable[[Target], None]
    ) -> None:
        """One process that is known. transact: puts what is wanted of it into it."""
        if self.due is None or time.monotonic() < self.due:
            return
        for pid, process in list(processes.items()):
            known = (pid, process.start_time)
            tries = self._tries.get(known, 0)
            if not process.reads or tries > len(_PAUSES):
                continue
            self._tries[known] = len(_PAUSES) + 1
            target = look(pid)
            if target is None or (process.root, process.start_time) != (
                    target.root, start_time(pid)):
                continue
            process.quick, self._in_the_way = True, False
            try:
                transact(target)
            except ShimError as error:
                log.debug("process %d: no quick reads yet: %s", pid, error)
                self._in_the_way = True
            if self._in_the_way and tries < len(_PAUSES):
                self._tries[known] = tries + 1
                self.due = time.monotonic() + _PAUSES[tries]
            return
        self.due = None

    def watch(
        self, talk: Conversation, process: Process, windows: dict[int, Window]
    ) -> None:
        """Sites where handlers of signals are asked for, or none any more: a module that has come
        may make system calls of its own. No reason to refuse anything."""
        from libbpf_shim._native import lib

        places, link_id = self._places(process), 1 << lib.SHIM_QUICK_SHIFT
        if not places:
            process.quick = False
            talk.unlink(link_id, process.session)
            process.unlinked(link_id)
            return
        try:
            self._watch(talk, process, windows, places)
        except ShimError as error:
            if error.errno in _BROKEN:
                raise
            log.debug("process %d: no quick reads: %s", process.pid, error)
            self._in_the_way = True
            return
        try:
            self._watch(talk, process, windows, self._masks(process))
        except ShimError as error:
            if error.errno in _BROKEN:
                raise
            log.debug("process %d: each run asks for its mask: %s", process.pid, error)

    def _watch(
        self, talk: Conversation, process: Process, windows: dict[int, Window],
        places: list[Place],
    ) -> None:  # fmt: skip
        """Those of a kind: all of them, or ShimError."""
        from libbpf_shim._native import lib

        enter, link_id = talk.hello.syms[lib.SHIM_SYM_WATCHED], 1 << lib.SHIM_QUICK_SHIFT
        sites = Sites(talk, process, enter, windows)
        wanted = [(number, place, self._plans.at(place.file, place.vaddr),
                   place.module.bias(place.file)) for number, place in enumerate(places)]
        wanted = [w for w in wanted if (link_id, w[2].vaddr + w[3]) not in process.linked]
        for _, _, plan, bias in wanted:
            sites.foresee(plan, bias)
        try:
            for number, place, plan, bias in wanted:
                index = sites.put(plan, bias, "signals", partial(self._plans.at, place.file))
                record = talk.site_record(index)
                if struct.pack("<Q", enter) not in talk.read(record.tramp, record.tramp_len):
                    return  # one of programs was there, which leads elsewhere: one is missing then
                talk.link(
                    index, session=process.session, link=0, kind=_ENTRY, flags=0, prog_id=0,
                    tgid=0, image=enter, link_id=link_id,
                    cookie=place.kind | number << 8 | len(places) << 16)
                process.linked.add((link_id, plan.vaddr + bias))
        finally:
            sites.forgo()

    def _places(self, process: Process) -> list[Place]:
        """All by which a handler may be asked for; none if there may be others."""
        found: list[Place] = []
        for loaded in process.modules:
            name = os.path.basename(loaded.path)
            if "memfd:bpf-" in loaded.path or name == _LINKER:
                continue
            file = self._file(loaded)
            if file is None:
                return []
            if name == _LIBC and self._only(file, "__libc_sigaction", _RT_SIGACTION):
                found += self._of(loaded, file, "__libc_sigaction", _SIGACTION)
            if name in (_LIBC, _SHIM):
                found += self._of(loaded, file, "syscall", _CALL)
            elif not self._makes_none(file):
                log.debug("process %d: no quick reads: %s makes system calls", process.pid, name)
                return []
        kinds = [place.kind for place in found]
        return found if kinds.count(_SIGACTION) == 1 and _CALL in kinds else []

    def _masks(self, process: Process) -> list[Place]:
        """All by which a mask may change; none if one of them cannot be met. What is called by its
        number is met there already."""
        found: list[Place] = []
        for loaded in process.modules:
            if os.path.basename(loaded.path) not in (_LIBC, _LINKER):
                continue
            file = self._file(loaded)
            if file is None:
                return []
            call = file.find("syscall")
            by_number = range(call.vaddr, call.vaddr + call.size) if call else range(0)
            for at, place, numbers in self._plans.calls(file)[1]:
                if at in by_number or numbers == _RT_SIGACTION:
                    continue
                if not place:
                    log.debug("%s: %#x: no place before a call", loaded.path, at)
                    return []
                found.append(Place(loaded, file, place, _MASK))
        return found if len(found) <= _MOST else []

    def _file(self, loaded: LoadedModule) -> Module | None:
        """None: it is not there any more as it was mapped."""
        with contextlib.suppress(ShimError, OSError):
            file = self._plans.module(loaded.path)
            return file if file.ino == loaded.ino else None
        return None

    def _of(self, loaded: LoadedModule, file: Module, name: str, kind: int) -> list[Place]:
        symbol = file.find(name)
        return [Place(loaded, file, symbol.vaddr, kind)] if symbol else []

    def _only(self, file: Module, name: str, numbers: tuple[int, ...]) -> bool:
        """The call is made by that function alone, at one place."""
        symbol = file.find(name)
        made = [at for at, _, those in self._plans.calls(file)[1] if those == numbers]
        return symbol is not None and len(made) == 1 and made[0] in range(
            symbol.vaddr, symbol.vaddr + symbol.size)

    def _makes_none(self, file: Module) -> bool:
        """No system call in the whole file."""
        if file not in self._alone:
            self._alone[file] = not is_go(file) and not self._plans.calls(file)[0]
        return self._alone[file]
