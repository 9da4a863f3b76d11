"""What programs of fuzz_objects.py are made of: types, maps, helpers' numbers, places."""

from __future__ import annotations

import struct
from functools import lru_cache

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf
from libbpf_shim.btf.write import Writer as BtfWriter
from libbpf_shim.isa import Insn
from libbpf_shim.isa import insn as op
from libbpf_shim.object.map_btf import MapTypes
from libbpf_shim.verifier.program import MapDesc

SOCKET, CLS, XDP = 1, 3, 6
MOV, MOVX, ADD, ADDX, AND, JEQ, JNE, JGT, JA = 0xB7, 0xBF, 0x07, 0x0F, 0x57, 0x15, 0x55, 0x25, 0x05
LDX, LDXW, STX, STXW, ST, STW = 0x79, 0x61, 0x7B, 0x63, 0x7A, 0x62
EXIT = Insn(op.JMP | op.EXIT, 0, 0, 0, 0)
LOOKUP, RANDOM, CSUM, LOCK, UNLOCK = 1, 7, 28, 93, 94
TIMER, TIMER_CALLBACK, TIMER_START, TIMER_CANCEL = 169, 170, 171, 172
XCHG, RESERVE, SUBMIT, DISCARD, LOOP = 194, 131, 132, 133, 181
FROM_MEM, RING_DYNPTR, RING_SUBMIT, RING_DISCARD, READ, WRITE, DATA = (
    197, 198, 199, 200, 201, 202, 203)  # fmt: skip
# Of the value: behind its lock. Of a node: data behind its links.
HEAD, ROOT, CLOCK, KPTR, NUMBER, VALUE_SIZE = 8, 24, 40, 56, 64, 80
TREE_LINK = 24  # in a node, behind the list's
NODE_DATA, REFCOUNT = 56, 64
KEY, DYN, OTHER_DYN, ITER, FLAGS, BITS, BUFFER, KEPT = -16, -32, -48, -56, -64, -72, -96, -104
RING = 1


class Types:
    """BTF: values' and nodes' types, main and its functions. shared: nodes have a refcount."""

    def __init__(self, shared: bool) -> None:
        out = BtfWriter()
        self.u32 = out.integer("unsigned int", 4)
        u64 = out.integer("unsigned long", 8)
        words = {n: out.array(u64, self.u32, n) for n in (2, 3, 4)}
        lock = out.struct("bpf_spin_lock", 4, [("val", self.u32, 0)])
        item = out.struct("bpf_list_node", 24, [("__opaque", words[3], 0)])
        head = out.struct("bpf_list_head", 16, [("__opaque", words[2], 0)])
        leaf = out.struct("bpf_rb_node", 32, [("__opaque", words[4], 0)])
        root = out.struct("bpf_rb_root", 16, [("__opaque", words[2], 0)])
        timer = out.struct("bpf_timer", 16, [("__opaque", words[2], 0)])
        members = [("n", item, 0), ("r", leaf, TREE_LINK), ("data", u64, NODE_DATA)]
        if shared:
            count = out.struct("bpf_refcount", 4, [("__opaque", self.u32, 0)])
            self.list = self.tree = out.struct("node", 72, [*members, ("ref", count, REFCOUNT)])
        else:
            self.list = out.struct("node", 64, [("n", item, 0), ("data", u64, NODE_DATA)])
            self.tree = out.struct("leaf", 64, [("r", leaf, TREE_LINK), ("data", u64, NODE_DATA)])
        self.plain = out.struct("plain", 16, [("a", u64, 0), ("b", u64, 8)])
        kept = out.ref(kinds.PTR, out.ref(kinds.TYPE_TAG, self.plain, "kptr"))
        self.value = out.struct("value", VALUE_SIZE, [
            ("lock", lock, 0), ("head", head, HEAD), ("root", root, ROOT), ("t", timer, CLOCK),
            ("kept", kept, KPTR), ("a", u64, NUMBER), ("b", u64, NUMBER + 8)])  # fmt: skip
        out.decl_tag("contains:node:n", self.value, 1)
        out.decl_tag(f"contains:{'node' if shared else 'leaf'}:r", self.value, 2)
        pointer = out.ref(kinds.PTR, 0)
        self.main = out.func("main", out.proto(u64, [("ctx", pointer)]))
        self.function = out.func("function", out.proto(u64, [
            (name, pointer) for name in ("a", "b", "c")]), 0)  # fmt: skip
        self.blob = out.blob()
        found = MapTypes(Btf(self.blob), 2, 0, 1, 4, VALUE_SIZE, self.u32, self.value).fields
        value = MapDesc(2, 4, VALUE_SIZE, 1, btf=self.blob, btf_key_type_id=self.u32,
                        btf_value_type_id=self.value,
                        fields=tuple((f.name, f.offset) for f in found))  # fmt: skip
        self.maps = (value, MapDesc(27, 0, 0, 4096))

    def rows(self, entries: list[int]) -> bytes:
        return struct.pack("<II", 0, self.main) + b"".join(
            struct.pack("<II", at, self.function) for at in entries)


types = lru_cache(maxsize=2)(Types)
Block = list[Insn]


def at(reg: int, base: int, off: int) -> Block:
    return [Insn(MOVX, reg, base, 0, 0), Insn(ADD, reg, 0, 0, off)]


def num(reg: int, value: int) -> Insn:
    return Insn(MOV, reg, 0, 0, value)


def unless_null(block: Block, reg: int = 0) -> Block:
    return [Insn(JEQ, reg, 0, len(block), 0), *block]
