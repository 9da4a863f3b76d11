"""Random programs that make, use, overwrite and give back dynptrs and iterators, in branches and
loops: the kernel's verdict, errno and words are ours. Most steps are right, so that most programs
get far."""

from __future__ import annotations

import random

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.test_dynptr import (
    DISCARD,
    KERNEL_MAPS,
    MAPS,
    SUBMIT,
    call,
    data,
    fp,
    from_value,
    give,
    read,
    reserve,
    write,
)
from compat_tests.verifier.test_dynptr_kfuncs import PULL, again, on, slice_
from compat_tests.verifier.test_iterators import END, MACHINE, VMLINUX, kfunc, loop, new, num, use
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

TYPES = {"sched_cls": 3, "cgroup_skb": 8}
PLACES = (-16, -32, -48, -64, -80, -96)
ROOM, SPILL = -104, -112  # plain bytes on the stack
REGS = (6, 7, 8)
MOVX, JEQ, JNE, JA, LDX, LDXB, STX, ST = 0xBF, 0x15, 0x55, 0x05, 0x79, 0x71, 0x7B, 0x7A
SEEDS, LONG_SEEDS = (2, 3, 4, 6), range(7, 27)  # in some others a program takes the kernel long
EACH = 40  # programs of a seed
LARGEST = 5000  # instructions processed of a program that is compared
DULL = ("processed", "verification time", "stack depth")


class Draft:
    """A program on its way. dynptrs, iterators: kinds by place. wild: the share of steps that
    nobody looks after."""

    def __init__(self, draw: random.Random, wild: float) -> None:
        self.draw, self.wild = draw, wild
        self.dynptrs: dict[int, str] = {}
        self.iterators: dict[int, str] = {}

    def branch(self) -> Draft:
        other = Draft(self.draw, self.wild)
        other.dynptrs, other.iterators = dict(self.dynptrs), dict(self.iterators)
        return other

    def free(self) -> int:
        used = {*self.dynptrs, *self.iterators}
        left = [at for at in PLACES if at not in used]
        return self.draw.choice(left) if left else 0

    def ending(self, before: Draft | None = None) -> list[Insn]:
        """Gives back what is held and was not before."""
        out: list[Insn] = []
        for at, kind in self.dynptrs.items():
            if kind == "ring" and not (before and at in before.dynptrs):
                out += give(self.draw.choice((SUBMIT, DISCARD)), at)
        for at, kind in self.iterators.items():
            if not (before and at in before.iterators):
                out += use(f"{kind}_destroy", at)
        return out

    def inner(self, depth: int) -> list[Insn]:
        """The body of a branch or a loop, which leaves nothing new behind."""
        inside = self.branch()
        body = [i for _ in range(self.draw.randrange(1, 4)) for i in inside.step(depth + 1)]
        body += inside.ending(self)
        self.dynptrs = {at: k for at, k in self.dynptrs.items() if at in inside.dynptrs}
        return body

    def step(self, depth: int) -> list[Insn]:
        draw = self.draw
        if draw.random() < self.wild:
            at = draw.choice((*PLACES, -8, -12, -24, -512))
            return draw.choice((
                give(SUBMIT, at), read(ROOM, 8, at), data(at), use("num_next", at),
                use("bits_destroy", at), reserve(at), from_value(at), new(at), on("size", at=at),
                [Insn(LDX, 6, 10, at, 0)], [Insn(ST, 10, 0, at, 0)],
                read(at, 8, draw.choice(PLACES)),
            ))  # fmt: skip
        kind = draw.randrange(9)
        if kind < 2:
            return self.make(depth)
        if kind < 4 and self.dynptrs:
            return self.with_dynptr(depth)
        if kind == 4 and self.iterators:
            at = draw.choice(list(self.iterators))
            if depth or draw.random() < 0.5:
                return [*use(f"{self.iterators[at]}_next", at),
                        Insn(MOVX, draw.choice(REGS), 0, 0, 0)]  # fmt: skip
            return use(f"{self.iterators.pop(at)}_destroy", at)
        if kind == 5:
            r = draw.choice(REGS)
            return draw.choice((
                [Insn(JEQ, r, 0, 1, 0), Insn(LDXB, 0, r, 0, 0)], [Insn(STX, 10, r, SPILL, 0)],
                [Insn(LDX, r, 10, SPILL, 0)], [num(r, 0)], PULL,
            ))  # fmt: skip
        if depth > 2:
            return []
        if kind == 6:
            body = self.inner(depth)
            return [call(7), Insn(draw.choice((JEQ, JNE)), 0, 0, len(body), 0), *body]
        return self.round(depth, kind)

    def round(self, depth: int, kind: int) -> list[Insn]:
        """A loop that an iterator ends, or may_goto."""
        at = self.free()
        if not at:
            return []
        self.iterators[at] = "num"
        body = self.inner(depth)
        del self.iterators[at]
        if kind == 7:
            return [*new(at), *loop(body, at), *use("num_destroy", at)]
        return [Insn(op.JMP | op.JCOND, 0, 0, len(body) + 1, 0), *body,
                Insn(JA, 0, 0, -len(body) - 2, 0)]  # fmt: skip

    def make(self, depth: int) -> list[Insn]:
        at, kind = self.free(), self.draw.choice(("ring", "value", "skb", "num", "bits"))
        if not at or (kind == "ring" and depth):
            return []
        if kind in ("num", "bits"):
            self.iterators[at] = kind
            many = [*fp(1, at), *fp(2, ROOM), num(3, 1), kfunc("bpf_iter_bits_new")]
            return new(at) if kind == "num" else many
        self.dynptrs[at] = kind
        if kind == "ring":
            return reserve(at)
        return from_value(at) if kind == "value" else again(at)

    def with_dynptr(self, depth: int) -> list[Insn]:
        draw, at = self.draw, self.draw.choice(list(self.dynptrs))
        kept = [Insn(MOVX, draw.choice(REGS), 0, 0, 0)]
        ring = self.dynptrs[at] == "ring"
        kind = draw.randrange(8)
        if kind < 2:
            return read(ROOM, 8, at) if kind else write(ROOM, draw.choice((0, 8)), at)
        if kind == 2:
            return [*data(at), *kept]
        if kind == 3 and not ring:  # docs/parity.md: slices of records
            return [*slice_(draw.random() < 0.5, buffer=ROOM, at=at), *kept]
        if kind == 4:
            return draw.choice((on("size", at=at), on("adjust", 1, 2, at=at)))
        if ring:
            if depth or kind == 3:
                return []
            del self.dynptrs[at]
            return give(draw.choice((SUBMIT, DISCARD)), at)
        to = self.free()
        if kind == 5 and to:
            self.dynptrs[to] = self.dynptrs[at]
            return [*fp(1, at), *fp(2, to), kfunc("bpf_dynptr_clone")]
        del self.dynptrs[at]
        return [Insn(draw.choice((ST, 0x72)), 10, 0, at + draw.choice((0, 8)), 5)]


def drawn(draw: random.Random) -> bytes:
    p = Draft(draw, draw.choice((0.0, 0.05, 0.2)))
    out = [Insn(MOVX, 9, 1, 0, 0), *(num(r, 0) for r in REGS), Insn(ST, 10, 0, ROOM, 5),
           Insn(ST, 10, 0, SPILL, 0)]  # fmt: skip
    for _ in range(draw.randrange(3, 14)):
        out += p.step(0)
    return encode([*out, *(p.ending() if draw.random() < 0.95 else []), *END])


def said(log: str) -> str:
    """The line that tells why."""
    return [line for line in ["", *log.splitlines()] if line and not line.startswith(DULL)
            or not line][-1]  # fmt: skip


def compare(seed: int) -> None:
    draw = random.Random(seed)
    oracle, verdicts = kernel.driver(), set()
    for _ in range(EACH):
        kind, insns = draw.choice(list(TYPES)), drawn(draw)
        theirs = oracle.kernel_verdict(insns, kind, maps=KERNEL_MAPS, license="GPL")
        if theirs.stats.get("processed", 0) > LARGEST:
            continue
        ours = verify(Program(insns, TYPES[kind], license="GPL", maps=MAPS, log_level=1,
                              kernel_btf=MACHINE))  # fmt: skip
        case = f"seed {seed}: {insns.hex()}"
        assert ours.errno == theirs.errno, (case, said(theirs.log), said(ours.log))
        assert not ours.errno or said(ours.log) == said(theirs.log), case
        verdicts.add(ours.errno == 0)
    assert verdicts == {True, False}


pytestmark = [pytest.mark.kernel, pytest.mark.skipif(not VMLINUX.exists(), reason=f"no {VMLINUX}")]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_kernel_says_the_same(seed: int) -> None:
    compare(seed)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_the_kernel_says_the_same_of_many() -> None:
    for seed in LONG_SEEDS:
        compare(seed)
