"""Programs that nobody has tuned a rule to: the kernel is asked, and we accept nothing it refuses.

Corpus programs with one or two tokens changed (test_calls.py has calls of helpers). The seeds
are fixed. Left out: programs with global functions, some of which are simulated from the
arguments that they get (verifier/call/functions.py), so that more are accepted than by the kernel.
"""

from __future__ import annotations

import random
import struct
from typing import Any

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier import test_corpus as corpus
from libbpf_shim.btf.parse import Btf
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.facts import Verdict
from libbpf_shim.verifier.program import Program

pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(not corpus.CORPUS.exists(), reason=f"no {corpus.CORPUS.name}"),
]
# program types whose corpus programs are changed
CHANGED = (*range(1, 20), 21, 22, 23, 24, 25, 30, 31)
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


def test_mutants_that_the_kernel_refuses_are_refused() -> None:
    mutants(1500, seed=1)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_many_mutants_that_the_kernel_refuses_are_refused() -> None:
    mutants(40_000, seed=2)


@pytest.mark.parametrize("code", [c for c in range(256) if c != LD_IMM64])
def test_opcodes_that_the_kernel_does_not_know_are_refused(code: int) -> None:
    program = insn(0xB7) + insn(code) + insn(0xB7) + insn(EXIT)
    theirs = kernel.driver().kernel_verdict(program, 1, log_level=1)
    ours = verify(Program(program, 1, log_level=1))
    words = "unknown opcode"
    assert (words in theirs.log) == (words in ours.log), (theirs.log, ours.log)
    assert theirs.ok or ours.errno
