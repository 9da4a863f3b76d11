"""Helper calls with arguments of any kind, from programs of every type: the kernel is asked.

Nothing that it refuses is accepted, what it accepts is refused only as not there, and where both
refuse the words are the same but for a closed list. The seeds are fixed.
"""

from __future__ import annotations

import random
import re
import struct
from dataclasses import dataclass, field

import pytest

from compat_tests.oracle import kernel
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.call import availability, helpers, map_helpers
from libbpf_shim.verifier.program import MapDesc, Program

pytestmark = pytest.mark.kernel
CALL, EXIT, LD_IMM64, MOV, MOVX, ADD = 0x85, 0x95, 0x18, 0xB7, 0xBF, 0x07
LDX4, LDX8, JNE, JEQ, JLEX, ST8 = 0x61, 0x79, 0x55, 0x15, 0xBD, 0x7A
SLEEPABLE = 1 << 4  # BPF_F_SLEEPABLE
SK_RELEASE, RINGBUF_SUBMIT, PRANDOM = 86, 132, 7
TYPES = (*range(1, 20), 21, 22, 23, 24, 25, 30, 31, 32)
# attach types that a program of a type may be made for, where it is not just 0
ATTACH = {
    2: (0, 42, 48, 56, 57), 6: (0, 33, 35, 37), 8: (0, 1), 9: (2, 12, 13, 34), 21: (39, 40),
    18: (8, 9, 10, 11, 14, 15, 19, 20, 29, 30, 31, 32, 49, 50, 51, 52, 53), 25: (21, 22),
    30: (36,), 32: (45,),
}  # fmt: skip
MAPS = (
    MapDesc(1, 4, 8, 16), MapDesc(2, 4, 8, 16), MapDesc(3, 4, 4, 4), MapDesc(4, 4, 4, 4),
    MapDesc(5, 4, 8, 16), MapDesc(6, 4, 8, 16), MapDesc(7, 4, 1016, 16), MapDesc(8, 4, 4, 4),
    MapDesc(9, 4, 8, 16), MapDesc(11, 8, 8, 4, map_flags=1), MapDesc(14, 4, 4, 4),
    MapDesc(15, 4, 4, 4), MapDesc(16, 4, 4, 4), MapDesc(17, 4, 4, 4), MapDesc(18, 4, 4, 4),
    MapDesc(20, 4, 8, 4), MapDesc(22, 0, 8, 16), MapDesc(23, 0, 8, 16), MapDesc(25, 4, 4, 4),
    MapDesc(27, 0, 0, 4096), MapDesc(30, 0, 8, 16), MapDesc(31, 0, 0, 4096),
    MapDesc(1, 4, 8, 16, map_flags=128), MapDesc(1, 4, 8, 16, map_flags=256),
    MapDesc(2, 4, 8, 16, map_flags=128),
)  # fmt: skip
# where a context has a socket; where packets begin and end, and how wide that is
SOCKETS = {1: (168,), 3: (168,), 4: (168,), 8: (168,), 10: (168,), 12: (168,), 14: (168,),
           13: (184,), 16: (72,), 18: (64,), 21: (40, 48), 25: (0,), 30: (0,)}  # fmt: skip
PACKETS = {3: (76, 80, 4), 4: (76, 80, 4), 6: (0, 4, 4), 8: (76, 80, 4), 10: (76, 80, 4),
           12: (76, 80, 4), 13: (192, 200, 8), 14: (76, 80, 4), 16: (0, 8, 8), 19: (76, 80, 4),
           21: (0, 8, 8), 22: (76, 80, 4), 25: (8, 16, 8)}  # fmt: skip
KINDS = {
    helpers.MAP: "map", helpers.CTX: "ctx", helpers.SIZE: "size", helpers.SIZE0: "size",
    helpers.ALLOC: "size", helpers.ANY: "number", helpers.SK: "sk", helpers.BSK: "sk",
    helpers.SOCKET: "sk",
}  # fmt: skip
# The kernel's words that are not ours: a line that it does not end; a load that it refuses only
# when it rewrites it.
OTHER_WORDS = re.compile("expected prog array map for tail call|error during ctx access")


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


LEAVE = insn(MOV, imm=1) + insn(EXIT)


def argument(kind: str, r: int, rnd: random.Random) -> bytes:
    if kind == "map":
        return insn(LD_IMM64, r, 1) + insn(0)
    if kind == "size":
        return insn(MOV, r, imm=rnd.choice((0, 1, 4, 8, 16, 64, 65, 512)))
    if kind == "number":
        return insn(MOV, r, imm=rnd.choice((0, 1, -1, 16)))
    if kind == "stack":
        return insn(MOVX, r, 10) + insn(ADD, r, imm=rnd.choice((-64, -16, -8, -4)))
    register = {"ctx": 6, "sk": 7, "packet": 8, "random": 9}.get(kind, 0)
    return insn(MOVX, r, register) if register else b""


@dataclass
class Draw:
    """One program: r6 is the context, r7 a socket, r8 a packet with 48 bytes, r9 a random number,
    as far as they are there; 64 bytes of stack are set; then a call, and what uses its result."""

    rnd: random.Random
    type: int
    number: int
    have: list[str] = field(default_factory=lambda: ["map", "ctx", "size", "number", "stack"])

    def code(self) -> bytes:
        proto = helpers.proto(self.type, self.number)
        assert proto
        out = insn(MOVX, 6, 1) + b"".join(insn(ST8, 10, off=-8 * s) for s in range(1, 9))
        out += self.random() + self.socket() + self.packet()
        for r in range(1, 6):
            out += self.given(proto, r)
        out += insn(CALL, imm=self.number) + self.after(proto)
        return out + insn(MOV, imm=self.rnd.choice((1, 1, 1, 0, 2))) + insn(EXIT)

    def random(self) -> bytes:
        if self.rnd.random() > 0.7:
            return b""
        self.have.append("random")
        return insn(CALL, imm=PRANDOM) + insn(MOVX, 9)

    def socket(self) -> bytes:
        if self.type not in SOCKETS or self.rnd.random() > 0.8:
            return b""
        self.have += ["sk", "sk"]
        out = insn(LDX8, 7, 6, self.rnd.choice(SOCKETS[self.type]))
        return out + (insn(JNE, 7, off=2) + LEAVE if self.rnd.random() < 0.8 else b"")

    def packet(self) -> bytes:
        if self.type not in PACKETS or self.rnd.random() > 0.5:
            return b""
        self.have.append("packet")
        first, end, size = PACKETS[self.type]
        load = LDX4 if size == 4 else LDX8
        return (insn(load, 8, 6, first) + insn(load, 0, 6, end) + insn(MOVX, 2, 8)
                + insn(ADD, 2, imm=48) + insn(JLEX, 2, 0, 2) + LEAVE)  # fmt: skip

    def given(self, proto: helpers.Proto, r: int) -> bytes:
        rnd = self.rnd
        word = proto.args[r - 1] if r <= len(proto.args) else 0
        right = KINDS.get(word & helpers.KIND, "stack") if word else "none"
        if right == "stack" and "packet" in self.have and rnd.random() < 0.3:
            right = "packet"
        if right not in self.have and word:
            right = "stack"
        if rnd.random() > 0.85:
            right = rnd.choice([*self.have, "none"])
        elif word & helpers.OR_NULL and rnd.random() < 0.3:
            return insn(MOV, r)
        return argument(right, r, rnd)

    def after(self, proto: helpers.Proto) -> bytes:
        rnd, kind = self.rnd, proto.ret & helpers.KIND
        what = rnd.random()
        if what < 0.2:
            return insn(JNE, off=2) + LEAVE + insn(LDX4, 1, 0, rnd.choice((0, 4, 16)))
        if what < 0.3:
            return insn(LDX8, 1)
        if what < 0.4 and "sk" in self.have:
            return insn(LDX4, 1, 7, rnd.choice((0, 4, 8, 20, 24, 44, 48, 80)))
        if what < 0.5 and "packet" in self.have:
            return insn(LDX4, 1, 8, rnd.choice((0, 4, 44, 46)))
        release = {helpers.SOCKET: SK_RELEASE, helpers.SOCK_COMMON: SK_RELEASE,
                   helpers.RECORD: RINGBUF_SUBMIT}.get(kind, 0)  # fmt: skip
        if what < 0.6 and release:
            return insn(JEQ, off=3) + insn(MOVX, 1) + insn(MOV, 2) + insn(CALL, imm=release)
        return b""


def last(log: str) -> str:
    lines = [line for line in log.strip().split("\n") if not line.startswith("processed")]
    return lines[-1] if lines else ""


def calls(count: int, seed: int) -> None:
    rnd, real = random.Random(seed), kernel.driver()
    pairs = [(t, h) for t in TYPES for h in sorted(helpers.PROTOS)
             if any(availability.allowed(t, a, h) for a in ATTACH.get(t, (0,)))]  # fmt: skip
    unsound, stricter, words = [], [], []
    both = 0
    for _ in range(count):
        kind, number = rnd.choice(pairs)
        attach = rnd.choice(ATTACH.get(kind, (0,)))
        fits = [m for m in MAPS if m.type in map_helpers.HELPER_ONLY.get(number, ())]
        chosen = rnd.choice(fits if fits and rnd.random() < 0.8 else MAPS)
        code = Draw(rnd, kind, number).code()
        license = rnd.choice(("GPL", "GPL", "GPL", "MIT"))
        flags = SLEEPABLE if kind == 31 else 0
        maps = [{"type": chosen.type, "key_size": chosen.key_size, "map_flags": chosen.map_flags,
                 "value_size": chosen.value_size, "max_entries": chosen.max_entries}]  # fmt: skip
        theirs = real.kernel_verdict(code, kind, maps=maps, license=license, log_level=1,
                                     expected_attach_type=attach, prog_flags=flags)
        ours = verify(Program(code, kind, expected_attach_type=attach, prog_flags=flags,
                              license=license, maps=(chosen,), log_level=1,
                              kernel_btf=MACHINE))  # fmt: skip
        what = (kind, attach, helpers.name(number), chosen.type, last(theirs.log), last(ours.log),
                code.hex())  # fmt: skip
        if "not supported here" in ours.log:
            continue
        if not theirs.ok and not ours.errno:
            unsound.append(what)
        elif theirs.ok and ours.errno:
            stricter.append(what)
        elif theirs.ok:
            both += 1
        elif last(theirs.log) != last(ours.log) and not OTHER_WORDS.search(last(theirs.log)):
            words.append(what)
    assert not unsound, (len(unsound), unsound[:5])
    assert not stricter, (len(stricter), stricter[:5])
    assert not words, (len(words), words[:5])
    assert both > count // 10


def test_calls_have_the_kernels_verdict() -> None:
    calls(3000, seed=1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_calls_have_the_kernels_verdict() -> None:
    calls(80_000, seed=2)


@pytest.mark.parametrize("kind", TYPES)
def test_every_helper_is_there_for_whom_the_kernel_says(kind: int) -> None:
    """With nothing in R2 to R5: availability, licence, the first two arguments."""
    real = kernel.driver()
    flags = SLEEPABLE if kind == 31 else 0
    wrong = []
    for attach in (ATTACH.get(kind) or (0,))[:3]:
        for license in ("GPL", ""):
            for number in range(1, len(helpers.PROTOS) + 2):
                code = insn(CALL, imm=number) + LEAVE
                theirs = real.kernel_verdict(code, kind, license=license, log_level=1,
                                             expected_attach_type=attach, prog_flags=flags)
                ours = verify(Program(code, kind, expected_attach_type=attach, license=license,
                                      prog_flags=flags, log_level=1,
                                      kernel_btf=MACHINE))  # fmt: skip
                if "not supported here" in ours.log:
                    continue
                if (theirs.errno, last(theirs.log)) != (ours.errno, last(ours.log)):
                    wrong.append((attach, helpers.name(number), last(theirs.log), last(ours.log)))
    assert not wrong, (len(wrong), wrong[:5])
