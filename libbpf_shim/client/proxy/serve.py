"""System calls of a process tree under the filter, answered by the surface in this process."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import logging
import os
import select
import struct
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from libbpf_shim.client import attach
from libbpf_shim.client.proxy import interrupts, limits, paths, seccomp, surface
from libbpf_shim.client.proxy.attr import LocalAttr, poke, stand_in
from libbpf_shim.client.proxy.nested import Nested
from libbpf_shim.client.proxy.process import Waiting
from libbpf_shim.client.proxy.rings import Rings
from libbpf_shim.client.proxy.seccomp import Call, Listener

log = logging.getLogger("libbpf_shim.client")
PROBE, SERVED = 0x5348494D, 0x5348  # a command that only we answer, and the answer
_LINKS: Final = ("memfd:bpf-", "socket:[", "anon_inode:")
_TEST_RUN, _REPEAT = 10, 32  # its field
_POSSIBLE: Final = b"/sys/devices/system/cpu/possible"
_SET_BPF, _SET_OUTPUT, _PERIOD, _ID = 0x40042408, 0x2405, 0x40082404, 0x80082407
_PERF_CLOEXEC: Final = 8
_SOFTWARE, _BPF_OUTPUT = 1, 10
_RINGBUFS: Final = (27, 31)
_ARENA: Final = 33  # BPF_MAP_TYPE_ARENA
_AT_ONCE: Final = 16  # calls
_EVENT_SIZE, _EPOLL_CTL_DEL = 12, 2  # of struct epoll_event


class Server:
    """Serves until no process is left under the filter."""

    def __init__(self, listener: int, killable: bool) -> None:
        self.listener, self.rings = Listener(listener, killable), Rings()
        self._nested = Nested(self.listener, self._own, self.cpus)
        self._limits = limits.Limits()
        self._possible = 0
        interrupts.begin()
        self._table: dict[int, Callable[[Call, Waiting], None]] = {
            seccomp.SYS_BPF: self.bpf, seccomp.SYS_PERF_EVENT_OPEN: self.perf_event_open,
            seccomp.SYS_IOCTL: self.ioctl, seccomp.SYS_MMAP: self.mmap,
            seccomp.SYS_EPOLL_CTL: self.epoll_ctl, **dict.fromkeys(paths.CALLS, self.path),
            **dict.fromkeys(limits.CALLS, self.limit),
        }
        self._others = ThreadPoolExecutor(_AT_ONCE)

    def run(self, also: int = -1, asked: Callable[[], bool] | None = None) -> None:
        """also: a descriptor; when it can be read, asked() says whether to look there again."""
        poll = select.poll()
        poll.register(self.listener, select.POLLIN)
        if also >= 0:
            poll.register(also, select.POLLIN)
        while True:
            for fd, events in poll.poll():
                if fd == also:
                    if not asked or not asked():
                        poll.unregister(also)
                elif events & select.POLLIN:
                    if call := self.listener.receive():
                        self._serve(call)
                else:
                    return

    def _serve(self, call: Call) -> None:
        """Answers what the kernel may carry out. Others do the rest: the backend, for which the
        surface waits, may wait for an agent under the filter, which maps and opens files."""
        waiting = None
        try:
            waiting = Waiting(call.tid)
            if not self._passes(call, waiting):
                self._others.submit(self._answer, call, waiting)
                return
            self.listener.go_on(call)
        except OSError as error:
            self.listener.answer(call, -(error.errno or errno.EIO))
        if waiting:
            waiting.close()

    def _passes(self, call: Call, waiting: Waiting) -> bool:
        """It is no matter of the surface's; found out without asking it."""
        if call.nr == seccomp.SYS_MMAP:
            return self.rings.event(waiting.identity(call.s32(4))) < 0 and (
                _map_type(waiting, call.s32(4)) != _ARENA)
        return call.nr in paths.CALLS and not paths.named(call, waiting) and not (
            self._ours(waiting, paths.descriptor(call, waiting)))

    def _answer(self, call: Call, waiting: Waiting) -> None:
        try:
            self._table[call.nr](call, waiting)
        except OSError as error:
            self.listener.answer(call, -(error.errno or errno.EIO))
        except Exception:
            log.exception("system call %d", call.nr)
            self.listener.answer(call, -errno.EIO)
        finally:
            waiting.close()

    # what numbers mean there

    def _own(self, waiting: Waiting, number: int) -> int:
        """A descriptor of ours for one there, to be closed by the surface; -1: none."""
        event = self.rings.event(waiting.identity(number))
        with contextlib.suppress(OSError):
            if event >= 0:
                return surface.dup(event)
            if number > 2 or self._ours(waiting, number):
                return waiting.fd(number)
        return -1

    def _ours(self, waiting: Waiting, number: int) -> bool:
        """It may be one of the surface's objects."""
        return any(part in waiting.name(number) for part in _LINKS)

    def cpus(self) -> int:
        """Possible CPUs, as loaders are shown them."""
        if not self._possible:
            fd = surface.call("open", _POSSIBLE, os.O_RDONLY | os.O_CLOEXEC, 0)
            text = os.read(fd, 256).decode()
            surface.close(fd)
            self._possible = int(text.strip().split(",")[-1].split("-")[-1]) + 1
        return self._possible

    # system calls

    def bpf(self, call: Call, waiting: Waiting) -> None:
        cmd, uattr, size = call.args[0] & 0xFFFFFFFF, call.args[1], call.args[2] & 0xFFFFFFFF
        if cmd == PROBE:
            self.listener.answer(call, SERVED)
            return
        local = LocalAttr(waiting, cmd, uattr, size, lambda n: self._own(waiting, n), self.cpus)
        try:
            local.prepare()
            if not self.listener.valid(call):
                return
            rounds = local.u32(_REPEAT) if cmd == _TEST_RUN else 0
            with self._nested.of(call, waiting), interrupts.passed_on(waiting, rounds):
                ret = surface.syscall(seccomp.SYS_BPF, cmd, local.address, size)
            local.finish(ret)
        finally:
            local.close()
        if local.gives(ret):
            self._give(call, ret, True)
        else:
            self.listener.answer(call, ret)

    def _give(self, call: Call, fd: int, cloexec: bool) -> None:
        """Theirs alone."""
        self.listener.give(call, fd, cloexec)
        surface.close(fd)

    def perf_event_open(self, call: Call, waiting: Waiting) -> None:
        uattr, flags = call.args[0], call.args[4]
        size = struct.unpack("<I", waiting.read(uattr + 4, 4))[0] or 64
        given = waiting.read(uattr, min(size, 4096)) if size >= 64 else waiting.read(uattr, 64)
        attr = ctypes.create_string_buffer(given, max(len(given), 136))
        kind, config = struct.unpack_from("<I4xQ", given)
        path = None
        there = struct.unpack_from("<Q", given, 56)[0]
        if there and kind in (attach.pmus().uprobe, attach.pmus().kprobe):
            path = ctypes.create_string_buffer(waiting.string(there, 4096))
            struct.pack_into("<Q", attr, 56, ctypes.addressof(path))
        if not self.listener.valid(call):
            return
        pid = call.s32(1) or waiting.tid
        group = call.s32(3)
        if group >= 0:
            group = self._own(waiting, group)
        ret = surface.syscall(seccomp.SYS_PERF_EVENT_OPEN, ctypes.addressof(attr), pid,
                              call.s32(2), group, flags)
        if group >= 0:
            surface.close(group)
        if attr.raw[4:8] != given[4:8]:  # E2BIG says which size is known
            waiting.write(uattr + 4, attr.raw[4:8])
        if ret < 0:
            self.listener.answer(call, ret)
            return
        os.set_inheritable(ret, False)
        if (kind, config) == (_SOFTWARE, _BPF_OUTPUT):
            given_fd = self.rings.perf(ret)
            self.listener.give(call, given_fd, bool(flags & _PERF_CLOEXEC))
            os.close(given_fd)
        else:
            self._give(call, ret, bool(flags & _PERF_CLOEXEC))

    def ioctl(self, call: Call, waiting: Waiting) -> None:
        number, request, argument = call.s32(0), call.args[1] & 0xFFFFFFFF, call.args[2]
        ours = (self.rings.event(waiting.identity(number)) >= 0
                or "socket:[" in waiting.name(number))
        fd = self._own(waiting, number) if ours else -1
        if fd < 0:
            self.listener.go_on(call)
            return
        surface.look(fd)
        other, word = -1, ctypes.create_string_buffer(8)
        if request in (_SET_BPF, _SET_OUTPUT):
            there = call.s32(2)
            other = self._own(waiting, there) if there >= 0 else -1
            argument = (other if other >= 0 else stand_in(there)) & 0xFFFFFFFF
        elif request in (_PERIOD, _ID):
            poke(word, 0, waiting.read(argument, 8))
            argument = ctypes.addressof(word)
        elif request >> 16:
            surface.close(fd)
            raise OSError(errno.EOPNOTSUPP, "ioctl")
        ret = surface.ioctl(fd, request, argument)
        surface.close(fd)
        if other >= 0:
            surface.close(other)
        if request == _ID and ret >= 0:
            waiting.write(call.args[2], word.raw)
        self.listener.answer(call, ret)

    def mmap(self, call: Call, waiting: Waiting) -> None:
        key = waiting.identity(call.s32(4))
        if self.rings.event(key) < 0:
            raise OSError(errno.EOPNOTSUPP, "an arena's place cannot be told to programs")
        err = -errno.EINVAL if call.args[5] else self.rings.map_perf(key, call.args[1])
        if err < 0:
            self.listener.answer(call, err)
        else:
            self.listener.go_on(call)

    def limit(self, call: Call, waiting: Waiting) -> None:
        if self._limits.answer(call, waiting):
            self.listener.answer(call, 0)
        else:
            self.listener.go_on(call)

    def epoll_ctl(self, call: Call, waiting: Waiting) -> None:
        """A ring's eventfd in the place of the ring, told by edges."""
        op, number = call.s32(1), call.s32(2)
        key = waiting.identity(number)
        held = -1
        if self.rings.event(key) < 0:
            held = self._ring_map(waiting, number)
            if held < 0:
                self.listener.go_on(call)
                return
        ready = self.rings.watch(key, held)
        event = ctypes.create_string_buffer(_EVENT_SIZE)
        if op != _EPOLL_CTL_DEL:
            data = waiting.read(call.args[3], _EVENT_SIZE)
            events = int.from_bytes(data[:4], "little") | select.EPOLLET
            event.raw = events.to_bytes(4, "little") + data[4:]
        epfd = waiting.fd(call.s32(0))
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            ret = int(libc.epoll_ctl(epfd, op, ready, ctypes.byref(event)))
            err = ctypes.get_errno()
        finally:
            os.close(epfd)
        self.listener.answer(call, ret if ret >= 0 else -err)

    def _ring_map(self, waiting: Waiting, number: int) -> int:
        """A description of a ring buffer map's file that does not hold the map; -1: it is none."""
        if "memfd:bpf-map" not in waiting.name(number):
            return -1
        fd = os.open(f"/proc/{waiting.tid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
        info = surface.look(fd)
        if info and struct.unpack_from("<I", info)[0] in _RINGBUFS:
            return fd
        surface.close(fd)
        return -1

    def path(self, call: Call, waiting: Waiting) -> None:
        """What loaders are shown instead of files that this user cannot have."""
        if names := paths.named(call, waiting):
            ret = paths.carry_out(call, waiting, names)
        else:
            fd = self._own(waiting, paths.descriptor(call, waiting))
            surface.look(fd)
            ret = surface.call("open", b"/proc/self/fdinfo/%d" % fd, os.O_RDONLY | os.O_CLOEXEC)
            surface.close(fd)
        if ret >= 0 and (at := paths.OPENS.get(call.nr)):
            self._give(call, ret, bool(call.args[at] & os.O_CLOEXEC))
        else:
            self.listener.answer(call, ret)


def _map_type(waiting: Waiting, number: int) -> int:
    """Of the map whose file the descriptor is, as its last page says; 0: it is none."""
    if "memfd:bpf-map" not in waiting.name(number):
        return 0
    fd = waiting.fd(number)
    try:
        return surface.map_header(fd)[0]
    finally:
        os.close(fd)
