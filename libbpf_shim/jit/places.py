"""Where compiled programs find what the runtime has, without a call: one source for all tiers.

Offsets are those of csrc/include/shim_run.h, csrc/include/shim_map.h and csrc/runtime/map_hash.h;
compat_tests/jit/test_inline.py holds them against the headers, and lookups by them against the
runtime's own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.program import MapDesc

HASH, ARRAY, PERCPU_HASH, PERCPU_ARRAY = 1, 2, 5, 6  # enum bpf_map_type
# helpers: bpf_map_lookup_elem, get_smp_processor_id, get_current_pid_tgid
LOOKUP, CPU, PID_TGID = 1, 8, 14
READ_KERNEL: Final = (4, 113)  # bpf_probe_read, bpf_probe_read_kernel
READ_USER: Final = 112  # bpf_probe_read_user
# struct shim_run, struct shim_thread: offsets
RUN: Final = {"regs": 8, "thread": 16, "cookie": 24, "func_ip": 32, "vcpu": 44,
              "tail_calls": 52, "left": 120}
THREAD_TID: Final = 8  # tid, and tgid behind it
# struct shim_thread.clock
CLOCK: Final = {"tsc": 64, "ns": 72, "rate": 80, "last": 88}
CLOCK_CYCLES: Final = 1 << 14  # SHIM_CLOCK_CYCLES
REGS_SIZE: Final = 168  # struct shim_pt_regs
# helpers that are a field of the run: bpf_get_func_ip, bpf_get_attach_cookie
FIELDS: Final = {173: RUN["func_ip"], 174: RUN["cookie"]}
# struct shim_map_desc
DESC: Final = {"base": 0, "nr_vcpus": 52, "stride": 56, "bucket_mask": 60, "bucket_off": 64,
               "elem_off": 72, "nr_elems": 100, "cpu_slots": 156}
# struct bucket, struct elem
HEAD: Final = 4
NEXT, HASH_AT, TRANSIT, KEY = 0, 4, 8, 16
FREE: Final = 1  # ELEM_FREE
HOPS: Final = 8  # elements of a chain that are looked at
_LONGEST: Final = 32  # bytes of a key
# hash_key()
_SEED: Final = 0x9E3779B97F4A7C15
_MIX: Final = 0xFF51AFD7ED558CCD
LAST: Final = 0xC4CEB9FE1A85EC53  # of the fold behind all words


def room(size: int) -> int:
    """Bytes that a value or key of that size takes up."""
    return size + 7 & ~7


def cpu_slots(found: MapDesc) -> int:
    """Of a PERCPU_ARRAY: values from a CPU's first to the next CPU's (array_cpu_slots)."""
    size = room(found.value_size)
    per_line = max(64 // (size & -size), 1)
    return -(-found.max_entries // per_line) * per_line


def lookup_of(maps: Sequence[MapDesc], call_map: Mapping[int, int], i: Insn, at: int) -> int:
    """Type of the map that a call at a slot looks up in without a call; 0: it is called."""
    if i.src or i.imm != LOOKUP or at not in call_map:
        return 0
    found = maps[call_map[at]]
    if found.type in (ARRAY, PERCPU_ARRAY):
        small = cpu_slots(found) < 1 << 31 and room(found.value_size) < 1 << 31
        return found.type if small else 0
    plain = found.key_size % 4 == 0 and found.key_size <= _LONGEST
    return found.type if found.type in (HASH, PERCPU_HASH) and plain else 0


def key_words(size: int) -> list[tuple[int, int]]:
    """A key of whole words of 4 bytes in parts: offset and bytes of each."""
    return [(off, min(8, size - off)) for off in range(0, size, 8)]


def hash_seed(size: int) -> int:
    """What a key of that size begins to be hashed with."""
    return size * _SEED & (1 << 64) - 1


def hash_factor(width: int) -> int:
    """What a part of so many bytes is folded with once it is in (x *= factor; x ^= x >> 32); 0:
    not at all. Behind all parts there is a fold with LAST."""
    return _MIX if width == 8 else 0


def value_at(key_size: int) -> int:
    """Where the value lies in an element that has it."""
    return KEY + room(key_size)
