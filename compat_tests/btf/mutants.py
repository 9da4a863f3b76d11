"""BTF with every kind in it, and blobs that differ from it by a few bytes."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import SIGNED, Writer

CHAR = 2  # BTF_INT_CHAR


def every_kind() -> bytes:
    """A blob that the kernel takes."""
    out = Writer()
    number, byte = out.integer("int", 4, SIGNED), out.integer("char", 1, CHAR)
    wide = out.integer("u64", 8)
    pointer = out.ref(kinds.PTR, number)
    text = out.array(byte, number, 16)
    pair = out.struct("pair", 24, [("a", number, 0), ("b", number, 4), ("p", pointer, 8),
                                   ("q", wide, 16)])
    alias = out.ref(kinds.TYPEDEF, pair, "pair_t")
    out.ref(kinds.VOLATILE, out.ref(kinds.CONST, alias))
    out.ref(kinds.RESTRICT, pointer)
    opaque = out.ref(kinds.PTR, out.fwd("opaque"))
    choice = out.enum("e", [("A", 0), ("B", 5)])
    out.struct("nest", 64, [("n", pair, 0), ("arr", text, 24), ("e", choice, 40),
                            ("f", opaque, 48)])
    out.func("f", out.proto(number, [("x", number), ("y", opaque)]))
    listed = out.struct("list", 8, [("next", out.next_id + 1, 0)])
    out.ref(kinds.PTR, listed)
    add = out._add  # kinds that only tests write
    add("flt", kinds.FLOAT, 8)
    variable = add("gv", kinds.VAR, number, 0, struct.pack("<I", 1))
    add(".data", kinds.DATASEC, 4, 1, struct.pack("<III", variable, 0, 4))
    # the sizes of variables that are looked at from their section count for nothing
    later = out.next_id + 1
    add(".bss", kinds.DATASEC, 6, 2, struct.pack("<6I", later, 0, 1, later + 1, 1, 4))
    out.variable("later", pointer)
    out.variable("last", out.next_id + 1)
    out.ref(kinds.CONST, pair)
    add("tag", kinds.DECL_TAG, pair, 0, struct.pack("<i", 1))
    add("tt", kinds.TYPE_TAG, number)
    add("e64", kinds.ENUM64, 8, 1, struct.pack("<III", out.string("BIG"), 1, 2))
    add("u", kinds.UNION, 8, 2, struct.pack("<IIIIII", out.string("m"), number, 0,
                                            out.string("n2"), wide, 0))
    lock = out.struct("bpf_spin_lock", 4, [("val", number, 0)])
    out.struct("locked", 8, [("lock", lock, 0), ("x", number, 4)])
    return out.blob()


def mutants(seed: int, count: int) -> Iterator[bytes]:
    """So many, the same for a seed: bytes, words and bits changed, the end cut off."""
    rng, blob = random.Random(seed), every_kind()
    words = struct.unpack_from("<I", blob, 12)[0] // 4  # of the type section
    for _ in range(count):
        mutant, how = bytearray(blob), rng.randrange(6)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if how < 3:
                mutant[rng.randrange(len(mutant))] = rng.randrange(256)
                continue
            at = 4 * rng.randrange(6) if how == 5 else 24 + 4 * rng.randrange(words)
            old, = struct.unpack_from("<I", mutant, at)
            new = (rng.randrange(40) if how == 3 else old ^ 1 << rng.randrange(32) if how == 4
                   else old + rng.choice((-8, -4, -1, 1, 4, 8)))
            struct.pack_into("<I", mutant, at, new & 0xFFFFFFFF)
        if rng.random() < 0.05:
            del mutant[rng.randrange(len(mutant)) :]
        yield bytes(mutant)
