"""Processes that hold a slot of the control page: seen by pidfd, declared dead, slots freed.

A slot is claimed by the process itself, which then wakes `backend_seq`; a thread sleeps there
and tells the main loop through an eventfd.
"""

from __future__ import annotations

import logging
import os
import selectors
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from libbpf_shim.attach import ends
from libbpf_shim.attach.ends import Life
from libbpf_shim.attach.pidfd import pidfd_open
from libbpf_shim.backend.beside import Beside
from libbpf_shim.object.control import Control, start_time

log = logging.getLogger("libbpf_shim.backend")
_PATIENCE = 5.0  # seconds for the thread to end, which ends with the process too
_SLEEP_NS = 1_000_000_000  # the thread looks up that often whether it is to end


class Deaths:
    """Watches the slots of a control page, on a selector whose keys' data are callables."""

    def __init__(
        self, control: Control, selector: selectors.BaseSelector,
        wanted: Callable[[], bool], ended: Callable[[Life, int], None],
    ) -> None:
        """ended: is told of processes that have ended and did not say so themselves: what was
        known of each, and its pidfd. wanted: somebody wants to know that."""
        from libbpf_shim._native import ffi, lib

        self._ffi, self._lib = ffi, lib
        self._control, self._selector = control, selector
        self._wanted, self._ended_process = wanted, ended
        self._watched: dict[int, int] = {}  # slot to pidfd
        self._lives: dict[int, tuple[Life, int]] = {}  # by process: what was seen, a pidfd
        self._told: set[int] = set()  # processes that said themselves that they end
        self._sent: dict[int, int] = {}  # the last signal that was sent to one
        self.told: Callable[[], None] = lambda: None  # processes may have told of something else
        self._news = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        selector.register(self._news, selectors.EVENT_READ, self._look)
        self._ended = False
        self._thread: Beside | None = None

    def begin(self) -> None:
        """From now on; whatever has happened before is seen then."""
        self._thread = Beside(self._wait)

    def _word(self) -> Any:
        return self._ffi.addressof(self._control.ctl, "backend_seq")

    def _wait(self) -> None:
        ctl, seen = self._control.ctl, -1
        while not self._ended:
            now = int(ctl.backend_seq)
            if now == seen:
                self._lib.shim_native_futex_wait(self._word(), now, _SLEEP_NS)
                continue
            seen = now
            os.eventfd_write(self._news, 1)

    def _look(self, fileobj: object = None) -> None:
        """New slots get a pidfd."""
        os.eventfd_read(self._news)
        self.told()
        ctl, lib = self._control.ctl, self._lib
        ctl.slot[0].note = 0
        for index, state in enumerate(self._column("state")):
            if state != lib.SHIM_SLOT_LIVE or not index or index in self._watched:
                continue
            slot = ctl.slot[index]
            pid = int(slot.pid)
            try:
                fd = pidfd_open(pid)
            except ProcessLookupError:
                self._dead(index)
                continue
            except OSError as error:  # out of descriptors: looked at again with the next slot
                log.warning("process %d is not watched: %s", pid, error)
                continue
            if slot.start_time and start_time(pid) != slot.start_time:
                os.close(fd)
                self._dead(index)
                continue
            self._watched[index] = fd
            self.watch(pid)
            self._selector.register(fd, selectors.EVENT_READ, partial(self._gone, index))
            slot.seen = 1
            lib.shim_native_futex_wake(self._ffi.addressof(slot, "seen"), 1 << 30)

    def _gone(self, index: int, fileobj: object) -> None:
        fd = self._watched.pop(index)
        self._selector.unregister(fd)
        os.close(fd)
        self._dead(index)

    def watch(self, pid: int) -> None:
        """A process whose end somebody wants to know, while it is there."""
        if not self._wanted() or (life := ends.seen(pid)) is None:
            return
        if known := self._lives.get(pid):
            self._lives[pid] = life, known[1]  # after an exec
            return
        try:
            fd = pidfd_open(pid)
        except OSError:
            return
        self._lives[pid] = life, fd
        self._selector.register(fd, selectors.EVENT_READ, partial(self._over, pid))

    def _over(self, pid: int, fileobj: object) -> None:
        life, fd = self._lives.pop(pid)
        self._selector.unregister(fd)
        slots = [self._control.ctl.slot[index] for index, its in enumerate(self._column("pid"))
                 if its == pid and index]
        said = pid in self._told or any(slot.told for slot in slots)
        self._told.discard(pid)
        sent = self._sent.pop(pid, 0) or max((int(slot.note) for slot in slots), default=0)
        if not said:
            self._ended_process(replace(life, sent=sent), fd)
        os.close(fd)

    def _column(self, field: str) -> list[int]:
        """Of each slot a word; at each process's start and end, so not one by one."""
        size = self._ffi.sizeof("struct shim_slot") // 4
        at = self._ffi.offsetof("struct shim_slot", field) // 4
        words = memoryview(self._ffi.buffer(self._control.ctl.slot)).cast("B").cast("I")
        return words[at::size].tolist()

    def _dead(self, index: int) -> None:
        """The next generation makes every word of this one a dead owner's."""
        slot, lib = self._control.ctl.slot[index], self._lib
        if slot.told and int(slot.pid) in self._lives:
            self._told.add(int(slot.pid))
        if slot.note and int(slot.pid) in self._lives:
            self._sent[int(slot.pid)] = int(slot.note)
        slot.state = lib.SHIM_SLOT_DEAD
        last = (1 << lib.SHIM_OWNER_GEN_BITS) - 1
        slot.gen = slot.gen % last + 1
        slot.pid, slot.start_time, slot.note = 0, 0, 0
        slot.state = lib.SHIM_SLOT_FREE

    def close(self) -> None:
        """Ends the thread; the control page stays mapped until then."""
        self._ended = True
        self._lib.shim_native_futex_wake(self._word(), 1 << 30)
        ctl = self._control.ctl
        ctl.backend_seq = int(ctl.backend_seq) + 1 & 0xFFFFFFFF  # others write it too
        self._lib.shim_native_futex_wake(self._word(), 1 << 30)
        if self._thread:
            self._thread.join(_PATIENCE)
