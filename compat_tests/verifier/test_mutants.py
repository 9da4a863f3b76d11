"""Programs that nobody has tuned a rule to: the kernel is asked, and we accept nothing it refuses.

Corpus programs with one or two tokens changed, and helper calls with arguments of any kind. The
seeds are fixed. Left out: programs with global functions, some of which are simulated from the
arguments that they get (verifier/functions.py), so that more are accepted than by the kernel.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import test_corpus as corpus
from libbpf_shim.btf.parse import Btf
from libbpf_shim.verifier import availability, helpers, map_helpers, verify
from libbpf_shim.verifier.facts import Verdict
from libbpf_shim.verifier.program import MapDesc, Program

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not corpus.CORPUS.exists(), reason=f"no {corpus.CORPUS.name}"),
]
TYPES = (1, 2, 3, 5, 6, 7, 17)
CHANGED = (*TYPES, 4, 8, 10, 11, 12, 31)  # whose corpus programs are changed
LONGEST = 200  # instructions of a program that is changed
LARGEST = 2000  # and that the kernel processed of it
GLOBAL = 1  # BTF_FUNC_GLOBAL
CALL, EXIT, LD_IMM64 = 0x85, 0x95, 0x18
IMMEDIATES = (0, 1, -1, 2, 4, 7, 8, 16, 31, 32, 33, 63, 64, 255, 4095, 65536, 2**31 - 1, -(2**31),
              -8, -16, -512)  # fmt: skip


def insn(code: int, dst: int = 0, src: int = 0, off: int = 0, imm: int = 0) -> bytes:
    return struct.pack("<BBhi", code, dst | src << 4, off, imm)


def has_globals(program: Program) -> bool:
    if not program.btf or program.func_info_rec_size < 8:
        return False
    btf = Btf(program.btf)
    rows = range(0, len(program.func_info) - 7, program.func_info_rec_size)
    pairs = [struct.unpack_from("<II", program.func_info, at) for at in rows]
    return any(at and btf.type(type_id).extra == GLOBAL for at, type_id in pairs)


def changed(code: bytes, rnd: random.Random) -> bytes:
    """One or two instructions get another opcode, register, offset or immediate."""
    out = bytearray(code)
    for _ in range(rnd.choice((1, 1, 1, 2))):
        at = 8 * rnd.randrange(len(out) // 8)
        op, _, off, imm = struct.unpack_from("<BBhi", out, at)
        if op in (0, LD_IMM64, CALL):
            continue
        what = rnd.randrange(6)
        if what == 0:
            struct.pack_into("<i", out, at + 4, rnd.choice(IMMEDIATES))
        elif what == 1:
            near = imm + rnd.choice((-8, -1, 1, 8))
            struct.pack_into("<i", out, at + 4, max(-(2**31), min(2**31 - 1, near)))
        elif what == 2:
            near = off + rnd.choice((-8, -4, -1, 1, 4, 8))
            struct.pack_into("<h", out, at + 2, max(-(2**15), min(2**15 - 1, near)))
        elif what == 3:
            out[at + 1] = out[at + 1] & 0xF0 | rnd.randrange(11)
        elif what == 4:
            out[at + 1] = out[at + 1] & 0x0F | rnd.randrange(11) << 4
        elif op != EXIT:
            out[at] = op & 7 | rnd.randrange(32) << 3
    return bytes(out)


def judge(theirs: Any, ours: Verdict, what: object, unsound: list[object]) -> int:
    """1 if both accept; what only we accept is noted."""
    if not theirs.ok and not ours.errno:
        unsound.append((what, theirs.log[-300:]))
    return int(theirs.ok and not ours.errno)


def mutants(count: int, seed: int) -> None:
    rnd, real = random.Random(seed), kernel.driver()
    rows, blobs = corpus.corpus()
    small = [r for r in rows if r["prog_type"] in CHANGED
             and len(r["insns_hex"]) <= 16 * LONGEST
             and ((r.get("stats") or {}).get("processed") or 0) < LARGEST]  # fmt: skip
    unsound: list[object] = []
    both = done = 0
    while done < count:
        row = dict(rnd.choice(small))
        if has_globals(corpus.program(row, blobs)):
            continue
        row["insns_hex"] = changed(corpus.instructions(row), rnd).hex()
        row["kfuncs"] = None
        given = {} if not row.get("btf_file") else {"btf": blobs[row["btf_file"]]}
        try:
            theirs = real.load_record(row | {"btf_file": ""}, log_level=1, **given)
        except real.BpfError:
            continue  # a map that this kernel does not make
        done += 1
        if theirs.stats.get("processed", 0) < 10 * LARGEST:
            ours = verify(corpus.program(row, blobs))
            both += judge(theirs, ours, (row["name"], row["insns_hex"]), unsound)
    assert not unsound, (len(unsound), unsound[:5])
    assert both > count // 20  # the changes leave some programs whole: the comparison is not empty


MAPS = (MapDesc(2, 4, 8, 16), MapDesc(1, 4, 8, 16), MapDesc(5, 4, 8, 16), MapDesc(4, 4, 4, 4),
        MapDesc(3, 4, 4, 4), MapDesc(7, 4, 1016, 16), MapDesc(8, 4, 4, 4),
        MapDesc(27, 0, 0, 4096), MapDesc(22, 0, 8, 16), MapDesc(17, 4, 4, 4))  # fmt: skip
KINDS = {helpers.MAP: "map", helpers.CTX: "ctx", helpers.SIZE: "size", helpers.SIZE0: "size",
         helpers.ALLOC: "size", helpers.ANY: "number"}  # fmt: skip


def argument(kind: str, r: int, rnd: random.Random) -> bytes:
    if kind == "map":
        return insn(LD_IMM64, r, 1) + insn(0)
    if kind == "ctx":
        return insn(0xBF, r, 6)
    if kind == "size":
        return insn(0xB7, r, imm=rnd.choice((0, 1, 4, 8, 16, 64, 65, 512)))
    if kind == "number":
        return insn(0xB7, r, imm=rnd.choice((0, 1, -1, 16)))
    if kind == "random":
        return insn(0xBF, r, 9)
    if kind == "stack":
        return insn(0xBF, r, 10) + insn(0x07, r, imm=rnd.choice((-64, -16, -8, -4)))
    return b""


def calls(count: int, seed: int) -> None:
    """r6 is the context, r9 a random number, 64 bytes of stack are set; then one call."""
    rnd, real = random.Random(seed), kernel.driver()
    pairs = [(t, h) for t in TYPES for h in sorted(helpers.PROTOS)
             if availability.allowed(t, 0, h)]  # fmt: skip
    unsound: list[object] = []
    both = 0
    for at in range(count):
        kind, number = pairs[at % len(pairs)]
        fits = [m for m in MAPS if m.type in map_helpers.HELPER_ONLY.get(number, ())]
        chosen = rnd.choice(fits if fits and rnd.random() < 0.8 else MAPS)
        code = insn(0xBF, 6, 1) + b"".join(insn(0x7A, 10, off=-8 * s) for s in range(1, 9))
        code += insn(CALL, imm=7) + insn(0xBF, 9)
        proto = helpers.proto(kind, number)
        assert proto
        for r in range(1, 6):
            word = proto.args[r - 1] & helpers.KIND if r <= len(proto.args) else 0
            right = KINDS.get(word, "stack") if word else "none"
            wrong = rnd.choice(("map", "ctx", "size", "number", "random", "stack", "none"))
            code += argument(right if rnd.random() < 0.8 else wrong, r, rnd)
        code += insn(CALL, imm=number)
        code += insn(0x79, 1) if rnd.random() < 0.2 else b""
        code += insn(0xB7) + insn(EXIT)
        license = rnd.choice(("GPL", "GPL", "MIT"))
        maps = [{"type": chosen.type, "key_size": chosen.key_size,
                 "value_size": chosen.value_size, "max_entries": chosen.max_entries}]  # fmt: skip
        theirs = real.kernel_verdict(code, kind, maps=maps, license=license, log_level=1)
        ours = verify(Program(code, kind, license=license, maps=(chosen,), log_level=1))
        both += judge(theirs, ours, (kind, helpers.name(number), code.hex()), unsound)
    assert not unsound, (len(unsound), unsound[:5])
    assert both > count // 10


def test_mutants_that_the_kernel_refuses_are_refused() -> None:
    mutants(1500, seed=1)


def test_calls_that_the_kernel_refuses_are_refused() -> None:
    calls(2500, seed=1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_mutants_that_the_kernel_refuses_are_refused() -> None:
    mutants(40_000, seed=2)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_calls_that_the_kernel_refuses_are_refused() -> None:
    calls(80_000, seed=2)


@pytest.mark.parametrize("code", [c for c in range(256) if c != LD_IMM64])
def test_opcodes_that_the_kernel_does_not_know_are_refused(code: int) -> None:
    program = insn(0xB7) + insn(code) + insn(0xB7) + insn(EXIT)
    theirs = kernel.driver().kernel_verdict(program, 1, log_level=1)
    ours = verify(Program(program, 1, log_level=1))
    words = "unknown opcode"
    assert (words in theirs.log) == (words in ours.log), (theirs.log, ours.log)
    assert theirs.ok or ours.errno
