"""Windows: where isolated programs have their memory, and what they may call.

A window is 4 GiB of a process's addresses, aligned to that, with nothing of the host's in it nor
64 KiB behind it. `base` is 64 KiB above its beginning, so that small numbers (NULL, and what lies
near it) are none of its addresses. An access of an isolated program is made at base + index, where
index is 32 bits: the address less that of base. The two words below base, which programs can read
and not write, hold how many maps are listed below them, and how many bytes behind base are mapped:
an index at or above that ends the program.

    base - 4096  page that programs cannot write: rows (id of a map, address of its descriptor),
                 then, at base - 16, their number, and at base - 8 the limit
    base         slots: context, records and stack of each thread, twice (a signal handler's run)
    base + MAPS  maps, each with a page of nobody's in front of it; after the last is one too

What lies below the limit, and the page behind that, can be read and written everywhere, so no
access faults.
"""

from __future__ import annotations

import zlib
from typing import Final

from libbpf_shim.verifier.program import MapDesc

SIZE: Final = 1 << 32
BASE: Final = 1 << 16  # behind the window's beginning
GUARD: Final = 1 << 17  # behind its end
THREADS: Final = 4096  # shim_thread.index is below that
SLOT: Final = 16384
CONTEXT: Final = 168  # bytes of struct shim_pt_regs, at a slot's beginning
FRAME: Final = 576  # of a slot's stack, for each function: 512, and what the compiler needs
BEHIND: Final = 4096  # bytes that can be reached behind what is below the limit
DEPTH: Final = 8  # functions that call one another
RECORDS: Final = 176  # where a slot has room for records, between the context and the stack
RECORDS_SIZE: Final = SLOT - RECORDS - DEPTH * FRAME
MAPS: Final = THREADS * 2 * SLOT
ROWS: Final = 254
# struct shim_thread: index, outer_sp
THREAD_INDEX: Final = 28
THREAD_OUTER: Final = 40

HOST_PEEK, HOST_CLIP = 214, 215  # SHIM_FUNC_HOST_PEEK, SHIM_FUNC_HOST_CLIP
READS: Final = frozenset((4, 45, 112, 113, 114, 115))  # bpf_probe_read*
STRINGS: Final = frozenset((45, 114, 115))
_NO_PREALLOC: Final = 1 << 0
# Types whose values programs reach by address: they lie in the window. BPF_MAP_TYPE_HASH, ARRAY,
# PERCPU_HASH, PERCPU_ARRAY, LRU_HASH, LRU_PERCPU_HASH
INSIDE: Final = frozenset((1, 2, 5, 6, 9, 10))
# Those that only helpers touch: PROG_ARRAY, PERF_EVENT_ARRAY, STACK_TRACE, QUEUE, STACK, RINGBUF,
# BLOOM_FILTER
_OUTSIDE: Final = frozenset((3, 4, 7, 22, 23, 27, 30))
# Helpers whose arguments are numbers, and memory whose size is known at the call; and those of
# guarded.py and held.py. None that keeps something else until another is called (timers, dynptrs),
# or calls back with more than numbers.
_HELPERS: Final = frozenset((
    1, 2, 3, 4, 5, 6, 7, 8, 12, 14, 15, 16, 25, 27, 35, 36, 42, 45, 58, 67, 80, 87, 88, 89, 93,
    94, 109, 112, 113, 114, 115, 117, 118, 120, 123, 125, 130, 131, 132, 133, 134, 158, 160, 165,
    173, 174, 177, 181, 182, 195, 208))  # fmt: skip


def number_of(name: str) -> int:
    """What a class's window and programs are known by."""
    return zlib.crc32(name.encode())


def helper_refused(number: int) -> bool:
    """No isolated program may call it."""
    return number not in _HELPERS


def map_type(number: int) -> bool:
    """Isolated programs may use maps of that type."""
    return number in INSIDE or number in _OUTSIDE


def map_refused(found: MapDesc) -> str:
    """Why no isolated program may use such a map; "": it may."""
    if not map_type(found.type):
        return f"maps of type {found.type} cannot be isolated"
    if any(name != "bpf_spin_lock" for name, *_ in found.fields):
        return "maps with special fields cannot be isolated"
    if found.type in INSIDE and found.map_flags & _NO_PREALLOC:
        return "maps that grow (BPF_F_NO_PREALLOC) cannot be isolated"
    return ""


def takes(number: int, map_type: int) -> bool:
    """Whether the helper is for such maps."""
    from libbpf_shim.verifier.call.map_helpers import HELPER_ONLY, MAP_ONLY

    only, of = HELPER_ONLY.get(number), MAP_ONLY.get(map_type)
    return (only is None or map_type in only) and (of is None or number in of)


def size_of(kind: int, found: MapDesc | None) -> int:
    """Bytes of an argument that is a key or value of the map; -1: its size is another argument."""
    from libbpf_shim.verifier.call import helpers

    kind &= helpers.KIND
    if kind == helpers.KEY and found:
        return found.key_size
    if kind == helpers.VALUE and found:
        return found.value_size
    return -1
