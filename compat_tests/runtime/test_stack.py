"""Walking stacks and keeping them, on frames made here. What system calls answer of an empty map
is test_plain.py's, real stacks are clients/test_stacks.py's."""

from __future__ import annotations

import os
import random
import signal
import time
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.runtime.test_maps import ENOENT, Control, Map, in_children, u32

STACK_TRACE = 7
USER, FAST, REUSE, BUILD_ID, USER_BUILD_ID = 1 << 8, 1 << 9, 1 << 10, 1 << 5, 1 << 11
EFAULT, EEXIST, ENOMEM = -14, -17, -12
GET_STACKID, GET_STACK = 27, 67


class Stack:
    """Memory with frames in it, and registers of a thread in the innermost one."""

    def __init__(self, addresses: list[int], gap: int = 2) -> None:
        self.words = ffi.new("u64[]", len(addresses) * gap + 2)
        self.regs: Any = ffi.new("struct shim_pt_regs *")
        self.code = ffi.new("u8[16]")
        self.regs.ip, base = addresses[0], int(ffi.cast("uintptr_t", self.words))
        self.regs.sp, self.regs.bp = base, base if len(addresses) > 1 else 0
        for n, address in enumerate(addresses[1:]):
            last = n + 2 == len(addresses)
            self.words[n * gap] = 0 if last else base + 8 * (n + 1) * gap
            self.words[n * gap + 1] = address

    def of(self, run: Any, code: bytes = b"") -> None:
        """run is of a thread with this stack, which stands on `code`."""
        self.code[0 : len(code)] = list(code)
        run.regs = int(ffi.cast("uintptr_t", self.regs))
        run.code = int(ffi.cast("uintptr_t", self.code)) if code else 0


def call(number: int, *args: Any, run: Any) -> int:
    """A helper's result, signed."""
    values = [int(ffi.cast("uintptr_t", a)) if isinstance(a, ffi.CData) else a for a in args]
    values += [0] * (5 - len(values))
    return int(ffi.cast("s64", lib.shim_helper(number)(*values, run)))


def get_stack(run: Any, size: int, flags: int) -> list[int] | int:
    """bpf_get_stack: addresses, or an errno; the rest of the buffer is zeroes in any case."""
    room = ffi.new("u64[300]", [0x11] * 300)
    got = call(GET_STACK, 0, room, size, flags, run=run)
    start = max(got, 0) // 8
    assert list(room[start : size // 8]) == [0] * (size // 8 - start)
    assert room[-(-size // 8)] == 0x11
    return got if got < 0 else list(room[0:start])


@pytest.fixture
def control() -> Control:
    return Control()


ADDRESSES = [0x400000 + 16 * n for n in range(12)]
PUSH, ENDBR, OTHER = b"\x55\x48\x89\xe5", b"\xf3\x0f\x1e\xfa", b"\x48\x83\xec\x08"


@pytest.mark.parametrize("gap", [2, 3, 40, 600])
@pytest.mark.parametrize(("size", "flags", "want"), [
    (96, USER, ADDRESSES), (24, USER, ADDRESSES[:3]), (512, USER, ADDRESSES),
    (24, USER | 2, ADDRESSES[2:5]), (512, USER | 11, ADDRESSES[11:]), (512, USER | 12, []),
    (512, USER | 13, EFAULT), (512, 0, []), (512, 1, EFAULT), (0, USER, []), (20, USER, -22),
    (64, USER | FAST, -22), (64, USER_BUILD_ID, -22),
])  # fmt: skip
def test_frames_are_walked(
    control: Control, gap: int, size: int, flags: int, want: list[int] | int
) -> None:
    run = control.run()
    stack = Stack(ADDRESSES, gap)
    stack.of(run)
    assert get_stack(run, size, flags) == want


@pytest.mark.parametrize(("code", "more"), [(PUSH, True), (ENDBR, True), (OTHER, False)])
def test_the_caller_of_a_function_without_its_frame_yet_is_found(
    control: Control, code: bytes, more: bool
) -> None:
    run = control.run()
    stack = Stack(ADDRESSES)
    top = ffi.new("u64 *", 0x777)
    stack.regs.sp = int(ffi.cast("uintptr_t", top))
    stack.of(run, code)
    want = ADDRESSES[:1] + [0x777] * more + ADDRESSES[1:]
    assert get_stack(run, 512, USER) == want


def test_a_thread_without_registers_has_no_stack(control: Control) -> None:
    run = control.run()
    assert get_stack(run, 64, USER) == []
    assert get_stack(run, 64, USER | 1) == EFAULT


@pytest.mark.parametrize("frame", [0, 8, 1, 0x7FFFFFFFFFF8, 1 << 63, 2**64 - 8])
def test_a_frame_that_cannot_be_read_ends_the_walk(control: Control, frame: int) -> None:
    run = control.run()
    stack = Stack(ADDRESSES[:3])
    stack.words[0] = frame
    stack.of(run)
    assert get_stack(run, 64, USER) == ADDRESSES[:2]


def test_a_loop_of_frames_ends_at_the_kernels_depth(control: Control) -> None:
    run = control.run()
    stack = Stack(ADDRESSES[:3])
    stack.words[2] = stack.regs.bp
    stack.of(run)
    got = get_stack(run, 1600, USER)
    assert isinstance(got, list) and len(got) == 127


def test_entries_with_build_ids_have_the_address(control: Control) -> None:
    run = control.run()
    stack = Stack(ADDRESSES)
    stack.of(run)
    room = ffi.new("u64[64]")
    assert call(GET_STACK, 0, room, 512, USER | USER_BUILD_ID, run=run) == 32 * 12
    assert list(room[0:64]) == [word for a in ADDRESSES for word in (2, 0, 0, a)] + [0] * 16


def stackid(table: Map, stack: Stack, flags: int = USER) -> int:
    stack.of(table.run)
    return call(GET_STACKID, 0, table.desc, flags, run=table.run)


def words(value: bytes | int) -> list[int]:
    assert isinstance(value, bytes)
    found = [int.from_bytes(value[at : at + 8], "little") for at in range(0, len(value), 8)]
    while found and not found[-1]:
        found.pop()
    return found


def some(chance: random.Random) -> Stack:
    return Stack([chance.randrange(1, 1 << 47) for _ in range(chance.randrange(1, 9))])


def test_a_stack_is_kept_once_and_found_by_its_id(control: Control) -> None:
    table = Map(control, STACK_TRACE, 4, 128, 64)
    first = Stack(ADDRESSES)
    number = stackid(table, first)
    assert 0 <= number < 64 and stackid(table, first) == number
    assert stackid(table, first, USER | FAST) == number
    assert words(table.lookup(u32(number))) == ADDRESSES
    assert list(table.keys()) == [u32(number)]
    assert stackid(table, first, USER | 12) == EFAULT
    assert stackid(table, first, 0) == EFAULT
    assert words(table.lookup(u32(stackid(table, first, USER | 3)))) == ADDRESSES[3:]
    assert table.delete(u32(number)) == 0 and table.delete(u32(number)) == ENOENT
    assert table.lookup(u32(number)) == ENOENT


def test_full_buckets_and_maps_answer_as_the_kernel(control: Control) -> None:
    """A model of bpf_get_stackid: kernel/bpf/stackmap.c."""
    chance = random.Random(5)
    for entries in (8, 5):
        table = Map(control, STACK_TRACE, 4, 64, entries)
        model: dict[int, list[int]] = {}
        seen = set()
        for _ in range(3000):
            stack = some(chance)
            flags = USER | chance.choice([0, 0, REUSE, FAST])
            stack.of(table.run)
            frames = get_stack(table.run, 64, USER)
            assert isinstance(frames, list)
            got = call(GET_STACKID, 0, table.desc, flags, run=table.run)
            free = len(model) < entries
            if got == EEXIST:
                assert not flags & REUSE and model
            elif got == ENOMEM:
                assert not free
            else:
                assert model.get(got) == frames or (free and (got not in model or flags & REUSE))
                model[got] = frames
            seen.add(got if got < 0 else 0)
            assert {int.from_bytes(k, "little"): words(v) for k, v in table.items().items()
                    } == model
            if chance.random() < 0.2 and model:
                gone = chance.choice(list(model))
                assert table.delete(u32(gone)) == 0
                del model[gone]
        assert seen == {0, EEXIST, ENOMEM}


def test_a_map_of_build_ids_needs_room_even_for_what_it_has(control: Control) -> None:
    table = Map(control, STACK_TRACE, 4, 128, 1, BUILD_ID)
    stack = Stack(ADDRESSES[:4])
    assert stackid(table, stack) == 0
    found = table.lookup(u32(0))
    assert isinstance(found, bytes) and found[:4] == u32(2)
    assert words(found)[3::4] == ADDRESSES[:4]
    assert stackid(table, stack) == ENOMEM and stackid(table, stack, USER | FAST) == 0


def test_kill_of_writers_leaves_whole_stacks(control: Control) -> None:
    table = Map(control, STACK_TRACE, 4, 64, 16)

    def work(index: int) -> None:
        table.run, own = control.run(), random.Random(index)
        while True:
            address = own.randrange(1, 200)
            number = stackid(table, Stack([address] * (address % 8 + 1)), USER | REUSE)
            if number >= 0 and own.random() < 0.3:
                table.delete(u32(number))

    for n in range(15):
        pids = in_children(2, work)
        time.sleep(0.003 + n % 5 * 0.004)  # how long they live
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        for value in table.items().values():
            found = words(value)
            assert len(set(found)) == 1 and len(found) == found[0] % 8 + 1
    for key in list(table.keys()):
        assert table.delete(key) == 0
    chance, kept = random.Random(1), set()
    for _ in range(2000):
        kept.add(stackid(table, some(chance)))
    assert kept - {EEXIST} == set(range(16))
