"""A machine that does its worst: the interpreter with helpers that may answer anything that the
kernel's may, memory full of rubbish, and a record of every step.

Whatever a program may not rely on is random here: results, what helpers fill in, contents of maps,
whether a lookup finds something, how often a helper calls back. What helpers do to memory is
stated here anew, and not taken from the verifier's tables.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn
from libbpf_shim.jit.interp import TEXT_REGION, Helper, InterpreterError, Machine
from libbpf_shim.jit.memory import REGION_BITS, Memory, MemoryFault
from libbpf_shim.verifier.program import MapDesc, Program

U32, U64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
START = 1 << 31  # of a region's first byte: offsets to both sides stay with the region
STACK = 512
SKB_TYPES, XDP = (1, 3, 4, 8, 10, 11, 12), 6
DATA, DATA_END, DATA_META = 192, 200, 208  # in struct shim_packet
EDGES = (0, 1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 255, 256, 4095, 0x7FFF, 0x8000, 0xFFFF,
         0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 63) - 1, 1 << 63, U64,
         U64 - 7)  # fmt: skip
ARRAYS, PERCPU_ARRAY, PROG_ARRAY, MAPS_IN = (2, 6), 6, 3, (12, 13)

# What a helper does with its arguments: m map, c context, a nothing of memory, k key, v value
# read, V value filled, r memory read and w filled (its size is the next argument), n and W: or
# NULL, s the size, R a record given back, F a constant size. Then its result: i anything, e -errno
# or at most the size, b 0 or 1, v none, M a map value, A a record.
HELPERS = {
    1: "mk M", 2: "mkva i", 3: "mk i", 4: "wsa i", 5: " i", 6: "rs i", 7: " i", 8: " b",
    9: "carsa i", 10: "caaaa i", 11: "caaaa i", 14: " i", 15: " i", 16: "ws i", 17: " i",
    18: "caa i", 19: "c i", 38: "caa i", 39: "ca i", 43: "caa i",
    25: "cmars i", 26: "caws i", 27: "cma i", 28: "nsnsa i", 31: "caa i", 34: "c i", 35: " i",
    40: "ca i", 44: "ca i", 45: "wsa e", 46: "c i", 47: "c i", 50: "caaa i", 51: "maa i",
    54: "ca i", 65: "ca i", 67: "cwsa e", 80: " i", 87: "mva i", 88: "mV i", 89: "mV i",
    93: "l v", 94: "l v", 112: "wsa i", 113: "wsa i", 114: "wsa e", 115: "wsa e", 118: " i",
    125: " i", 130: "mrsa i", 131: "mFa A", 132: "Ra v", 133: "Ra v", 134: "ma i", 160: " i",
    164: "mfxa i", 181: "afxa i", 195: "mka M",
}  # fmt: skip
MOVES = (9, 10, 11, 31, 38, 39, 43, 44, 50, 54, 65)  # the packet, or where it begins
FOR_EACH, LOOP, RESERVE, LOCK, UNLOCK = 164, 181, 131, 93, 94


@dataclass(slots=True)
class Region:
    """kind: stack, ctx, value, key, packet, record. desc: of whose map a value is."""

    kind: str
    address: int
    data: bytearray
    desc: MapDesc | None = None
    meta: int = 0  # of a packet: bytes before its data


@dataclass(slots=True)
class Called:
    """One frame. callsite: -1 of main. regs: shared with the functions that it calls."""

    callsite: int
    entry: int
    callback: bool
    top: int = 0  # R10
    regs: list[int] = field(default_factory=list)
    saved: tuple[int, ...] = ()  # R6 to R9 at the call that it makes


@dataclass(slots=True)
class Access:
    """Bytes address..address+size, by the program or a helper that it called."""

    address: int
    size: int
    write: bool
    helper: bool


@dataclass(slots=True)
class Moment:
    """The machine before one instruction. frames: (callsite, entry, callback, R6 to R9, R10,
    stack). refs: where open records were reserved; tried: where one was not to be had. again: the
    call of a helper that has called back, before it may do so once more."""

    at: int
    regs: tuple[int, ...]
    frames: tuple[tuple[int, int, bool, tuple[int, ...], int, bytes], ...]
    refs: tuple[int, ...]
    tried: frozenset[int]
    locked: bool
    packet: int
    again: bool = False
    accesses: list[Access] = field(default_factory=list)
    args: int = 0  # of a helper's call


class Places(Memory):
    """Regions whose first byte lies in the middle of their addresses; remembers them all."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[int, Region] = {}
        self.accesses: list[Access] = []
        self.helping = False

    def place(self, kind: str, data: bytearray, desc: MapDesc | None = None, meta: int = 0) -> int:
        address = self.add(data)
        self.known[address >> REGION_BITS] = Region(kind, address, data, desc, meta)
        return address

    def add(self, data: bytearray, writable: bool = True) -> int:
        address = super().add(data, writable) + START
        self.known[address >> REGION_BITS] = Region("stack", address, data)
        return address

    def region(self, address: int) -> Region | None:
        return self.known.get(address >> REGION_BITS)

    def read(self, address: int, size: int) -> bytes:
        data = self._bytes("load", address, size)
        at = (address & U32) - START
        self.accesses.append(Access(address, size, False, self.helping))
        return bytes(data[at : at + size])

    def write(self, address: int, data: bytes) -> None:
        region = self._bytes("store", address, len(data))
        at = (address & U32) - START
        self.accesses.append(Access(address, len(data), True, self.helping))
        region[at : at + len(data)] = data

    def _bytes(self, what: str, address: int, size: int) -> bytearray:
        data, _ = self._regions.get(address >> REGION_BITS, (bytearray(), True))
        at = (address & U32) - START
        if not 0 <= at <= at + size <= len(data):
            raise MemoryFault(what, address, size)
        return data


class Ended(Exception):
    """The run is over: another program has taken the place of this one, or it was long enough."""


class World(Machine):
    """One run of an accepted program; moments is what came of it. limit: instructions."""

    __slots__ = ("program", "rng", "moments", "frames", "handles", "lookups", "refs", "tried",
                 "locked", "packet", "ctx", "limit", "places", "tail_calls")  # fmt: skip

    def __init__(
        self, program: Program, context: dict[int, tuple[int, int]], rng: random.Random,
        limit: int = 2000,
    ) -> None:
        self.places = Places()
        self.program, self.rng, self.limit = program, rng, limit
        self.handles: dict[int, MapDesc] = {}
        values = {}
        self.lookups: dict[tuple[int, bytes], int] = {}
        for n, desc in enumerate(program.maps):
            self.handles[self.handle()] = desc
            if desc.type == 2 and desc.max_entries == 1:
                values[n] = self.value(desc, n, bytes(desc.key_size))
        super().__init__(program.insns, memory=self.places, maps=list(self.handles),
                         values=values, context=context, step_limit=1 << 30,
                         packet_load=lambda *_: rng.choice((None, rng.getrandbits(8))))
        self.moments: list[Moment] = []
        self.frames: list[Called] = []
        self.refs: list[tuple[int, int]] = []
        self.tried: frozenset[int] = frozenset()
        self.locked = False
        self.packet = 0
        self.tail_calls = 0
        words = [self.number() & U32 for _ in range(64)]
        fields = b"".join(w.to_bytes(4, "little") for w in words)
        self.ctx = self.places.place("ctx", bytearray(fields + rng.randbytes(8192 - 256)))
        if program.prog_type in (*SKB_TYPES, XDP):
            self.new_packet()
        if program.prog_type in SKB_TYPES:  # __sk_buff.sk
            sock = rng.choice((0, self.places.place("sock", bytearray(rng.randbytes(2048)))))
            self.places.known[self.ctx >> 32].data[168:176] = sock.to_bytes(8, "little")
        self.helpers = {n: self.helper(n) for n in HELPERS}

    def run_once(self) -> int | None:
        """R0; None: the run did not come to its end."""
        try:
            return self.run(self.ctx)
        except Ended:
            return None

    # what there is

    def handle(self) -> int:
        """Where a struct bpf_map is, for whoever looks."""
        return self.places.place("map", bytearray(self.rng.randbytes(512)))

    def number(self) -> int:
        """Any, small ones and edges more often."""
        kind = self.rng.randrange(4)
        if kind == 0:
            return self.rng.choice(EDGES)
        if kind == 1:
            return self.rng.randrange(70)
        return self.rng.getrandbits(64 if kind == 2 else self.rng.choice((8, 16, 32)))

    def rubbish(self, size: int) -> bytearray:
        words = [self.number() & U64 for _ in range((size + 7) // 8)] if size <= 4096 else []
        data = b"".join(w.to_bytes(8, "little") for w in words) or self.rng.randbytes(size)
        return bytearray(data[:size])

    def value(self, desc: MapDesc, map: int, key: bytes) -> int:
        """The address of an element, whose contents may have changed meanwhile."""
        known = self.lookups.get((map, key))
        if desc.contents is not None:
            fresh = bytearray(desc.contents)
        elif known is not None and self.rng.random() < 0.6:
            return known
        else:
            fresh = self.rubbish(desc.value_size)
        if known is not None:
            region = self.places.region(known)
            assert region
            region.data[:] = fresh
            return known
        self.lookups[map, key] = self.places.place("value", fresh, desc)
        return self.lookups[map, key]

    def new_packet(self) -> None:
        """Another packet: addresses of the last one lead nowhere any more."""
        if self.packet:
            self.places.remove(self.packet)
        size, meta = self.rng.choice((0, 1, 14, 20, 34, 54, 64, 90)), self.rng.choice((0, 0, 8))
        self.packet = self.places.place("packet", self.rubbish(meta + size), meta=meta)
        region = self.places.region(self.ctx)
        assert region
        for at, address in ((DATA, self.packet + meta), (DATA_END, self.packet + meta + size),
                            (DATA_META, self.packet)):
            region.data[at : at + 8] = address.to_bytes(8, "little")

    # the record

    def _call(self, pc: int, regs: list[int]) -> None:
        callsite, callback = -1, False
        if self.frames:
            moment = self.moments[-1]
            moment.accesses += self._taken()
            callsite = moment.at
            callback = self._insns[callsite].src != op.PSEUDO_CALL
            self.frames[-1].saved = tuple(self.frames[-1].regs[6:10])
        self.frames.append(Called(callsite, pc, callback))
        helping, self.places.helping = self.places.helping, False
        super()._call(pc, regs)
        self.places.helping = helping
        self.frames.pop()

    def _taken(self) -> list[Access]:
        taken, self.places.accesses = self.places.accesses, []
        return taken

    def _step(self, pc: int, regs: list[int]) -> int:
        frame = self.frames[-1]
        if not frame.top:
            frame.top = regs[10]
            region = self.places.region(regs[10] - 1)
            assert region
            region.data[:] = self.rng.randbytes(STACK)
        frame.regs = regs
        if len(self.moments) >= self.limit:
            raise Ended
        moment = self.moment(pc, regs)
        self.moments.append(moment)
        self.places.accesses.clear()
        after = super()._step(pc, regs)
        if self._insns[pc].code != op.JMP | op.CALL:
            moment.accesses = self._taken()
        else:
            self.moments[-1].accesses += self._taken()
        return after

    def moment(self, pc: int, regs: list[int]) -> Moment:
        frames = []
        for f in self.frames:
            region = self.places.region(f.top - 1)
            assert region
            frames.append((f.callsite, f.entry, f.callback, f.saved, f.top, bytes(region.data)))
        return Moment(pc, tuple(regs[:11]), tuple(frames), tuple(at for at, _ in self.refs),
                      self.tried, self.locked, self.packet)

    # what may happen

    def _tail_call(self, insn: Insn, pc: int, regs: list[int]) -> int:
        self.moments[-1].args = 3
        if self.rng.random() < 0.5:
            regs[0:6] = [0xBAD] * 6
            return pc + 1
        if len(self.frames) == 1:
            raise Ended
        if self.program.prog_type in (*SKB_TYPES, XDP):
            self.new_packet()
        regs[0] = self.number()
        return -1

    def helper(self, number: int) -> Helper:
        kinds, result = HELPERS[number].split(" ")

        def call(_machine: Machine, *args: int) -> int:
            self.moments[-1].args = len(kinds)
            self.places.helping = True
            try:
                return self.helped(number, kinds, result, args) & U64
            finally:
                self.places.helping = False

        return call

    def helped(self, number: int, kinds: str, result: str, args: tuple[int, ...]) -> int:
        map, size = -1, 0
        for n, kind in enumerate(kinds):
            if kind == "m":
                if args[n] not in self.handles:
                    raise InterpreterError(f"R{n + 1} = {args[n]:#x} is no map")
                map = list(self.handles).index(args[n])
            elif kind == "F":
                size = args[n]
            elif kind in "kvV":
                desc = list(self.handles.values())[map]
                length = desc.key_size if kind == "k" else desc.value_size
                self.touch(args[n], length, kind == "V")
            elif kind in "rw" or (kind in "nW" and args[n]):
                size = args[n + 1]
                self.touch(args[n], size, kind in "wW")
        if number in (LOCK, UNLOCK):
            self.locked = number == LOCK
        if number in MOVES and self.packet:
            self.new_packet()
        if number in (LOOP, FOR_EACH):
            return self.calls_back(number, map, args)
        if "R" in kinds:
            self.given_back(args[0])
        return self.result(result, map, size, args)

    def touch(self, address: int, size: int, fill: bool) -> None:
        if size == 0:
            return
        if fill:
            self.places.write(address, bytes(self.rubbish(size)))
        else:
            self.places.read(address, size)

    def result(self, kind: str, map: int, size: int, args: tuple[int, ...]) -> int:
        if kind == "e":
            return self.rng.choice((-4095, -14, -1, 0, size, self.rng.randrange(size + 1)))
        if kind == "b":
            return self.rng.randrange(2)
        if kind == "M":
            return self.found(map, args[1])
        if kind == "A":
            return self.record(size)
        return self.number()

    def found(self, map: int, key: int) -> int:
        desc = list(self.handles.values())[map]
        if self.rng.random() < 0.3 and desc.type not in ARRAYS:
            return 0
        name = self.places.read(key, desc.key_size)
        if desc.type in ARRAYS and int.from_bytes(name, "little") >= desc.max_entries:
            return 0
        if desc.type in MAPS_IN:
            assert desc.inner
            handle = self.handle()
            self.handles[handle] = desc.inner
            return handle
        return self.value(desc, map, name)

    def record(self, size: int) -> int:
        at = self.moments[-1].at
        if self.rng.random() < 0.3 or size > 4096:  # of the whole ring
            self.tried |= {at}
            return 0
        self.refs.append((at, self.places.place("record", self.rubbish(size))))
        return self.refs[-1][1]

    def given_back(self, address: int) -> None:
        if address not in [a for _, a in self.refs]:
            raise InterpreterError(f"{address:#x} is no open record")
        self.refs = [r for r in self.refs if r[1] != address]
        self.places.remove(address)

    def calls_back(self, number: int, map: int, args: tuple[int, ...]) -> int:
        function = args[1]
        most = min(args[0] & U32, 6) if number == LOOP else 4
        call, done = self.moments[-1], 0
        regs = list(self.frames[-1].regs)
        for n in range(self.rng.randrange(most + 1)):
            done += 1
            if number == LOOP:
                stop = self.call(function, n, args[2])
            else:
                desc = list(self.handles.values())[map]
                key = self.places.place("key", self.rubbish(desc.key_size), desc)
                value = self.value(desc, map, bytes(self.rubbish(desc.key_size)))
                stop = self.call(function, args[0], key, value, args[2])
            if stop not in (0, 1):
                raise InterpreterError(f"a callback returned {stop}")
            self.moments.append(self.moment(call.at, regs))
            self.moments[-1].again, self.moments[-1].args = True, call.args
            if stop:
                break
        return done


def function_at(address: int) -> int:
    """The slot of a function whose address this is, -1: of none."""
    return address & U32 if address >> REGION_BITS == TEXT_REGION else -1
