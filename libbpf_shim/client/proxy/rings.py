"""Rings of a loader that cannot be told of new data by a library in it.

What its epoll watches is an eventfd of ours, written whenever a ring has news, and again while it
has data that was not taken. A perf ring is a part of the session's perf area, which the loader
could not map by its descriptor: it gets a file of its own, into which records are copied as they
come, and whose consumer's position goes back.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import select
import struct
import threading
import time
from dataclasses import dataclass, field
from typing import Final

from libbpf_shim.client.proxy import surface

Key = tuple[int, int]  # st_dev, st_ino
_PAGE: Final = 4096
_HEAD, _TAIL = 1024, 1032  # data_head, data_tail of struct perf_event_mmap_page
_EVENT: Final = struct.Struct("<IQ")  # struct epoll_event, packed on x86-64
_MANY: Final = 64
_AGAIN: Final = 0.002  # seconds until a reader that has not taken all is told again
_LOOK_MS: Final = 500  # for rings that were closed


@dataclass(slots=True)
class _Copy:
    """A perf ring's two sides, mapped."""

    event: ctypes.Array[ctypes.c_char]
    file: mmap.mmap
    size: int  # of data
    done: int = 0  # bytes copied, as data_head counts

    def word(self, at: int, ours: bool) -> ctypes.c_uint64:
        return ctypes.c_uint64.from_buffer(self.file if ours else self.event, at)

    def move(self) -> bool:
        """Copies what is new; whether some of it waits for the reader."""
        tail = self.word(_TAIL, True).value
        self.word(_TAIL, False).value = tail
        head = self.word(_HEAD, False).value
        while self.done < head:
            at = self.done % self.size
            count = min(head - self.done, self.size - at)
            here = slice(_PAGE + at, _PAGE + at + count)
            self.file[here] = memoryview(self.event).cast("B")[here]
            self.done += count
        self.word(_HEAD, True).value = head
        return tail != head


@dataclass(slots=True)
class _Ring:
    """A map's, or a perf event's. fd: the surface's; own: our description of the loader's file;
    ready: the eventfd that its epoll watches."""

    fd: int
    own: int = -1
    ready: int = -1
    copy: _Copy | None = None
    watched: bool = False


@dataclass
class Rings:
    """All of them, by their files, and the thread that tells of news."""

    _rings: dict[Key, _Ring] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _epoll: select.epoll | None = None

    def perf(self, event: int) -> int:
        """The file that stands for a perf event of the surface's, to be given away and closed;
        the event is ours from now on."""
        given = os.memfd_create("perf_event", os.MFD_CLOEXEC)
        own = os.open(f"/proc/self/fd/{given}", os.O_RDWR | os.O_CLOEXEC)
        fcntl.flock(given, fcntl.LOCK_SH)
        found = os.fstat(given)
        with self._lock:
            self._rings[found.st_dev, found.st_ino] = _Ring(event, own)
        return given

    def event(self, key: Key) -> int:
        """The perf event behind a file; -1: none of these."""
        ring = self._rings.get(key)
        return ring.fd if ring and ring.own >= 0 else -1

    def map_perf(self, key: Key, length: int) -> int:
        """Before the loader maps the file: it has its size and shows the ring. 0, or an errno."""
        ring = self._rings[key]
        if ring.copy:
            return 0
        at = surface.mmap(length, ring.fd)
        if -4096 < at < 0:
            return at
        os.ftruncate(ring.own, length)
        event = (ctypes.c_char * length).from_address(at)
        file = mmap.mmap(ring.own, length)
        file[:_PAGE] = memoryview(event).cast("B")[:_PAGE]
        with self._lock:
            ring.copy = _Copy(event, file, length - _PAGE)
        self._watch(key, ring)
        return 0

    def watch(self, key: Key, fd: int) -> int:
        """The eventfd for a ring; fd: of a map, known to the surface, and ours to keep."""
        with self._lock:
            ring = self._rings.get(key)
            if ring is None:
                ring = self._rings[key] = _Ring(fd)
            elif fd >= 0 and fd != ring.fd:
                surface.close(fd)
            if ring.ready < 0:
                ring.ready = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._watch(key, ring)
        return ring.ready

    def _watch(self, key: Key, ring: _Ring) -> None:
        if self._epoll is None:
            self._epoll = select.epoll()
            threading.Thread(target=self._tell, daemon=True).start()
        if not ring.watched and (ring.copy or ring.own < 0):
            event = ctypes.create_string_buffer(_EVENT.pack(select.EPOLLIN, ring.fd), 12)
            ring.watched = surface.epoll_ctl(
                self._epoll.fileno(), 1, ring.fd, ctypes.addressof(event)) >= 0

    def _tell(self) -> None:
        events = ctypes.create_string_buffer(_EVENT.size * _MANY)
        assert self._epoll
        while True:
            count = surface.epoll_wait(
                self._epoll.fileno(), ctypes.addressof(events), _MANY, _LOOK_MS)
            news = {_EVENT.unpack_from(events, n * _EVENT.size)[1] for n in range(max(count, 0))}
            with self._lock:
                waits = self._pass(news)
                if not count:
                    self._forget_closed()
            if waits:
                time.sleep(_AGAIN)  # and then once more: nobody says when its reader has read

    def _pass(self, news: set[int]) -> bool:
        waits = False
        for ring in self._rings.values():
            behind = ring.copy.move() if ring.copy else ring.fd in news
            if behind and ring.ready >= 0:
                _tell(ring.ready)
            waits |= behind
        return waits

    def _forget_closed(self) -> None:
        """Perf events whose file nobody has any more."""
        for key, ring in list(self._rings.items()):
            if ring.own < 0:
                continue
            try:
                fcntl.flock(ring.own, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                continue
            del self._rings[key]
            surface.close(ring.fd)
            os.close(ring.own)
            if ring.ready >= 0:
                os.close(ring.ready)


def _tell(ready: int) -> None:
    try:
        os.eventfd_write(ready, 1)
    except BlockingIOError:
        pass  # it says so already
