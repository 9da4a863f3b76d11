"""The main loop's eye for closes: objects whose last descriptor is gone, by what inotify tells of
their files, and pins that were removed."""

from __future__ import annotations

import os
import select
import selectors
import socket
import struct
import time

from libbpf_shim.backend.session import Session
from libbpf_shim.object.fdmap import FdMap
from libbpf_shim.object.file import MemFile, SocketFile
from libbpf_shim.object.store import Object

_INOTIFY = struct.Struct("<iIII")
_IN_CLOSE, _IN_ATTRIB = 0x18, 0x4  # of a pin: its count of names
# A file's lock goes a moment after inotify tells of its close.
_LOOK_AGAIN = (0.002, 0.02, 0.2)


class Closes:
    """On a selector whose keys' data are callables."""

    def __init__(self, session: Session, selector: selectors.BaseSelector) -> None:
        from libbpf_shim._native import lib

        self._lib, self._session, self._selector = lib, session, selector
        self._due: list[tuple[float, Object]] = []
        self._watches: dict[int, Object] = {}
        self._watch_of: dict[Object, int] = {}
        self._pin_watches: dict[int, int] = {}  # descriptor of a pin's file: its watch
        self._ends = select.epoll()  # of sockets, so that who asks need not look at each
        self._end_of: dict[int, Object] = {}
        self._inotify = int(lib.shim_native_inotify())
        session.pins.added, session.pins.removed = self._pinned, self._unpinned
        selector.register(self._inotify, selectors.EVENT_READ, self._told)
        selector.register(self._ends, selectors.EVENT_READ, lambda _: None)  # `look` follows

    @property
    def due(self) -> float | None:
        """When `look` is to be called, time.monotonic(); None: once something has happened."""
        return min((at for at, _ in self._due), default=None)

    def added(self, obj: Object) -> None:
        """An object of the session's."""
        if isinstance(obj.file, SocketFile):
            self._follow(obj, obj.file)
        elif isinstance(obj.file, MemFile):
            watch = int(self._lib.shim_native_watch(self._inotify, obj.file.fd, _IN_CLOSE))
            if watch >= 0:
                self._watches[watch] = obj
                self._watch_of[obj] = watch

    def removed(self, obj: Object) -> None:
        """It has ended."""
        if (watch := self._watch_of.pop(obj, -1)) >= 0:
            self._lib.shim_native_unwatch(self._inotify, watch)
            del self._watches[watch]

    def look(self) -> None:
        """Collects what has ended since."""
        self._collect()
        store = self._session.store
        now = time.monotonic()
        ready = [obj for at, obj in self._due if at <= now]
        self._due = [(at, obj) for at, obj in self._due if at > now]
        for obj in ready:
            store.collect(obj)

    def flush(self) -> None:
        """Every close before now takes effect."""
        self._session.pins.look()
        self._collect()
        for obj in list(self._session.store.of_kind(FdMap).values()):
            if obj.open:
                self._session.store.collect(obj)

    def _collect(self) -> None:
        """Objects of which an end was closed: what nothing holds any more ends."""
        if not self._end_of:
            return
        for fd, _ in self._ends.poll(0, len(self._end_of)):
            if obj := self._end_of.get(fd):  # what one takes along is not there any more
                self._session.store.collect(obj)

    def _follow(self, obj: Object, file: SocketFile) -> None:
        """Every end of the file, those there are and those to come."""
        store = self._session.store

        def opened(sock: socket.socket, key: tuple[int, int]) -> None:
            store.by_file[key] = obj
            self._end_of[sock.fileno()] = obj
            self._ends.register(sock, select.EPOLLIN)

        def closed(sock: socket.socket, key: tuple[int, int]) -> None:
            store.by_file.pop(key, None)
            self._ends.unregister(sock)
            del self._end_of[sock.fileno()]

        file.opened, file.closed = opened, closed
        for key, sock in file.ends.items():
            opened(sock, key)

    def _pinned(self, fd: int) -> None:
        self._pin_watches[fd] = int(self._lib.shim_native_watch(self._inotify, fd, _IN_ATTRIB))

    def _unpinned(self, fd: int) -> None:
        self._lib.shim_native_unwatch(self._inotify, self._pin_watches.pop(fd))

    def _told(self, inotify: int) -> None:
        try:
            data = os.read(inotify, 65536)
        except BlockingIOError:
            return
        at = 0
        while at < len(data):
            watch, _, _, length = _INOTIFY.unpack_from(data, at)
            at += _INOTIFY.size + length
            if obj := self._watches.get(watch):
                now = time.monotonic()
                self._due += [(now + wait, obj) for wait in _LOOK_AGAIN]
            elif watch in self._pin_watches.values():
                self._session.pins.look()
