"""What isolated programs do within their window, what happens at its bounds, what is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from compat_tests.isolation.world import MAPS, Application, compiled, facts_of
from compat_tests.verifier.asm import assemble
from libbpf_shim.errors import ShimError
from libbpf_shim.isa import Insn, encode
from libbpf_shim.isa import insn as op
from libbpf_shim.jit.image import Image

NO_PREALLOC = 1
LPM_TRIE, ARRAY_OF_MAPS = 11, 12


def image(text: str, **wrong: Any) -> Image:
    insns = encode(assemble(text))
    return compiled(insns, facts_of(insns, **wrong))


def test_what_is_in_the_window_works(app: Application) -> None:
    count = ("*(u32 *)(r10 - 4) = 1; r1 = map 0; r2 = r10; r2 += -4; call 1; "
             "if r0 == 0 goto out; r1 = 1; lock *(u64 *)(r0 + 8) += r1; "
             "r6 = *(u64 *)(r0 + 8); *(u64 *)(r0 + 16) = r6; out: r0 = 0; exit")
    assert not app.once(image(count, call_map={5: 0}), 5)
    assert (app.maps[0].word(9), app.maps[0].word(10)) == (5, 5)
    # the same by an index that is not known
    known = "*(u32 *)(r10 - 4) = 1"
    app.once(image(count.replace(known, "call 7; r0 = 1; *(u32 *)(r10 - 4) = r0"),
                   call_map={7: 0}), 5)
    assert app.maps[0].word(9) == 10


def test_hash_maps_work_and_helpers_read_what_is_given(app: Application) -> None:
    app.once(image(
        "*(u64 *)(r10 - 8) = 5; *(u64 *)(r10 - 32) = 7; *(u64 *)(r10 - 24) = 8; "
        "*(u64 *)(r10 - 16) = 9; r1 = map 1; r2 = r10; r2 += -8; r3 = r10; r3 += -32; r4 = 0; "
        "call 2; r1 = map 1; r2 = r10; r2 += -8; call 1; if r0 == 0 goto out; "
        "r6 = *(u64 *)(r0 + 16); r1 = value 0 + 0; *(u64 *)(r1 + 0) = r6; out: r0 = 0; exit",
        call_map={11: 1, 16: 1}))
    assert app.maps[0].word(0) == 9


def test_the_context_is_a_copy(app: Application) -> None:
    text = "r2 = *(u64 *)(r1 + 112); r3 = value 0 + 0; *(u64 *)(r3 + 0) = r2; " \
           "*(u64 *)(r1 + 112) = 0; r0 = 0; exit"
    assert not app.once(image(text, ctx_loads=frozenset(((112, 8),))), 4)
    assert app.maps[0].word(0) == 3  # of the last call


@pytest.mark.parametrize("reach", [
    "r1 = 0; r2 = *(u64 *)(r1 + 0); *(u64 *)(r10 - 8) = r2", "r1 = 4096; *(u8 *)(r1 + 0) = 1",
    "r1 = value 0 + 0; r1 += 0x7fffffff; r0 = *(u8 *)(r1 + 0); exit",
    "r1 = r10; r1 += 0x7fff0000; *(u64 *)(r1 + 0) = 1",
    "r1 = r10; r1 += -0x7fff0000; r2 = 1; lock *(u64 *)(r1 + 0) += r2",
    "r1 = 8; r2 = 64; call 16", "r1 = r10; r1 += -16; r2 = 0x7fffffff; call 16",
    "r1 = map 1; r2 = 8; call 1", "r1 = map 1; r2 = r10; r2 += -8; r3 = 16; r4 = 0; call 2",
])  # fmt: skip
def test_what_is_not_in_the_window_ends_the_program(app: Application, reach: str) -> None:
    wild = image(f"{reach}; r1 = value 0 + 0; *(u64 *)(r1 + 0) = 1; r0 = 0; exit",
                 call_map=dict.fromkeys(range(12), 1))
    att = app.attach(wild)
    app.run(1)
    assert app.contained(att)
    app.run(10)  # its link is silent: nothing happens any more
    assert app.silent(att) and not app.contained(att)
    assert app.maps[0].word(0) == 0
    app.host.detach(att)


def test_others_go_on(app: Application) -> None:
    good = app.attach(image("r1 = value 0 + 0; r2 = 1; lock *(u64 *)(r1 + 0) += r2; r0 = 0; exit"))
    bad = app.attach(image("r1 = 0; r0 = *(u64 *)(r1 + 0); exit"))
    app.run(7)
    assert app.contained(bad)
    assert app.maps[0].word(0) == 7
    assert not app.contained(good)
    for att in (good, bad):
        app.host.detach(att)


@pytest.mark.parametrize(("text", "says"), [
    ("r2 = map 3; r3 = 0; call 12; r0 = 0; exit", "no map for bpf_tail_call"),
    ("call one; exit; one: r2 = map 4; r3 = 0; call 12; r0 = 0; exit", "a tail call"),
    ("r1 = map 3; r2 = 8; r3 = 0; r4 = r10; call 198; r0 = 0; exit", "reserve_dynptr"),
    ("r1 = map 3; r2 = 12000; r3 = 0; call 131; r0 = 0; exit", "a record of more than"),
    ("r1 = r10; r2 = map 0; r3 = 1; call 169; r0 = 0; exit", "bpf_timer_init"),
    ("r1 = r10; r2 = 8; call 6; r0 = 0; exit", "bpf_trace_printk"),
    ("call one; exit; one: call two; exit; two: call one; exit", "deep"),
])  # fmt: skip
def test_what_cannot_be_tested_is_refused(text: str, says: str) -> None:
    insns = assemble(text)
    starts = sorted({0} | {at + 1 + i.imm for at, i in enumerate(insns)
                           if i.code == op.JMP | op.CALL and i.src == op.PSEUDO_CALL})
    with pytest.raises(ShimError, match=says):
        compiled(encode(insns), facts_of(encode(insns), subprogs=tuple(starts),
                                         stack_depth=(0,) * len(starts)),
                 MAPS[:4] if "no map" in says else MAPS)


@pytest.mark.parametrize("wrong", [
    {"subprogs": (0, 1), "stack_depth": (0, 0)}, {"seen": b"\1"}, {"subprogs": ()},
    {"stack_depth": ()}, {"call_map": {1: 9}}, {"host_stores": frozenset((0,))},
    {"kfuncs": {1: "host:any"}, "seen": b"\0\1\1\1"},
])  # fmt: skip
def test_facts_of_another_program_are_refused(wrong: dict[str, Any]) -> None:
    insns = encode([Insn(op.ST | op.MODE_MEM, 10, 0, -8, 1), Insn(op.JMP | op.CALL, 0, 0, 0, 1),
                    Insn(op.ALU64 | op.MOV, 0, 0, 0, 0), Insn(op.JMP | op.EXIT, 0, 0, 0, 0)])
    with pytest.raises(ShimError, match="isolated"):
        compiled(insns, facts_of(insns, **wrong))


@pytest.mark.parametrize("kind", [
    {"map_flags": NO_PREALLOC}, {"type": LPM_TRIE}, {"type": ARRAY_OF_MAPS},
    {"fields": (("bpf_timer", 0),)},
])  # fmt: skip
def test_maps_that_cannot_lie_in_a_window_are_refused(kind: dict[str, Any]) -> None:
    insns = encode(assemble("r0 = 0; exit"))
    with pytest.raises(ShimError, match="cannot be isolated"):
        compiled(insns, None, (replace(MAPS[1], **kind),))


def test_what_was_found_to_be_in_the_window_is_tested_again_when_it_changes(
    app: Application
) -> None:
    """The register of an access that went well has another value behind each of these."""
    for change in ("r1 = r7", "r1 += r8", "r1 = *(u64 *)(r10 - 8)", "r1 <<= 20",
                   "if r8 != 0 goto over; r1 = 1; over: r1 ^= r8"):
        text = (f"r7 = 4096; r8 = 0x7fff0000; *(u64 *)(r10 - 8) = r7; r1 = value 0 + 0; "
                f"r1 += 0; r2 = *(u64 *)(r10 - 16); *(u64 *)(r1 + 0) = 0; {change}; "
                "*(u64 *)(r1 + 8) = 1; r0 = 0; exit")
        assert app.once(image(text)), change
    assert app.maps[0].word(1) == 0


def test_a_lookup_that_is_not_tested_for_null_is_contained(app: Application) -> None:
    for test in ("", "if r0 != 0 goto on; on: ", "if w0 == 0 goto on; on: "):
        text = (f"r3 = 99; *(u32 *)(r10 - 4) = r3; r1 = map 0; r2 = r10; r2 += -4; call 1; {test}"
                "*(u64 *)(r0 + 0) = 1; r0 = 0; exit")
        assert app.once(image(text, call_map={6: 0})), test


def test_the_last_bytes_of_a_map_can_be_reached_past(app: Application) -> None:
    """What begins within is within: a page of nobody's is behind it."""
    for size in (8, 4):
        text = (f"r1 = value 2 + 0; r2 = {app.maps[2].file_size - 1}; r1 += r2; "
                f"*(u{8 * size} *)(r1 + 0) = 0; *(u64 *)(r1 + 4080) = 0; r0 = 0; exit")
        assert not app.once(image(text))


def test_threads_and_fork_children_have_stacks_of_their_own(app: Application) -> None:
    """Each counts on its own stack, and then in the map."""
    count = ("*(u64 *)(r10 - 8) = 0; r6 = 0; again: r1 = *(u64 *)(r10 - 8); r1 += 1; "
             "*(u64 *)(r10 - 8) = r1; r6 += 1; if r6 < 100 goto again; "
             "r1 = *(u64 *)(r10 - 8); r2 = value 0 + 0; lock *(u64 *)(r2 + 0) += r1; "
             "r0 = 0; exit")
    att = app.attach(image(count))
    assert app.say("threads 4 200") == "ran"
    assert app.say("fork 10") == "ran"
    assert app.maps[0].word(0) == 100 * (4 * 200 + 10)
    app.host.detach(att)


@pytest.mark.parametrize("load", [
    "r6 = *(u64 *)(r1 + 104); r2 = *(u64 *)(r6 + 8)",  # what the application passes
    "r6 = *(u64 *)(r1 + 104); r6 += 8; r1 = r10; r1 += -16; r2 = 8; r3 = r6; call 112; "
    "r2 = *(u64 *)(r10 - 16)",
])  # fmt: skip
def test_the_hosts_memory_is_read_and_the_agents_is_not(app: Application, load: str) -> None:
    keep = "; r3 = value 0 + 0; *(u64 *)(r3 + 0) = r2; r0 = 0; exit"
    facts = {"ctx_loads": frozenset(((104, 8),)), "host_loads": frozenset((1,))
             if "call" not in load else frozenset()}
    assert not app.once(image(load + keep, **facts))
    assert app.maps[0].memory[:8] == bytes(i * 7 & 0xFF for i in range(8, 16))
    root = app.target.root
    address = [Insn(op.LD_IMM64, 6, 0, 0, (root & 0xFFFFFFFF ^ 1 << 31) - (1 << 31)),
               Insn(0, 0, 0, 0, root >> 32)]
    insns = address + assemble(load.partition("; ")[2] + keep)
    app.maps[0].memory[:8] = b"\xff" * 8
    host = frozenset((2,)) if "call" not in load else frozenset()
    assert not app.once(compiled(encode(insns), facts_of(encode(insns), host_loads=host)))
    assert app.maps[0].word(0) == 0
