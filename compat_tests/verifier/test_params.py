"""Random prototypes of global functions, with tags, called with random arguments: errno and last
line are the kernel's."""

from __future__ import annotations

import random
import struct

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.fuzz import insn
from libbpf_shim.btf import kinds
from libbpf_shim.btf.write import Writer
from libbpf_shim.object.btf import MACHINE
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import Program

pytestmark = pytest.mark.kernel
TYPES = (1, 2, 3, 5, 6, 7, 17)
TAGS = ("ctx", "nonnull", "nullable", "arena", "trusted", "untrusted", "other")
GLOBAL = 1


def types(out: Writer) -> tuple[list[int], list[int]]:
    """Types of arguments, and of results."""
    long, char = out.integer("long", 8, 1), out.integer("char", 1, 1)
    u64 = out.integer("unsigned long long", 8)
    word = out.ref(kinds.TYPEDEF, u64, "__u64")
    color = out.enum("color", [("RED", 0)])
    some = out.struct("s", 8, [("a", long, 0)])
    empty = out.struct("empty", 0, [])
    nowhere = out.fwd("nowhere")
    contexts = [out.struct(name, 8, [("a", long, 0)]) for name in (
        "__sk_buff", "sk_buff", "xdp_md", "pt_regs", "bpf_perf_event_data",
        "bpf_raw_tracepoint_args", "bpf_dynptr")]  # fmt: skip
    regs = out.ref(kinds.TYPEDEF, contexts[3], "bpf_user_pt_regs_t")
    const = out.ref(kinds.CONST, some)
    array = out.array(char, char, 5)
    targets = [0, long, char, word, color, some, empty, nowhere, *contexts, regs, const, array]
    targets.append(out.ref(kinds.PTR, long))
    pointers = [out.ref(kinds.PTR, target) for target in targets]
    return [long, char, color, word, some, *pointers], [long, long, long, char, color, word, 0,
                                                        some, pointers[0]]  # fmt: skip


def case(rnd: random.Random) -> tuple[bytes, bytes, bytes]:
    """Instructions, BTF, func_info."""
    out = Writer()
    arguments, results = types(out)
    count = rnd.choice((1, 1, 2, 3, 5, 6))
    chosen = [rnd.choice(arguments) for _ in range(count)]
    proto = out.proto(rnd.choice(results), [(f"a{n}", t) for n, t in enumerate(chosen)])
    function = out.func("function", proto, GLOBAL)
    for n in range(count):
        for _ in range(rnd.choice((0, 0, 0, 1, 1, 2))):
            out.decl_tag("arg:" + rnd.choice(TAGS[:6] if rnd.random() < 0.95 else TAGS),
                         function, n)
    main = out.func("main", out.proto(arguments[0], [("ctx", arguments[5])]), 0)
    code = insn(0xBF, 6, 1) + insn(0x7A, 10, off=-8) + insn(0x7A, 10, off=-16)
    for r in range(1, 6):
        kind = rnd.randrange(7)
        if kind == 0:
            code += insn(0xB7, r, imm=rnd.choice((0, 0, 5)))
        elif kind == 1:
            code += insn(0xBF, r, 6)
        elif kind in (2, 3):
            code += insn(0xBF, r, 10) + insn(0x07, r, imm=rnd.choice((-16, -8, -4, 0)))
        elif kind == 4:
            code += insn(0xBF, r, 6) + insn(0x07, r, imm=8)
        elif kind == 5:
            code += insn(0x79, r, 10, -8)
        elif r > 1:  # nothing
            continue
    code += insn(0x85, 0, 1, 0, 2) + insn(0xB7) + insn(0x95)
    entry = len(code) // 8
    code += insn(0xB7) + insn(0x95)
    return code, out.blob(), struct.pack("<IIII", 0, main, entry, function)


def last(log: str) -> str:
    lines = [line for line in log.splitlines() if line and not line.startswith("processed")]
    return "\n".join(lines[-2:])


def differences(count: int, seed: int) -> tuple[list[tuple[str, ...]], int]:
    real = kernel.driver()
    found: list[tuple[str, ...]] = []
    both = 0
    for at in range(count):
        rnd = random.Random(seed << 32 | at)
        kind = rnd.choice(TYPES)
        code, btf, rows = case(rnd)
        theirs = real.kernel_verdict(code, kind, btf=btf, func_info=rows, log_level=1)
        ours = verify(Program(code, kind, license="GPL", btf=btf, func_info=rows,
                              func_info_rec_size=8, log_level=1, kernel_btf=MACHINE))  # fmt: skip
        both += theirs.ok and not ours.errno
        if theirs.ok and "is expected to be non-NULL" in ours.log:
            continue  # 6.18 lets NULL through to a function that reads there
        errno = 0 if theirs.ok else theirs.errno
        if errno != ours.errno or (errno and last(theirs.log) != last(ours.log)):
            found.append((str(at), last(theirs.log), last(ours.log)))
    return found, both


def test_global_functions_of_any_prototype() -> None:
    found, both = differences(400, seed=1)
    assert not found, (len(found), found[:3])
    assert both > 10
