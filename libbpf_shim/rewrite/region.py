"""Room for trampolines: a free gap of the address space that every window of a module reaches."""

from __future__ import annotations

import errno
from collections.abc import Iterable

from libbpf_shim.elf.process import Mapping
from libbpf_shim.errors import ShimError

_PAGE = 4096
_LOWEST = 0x10000  # vm.mmap_min_addr's usual value
_HIGHEST = 0x7FFF_FFFF_F000  # end of user addresses, 47 bits
_REACH = 0x7FFF_0000  # rel32, less the window itself
_HEAP_ROOM = 1 << 30  # brk grows upwards into this
_LEAST_ROOM = 1 << 27  # the same, where there is one place only
_STACK_ROOM = 1 << 28  # the main stack grows downwards into this; also the mmap area's top


def _gaps(maps: Iterable[Mapping], heap_room: int = _HEAP_ROOM) -> list[tuple[int, int]]:
    """Free ranges, less the room that the heap and the stack grow into."""
    found = []
    at = _LOWEST
    for m in sorted(maps, key=lambda m: m.start):
        end = m.start - _STACK_ROOM if m.path == "[stack]" else m.start
        if end > at:
            found.append((at, end))
        at = max(at, m.end + heap_room if m.path == "[heap]" else m.end)
    if at < _HIGHEST:
        found.append((at, _HIGHEST))
    return found


def find_gap(maps: Iterable[Mapping], lo: int, hi: int, size: int) -> int:
    """A page-aligned address for size bytes that is within rel32 of all of [lo, hi).

    The caller maps there with MAP_FIXED_NOREPLACE and asks again if somebody was faster. Near
    gaps are preferred, and in them the end away from the module, where mmap does not place
    things next. Raises ShimError ENOMEM: none.
    """
    size = -(-size // _PAGE) * _PAGE
    first = max(hi - _REACH, _LOWEST)
    last = min(lo + _REACH, _HIGHEST) - size
    best: tuple[int, int] | None = None
    for start, end in _gaps(maps):
        low, high = max(start, first), min(end - size, last)
        low = -(-low // _PAGE) * _PAGE
        if low > high:
            continue
        at = low if high < lo else high & ~(_PAGE - 1)
        at = _centre(low, high, at)
        distance = abs(at - lo)
        if best is None or distance < best[0]:
            best = distance, at
    if best is None:
        raise ShimError(
            "RW0003", errno.ENOMEM, f"[{lo:#x}, {hi:#x}): no free {size} bytes within 2 GiB"
        )
    return best[1]


def find_place(maps: Iterable[Mapping], lo: int, hi: int, size: int) -> int:
    """An address in [lo, hi] with size bytes of free pages, if need be where a heap might grow
    to: malloc then goes on elsewhere. ShimError ENOMEM: none."""
    known = list(maps)
    for room in (_HEAP_ROOM, _LEAST_ROOM):
        for start, end in _gaps(known, room):
            first = max(-(-start // _PAGE) * _PAGE, lo)
            if first <= min(hi, end - size):
                return first
    raise ShimError("RW0003", errno.ENOMEM, f"[{lo:#x}, {hi:#x}]: no free {size} bytes")


def _centre(low: int, high: int, fallback: int) -> int:
    """In a large gap stay clear of both ends, where the neighbours grow."""
    if high - low > 1 << 26:
        return (low + high) // 2 & ~(_PAGE - 1)
    return fallback
