"""Random sequences of map commands: how hypothesis draws them, and what makes two replies alike.

An op is 8 drawn bytes, and eight zeros are no op: so a failing sequence shrinks to the few ops
that matter, each with its simplest arguments.
"""

from __future__ import annotations

import os

from hypothesis import strategies as st

from compat_tests.maps.drive import (
    BAD,
    BAD_FD,
    BYTES,
    JUNK_TAIL,
    NONE,
    OTHER_FD,
    UNORDERED,
    Cmd,
    Create,
    Op,
    Reply,
    Sequence,
)
from compat_tests.maps.model import OF_ELEMENTS, Check
from compat_tests.maps.rows import Row, Weights

# Flags of an element: mostly 0, then NOEXIST, EXIST, both, F_LOCK, bits that mean nothing.
FLAGS = (0,) * 18 + (1, 1, 1, 1, 2, 2, 2, 2, 3, 4, 5, 6, 8, 16, 1 << 32, 1 << 63)
MODES = (NONE, BAD, NONE << 2, BAD << 2, JUNK_TAIL, BAD_FD, OTHER_FD, BAD | BAD << 2)
RARE = 238  # of a byte: from here on it means something unusual
EVERY = 0xFFFFFFFF
CPUS = len(os.sched_getaffinity(0))
MANY = 128  # keys that one byte need not reach all of
PIECE = 64  # bytes drawn at once: eight ops, for each draw costs as much as an op


def _table(weights: Weights) -> list[Cmd]:
    """Command by a byte; 0 is no op."""
    rows = [cmd for cmd, weight in weights.items() for _ in range(weight)]
    return [Cmd.NOP, *(rows[n % len(rows)] for n in range(255))]


def _count(cmd: Cmd, create: Create, byte: int) -> int:
    entries = create.max_entries
    if cmd in (Cmd.BATCH_WALK, Cmd.DRAIN):
        return 1 + byte % (entries + 2)
    if create.style & UNORDERED and cmd in (Cmd.READ_BATCH, Cmd.TAKE_BATCH):
        return (0, entries * 2 + 2, 4096)[byte % 3]
    return (0, 1, 2, 3, entries, entries + 1, entries * 2, 60, 4096, EVERY)[byte % 10]


def _op(table: list[Cmd], create: Create, chunk: bytes) -> Op:
    cmd = table[chunk[0]]
    if cmd is Cmd.NOP:
        return Op(cmd)
    if cmd is Cmd.FREEZE and chunk[6] < RARE:
        cmd = Cmd.LOOKUP
    value = chunk[2] % (16 if create.values == BYTES else 8)
    flags = FLAGS[chunk[3] % len(FLAGS)]
    mode = MODES[chunk[4] % 8] if chunk[4] >= RARE else 0
    if create.style & UNORDERED and cmd is Cmd.TAKE_BATCH:
        mode &= ~(BAD | NONE | BAD << 2 | NONE << 2)  # a bucket is lost: which one is not told
    key = chunk[1] if create.max_entries <= MANY else chunk[1] | chunk[7] << 8
    if cmd is Cmd.RUN:
        return Op(cmd, key, value, flags, at=chunk[5] % 3)
    if cmd < Cmd.READ_BATCH or cmd >= Cmd.FREEZE:
        walk = cmd in (Cmd.BATCH_WALK, Cmd.DRAIN)
        return Op(cmd, key, value, flags if not walk or chunk[6] >= RARE else 0,
                  _count(cmd, create, chunk[5]) if walk else 0, mode)
    places = (0, 0, 2, 3) if create.style & UNORDERED else (0, 1, 1, 3)
    return Op(cmd, chunk[1], value, flags if chunk[6] & 1 else 0, _count(cmd, create, chunk[5]),
              mode, places[chunk[6] >> 1 & 3], 255 if chunk[7] >= RARE else chunk[7] % 4)


@st.composite
def sequences(draw: st.DrawFn, row: Row, length: int) -> Sequence:
    """Of one row; LENGTH/2 to LENGTH ops."""
    create = draw(st.sampled_from(row.creates()))
    pieces = draw(st.lists(st.binary(min_size=PIECE, max_size=PIECE),
                           min_size=length // 2 * 8 // PIECE, max_size=length * 8 // PIECE))
    table = _table(row.weights)
    ops = (_op(table, create, piece[at : at + 8]) for piece in pieces
           for at in range(0, PIECE, 8) if piece[at])
    return Sequence(create, row.keys(create), [op for op in ops if op.cmd],
                    draw(st.integers(0, CPUS - 1)))


def difference(row: Row, found: Sequence, kernel: Reply, shim: Reply) -> str:
    """Where the two part, with what led there; empty: nowhere."""
    if kernel.created != shim.created:
        return f"{found.create}\nMAP_CREATE: kernel {kernel.created}, shim {shim.created}"
    if row.check and not kernel.created:
        return _held(row.check, found, kernel, shim)
    if kernel.raw == shim.raw:
        return ""
    pairs = zip(kernel.answers(), shim.answers(), strict=True)
    at = next(n for n, (theirs, ours) in enumerate(pairs) if theirs != ours)
    return story(found, kernel, shim, at)


def _held(check: Check, found: Sequence, kernel: Reply, shim: Reply) -> str:
    """Each side by the row's model, and errors of the arguments by the other side."""
    for reply in (kernel, shim):
        wrong = check(found, reply.answers())
        if wrong:
            side = "kernel" if reply is kernel else "shim"
            return f"{story(found, kernel, shim, wrong[0])}\n       {side}: {wrong[1]}"
    for at, (theirs, ours) in enumerate(zip(kernel.answers(), shim.answers(), strict=True)):
        if theirs.ret != ours.ret and not {theirs.ret, ours.ret} <= OF_ELEMENTS:
            return story(found, kernel, shim, at)
    return ""


def story(found: Sequence, kernel: Reply, shim: Reply, at: int) -> str:
    """The ops up to number AT with the kernel's answers, and both answers to that one."""
    lines = [str(found.create)]
    theirs, ours = kernel.answers(), shim.answers()
    lines += [f"{n:4} {found.ops[n]}: {theirs[n]}" for n in range(at)]
    op = found.ops[at]
    return "\n".join([*lines, f"{at:4} {op}", f"       key: {found.key(op.key).hex()}",
                      f"       kernel: {theirs[at]}", f"       shim:   {ours[at]}"])
