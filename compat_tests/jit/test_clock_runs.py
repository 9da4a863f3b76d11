"""bpf_ktime_get_ns() by a thread's own scale, and ordered: what images say is the clock's time.

Images run in a child (stage.py), each thread of its with a struct shim_thread of our making."""

from __future__ import annotations

import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.jit import stage
from compat_tests.jit.stage import ENTRY, address
from compat_tests.jit.test_clocks import (
    ADD,
    JEQ,
    KPROBE,
    MAPS,
    TABLE,
    TIME,
    ZERO,
    call,
    compiled,
    given,
    on_stack,
)
from compat_tests.runtime.test_maps import ARRAY, Control, Map
from compat_tests.verifier import test_callbacks
from compat_tests.verifier.test_callbacks import EXIT, LDX, MOV, MOVX, ST, STX, loop
from compat_tests.victims import build
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import clocks
from libbpf_shim.jit.image import Image
from libbpf_shim.verifier.program import Program

AT_SYSINFO_EHDR, JGE_X = 33, 0x3D
SOURCE = Path("/sys/devices/system/clocksource/clocksource0/current_clocksource")
HERE = Path(__file__).resolve().parent
INCLUDE = HERE.parents[1] / "csrc" / "include"
BEHIND = 1000  # ns that a time may be early by
SECONDS = 0.1
ROUNDS = 2000
BACK = (1 << 64) - 1
OWN, PATIENCE = 75, 5.0  # percent, seconds that are waited for it


class Runner:
    """An image in this process, run as one thread. own: what is called where its own way has no
    answer, which is how often that was: slow."""

    def __init__(self, image: Image, control: Control, found: Map | None = None,
                 own: int | None = None) -> None:
        self.memory = mmap.mmap(-1, 4096)  # aligned, as the agent's is
        self.thread: Any = ffi.cast("struct shim_thread *", ffi.from_buffer(self.memory))
        self.thread.fs_base, self.thread.index = 8, 1
        self.run = control.run()
        self.run.thread = address(self.thread)
        self.count = mmap.mmap(-1, 4096)
        symbols = {"sym:UNREACHABLE": 8}  # a crash
        if found:
            symbols |= {"map:0": address(found.desc), "mapval:0": int(found.desc.base)}
        for name in {r.symbol for r in image.relocs if r.symbol.startswith("helper:")}:
            symbols[name] = address(lib.shim_helper(int(name.removeprefix("helper:"))))
        self.area = mmap.mmap(-1, 1 << 16, prot=7)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.area))
        if (name := f"helper:{clocks.OWN}") in symbols:
            symbols[name] = self._counting(own or symbols[name])
        self.area[: len(image.text)] = image.relocate(self.base, symbols)

    def _counting(self, helper: int) -> int:
        """mov r11, count; inc qword [r11]; mov r11, helper; jmp r11"""
        counter = ctypes.addressof(ctypes.c_char.from_buffer(self.count))
        at = 1 << 15
        code = b"\x49\xbb" + counter.to_bytes(8, "little") + b"\x49\xff\x03"
        code += b"\x49\xbb" + helper.to_bytes(8, "little") + b"\x41\xff\xe3"
        self.area[at : at + len(code)] = code
        return self.base + at

    @property
    def slow(self) -> int:
        return int.from_bytes(self.count[:8], "little")

    def go(self) -> int:
        return int(ENTRY(self.base)(0, address(self.run)))


def program(rounds: int, body: list[Insn], after: list[Insn]) -> Program:
    """Calls back so often, R2 being the address of {a number, 0} on the stack, the first at R10 -
    16; after: R0 of it."""
    insns = loop([Insn(ST, 10, 0, -16, 0), Insn(MOV, 1, 0, 0, rounds)], body, after)
    place = next(n for n, i in enumerate(insns) if i.code == ADD and i.dst == 3)
    insns[place] = Insn(ADD, 3, 0, 0, -16)
    btf, rows = test_callbacks.infos(insns, test_callbacks.STATIC)
    return Program(encode(insns), KPROBE, maps=MAPS, license="GPL", log_level=1, btf=btf,
                   func_info=rows, func_info_rec_size=8)


def times(rounds: int) -> Image:
    """The latest of so many times; BACK: one was less than the one before."""
    body = [Insn(MOVX, 6, 2, 0, 0), *TIME, Insn(LDX, 1, 6, 0, 0), Insn(STX, 6, 0, 0, 0),
            Insn(JGE_X, 0, 1, 1, 0), Insn(ST, 6, 0, 8, 1), ZERO]  # fmt: skip
    after = [Insn(LDX, 0, 10, -16, 0), Insn(LDX, 1, 10, -8, 0), Insn(JEQ, 1, 0, 1, 0),
             Insn(MOV, 0, 0, 0, -1)]  # fmt: skip
    return compiled(program(rounds, body, after))


COUNTED = [Insn(LDX, 0, 10, -16, 0)]
KEY = [Insn(ST, 10, 0, -8, 0), *on_stack(2, -8)]
# the table's word is loaded, then the time taken: how often that was less; it may be stored there
LOADED = [Insn(MOVX, 6, 2, 0, 0), *given(TABLE), *KEY, call(1), Insn(JEQ, 0, 0, 7, 0),
          Insn(MOVX, 8, 0, 0, 0), Insn(LDX, 7, 8, 0, 0), *TIME, Insn(JGE_X, 0, 7, 3, 0),
          Insn(LDX, 1, 6, 0, 0), Insn(ADD, 1, 0, 0, 1), Insn(STX, 6, 1, 0, 0)]  # fmt: skip


def checking(stores: bool) -> Image:
    body = [*LOADED, Insn(STX, 8, 0, 0, 0)] if stores else LOADED
    skip = next(n for n, i in enumerate(body) if i.code == JEQ)
    body = [*body[:skip], Insn(JEQ, 0, 0, len(body) - skip - 1, 0), *body[skip + 1 :], ZERO]
    return compiled(program(2000, body, COUNTED))


def stamping() -> Image:
    body = [*TIME, *given(TABLE, 1, op.PSEUDO_MAP_VALUE), Insn(STX, 1, 0, 0, 0), ZERO]
    return compiled(program(2000, body, COUNTED))


# in the child


def vdso() -> None:
    """As the agent does."""
    getauxval = ctypes.CDLL(None).getauxval
    getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
    lib.shim_clock_init(getauxval(AT_SYSINFO_EHDR))


def moving(tid: int, until: float) -> None:
    """The thread is put on one CPU after the other."""
    cpus, turn = sorted(os.sched_getaffinity(0)), 0
    while time.monotonic() < until:
        turn += 1
        os.sched_setaffinity(tid, {cpus[turn % len(cpus)]})
        time.sleep(0.0003)
    os.sched_setaffinity(tid, cpus)


def beside(until: float, *work: Callable[[float], None]) -> None:
    threads = [threading.Thread(target=one, args=(until,)) for one in work]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def alone(given: tuple[Image, float]) -> dict[str, int]:
    """One thread that is moved about: times that went back, were late, or early; of how many, and
    the best share of them that the image had by itself, in percent."""
    vdso()
    image, seconds = given
    runner, found = Runner(image, Control()), dict.fromkeys(("back", "late", "early", "own"), 0)
    until, last, me = time.monotonic() + seconds, 0, threading.get_native_id()
    mover = threading.Thread(target=moving, args=(me, until))
    mover.start()
    while time.monotonic() < until + (0 if found["own"] > OWN else PATIENCE):
        slow = runner.slow
        began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        told = runner.go()
        ended = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        found["back"] += told == BACK or told < last
        found["late"] += told > ended
        found["early"] += told < began - BEHIND
        found["own"] = max(found["own"], 100 - (runner.slow - slow) * 100 // ROUNDS)
        last = told
    mover.join()
    return found


def changing(given: tuple[Image, str]) -> tuple[int, int]:
    """A handler makes the scale anew before each of the image's instructions in turn: how many
    times are wrong, and how many are the image's own."""
    image, library = given
    code, runs = ctypes.CDLL(library), ctypes.c_uint64(0)
    runner = Runner(image, Control(), own=function(code.scale_counter))
    code.scale_stepped.argtypes = [ctypes.c_uint64] * 4
    wrong = code.scale_stepped(runner.base, len(image.text), address(runner.run),
                               ctypes.addressof(runs))
    return wrong, runs.value - runner.slow


def standing(given: tuple[Image, str]) -> list[list[int]]:
    """What an image of two times answers by a scale that stands at 1000, for a thread that has
    had 900, and 2000."""
    image, library = given
    runner = Runner(image, Control(), own=function(ctypes.CDLL(library).scale_stand))
    found: list[set[int]] = [set(), set()]
    for _ in range(1000):  # a thread that does not run meanwhile finds its scale too old
        for last, seen in zip((900, 2000), found, strict=True):
            runner.thread.clock.tsc, runner.thread.clock.last = 0, last
            seen.add(runner.go())
    return [sorted(seen) for seen in found]


def function(of: Any) -> int:
    return ctypes.cast(of, ctypes.c_void_p).value or 0


def between(given: tuple[tuple[Image, Image], float]) -> dict[str, int]:
    """Two threads with a word between them: how often a time was less than one read before."""
    vdso()
    images, seconds = given
    control, less = Control(), [0, 0]
    table = Map(control, ARRAY, 4, 8, 1)

    def work(n: int) -> Callable[[float], None]:
        runner = Runner(images[n], control, table)

        def go(until: float) -> None:
            while time.monotonic() < until:
                less[n] += runner.go()
        return go

    beside(time.monotonic() + seconds, work(0), work(1))
    return {"less": sum(less)}


def ahead(image: Image) -> dict[str, bool]:
    """The thread has had a later time: by less than the clock may be early, and by a second."""
    vdso()
    runner = Runner(image, Control())
    clock, same, told = runner.thread.clock, False, 0
    for _ in range(1000):
        clock.last = later = time.clock_gettime_ns(time.CLOCK_MONOTONIC) + 9000
        told = runner.go()
        same |= told == later
        assert told >= later
    began = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    clock.last = began + 10**9
    return {"kept": same, "set": began <= runner.go() < began + 10**9}



def only(found: list[Any]) -> Any:
    assert len(found) == 1, "the child died"
    return found[0]


@pytest.fixture
def by_counter() -> None:
    source = SOURCE.read_text().strip() if SOURCE.exists() else ""
    if source not in ("tsc", "kvm-clock"):
        pytest.skip(f"clock source {source or 'unknown'}: no thread has a scale")


@pytest.mark.usefixtures("each_compiler", "by_counter")
def test_times_of_a_thread_that_moves_are_the_clocks() -> None:
    found = only(stage.apart(alone, [(times(ROUNDS), SECONDS)]))
    assert found.pop("own") > OWN
    assert found == {"back": 0, "late": 0, "early": 0}


@pytest.mark.usefixtures("each_compiler")
def test_few_times_in_a_row_are_the_clocks_too() -> None:
    found = only(stage.apart(alone, [(times(4), SECONDS)]))
    assert (found["back"], found["late"], found["early"]) == (0, 0, 0)


@pytest.fixture
def library() -> str:
    flags = [*build.WARN, "-O2", "-shared", "-fPIC", f"-I{INCLUDE}"]
    headers = [INCLUDE / name for name in ("shim_run.h", "shim_types.h")]
    return str(build.make("libscale.so", [HERE / "scale.c"], flags, headers=headers))


@pytest.mark.usefixtures("each_compiler")
def test_a_scale_that_changes_underway_tells_no_other_time(library: str) -> None:
    """Those of the scale's own, where nothing was changed while it was read, among them."""
    wrong, own = only(stage.apart(changing, [(compiled(Program(encode([*TIME, EXIT]), KPROBE)),
                                              library)]))
    assert wrong == 0 and own > 10


@pytest.mark.usefixtures("each_compiler")
def test_a_scale_tells_no_earlier_time_than_the_thread_has_had(library: str) -> None:
    own, late = only(stage.apart(standing, [(times(2), library)]))
    assert 1000 in own and set(own) <= {7, 1000}
    assert late == [7]


@pytest.mark.usefixtures("each_compiler")
@pytest.mark.parametrize("own", [False, True])
def test_no_time_is_less_than_one_read_before_it(own: bool) -> None:
    """Two threads that both load, take the time and store it; one whose times are not ordered,
    which loads nothing, beside one that does."""
    pair = (stamping() if own else checking(True), checking(not own))
    assert [clocks.RDTSC in one.text for one in pair] == [own, False]
    assert only(stage.apart(between, [(pair, SECONDS)])) == {"less": 0}


@pytest.mark.usefixtures("each_compiler")
def test_a_thread_has_no_earlier_time_than_it_has_had() -> None:
    """By its own scale, and ordered."""
    ordered = Program(encode([call(125), *TIME, EXIT]), KPROBE, license="GPL", log_level=1)
    for image in (times(1), compiled(ordered)):
        assert only(stage.apart(ahead, [image])) == {"kept": True, "set": True}


@pytest.mark.long
@pytest.mark.usefixtures("each_compiler", "by_counter")
def test_for_ten_seconds_each() -> None:
    found = only(stage.apart(alone, [(times(ROUNDS), 8.0)]))
    assert (found["back"], found["late"], found["early"]) == (0, 0, 0)
    for pair in ((checking(True), checking(True)), (stamping(), checking(False))):
        assert only(stage.apart(between, [(pair, 8.0)])) == {"less": 0}
