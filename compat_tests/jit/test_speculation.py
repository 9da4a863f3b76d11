"""Code that holds a processor which runs ahead of a branch: it is there where a branch is what
bounds an index, and not where arithmetic does; and programs mean the same with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from compat_tests.eim import world
from compat_tests.isolation.world import KPROBE
from compat_tests.jit import native, stage
from compat_tests.verifier import generate
from libbpf_shim.isa import decode
from libbpf_shim.jit import tiers
from libbpf_shim.jit.image import Image
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.policy import FULL, MASKED, SFI, Policy
from libbpf_shim.verifier.program import Program

MASK, FENCE = bytes.fromhex("4d19d2 4d21d3"), bytes.fromhex("0faee8")  # sbb r10, r10; and r11, r10
FOUND = ("r6 = *(u32 *)(r1 + 104); *(u32 *)(r10 - 4) = 0; r2 = r10; r2 += -4; r1 = map 0; "
         "call 1; if r0 == 0 goto out; ")
END = "out: r0 = 0; exit"
STACK = ("r6 = *(u32 *)(r1 + 104); *(u64 *)(r10 - 16) = 0; *(u64 *)(r10 - 8) = 0; r0 = 0; "
         "r2 = r10; r2 += -16; ")
# name, program, indices that are held, fences where all accesses are to wait
CASES = [
    ("a branch bounds an index", f"{FOUND} if r6 > 7 goto out; r0 += r6; "
     f"r0 = *(u8 *)(r0 + 0); {END}", 1, 1),
    ("from above and below", f"{FOUND} if r6 s> 7 goto out; if r6 s< 2 goto out; r0 += r6; "
     f"r0 = *(u8 *)(r0 + 0); {END}", 1, 1),
    ("an equality does", f"{FOUND} if r6 != 3 goto out; r0 += r6; r0 = *(u8 *)(r0 + 0); {END}",
     1, 1),
    ("a mask does", f"{FOUND} r6 &= 7; r0 += r6; r0 = *(u8 *)(r0 + 0); {END}", 0, 1),
    ("a shift does", f"{FOUND} w6 >>= 29; r0 += r6; r0 = *(u8 *)(r0 + 0); {END}", 0, 1),
    ("a mask of more than the branch", f"{FOUND} r6 &= 15; if r6 > 7 goto out; r0 += r6; "
     f"r0 = *(u8 *)(r0 + 0); {END}", 1, 1),
    ("a constant", f"{FOUND} r0 += 7; r0 = *(u8 *)(r0 + 0); {END}", 0, 1),
    ("a constant in a register", f"{FOUND} r6 = 7; r0 += r6; r0 = *(u8 *)(r0 + 0); {END}", 0, 1),
    ("one of two constants", f"{FOUND} r7 = 7; if r6 == 0 goto on; r7 = 3; on: r0 += r7; "
     f"r0 = *(u8 *)(r0 + 0); {END}", 0, 1),
    ("of the stack", f"{STACK} if r6 > 15 goto out; r2 += r6; r0 = *(u8 *)(r2 + 0); {END}", 1, 1),
    ("the number is the destination", f"{STACK} if r6 > 15 goto out; r6 += r2; "
     f"r0 = *(u8 *)(r6 + 0); {END}", 1, 1),
    ("it is subtracted", f"{FOUND} if r6 > 7 goto out; r7 = 0; r7 -= r6; r0 -= r7; "
     f"r0 = *(u8 *)(r0 + 0); {END}", 1, 1),
    ("a loop's counter", f"{FOUND} r7 = 0; again: r1 = r0; r1 += r7; r2 = *(u8 *)(r1 + 0); "
     f"r7 += 1; if r7 < 8 goto again; {END}", 1, 2),
    ("a number that was on the stack", f"{FOUND} r6 &= 7; *(u64 *)(r10 - 16) = r6; "
     f"r6 = *(u64 *)(r10 - 16); r0 += r6; r0 = *(u8 *)(r0 + 0); {END}", 1, 1),
]  # fmt: skip


def policy(how: str, isolation: str = "") -> Policy:
    text = ("classes:\n  c: {entries: [sure], allow: [read(flags), 'helper(map_lookup_elem)', "
            f"'map(*)'], spectre: {how}}}\n")
    return replace(world.class_of(text, "c"), isolation=isolation)


def compiled(text: str, how: str, isolation: str = "", tier: int = 1) -> tuple[Program, Image]:
    held = policy(how, isolation)
    program = Program(world.encoded(text, held), KPROBE, license="GPL", maps=world.MAPS[:2],
                      policy=held)
    verdict = verify(replace(program, log_level=1))
    assert verdict.facts, verdict.log
    return program, tiers.compile_by(tier, program, verdict.facts)


@pytest.mark.parametrize(("text", "masks", "fences"), [case[1:] for case in CASES],
                         ids=[case[0] for case in CASES])
def test_what_a_branch_bounds_is_held(text: str, masks: int, fences: int) -> None:
    for isolation in ("", SFI):
        for how, found in (("off", (0, 0)), (MASKED, (masks, 0)), (FULL, (masks, fences))):
            code = compiled(text, how, isolation)[1].text
            assert (code.count(MASK), code.count(FENCE)) == found, (how, isolation)


def test_whatever_tier_is_asked_for_it_is_this_code() -> None:
    text = CASES[0][1]
    assert len({compiled(text, MASKED, tier=tier)[1].text for tier in (0, 1, 2)}) == 1
    program, _ = compiled(text, FULL)
    facts = verify(program).facts
    assert facts and not tiers.pays(program, replace(facts, helpers=frozenset((181,))))


def test_an_array_is_looked_up_within_it() -> None:
    """The index is of a map's value, so that it is compared when the program runs."""
    text = ("r6 = *(u32 *)(r1 + 104); *(u32 *)(r10 - 4) = r6; r2 = r10; r2 += -4; r1 = map 0; "
            "call 1; r0 = 0; exit")
    held = bytes.fromhex("4519d2 4521d3")  # sbb r10d, r10d; and r11d, r10d
    assert [compiled(text, how)[1].text.count(held) for how in ("off", MASKED, FULL)] == [0, 1, 1]


@pytest.mark.parametrize(("move", "low", "high"), [
    ("r2 += r6; r0 = *(u8 *)(r2 + 0)", 2, 5), ("r6 += r2; r0 = *(u8 *)(r6 + 0)", 2, 5),
    ("r7 = 0; r7 -= r6; r2 -= r7; r0 = *(u8 *)(r2 + 0)", -5, -2),
    ("r2 += r6; r0 = *(u8 *)(r2 + 0)", 0, 6), ("r2 += r6; r0 = *(u8 *)(r2 + 0)", 3, 3)])
def test_a_number_out_of_its_bounds_is_the_lower_one(move: str, low: int, high: int) -> None:
    """Which no run shows unless the bounds are wrong."""
    text = ("r6 = *(u32 *)(r1 + 104); r3 = 0x0706050403020100 ll; *(u64 *)(r10 - 16) = r3; "
            "*(u64 *)(r10 - 8) = 0; r0 = 0; r2 = r10; r2 += -16; if r6 > 7 goto out; "
            f"{move}; out: exit")
    held = policy(MASKED)
    program = Program(world.encoded(text, held), KPROBE, policy=held)
    at, i = [(at, i) for at, i in enumerate(decode(program.insns)) if i.code in (0x0F, 0x1F)][-1]
    wrong = {at: (i.dst == 2, low, high)}
    image = tiers.compile_by(1, program, replace(native.all_seen(program.insns), indices=wrong))
    given = [(image, n.to_bytes(4, "little").rjust(108, b"\0")) for n in range(8)]
    sign = -1 if low < 0 else 1
    assert [r0 for r0, _ in native.run_all(given)] == [
        n if low <= sign * n <= high else sign * low for n in range(8)]


@pytest.mark.parametrize("part", [0, pytest.param(1, marks=pytest.mark.long)])
def test_programs_mean_the_same(part: int) -> None:
    """Generated ones, with and without."""
    given: list[stage.Runs] = []
    held = 0
    for seed in range(100) if not part else range(100, 600):
        program = generate.generate(seed)
        if program.prog_type != stage.KPROBE:
            continue
        images = []
        for how in ("", MASKED, FULL):
            program = replace(program, policy=Policy(
                "any", "grants.yaml", b"", helpers=None, kfuncs=None, registers=True,
                untyped_reads=True, untyped_writes=True, spectre=how))
            facts = verify(program).facts
            if facts:
                images.append(tiers.compile_by(1, program, facts))
        if len(images) == 3:
            held += MASK in images[1].text
            given.append((program, seed, images))
    results = stage.run_all(given)
    assert len(results) == len(given) > 10 and held, held
    for (_, seed, _), (plain, *others, elsewhere) in zip(given, results, strict=True):
        if not plain.unlike(elsewhere):
            assert [plain.unlike(one) for one in others] == ["", ""], seed
