"""Maps of programs, and tail calls through them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from compat_tests.elements.steps import (
    ARRAY_OF_MAPS,
    BIND_MAP,
    KEYS,
    KPROBE,
    LOOKUP,
    LOOP,
    PERCPU_ARRAY,
    PROG_ARRAY,
    RAW_TRACEPOINT,
    RETURN_0,
    SCHED_CLS,
    SOCKET_FILTER,
    TAIL_CALL,
    XDP,
    XDP_HAS_FRAGS,
    Step,
    array,
    closed,
    fd,
    id_of,
    info,
)
from compat_tests.runtime import calls as c


def bump(counter: int) -> bytes:
    """R6 = R1, and the counter goes up by one."""
    return c.copy(6, 1) + increase(counter)


def increase(counter: int) -> bytes:
    return c.map_value(1, counter) + c.mov(2, 1) + c.insn(0xDB, 1, 2)


def tail(programs: int, index: int) -> bytes:
    """A tail call; R6 is the context."""
    return c.copy(1, 6) + c.map_fd(2, programs) + c.mov(3, index) + c.call(TAIL_CALL)


def value(counter: int) -> bytes:
    return c.map_value(1, counter) + c.insn(0x79, 0, 1) + c.EXIT


def prog_array() -> Iterator[Step]:
    """Every element command, and which programs go together."""
    programs, prog = c.create(PROG_ARRAY, 4, 4, 2), c.load(RETURN_0)
    yield "empty", [c.lookup(programs, KEYS[0], 4), c.lookup(programs, KEYS[9], 4),
                    c.following(programs, None, 4), c.following(programs, KEYS[1], 4),
                    c.delete(programs, KEYS[0]), c.delete(programs, KEYS[9])]
    yield "no program", [c.update(programs, KEYS[0], fd(n)) for n in (-1, 99, programs)]
    yield "flags", [c.update(programs, KEYS[0], fd(prog), flags) for flags in (1, 2, 3, 4, 8)]
    yield "which error first", [c.update(programs, key, fd(n), flags) for key in (KEYS[0], KEYS[9])
                                for n in (99, prog) for flags in (0, 1)][:-2]
    yield "update", [c.update(programs, KEYS[0], fd(prog)),
                     c.lookup(programs, KEYS[0], 4) == id_of(prog), c.lookup(programs, KEYS[1], 4)]
    yield "not there", [c.take(programs, KEYS[0], 4), *(c.batch(n, programs, 4, 4, 1) for n in (
        c.LOOKUP_BATCH, c.TAKE_BATCH, c.UPDATE_BATCH, c.DELETE_BATCH))]
    yield "another type", [c.update(programs, KEYS[1], fd(c.load(RETURN_0, kind)))
                           for kind in (KPROBE, XDP, RAW_TRACEPOINT)]
    yield "delete", [c.delete(programs, KEYS[0]), c.delete(programs, KEYS[0]),
                     c.update(programs, KEYS[1], fd(c.load(RETURN_0, XDP)))]
    yield "frozen", [c.bpf(c.FREEZE, fd(programs)), c.update(programs, KEYS[0], fd(prog))]


def go_on(programs: int) -> bytes:
    return c.copy(6, 1) + tail(programs, 0) + RETURN_0


def owner(programs: int) -> list[str]:
    """Of its fdinfo, what tells about programs."""
    lines = Path(f"/proc/self/fdinfo/{programs}").read_text().splitlines()
    return [line for line in lines if line.startswith("owner_")]


def owners() -> Iterator[Step]:
    """bpf_prog_map_compatible(): the first program decides, loaded or put."""
    made = [c.create(PROG_ARRAY, 4, 4, 2) for _ in range(6)]
    yield "nobody's", [owner(made[0]), c.update(made[0], KEYS[9], fd(c.load(RETURN_0))),
                       owner(made[0])]
    yield "of the first put", [c.update(made[0], KEYS[0], fd(c.load(RETURN_0))), owner(made[0]),
                               closed(c.load(go_on(made[0]), XDP)), closed(c.load(go_on(made[0])))]
    yield "of the first loaded", [
        closed(c.load(go_on(made[1]), XDP)), owner(made[1]),
        c.update(made[1], KEYS[0], fd(c.load(RETURN_0))),
        c.update(made[1], KEYS[0], fd(c.load(RETURN_0, XDP))),
        c.update(made[1], KEYS[0], fd(c.load(RETURN_0, XDP, flags=XDP_HAS_FRAGS)))]
    yield "not of one refused", [closed(c.load(go_on(made[2])[:-8])), owner(made[2])]
    prog, bound = c.load(RETURN_0), info(made[3])
    yield "not of one bound to it", [c.bpf(BIND_MAP, struct.pack("<III", prog, made[3], 0)),
                                     owner(made[3]), len(bound)]


def counted(programs: int, counter: int, *before: int) -> int:
    """A program that counts itself and tail-calls slots, the last time slot 0."""
    calls = b"".join(tail(programs, n) for n in (*before, 0))
    return c.load(bump(counter) + calls + value(counter))


def tail_calls() -> Iterator[Step]:
    """How deep, by what index, and what comes back."""
    programs, counter = c.create(PROG_ARRAY, 4, 4, 4), array()
    prog = counted(programs, counter)
    yield "empty", c.run(prog)
    yield "33 deep", [c.update(programs, KEYS[0], fd(prog)), c.run(prog), c.run(prog)]
    programs, counter = c.create(PROG_ARRAY, 4, 4, 4), array()
    prog = counted(programs, counter, 1, 2, 3, 1, 2, 3)
    yield "empty slots do not count", [c.update(programs, KEYS[0], fd(prog)), c.run(prog)]
    other = c.load(c.mov(0, 99) + c.EXIT)
    programs = c.create(PROG_ARRAY, 4, 4, 4)
    by = [c.load(c.copy(6, 1) + tail(programs, n) + c.mov(0, 7) + c.EXIT) for n in (0, 3, 4, -1)]
    far = c.load(c.map_fd(2, programs) + c.insn(0x18, 3) + c.insn(0, imm=1) + c.call(TAIL_CALL)
                 + c.mov(0, 7) + c.EXIT)
    yield "indices", [*(c.update(programs, KEYS[n], fd(other)) for n in (0, 3)),
                      [c.run(n) for n in (*by, far)]]
    another = c.load(c.mov(0, 98) + c.EXIT)
    yield "changes", [c.run(by[0]), c.update(programs, KEYS[0], fd(another)), c.run(by[0]),
                      c.delete(programs, KEYS[0]), c.run(by[0])]
    yield "refused", [closed(c.load(insns)) for insns in (
        c.copy(6, 1) + tail(programs, 0) + c.EXIT,
        c.add(1, 8) + c.map_fd(2, programs) + c.mov(3, 0) + c.call(TAIL_CALL) + RETURN_0,
        c.copy(1, 10) + c.map_fd(2, programs) + c.mov(3, 0) + c.call(TAIL_CALL) + RETURN_0,
        c.copy(6, 1) + tail(array(), 0) + RETURN_0,
        c.copy(6, 1) + tail(c.create(ARRAY_OF_MAPS, 4, 4, 1, inner=counter), 0) + RETURN_0,
        c.insn(0x62, 10, off=-4) + c.copy(2, 10) + c.add(2, -4) + c.map_fd(1, programs)
        + c.call(LOOKUP) + RETURN_0,
    )]
    # what a program with per-CPU values is called from need have none
    cpus, programs = c.create(PERCPU_ARRAY, 4, 8, 1), c.create(PROG_ARRAY, 4, 4, 1)
    add = c.load(b"".join((
        c.insn(0x62, 10, off=-4), c.copy(2, 10), c.add(2, -4), c.map_fd(1, cpus), c.call(LOOKUP),
        c.insn(0x15, 0, off=3), c.insn(0x79, 1, 0), c.add(1, 1), c.insn(0x7B, 0, 1), c.mov(0, 3),
        c.EXIT)))
    first = c.load(c.copy(6, 1) + tail(programs, 0) + RETURN_0)
    yield "per-CPU values", [c.update(programs, KEYS[0], fd(add)), [c.run(first) for _ in KEYS]]
    values = c.lookup(cpus, KEYS[0], 8 * 512)
    assert isinstance(values, bytes)
    yield "their sum", sum(struct.unpack("<512Q", values))


def functions(returns: int) -> Callable[..., tuple[int, bytes]]:
    """BTF of a program `main` and static functions; returns: 1 int, 2 a pointer. The result takes
    their first slots."""
    strings = b"\0int\0main\0sub\0ctx\0"
    name = {word: strings.index(b"\0" + word + b"\0") + 1
            for word in (b"int", b"main", b"sub", b"ctx")}
    types = b"".join((
        struct.pack("<IIII", name[b"int"], 1 << 24, 4, 1 << 24 | 32),
        struct.pack("<III", 0, 2 << 24, 0),
        struct.pack("<IIIII", 0, 13 << 24 | 1, 1, name[b"ctx"], 2),
        struct.pack("<IIIII", 0, 13 << 24 | 1, returns, name[b"ctx"], 2),
        struct.pack("<III", name[b"main"], 12 << 24 | 1, 3),
        struct.pack("<III", name[b"sub"], 12 << 24, 4),
    ))
    blob = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(strings))
    btf = c.btf_load(blob + types + strings)
    return lambda *slots: (btf, b"".join(struct.pack("<II", n, 6 if n else 5) for n in slots))


def tail_calls_of_functions() -> Iterator[Step]:
    """A tail call of a function ends the function, not the program."""
    number = functions(1)
    programs, other = c.create(PROG_ARRAY, 4, 4, 2), c.load(c.mov(0, 99) + c.EXIT)
    c.update(programs, KEYS[0], fd(other))
    main = c.copy(6, 1) + c.insn(0x85, 0, 1, imm=2) + c.add(0, 1000) + c.EXIT

    def sub(index: int) -> bytes:
        return c.copy(6, 1) + tail(programs, index) + c.mov(0, 1) + c.EXIT

    yield "result", [c.run(c.load(main + sub(n), functions=number(0, 4))) for n in (0, 1)]
    yield "without BTF", c.load(main + sub(0))
    yield "that returns a pointer", c.load(main + sub(0), functions=functions(2)(0, 4))
    deep = [c.load(c.insn(0x7A, 10, off=-n) + main + sub(0), functions=number(0, 5))
            for n in (240, 248, 256)]
    yield "stack above it", [closed(n) for n in deep]
    unknown = c.copy(6, 1) + c.insn(0x85, 0, 1, imm=5) + c.map_value(1, array()) + c.insn(
        0x0F, 1, 0) + c.insn(0x71, 0, 1) + c.EXIT
    yield "its result is unknown", c.load(unknown + sub(1), functions=number(0, 7))
    looped = b"".join((
        c.copy(6, 1), c.insn(0x7B, 10, 1, -8), c.mov(1, 2), c.insn(0x18, 2, 4, imm=7), c.insn(0),
        c.copy(3, 10), c.add(3, -8), c.mov(4, 0), c.call(LOOP), c.mov(0, 0), c.EXIT))
    called = c.insn(0x79, 1, 2) + c.map_fd(2, programs) + c.mov(3, 0) + c.call(TAIL_CALL)
    yield "by a callback", [closed(c.load(looped + part + RETURN_0, functions=number(0, 11)))
                            for part in (called[:8], called)]
    counter, programs = array(), c.create(PROG_ARRAY, 4, 4, 1)
    twice = b"".join((
        bump(counter), c.copy(1, 6), c.insn(0x85, 0, 1, imm=6), c.copy(1, 6),
        c.insn(0x85, 0, 1, imm=4), value(counter)))
    prog = c.load(twice + sub(0), functions=number(0, len(twice) // 8))
    yield "33 in all", [c.update(programs, KEYS[0], fd(prog)), c.run(prog)]
    spoil = c.load(b"".join((
        c.mov(6, 1), c.mov(7, 1), c.mov(8, 2), c.mov(9, 3), c.insn(0x7A, 10, off=-512, imm=5),
        c.mov(0, 5), c.EXIT)))
    keeper = b"".join((
        c.copy(6, 1), c.mov(7, 100), c.mov(8, 200), c.mov(9, 300), c.insn(0x7A, 10, off=-8, imm=7),
        c.copy(1, 6), c.insn(0x85, 0, 1, imm=6), *(c.insn(0x0F, 0, n) for n in (7, 8, 9)),
        c.insn(0x79, 1, 10, -8), c.insn(0x0F, 0, 1), c.EXIT))
    programs = c.create(PROG_ARRAY, 4, 4, 1)
    prog = c.load(keeper + sub(0), functions=number(0, len(keeper) // 8))
    yield "registers and stack are kept", [c.update(programs, KEYS[0], fd(spoil)), c.run(prog)]


def run_packet(prog: int, packet: bytes) -> tuple[int, int, bytes]:
    """BPF_PROG_TEST_RUN with a packet: result, what the program returns, the packet afterwards."""
    data, out = c.held(packet), c.held(bytes(len(packet)))
    assert out
    ret, attr = c.bpf_out(c.TEST_RUN, struct.pack(
        "<IIIIQQII", prog, 0, len(packet), len(packet), c.at(data), c.at(out), 1, 0))
    return ret, struct.unpack_from("<I", attr, 4)[0], out.raw


def tail_calls_with_packets() -> Iterator[Step]:
    """What comes after a program that looked at nothing sees the packet all the same."""
    packet = bytes(range(12)) + b"\x08\x00" + bytes(range(100, 150))
    # R2, R3: data, data_end; the first byte of the packet is read, and changed to 77
    touch = b"".join((
        c.copy(4, 2), c.add(4, 20), c.insn(0x2D, 4, 3, 3), c.insn(0x71, 0, 2),
        c.insn(0x72, 2, imm=77), c.EXIT, c.mov(0, 9), c.EXIT))
    into = {XDP: c.insn(0x61, 2, 1) + c.insn(0x61, 3, 1, 4) + touch,
            SCHED_CLS: c.insn(0x61, 2, 1, 76) + c.insn(0x61, 3, 1, 80) + touch,
            SOCKET_FILTER: c.copy(6, 1) + c.insn(0x30, imm=3) + c.EXIT}
    for kind, insns in into.items():
        programs, counter = c.create(PROG_ARRAY, 4, 4, 2), array()
        first = c.load(c.copy(6, 1) + tail(programs, 0) + c.mov(0, 5) + c.EXIT, kind)
        deep = c.load(bump(counter) + tail(programs, 1) + value(counter), kind)
        yield f"{kind}", [
            run_packet(first, packet), c.update(programs, KEYS[0], fd(c.load(insns, kind))),
            run_packet(first, packet), c.update(programs, KEYS[1], fd(deep)),
            run_packet(deep, packet)]
    programs = c.create(PROG_ARRAY, 4, 4, 1)
    kept = b"".join((  # a packet pointer from before a tail call that found nothing
        c.mov(0, 2), c.copy(6, 1), c.insn(0x61, 7, 6), c.insn(0x61, 8, 6, 4), c.copy(1, 7),
        c.add(1, 8), c.insn(0x2D, 1, 8, 7), tail(programs, 0), c.insn(0x79, 1, 7), c.mov(0, 3),
        c.EXIT))
    yield "packet pointers are kept", [run_packet(c.load(kept, XDP), packet)]
