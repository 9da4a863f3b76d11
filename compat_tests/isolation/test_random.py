"""Programs that reach for what is not theirs, believed by a verifier that is wrong: about host
pointers and stores through them, contexts, maps, stacks, arguments of helpers, of tail calls and
of the host's functions, values of overrides, records and locks. The application serves on, its
memory is as it was, and its functions were given nothing that was not granted."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from compat_tests.isolation.world import (
    DI,
    EVENTS,
    MAPS,
    POLICY,
    PROGS,
    SI,
    STRINGS,
    Application,
    Prog,
    compiled,
    facts_of,
)
from compat_tests.verifier.asm import assemble
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.policy import HOST, READS

SAMPLE, ALL = 40, 1000
_SIZES = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_ATOMICS = (op.ADD, op.OR, op.AND, op.XOR, op.ADD | op.FETCH, op.OR | op.FETCH, op.XCHG,
            op.CMPXCHG)
_CTX, _SP = 6, 10
# helpers: their arguments, as letters: memory, number, small number, size, map, context, format,
# address of the host's
_HELPERS = {1: "pm", 2: "pmmn", 3: "pm", 4: "msn", 5: "", 14: "", 16: "ms", 27: "cpn", 45: "msn",
            67: "cmsn", 112: "msn", 113: "msn", 114: "msn", 115: "msn", 120: "nnms", 130: "pmsn",
            195: "pmn", 12: "cpi", 58: "ci", 182: "msm", 6: "fsmmm", 165: "msfms", 177: "fsms",
            131: "psn", 132: "mn", 133: "mn", 93: "m", 94: "m", 36: "hms", 181: "nmmn", 170: "mn"}
_REFUSED = {181, 170}
_FORMATS = {0: 17, 17: 8, 25: 10, 35: 5}  # in STRINGS


class _Maker:
    """One program, and facts that are wrong in some way."""

    def __init__(self, seed: int, addresses: list[int]) -> None:
        self.rng, self.addresses = random.Random(seed), addresses
        self.insns = [Insn(op.ALU64 | op.MOV | 8, _CTX, 1, 0, 0),
                      Insn(op.ALU64 | op.MOV, 9, 0, 0, 0)]
        self.facts: dict[str, Any] = {
            name: set() for name in ("host_loads", "typed", "host_stores")}
        self.facts["call_map"], self.facts["kfuncs"] = {}, {}
        self.refused = False

    def constant(self, dst: int, value: int, kind: int = 0) -> None:
        low, high = value & 0xFFFFFFFF, value >> 32 & 0xFFFFFFFF
        self.insns += [Insn(op.LD_IMM64, dst, kind, 0, (low ^ 1 << 31) - (1 << 31)),
                       Insn(0, 0, 0, 0, (high ^ 1 << 31) - (1 << 31))]

    def move(self, dst: int, src: int, add: int) -> None:
        self.insns += [Insn(op.ALU64 | op.MOV | 8, dst, src, 0, 0),
                       Insn(op.ALU64 | op.ADD, dst, 0, 0, add)]

    def far(self) -> int:
        return self.rng.choice((0, 8, -8, 511, -512, 4096, -4097, 40000, -40000, 1 << 20,
                                1 << 30, -(1 << 30), (1 << 31) - 1, -(1 << 31)))

    def pointer(self, dst: int) -> None:
        """Some address: the stack's, the context's, a map's, the host's, or any number."""
        rng = self.rng
        kind = rng.randrange(7)
        if kind == 0:
            self.move(dst, _SP, rng.choice((-8, -16, -512, -520, 0, 64, self.far())))
        elif kind == 1:
            self.move(dst, _CTX, self.far())
        elif kind == 2:
            self.constant(dst, rng.randrange(2) | rng.choice((0, 64, 1 << 20, 1 << 31)) << 32,
                          op.PSEUDO_MAP_VALUE)
            self.insns.append(Insn(op.ALU64 | op.ADD, dst, 0, 0, self.far()))
        elif kind == 3:
            self.constant(dst, rng.randrange(len(MAPS)), op.PSEUDO_MAP_FD)
        elif kind == 4:
            self.host_pointer(dst)
        elif kind == 5:
            self.constant(dst, rng.choice(self.addresses) + rng.randrange(-64, 1 << 16)
                          & (1 << 64) - 1)
        else:
            self.constant(dst, rng.choice((0, 8, 1 << 47, rng.getrandbits(64),
                                           rng.getrandbits(47))))

    def host_pointer(self, dst: int) -> None:
        """What the application passes, near it, what that leads to, or another object."""
        rng = self.rng
        self.insns.append(Insn(op.LDX | op.MODE_MEM | _SIZES[8], dst, _CTX,
                               rng.choice((DI, DI, SI)), 0))
        if rng.randrange(3) == 0:  # its `next`
            self.facts["host_loads"].add(len(self.insns))
            self.insns.append(Insn(op.LDX | op.MODE_MEM | _SIZES[8], dst, dst,
                                   rng.choice((8, 8, 0)), 0))
        if rng.randrange(3) == 0:
            self.insns.append(Insn(op.ALU64 | op.ADD, dst, 0, 0,
                                   rng.choice((8, 12, 16, 20, 40, self.far()))))
        if rng.randrange(4) == 0:
            self.constant(dst, rng.choice(self.addresses))

    def host_store(self) -> None:
        rng = self.rng
        if rng.randrange(3):
            self.host_pointer(7)
        else:
            self.pointer(7)
        self.facts["host_stores"].add(len(self.insns))
        self.insns.append(Insn(op.ST | op.MODE_MEM | _SIZES[rng.choice((1, 2, 4, 8))], 7, 0,
                               rng.choice((16, 16, 18, 20, 0, 8, 36, 40, -1)), 9))

    def host_call(self) -> None:
        rng = self.rng
        called = rng.choice(POLICY.functions)
        for n, param in enumerate(called.params):
            if param.kind == HOST and rng.randrange(3):
                self.host_pointer(n + 1)
            elif param.kind in (HOST, READS):
                self.pointer(n + 1)
            else:
                self.constant(n + 1, rng.choice((0, 1, 3, 4, 64, 65, 1 << 32,
                                                 rng.getrandbits(64))))
        self.facts["kfuncs"][len(self.insns)] = f"host:{called.name}"
        self.insns.append(Insn(op.JMP | op.CALL, 0, op.PSEUDO_KFUNC_CALL, 1, 9000))
        if rng.randrange(2):
            self.insns.append(Insn(op.ALU64 | op.MOV | 8, 1, 0, 0, 0))
            self.facts["kfuncs"][len(self.insns)] = "host:back"
            self.insns.append(Insn(op.JMP | op.CALL, 0, op.PSEUDO_KFUNC_CALL, 1, 9000))

    def record(self) -> None:
        """Reserved, written around, and submitted in some way, or not."""
        rng = self.rng
        self.constant(1, EVENTS, op.PSEUDO_MAP_FD)
        self.constant(2, rng.choice((8, 16, 200, 3000, 4090, 11000)))
        self.constant(3, rng.choice((0, 0, 0, 1)))
        self.insns.append(Insn(op.JMP | op.CALL, 0, 0, 0, 131))
        self.insns += [Insn(op.ALU64 | op.MOV | 8, 8, 0, 0, 0),
                       Insn(op.JMP | op.JEQ, 8, 0, rng.choice((1, 1, 0)), 0),
                       Insn(op.ST | op.MODE_MEM | _SIZES[8], 8, 0,
                            rng.choice((0, 8, -8, -16, 4096, 16000)), 5)]
        for _ in range(rng.choice((0, 1, 1, 1, 1, 2))):
            self.move(1, 8, rng.choice((0, 0, 0, 8, -8)))
            self.constant(2, rng.choice((0, 1, 2)))
            self.insns.append(Insn(op.JMP | op.CALL, 0, 0, 0, rng.choice((132, 132, 133))))

    def lock(self) -> None:
        rng = self.rng
        for number in rng.choice(((93, 94), (93, 94), (93,), (94,), (93, 94, 94))):
            self.constant(1, rng.randrange(2) * 8 << 32, op.PSEUDO_MAP_VALUE)
            if rng.randrange(4) == 0:
                self.pointer(1)
            self.insns.append(Insn(op.JMP | op.CALL, 0, 0, 0, number))

    def access(self) -> None:
        rng = self.rng
        base = rng.choice((1, 2, 3, 7, 8))
        other, off = rng.choice((4, 5, 9)), rng.choice((0, 0, 8, -8, 32767, -32768))
        self.pointer(base)
        self.constant(other, rng.getrandbits(64))
        at, size = len(self.insns), rng.choice((1, 2, 4, 8))
        how = rng.randrange(4)
        if how == 0:
            self.insns.append(Insn(op.LDX | op.MODE_MEM | _SIZES[size], other, base, off, 0))
            if rng.randrange(4) == 0:
                self.facts[rng.choice(("host_loads", "typed"))].add(at)
            self.insns.append(Insn(op.STX | op.MODE_MEM | _SIZES[8], _SP, other, -24, 0))
        elif how == 1:
            self.insns.append(Insn(op.STX | op.MODE_MEM | _SIZES[size], base, other, off, 0))
            self.mistaken(at)
        elif how == 2:
            self.insns.append(Insn(op.ST | op.MODE_MEM | _SIZES[size], base, 0, off, 77))
            self.mistaken(at)
        else:
            self.insns.append(Insn(op.LDX | op.MODE_MEM | _SIZES[8], 0, _SP, -24, 0))
            self.insns.append(Insn(op.STX | op.MODE_ATOMIC | _SIZES[rng.choice((4, 8))], base,
                                   other, off, rng.choice(_ATOMICS)))

    def mistaken(self, at: int) -> None:
        if self.rng.randrange(16) == 0:
            self.facts["host_stores"].add(at)

    def call(self) -> None:
        rng = self.rng
        number = rng.choice([*_HELPERS, 1, 2, 1, 2])
        for n, kind in enumerate(_HELPERS[number]):
            if kind == "m" or (kind in "pc" and rng.randrange(3) == 0):
                self.pointer(n + 1)
            elif kind == "p":
                self.constant(n + 1, rng.randrange(len(MAPS)), op.PSEUDO_MAP_FD)
            elif kind == "c":
                self.insns.append(Insn(op.ALU64 | op.MOV | 8, n + 1, _CTX, 0, 0))
            elif kind == "f":
                at = rng.choice(tuple(_FORMATS))
                self.constant(n + 1, STRINGS | at << 32, op.PSEUDO_MAP_VALUE)
                self.constant(n + 2, _FORMATS[at])
            elif kind == "s" and _HELPERS[number][n - 1] == "f" and rng.randrange(8):
                continue
            elif kind == "i" and rng.randrange(4):
                self.constant(n + 1, rng.randrange(5))
                if rng.randrange(2):  # so that nobody knows it
                    self.insns.append(Insn(op.ALU64 | op.XOR | 8, n + 1, 9, 0, 0))
            elif kind == "h":
                self.host_pointer(n + 1)
            elif kind == "s" and rng.randrange(2):
                self.insns.append(Insn(op.ALU64 | op.MOV, n + 1, 0, 0,
                                       rng.choice((0, 1, 8, 64, 512, 4096, 1 << 20, -1))))
            else:
                self.constant(n + 1, rng.choice(self.addresses) if rng.randrange(2)
                              else rng.getrandbits(64))
        if rng.randrange(3):
            self.facts["call_map"][len(self.insns)] = rng.choice((0, 0, 1, 1, 2, 3, 9))
        self.refused = self.refused or number in _REFUSED
        self.insns.append(Insn(op.JMP | op.CALL, 0, 0, 0, number))
        self.insns.append(Insn(op.STX | op.MODE_MEM | _SIZES[8], _SP, 0, -32, 0))
        if number == 1 and rng.randrange(2):  # without a test for NULL, and beyond the value
            self.insns.append(Insn(op.ST | op.MODE_MEM | _SIZES[8], 0, 0,
                                   rng.choice((0, 8, 4096, 32767, -4096)), 7))

    def made(self) -> bytes:
        rng = self.rng
        for _ in range(rng.choice((1, 1, 1, 2, 3, 5))):
            rng.choice((self.access, self.access, self.call, self.call, self.host_store,
                        self.host_call, self.record, self.lock))()
        self.insns += [Insn(op.ALU64 | op.MOV, 0, 0, 0, 0), Insn(op.JMP | op.EXIT, 0, 0, 0, 0)]
        facts = self.facts
        facts["ctx_loads"] = rng.choice((frozenset(), frozenset(((SI, 8), (DI, 8))),
                                         frozenset(((DI, 8),)), frozenset(((0, 8), (DI, 4)))))
        facts["ctx_escapes"], facts["reads_unset"] = bool(rng.randrange(2)), bool(rng.randrange(2))
        facts["stack_depth"] = (rng.choice((0, 8, 512, 1 << 20)),)
        facts["percpu"] = bool(rng.randrange(2))
        for name in ("host_loads", "typed", "host_stores"):
            facts[name] = frozenset(facts[name])
        return encode(self.insns)


def serves(app: Application, seeds: range) -> Counter[str]:
    """What became of the programs."""
    addresses = [int(word, 16) for word in app.say("where").split()]
    addresses += [app.target.root, app.target.root - (1 << 16)]
    outcomes: Counter[str] = Counter()
    for seed in seeds:
        maker = _Maker(seed, addresses)
        insns = maker.made()
        try:
            image = compiled(insns, facts_of(insns, **maker.facts))
        except ShimError as error:
            assert error.message.count("isolated") == 1, (seed, error.message)
            outcomes["refused"] += 1
            continue
        assert not maker.refused, seed
        where = ("one", "two")[seed % 2]
        app.clear()
        try:
            outcomes["contained" if app.once(image, 1, where) else "ran"] += 1
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    return outcomes


@pytest.fixture(scope="module")
def called(application: Application) -> None:
    """What tail calls lead to: a good program, one that leaves its window, one of another class,
    one that overrides."""
    for n, (text, name) in enumerate((
            ("r0 = 0; exit", "c"), ("r1 = 0; *(u64 *)(r1 + 0) = 1; r0 = 0; exit", "c"),
            ("r0 = 0; exit", "other"), ("r2 = 403; call 58; r0 = 0; exit", "c"))):
        image = compiled(encode(assemble(text)), policy=replace(POLICY, name=name))
        application.maps[PROGS].put(n, Prog(application.host.number(), image, application.maps))


@pytest.mark.usefixtures("called")
def test_wrong_programs_stay_within_their_window(app: Application) -> None:
    found = serves(app, range(SAMPLE))
    assert min(found[how] for how in ("contained", "ran", "refused")) > 2, found


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("called")
def test_a_thousand_wrong_programs_stay_within_their_window(app: Application) -> None:
    done, at = Counter[str](), 0
    while done["contained"] < ALL:
        done += serves(app, range(10_000 + at, 10_000 + at + 100))
        at += 100
    assert done["ran"] > ALL // 10, done
