"""Verified programs run for real, on maps and with helpers of the runtime itself: one run of an
image in this process, and all that it left.

A child runs them (native.py has why). What a program sees is the same in each run but for
addresses: maps and contexts are made anew.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import pickle
import random
import signal
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from libbpf_shim._native import ffi, lib

from compat_tests.jit import native
from compat_tests.jit.test_packets import SHIM_PACKET, start
from compat_tests.runtime.test_maps import Control, Map
from libbpf_shim.jit import tiers
from libbpf_shim.jit.image import Image
from libbpf_shim.verifier.program import MapDesc, Program

KPROBE, XDP, RAW_TP = 2, 6, 17
CONTEXTS = {KPROBE: 168, RAW_TP: 96}  # bytes; other types have a packet
FIXED = (5, 253, 7)  # ktime_get_ns, also SHIM_FUNC_CLOCK_OWN, prandom
PACKET_KINDS = {XDP: 6}  # the others are an skb
ENTRY = ctypes.CFUNCTYPE(ctypes.c_uint64, ctypes.c_uint64, ctypes.c_uint64)
ANSWER = ctypes.CFUNCTYPE(ctypes.c_uint64, *[ctypes.c_uint64] * 6)
SECONDS = 10
ELSEWHERE, TIMES = 1 << 18, 32  # bytes; runs
Given = TypeVar("Given")
Found = TypeVar("Found")
NOTHING = 0x0123456789ABCDEF  # what time and chance are in every run


@dataclass(frozen=True)
class Outcome:
    """r0; what the context and packet are; the memory of each map."""

    r0: int
    context: bytes
    maps: tuple[bytes, ...]

    def unlike(self, other: Outcome) -> str:
        """What is not the same; "": all is."""
        if self.r0 != other.r0:
            return f"R0 {self.r0:#x}, {other.r0:#x}"
        if self.context != other.context:
            return "the context"
        changed = [n for n, (a, b) in enumerate(zip(self.maps, other.maps, strict=True)) if a != b]
        return f"maps {changed}" if changed else ""


def _nothing(*_: int) -> int:
    return NOTHING


_FIXED = ANSWER(_nothing)


def address(thing: Any) -> int:
    return int(ffi.cast("uintptr_t", thing))


class Stage:
    """What one run of a program has: maps with the same contents each time, a context, a run."""

    def __init__(self, program: Program, seed: int) -> None:
        self.rng, self.control = random.Random(seed), Control()
        self.maps = [self.map(desc) for desc in program.maps]
        self.symbols: dict[str, int] = {}
        for n, one in enumerate(self.maps):
            self.symbols[f"map:{n}"] = address(one.desc)
            self.symbols[f"mapval:{n}"] = int(one.desc.base)
        self.thread = ffi.new("struct shim_thread *")
        self.thread.tid, self.thread.tgid, self.thread.index = 77, 70, 1
        self.thread.fs_base = 8  # a real one: without it is a stand-in, with more behind it
        self.run: Any = self.maps[0].run
        self.run.vcpu, self.run.thread = 1, address(self.thread)
        self.size = CONTEXTS.get(program.prog_type, 0)
        data = self.rng.randbytes(self.size)
        words: tuple[int, ...] = ()
        if not self.size:
            packet = bytes([2] + [0] * 11 + [8, 0]) + self.rng.randbytes(50)
            data, words = start(PACKET_KINDS.get(program.prog_type, 3), packet)
        self.data = ctypes.create_string_buffer(data, len(data))
        self.ctx = ctypes.addressof(self.data)
        for at in words:
            ctypes.c_uint64.from_buffer(self.data, at).value += self.ctx
        if program.prog_type == KPROBE:
            self.run.regs = self.ctx
        elif words:
            self.run.packet = self.ctx

    def map(self, desc: MapDesc) -> Map:
        made = Map(self.control, desc.type, desc.key_size, desc.value_size, desc.max_entries,
                   desc.map_flags & ~128)  # fmt: skip
        if desc.type not in (1, 2, 5, 6) or desc.fields:
            return made
        for key in range(desc.max_entries if desc.type in (2, 6) else desc.max_entries // 2):
            value = desc.contents or self.rng.randbytes(made.room)
            made.update(struct.pack("<I", key), value)
        return made

    def go(self, image: Image) -> Outcome:
        for name in {r.symbol for r in image.relocs if r.symbol.startswith("helper:")}:
            number = int(name.partition(":")[2])
            fixed = ctypes.cast(_FIXED, ctypes.c_void_p).value or 0
            self.symbols[name] = fixed if number in FIXED else address(
                lib.shim_helper(number))
        self.symbols["sym:UNREACHABLE"] = 8  # a crash
        area = mmap.mmap(-1, len(image.text), prot=7)
        base = ctypes.addressof(ctypes.c_char.from_buffer(area))
        area[:] = image.relocate(base, self.symbols)
        r0 = int(ENTRY(base)(self.ctx, address(self.run)))
        raw = self.data.raw
        told = raw if self.size else raw[:192] + raw[SHIM_PACKET:]
        return Outcome(r0, told, tuple(bytes(one.memory) for one in self.maps))


def elsewhere(program: Program, seed: int, image: Image, deeper: int = 16) -> Outcome:
    """A run on another stack, so many bytes further down, with everything at other addresses."""
    kept = [mmap.mmap(-1, 1 << 16) for _ in range(4)]
    found: list[Outcome] = []
    below = type("Below", (ctypes.Structure,), {"_fields_": [("bytes", ctypes.c_char * deeper)]})
    call = ctypes.CFUNCTYPE(None, below)(
        lambda _: found.append(Stage(program, seed).go(image)))
    thread = threading.Thread(target=lambda: call(below()))
    thread.start()
    thread.join()
    del kept
    return found[0]


def by_chance(program: Program, seed: int, image: Image, here: Outcome) -> bool:
    """One of many runs elsewhere leaves something else: what `here` says may be of an address."""
    kept: list[mmap.mmap] = []

    def run(n: int) -> Outcome:
        kept.append(mmap.mmap(-1, ELSEWHERE << (n % 12)))
        before = threading.stack_size(ELSEWHERE * (n + 1))
        try:
            return elsewhere(program, seed, image, 16 + 144 * n)
        finally:
            threading.stack_size(before)

    return any(here.unlike(found) for found in apart(run, range(TIMES)))


Runs = tuple[Program, int, Sequence[Image]]  # a program, the seed of its data, an image each


def apart(one: Callable[[Given], Found], given: Sequence[Given]) -> list[Found]:
    """What each leads to, found in a child. The list ends early where one crashed or hung."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            os.close(read_end)
            with os.fdopen(write_end, "wb") as out:
                for item in given:
                    signal.alarm(SECONDS)
                    pickle.dump(one(item), out)
                    out.flush()
        except BaseException as error:
            os.write(2, f"stage.apart: {error!r}\n".encode())
        finally:
            os._exit(0)
    os.close(write_end)
    done = []
    with os.fdopen(read_end, "rb") as results:
        while True:
            try:
                done.append(pickle.load(results))
            except EOFError:
                break
    os.waitpid(child, 0)
    return done


def run_all(programs: Sequence[Runs]) -> list[list[Outcome]]:
    """What each image leaves, and once more the first one, elsewhere (apart())."""
    def all_of(row: Runs) -> list[Outcome]:
        program, seed, images = row
        found = [Stage(program, seed).go(image) for image in images]
        return [*found, elsewhere(program, seed, images[0])]

    return apart(all_of, programs)


def has(facts: Any) -> bool:
    """All helpers that the program calls: who loads one that calls others is refused."""
    return all(number in FIXED or lib.shim_helper(number) for number in facts.helpers)


def images(program: Program, facts: Any) -> list[Image]:
    """Of each tier that is here; what LLVM refuses is tier 1's."""
    made = []
    for tier in native.TIERS:
        if native.has(tier):
            made.append(tiers.compile_by(tier, program, facts))
    return made
