"""Room near code, where what is known of a process's mappings may be older than they are."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os

import pytest

from libbpf_shim.attach.memory import Near
from libbpf_shim.elf.process import Mapping
from libbpf_shim.errors import ShimError

PAGE = 4096
NOREPLACE, PRIVATE, ANON = 0x100000, mmap.MAP_PRIVATE, mmap.MAP_ANONYMOUS


class Here:
    """As a conversation with this process."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.libc.mmap.restype = ctypes.c_void_p
        self.libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int,
                                   ctypes.c_int, ctypes.c_long]
        self.asked: list[int] = []

    def mmap(self, length: int, prot: int, flags: int, address: int = 0) -> int:
        self.asked.append(address)
        at = self.libc.mmap(address, length, prot, flags | NOREPLACE, -1, 0)
        if at == ctypes.c_void_p(-1).value:
            raise ShimError("BA0003", ctypes.get_errno(), "MMAP refused")
        return int(at)


def first_free(maps: list[Mapping]) -> int:
    """The first page from 4 TiB on that is not among these."""
    at = 1 << 42
    while any(m.start < at + PAGE and at < m.end for m in maps):
        at += PAGE
    return at


def test_what_was_mapped_since_is_found_by_looking_again() -> None:
    talk, near = Here(), Near(os.getpid())
    first = near.map(talk, first_free, PAGE, PAGE, 0)  # type: ignore[arg-type]
    near.seen = [m for m in near.seen if m.start != first[1]]  # as if another had mapped it
    at, start, length = near.map(talk, first_free, 100, PAGE, 0)  # type: ignore[arg-type]
    assert talk.asked[:2] == [first[1], first[1]], "what was known is believed in at first"
    assert talk.asked[2:] == [start] and start > first[1]
    assert (at, length) == (start, PAGE)


def test_what_was_mapped_by_us_is_known() -> None:
    talk, near = Here(), Near(os.getpid())
    places = [near.map(talk, first_free, PAGE, PAGE, 0)[1]  # type: ignore[arg-type]
              for _ in range(3)]
    assert talk.asked == places and len(set(places)) == 3


def test_a_place_that_is_always_taken_is_given_up() -> None:
    talk, near = Here(), Near(os.getpid())
    taken = near.map(talk, first_free, PAGE, PAGE, 0)[1]  # type: ignore[arg-type]
    talk.asked.clear()
    with pytest.raises(ShimError) as caught:
        near.map(talk, lambda maps: taken, PAGE, PAGE, 0)  # type: ignore[arg-type]
    assert caught.value.errno == errno.ENOMEM
    assert talk.asked == [taken] * 8
