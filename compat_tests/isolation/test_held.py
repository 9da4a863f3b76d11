"""What isolated programs do with the host's objects, with records of ring buffers and with locks:
only with what their run has been handed, whatever was believed of them."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.isolation.world import EVENTS, POLICY, Application, compiled, facts_of, hosted
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit import held, window
from libbpf_shim.jit.image import Image
from libbpf_shim.verifier.policy import Policy

T = "r6 = *(u64 *)(r1 + 112); "
NEXT = "r7 = *(u64 *)(r6 + 8); "
END = "; r0 = 0; exit"


def image(text: str, policy: Policy = POLICY, **wrong: Any) -> Image:
    """*(u32 host *) is an access of the host's memory, call NAME a call of a function of its."""
    insns, facts = hosted(text)
    facts |= {"ctx_loads": frozenset(((112, 8),)), **wrong}
    return compiled(encode(insns), facts_of(encode(insns), **facts), policy=policy)


def things(app: Application) -> list[int]:
    """Status of each, pokes, what the last was, how often one is given."""
    return [int(word) for word in app.say("things").split()]


@pytest.fixture
def other(app: Application) -> int:
    """The address of an object that nobody was handed."""
    things(app)
    return int(app.say("where").split()[5], 16)


STORES = [
    (T + "*(u32 host *)(r6 + 16) = 5", [5, 0]), (T + "*(u8 host *)(r6 + 19) = 1", [1 << 24, 0]),
    (T + "r2 = 6; *(u16 host *)(r6 + 16) = r2", [6, 0]),
    (T + "*(u32 host *)(r6 + 20) = 5", []), (T + "*(u64 host *)(r6 + 16) = 5", []),
    (T + "*(u32 host *)(r6 + 13) = 5", []), (T + "*(u8 host *)(r6 + 15) = 5", []),
    (T + "r6 += 40; *(u32 host *)(r6 + 16) = 5", []),
    (T + "r7 = *(u64 host *)(r6 + 8); *(u32 host *)(r7 + 16) = 7", [0, 7]),
    ("r7 = OTHER ll; *(u32 host *)(r7 + 16) = 7", []),
    (T + "r7 = OTHER ll; r2 = *(u64 host *)(r6 + 0); *(u32 host *)(r7 + 16) = 7", []),
    (T + "r1 = r10; r1 += -8; r2 = 8; r3 = r6; r3 += 8; call 112; r7 = *(u64 *)(r10 - 8); "
     "*(u32 host *)(r7 + 16) = 7", [0, 7]),
    (T + "r1 = r10; r1 += -8; r2 = 8; r3 = r6; call 112; r7 = OTHER ll; "
     "*(u32 host *)(r7 + 16) = 7", []),
    (T + "*(u32 *)(r10 - 4) = 9; r1 = r6; r1 += 16; r2 = r10; r2 += -4; r3 = 4; call 36", [9, 0]),
    (T + "r1 = r6; r1 += 16; r2 = r10; r2 += -8; r3 = 5; call 36", []),
    (T + "r1 = r6; r1 += 16; r2 = 4096; r3 = 4; call 36", []),
    ("r1 = r10; r1 += -8; r2 = r10; r2 += -8; r3 = 4; call 36", []),
]


@pytest.mark.parametrize(("text", "status"), STORES)
def test_stores_go_to_granted_bytes_of_what_was_handed_out(
    app: Application, other: int, text: str, status: list[int]
) -> None:
    wild = app.once(image(text.replace("OTHER", str(other)) + END), 1, "two")
    assert (wild, things(app)[:2]) == (not status, status or [0, 0])


CALLS = [
    (T + "r1 = r6; r2 = 2; call poke", [1, 2]),
    (T + "r1 = r6; r2 = 0x500000003 ll; call poke", [1, 3]),
    (T + "r1 = r6; r2 = 0; call poke", []), (T + "r1 = r6; r2 = 4; call poke", []),
    (T + "r1 = r6; r2 = -1; call poke", []), (T + "r1 = 0; r2 = 1; call poke", []),
    (T + "r1 = r6; r1 += 8; r2 = 1; call poke", []), ("r1 = r10; r2 = 1; call poke", []),
    ("r1 = OTHER ll; r2 = 1; call poke", []),
    (T + "r7 = *(u64 host *)(r6 + 8); r1 = r7; r2 = 1; call poke", [1, 101]),
    (T + "r1 = r6; call give; r1 = r0; r2 = 1; call poke", [1, 101]),
    (T + "r1 = r6; call give; r1 = r0; call back", [0, 0, 0]),
    (T + "r1 = r6; call give; r7 = r0; r1 = r7; call back; r1 = r7; call back", []),
    (T + "r1 = OTHER ll; call give", []), (T + "r1 = 0; call give", []),
    (T + "r7 = *(u64 host *)(r6 + 8); r1 = r7; call give", []),
    (T + "r7 = *(u64 host *)(r6 + 8); r1 = r7; call back", []), (T + "r1 = r6; call back", []),
    (T + "r1 = r6; call give; r7 = r0; *(u32 host *)(r7 + 16) = 3; r1 = r7; r2 = 2; call poke",
     [1, 102]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), CALLS)
def test_functions_are_given_what_was_handed_out(
    app: Application, other: int, text: str, found: list[int]
) -> None:
    wild = app.once(image(text.replace("OTHER", str(other)) + END), 1, "two")
    said = things(app)[2:]
    assert (wild, said[: len(found)]) == (not found, found)
    assert found or said[0] == 0


@pytest.mark.parametrize(("size", "memory", "summed"), [
    ("r2 = 3", "r1 = r10; r1 += -8", 6), ("r2 = 64", "r1 = r10; r1 += -64", 6),
    ("r2 = 65", "r1 = r10; r1 += -128", -1), ("r2 = -1", "r1 = r10; r1 += -8", -1),
    ("r2 = 0x100000003 ll", "r1 = r10; r1 += -8", -1), ("r2 = 3", "r1 = 4096", -1),
    ("r2 = 0", "r1 = r10", 0), ("r2 = 3", "r1 = 0", -1),
    ("r2 = 64", "r1 = value 5 + 0; r1 += 0x7ff00000", -1),
])  # fmt: skip
def test_functions_are_given_memory_of_the_window(
    app: Application, size: str, memory: str, summed: int
) -> None:
    zero = "".join(f"*(u64 *)(r10 - {at}) = 0; " for at in range(16, 72, 8))
    text = f"{zero}*(u64 *)(r10 - 8) = 0x030201; {memory}; {size}; call sum; r1 = value 0 + 0; " \
           "*(u64 *)(r1 + 0) = r0"
    assert app.once(image(text + END), 1, "two") == (summed < 0)
    assert summed < 0 or app.maps[0].word(0) == summed


def test_what_is_not_granted_is_not_compiled() -> None:
    poke = replace(POLICY.functions[0], granted=False)
    with pytest.raises(ShimError, match="isolated: a call of poke, which is not granted"):
        image(T + "r1 = r6; r2 = 1; call poke" + END, replace(POLICY, functions=(poke,)))
    with pytest.raises(ShimError, match="isolated: a call of host:poke"):
        image(T + "r1 = r6; r2 = 1; call poke" + END, replace(POLICY, functions=()))


def test_many_objects_are_remembered(app: Application) -> None:
    """More than there is room for: what was acquired is not forgotten, the oldest other is."""
    go = "r8 = 0; again: r1 = r6; call give; r8 += 1; if r8 < {} goto again; r1 = r0; call back"
    things(app)
    assert not app.once(image(T + go.format(30) + END), 1, "two")
    assert things(app)[4] == 29
    assert app.once(image(T + go.format(40) + "; r1 = 8; call back" + END), 1, "two")
    assert things(app)[4] == 39


# records

def records(app: Application) -> list[tuple[int, int, bytes]]:
    """Length, flags and bytes of what is in the ring, which is taken out."""
    memory = app.maps[EVENTS].memory
    at, end = (struct.unpack_from("<Q", memory, n * 4096)[0] for n in (0, 1))
    found = []
    while at < end:
        place = 8192 + at % 4096
        (word,) = struct.unpack_from("<I", memory, place)
        length = word & (1 << 30) - 1
        found.append((length, word >> 30, bytes(memory[place + 8 : place + 8 + length])))
        at += 8 + length + 7 & ~7
    struct.pack_into("<Q", memory, 0, at)
    return found


RESERVE = "r1 = map 3; r2 = {}; r3 = 0; call 131; if r0 == 0 goto out; {} = r0; "
ONE = RESERVE.format(16, "r7") + "*(u64 *)(r7 + 0) = 5; *(u64 *)(r7 + 8) = 6; "
OUT = "; out: r0 = 0; exit"
FIVE_SIX = struct.pack("<QQ", 5, 6)
DISCARDED = 1


@pytest.mark.parametrize(("text", "found"), [
    (ONE + "r1 = r7; r2 = 0; call 132", [(0, FIVE_SIX)]),
    (ONE + "r1 = r7; r2 = 0; call 133", [(1, None)]),
    (ONE + RESERVE.format(8, "r8") + "*(u64 *)(r8 + 0) = 7; r1 = r7; r2 = 0; call 132; r1 = r8; "
     "r2 = 0; call 132", [(0, FIVE_SIX), (0, struct.pack("<Q", 7))]),
    (ONE + "r1 = r7; r2 = 0; call 132; " + RESERVE.format(8, "r8") + "*(u64 *)(r8 + 0) = 7; "
     "r1 = r8; r2 = 0; call 133", [(0, FIVE_SIX), (1, None)]),
])  # fmt: skip
def test_records_are_written_and_submitted(
    app: Application, text: str, found: list[tuple[int, bytes | None]]
) -> None:
    assert not app.once(image(text + OUT))
    got = records(app)
    assert [(flags, found[n][1] and data) for n, (_, flags, data) in enumerate(got)] == found


@pytest.mark.parametrize("text", [
    ONE, ONE + "r1 = r10; r2 = 0; call 132", ONE + "r1 = r7; r1 += 8; r2 = 0; call 133",
    ONE + "r1 = 0; *(u64 *)(r1 + 0) = 1", ONE + "r1 = r6; r2 = 1; call poke",
    ONE + "r2 = map 4; r3 = 0; call 12",
])  # fmt: skip
def test_records_that_are_left_are_discarded(app: Application, text: str) -> None:
    assert app.once(image("r6 = *(u64 *)(r1 + 112); " + text + OUT), 1, "two")
    assert [flags for _, flags, _ in records(app)] == [DISCARDED]
    assert not app.once(image(ONE + "r1 = r7; r2 = 0; call 132" + OUT))  # the ring is not stuck
    assert [flags for _, flags, _ in records(app)] == [0]


@pytest.mark.parametrize("text", [
    "r1 = r10; r1 += -16; r2 = 0; call 132", ONE + "r1 = r7; r2 = 0; call 132; r1 = r7; r2 = 0; "
    "call 132",
])  # fmt: skip
def test_what_is_no_record_ends_the_program(app: Application, text: str) -> None:
    assert app.once(image(text + OUT))
    records(app)


def test_the_ring_is_not_in_the_window(app: Application) -> None:
    """A program that writes around its record changes nothing of the ring."""
    wild = "".join(f"*(u64 *)(r7 {at}) = -1; " for at in ("- 8", "- 16", "+ 16", "+ 24", "+ 4096"))
    assert not app.once(image(ONE + wild + "r1 = r7; r2 = 0; call 132" + OUT))
    assert records(app) == [(16, 0, FIVE_SIX)]


# locks

LOCK = "r1 = value 0 + 32; call 93; "


def test_a_lock_is_taken_and_given(app: Application) -> None:
    text = LOCK + "r2 = value 0 + 0; r3 = *(u64 *)(r2 + 0); r3 += 1; *(u64 *)(r2 + 0) = r3; " \
                  "r1 = value 0 + 32; call 94"
    att = app.attach(image(text + END))
    app.say("threads 4 100")
    app.host.detach(att)
    assert (app.maps[0].word(0), app.maps[0].word(4)) == (400, 0)


@pytest.mark.parametrize("text", [
    LOCK, "r1 = value 0 + 32; call 94", LOCK + LOCK, "r1 = 64; call 93",
    LOCK + "r1 = value 0 + 40; call 94", LOCK + "r1 = 0; *(u64 *)(r1 + 0) = 1",
    LOCK + "r1 = r6; r2 = 1; call poke", LOCK + "r2 = map 4; r3 = 0; call 12",
])  # fmt: skip
def test_locks_that_are_left_are_given_back(app: Application, text: str) -> None:
    assert app.once(image("r6 = *(u64 *)(r1 + 112); " + text + END), 1, "two")
    assert app.maps[0].word(4) == 0


@pytest.mark.long
def test_a_lock_that_is_never_free_is_waited_for_for_a_second(app: Application) -> None:
    text = f"r1 = value 0 + 32; *(u64 *)(r1 + 0) = {app.host.control.owner | 1}; " + LOCK
    assert app.once(image(text + END))


# callbacks

EACH = "; r0 = 0; exit; each: {}; r0 = 0; exit"
LOOP = "r1 = {}; r2 = func each; r3 = r10; r3 += -8; r4 = 0; call 181; "


def looping(text: str) -> Image:
    insns, facts = hosted(text)
    starts = sorted({0} | {at + 1 + i.imm for at, i in enumerate(insns)
                           if i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC})
    facts |= {"ctx_loads": frozenset(((112, 8),)), "subprogs": tuple(starts),
              "stack_depth": (0,) * len(starts)}
    return compiled(encode(insns), facts_of(encode(insns), **facts))


SUM_UP = "r3 = *(u64 *)(r2 + 0); r1 += 1; r3 += r1; *(u64 *)(r10 - 8) = 77; *(u64 *)(r2 + 0) = r3"


def test_functions_are_called_back(app: Application) -> None:
    """Each has a frame of its own, and what the caller keeps is there behind the call."""
    keep = "r7 = 1; r8 = 2; r9 = 3; *(u64 *)(r10 - 16) = 44; *(u64 *)(r10 - 8) = 0; "
    say = "r6 = *(u64 *)(r10 - 8); r1 = value 0 + 0; *(u64 *)(r1 + 0) = r6; " \
          "*(u64 *)(r1 + 8) = r0; r7 += r8; r7 += r9; *(u64 *)(r1 + 16) = r7; " \
          "r2 = *(u64 *)(r10 - 16); *(u64 *)(r1 + 24) = r2"
    assert not app.once(looping(keep + LOOP.format(5) + say + EACH.format(SUM_UP)), 2)
    assert [app.maps[0].word(n) for n in range(4)] == [15, 5, 6, 44]
    inner = "r6 = r2; r7 = r1; *(u64 *)(r10 - 8) = 0; r1 = 3; r2 = func add; r3 = r10; " \
            "r3 += -8; r4 = 0; call 181; r3 = *(u64 *)(r10 - 8); r2 = *(u64 *)(r6 + 0); " \
            "r2 += r3; *(u64 *)(r6 + 0) = r2"
    assert not app.once(looping(keep + LOOP.format(4) + say + EACH.format(inner)
                                + f"; add: {SUM_UP}; r0 = 0; exit"))
    assert [app.maps[0].word(n) for n in range(4)] == [24, 4, 6, 44]


@pytest.mark.parametrize("body", [
    "*(u64 *)(r1 + 0) = 1", "r3 = 0x7fff0000; r2 += r3; *(u64 *)(r2 + 0) = 1",
    "r1 = value 0 + 32; call 93", "r1 = r10; r2 = 1; call poke", "r1 = value 0 + 32; call 94",
])  # fmt: skip
def test_what_is_called_back_is_contained(app: Application, body: str) -> None:
    assert app.once(looping(LOOP.format(5) + EACH.format(body)), 1, "two")
    assert app.maps[0].word(4) == 0
    assert not app.once(looping(LOOP.format(5) + EACH.format("r0 = 1")))


def test_callbacks_that_are_not_known_are_refused() -> None:
    for text, says in (("r2 = 64; r1 = 1; r3 = 0; r4 = 0; call 181; r0 = 0; exit", "not known"),
                       (LOOP.format(1) + EACH.format(LOOP.format(1)), "deep")):
        with pytest.raises(ShimError, match=f"isolated: .*{says}"):
            looping(text)


def test_a_branch_that_is_never_taken_ends_the_program(app: Application) -> None:
    code = LOCK + "if r6 != 0 goto dead; r0 = 0; exit; dead: r0 = 0; exit"
    insns, facts = hosted("r6 = *(u64 *)(r1 + 112); " + code)
    seen = b"\1" * (len(insns) - 2) + b"\0\0"
    made = facts_of(encode(insns), ctx_loads=frozenset(((112, 8),)), seen=seen, **facts)
    assert app.once(compiled(encode(insns), made), 1, "two")
    assert app.maps[0].word(4) == 0


def test_the_layout_of_what_is_held_is_that_of_the_headers() -> None:
    for name, at in (("hosts", held.HOSTS), ("room", held.ROOM), ("room_size", held.ROOM_SIZE),
                     ("next", held.NEXT), ("keeps", held.KEEPS), ("lock", held.LOCK),
                     ("record", held.RECORDS), ("object", held.OBJECTS), ("frame", held.FRAME)):
        assert ffi.offsetof("struct shim_held", name) == at
    assert ffi.sizeof("struct shim_held") == held.SIZE
    assert ffi.sizeof("struct shim_held_record") == held.RECORD
    assert ffi.offsetof("struct shim_run", "held") == held.RUN_HELD
    assert (lib.SHIM_FUNC_HELD, lib.SHIM_HELD_UNLOCK) == (held.HELD, held.GIVE)
    assert window.RECORDS >= window.CONTEXT and window.RECORDS_SIZE > 8192
