"""The preloaded library's functions, as the loader would call them, in this process."""

from __future__ import annotations

import ctypes
import os
import struct
from typing import Any, Final

from libbpf_shim.client import inprocess
from libbpf_shim.uapi.bpf import bpf_cmd

_INFO: Final = 80  # bytes: struct bpf_map_info as far as it matters
_HEADER: Final = struct.Struct("<6I")  # how struct shim_map_hdr begins
_MAGIC, _PAGE = 0x50414D53, 4096  # SHIM_MAP_MAGIC, SHIM_PAGE


def call(name: str, *arguments: Any) -> int:
    """A function of the library: >= 0, or a negative errno."""
    function = getattr(inprocess.library(), name)
    function.restype = ctypes.c_long if name in ("syscall", "mmap") else ctypes.c_int
    ret = int(function(*arguments))
    return ret if ret >= 0 or ret < -4095 else -ctypes.get_errno()


def syscall(number: int, *arguments: int) -> int:
    """>= 0, or a negative errno."""
    return inprocess.syscall(number, *arguments)


def ioctl(fd: int, request: int, argument: int) -> int:
    return call("ioctl", ctypes.c_int(fd), ctypes.c_ulong(request), ctypes.c_ulong(argument))


def epoll_ctl(epfd: int, op: int, fd: int, event: int) -> int:
    """event: address of a struct epoll_event."""
    return call("epoll_ctl", ctypes.c_int(epfd), ctypes.c_int(op), ctypes.c_int(fd),
                 ctypes.c_void_p(event))


def epoll_wait(epfd: int, events: int, most: int, timeout_ms: int) -> int:
    return call("epoll_wait", ctypes.c_int(epfd), ctypes.c_void_p(events), ctypes.c_int(most),
                 ctypes.c_int(timeout_ms))


def dup(fd: int) -> int:
    return call("dup", ctypes.c_int(fd))


def look(fd: int) -> bytes:
    """struct bpf_map_info, or so, of a descriptor; b"": it has none. From now on the surface knows
    what the descriptor is, however it came here."""
    info = ctypes.create_string_buffer(_INFO)
    ask = ctypes.create_string_buffer(struct.pack("<iIQ", fd, _INFO, ctypes.addressof(info)), 168)
    ret = syscall(inprocess.SYS_BPF, bpf_cmd.BPF_OBJ_GET_INFO_BY_FD, ctypes.addressof(ask), 16)
    return info.raw if ret >= 0 else b""


def map_header(fd: int) -> tuple[int, int, int]:
    """Type, key and value size (bytes) of the map whose file that is, as the last page of it says,
    without a word to anybody; zeroes: it is no map's."""
    try:
        data = os.pread(fd, _HEADER.size, max(os.fstat(fd).st_size - _PAGE, 0))
        magic, _, _, kind, key, value = _HEADER.unpack(data)
    except (OSError, struct.error):
        return 0, 0, 0
    return (kind, key, value) if magic == _MAGIC else (0, 0, 0)


def close(fd: int) -> None:
    call("close", ctypes.c_int(fd))


def mmap(size: int, fd: int) -> int:
    """Shared, to be written, anywhere: an address, or a negative errno."""
    return call("mmap", ctypes.c_void_p(0), ctypes.c_size_t(size), ctypes.c_int(3),
                 ctypes.c_int(1), ctypes.c_int(fd), ctypes.c_long(0))
