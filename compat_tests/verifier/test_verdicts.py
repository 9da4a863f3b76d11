"""One program a rule: the errno and the kernel's words; accept and reject differ by one token.

Each is loaded into the kernel too, where it allows bpf(2): same verdict, same errno.
"""

from __future__ import annotations

import pytest

from compat_tests.oracle import kernel
from compat_tests.verifier.asm import assemble
from libbpf_shim.isa import encode
from libbpf_shim.uapi.bpf import BPF_F_TEST_STATE_FREQ
from libbpf_shim.verifier import verify
from libbpf_shim.verifier.program import MapDesc, Program

KPROBE, SOCKET = 2, 1
HASH = MapDesc(1, 4, 8, 16)
PERCPU = MapDesc(5, 4, 8, 16)
PROGRAMS = MapDesc(3, 4, 4, 4)
MAPS = MapDesc(12, 4, 4, 4, inner=HASH)
ONE, FOUR = MapDesc(2, 4, 8, 1), MapDesc(2, 4, 8, 4)

EXIT = "95 00 0000 00000000"
ZERO = "b7 00 0000 00000000"
R2_IS_FP = "bf a2 0000 00000000"
KEY = "62 0a fcff 00000000 " + R2_IS_FP + " 07 02 0000 fcffffff"  # a key at fp-4, in r2
MAP = "18 11 0000 00000000 00 00 0000 00000000"  # r1 = map 0
LOOKUP = f"{KEY} {MAP} 85 00 0000 01000000"
NULL_CHECK = "15 00 0100 00000000"  # if r0 == 0 goto +1
RANDOM = "85 00 0000 07000000"
# once more from the start, if r0 is 1
AGAIN = f"{RANDOM} 55 00 0100 01000000 05 00 fbff 00000000 {ZERO} {EXIT}"
# r1 = the value of map 0, its first byte or the one behind it
VALUE, BEHIND = (f"18 21 0000 00000000 00 00 0000 {off}000000 {ZERO} {EXIT}"
                 for off in ("00", "08"))
# a tail call with r1 = context: r2 = map 0, r3 = 1
TAIL_CALL = "18 12 0000 00000000 00 00 0000 00000000 b7 03 0000 01000000 85 00 0000 0c000000"
# a lookup by key 0 in what r0 is, if that is a map
IN_IT = f"55 00 0200 00000000 {ZERO} {EXIT} bf 01 0000 00000000 {KEY} 85 00 0000 01000000"

# name, instructions, type, maps, errno, words of the log
CASES = [
    ("nothing but a result", f"{ZERO} {EXIT}", SOCKET, (), 0, "processed 2 insns"),
    ("no result", EXIT, SOCKET, (), 13, "R0 !read_ok"),
    ("a register never set", f"bf 30 0000 00000000 {EXIT}", SOCKET, (), 13, "R3 !read_ok"),
    ("no exit", ZERO, SOCKET, (), 22, "last insn is not an exit or jmp"),
    ("a jump out of the program", f"05 00 0500 00000000 {EXIT}", SOCKET, (), 22,
     "jump out of range"),
    ("code that nobody reaches", f"{ZERO} {EXIT} {ZERO} {EXIT}", SOCKET, (), 22,
     "unreachable insn 2"),
    ("an endless loop", f"{ZERO} 05 00 ffff 00000000 {EXIT}", SOCKET, (), 22, "unreachable"),
    ("an unknown helper", f"85 00 0000 0f270000 {EXIT}", SOCKET, (), 22,
     "invalid func unknown#9999"),
    ("a helper of another type", f"85 00 0000 33000000 {EXIT}", KPROBE, (), 22,
     "cannot use helper"),
    ("a write below the stack", f"7a 0a f8fd 01000000 {ZERO} {EXIT}", SOCKET, (), 13,
     "invalid write to stack R10 off=-520 size=8"),
    ("a write to the end of the stack", f"7a 0a 00fe 01000000 {ZERO} {EXIT}", SOCKET, (), 0, ""),
    ("a write through a number", f"b7 01 0000 40000000 79 10 0000 00000000 {EXIT}", SOCKET, (), 13,
     "R1 invalid mem access 'scalar'"),
    ("a write to the frame pointer", f"b7 0a 0000 00000000 {EXIT}", SOCKET, (), 13,
     "frame pointer is read only"),
    ("a register of pt_regs", f"79 10 7000 00000000 {EXIT}", KPROBE, (), 0, ""),
    ("what lies behind pt_regs", f"79 10 a800 00000000 {EXIT}", KPROBE, (), 13,
     "invalid bpf_context access off=168 size=8"),
    ("a store into pt_regs", f"7a 01 0000 00000000 {ZERO} {EXIT}", KPROBE, (), 13,
     "invalid bpf_context access"),
    ("a map value after its check",
     f"{LOOKUP} {NULL_CHECK} 79 00 0000 00000000 {ZERO} {EXIT}", KPROBE, (HASH,), 0, ""),
    ("a map value without a check", f"{LOOKUP} 79 00 0000 00000000 {ZERO} {EXIT}", KPROBE, (HASH,),
     13, "R0 invalid mem access 'map_value_or_null'"),
    ("beyond a map value", f"{LOOKUP} {NULL_CHECK} 79 00 0800 00000000 {ZERO} {EXIT}", KPROBE,
     (HASH,), 13, "invalid access to map value, value_size=8 off=8 size=8"),
    ("division by the constant 0", f"{ZERO} 37 00 0000 00000000 {EXIT}", SOCKET, (), 22,
     "div by zero"),
    ("a shift by the width", f"{ZERO} 67 00 0000 40000000 {EXIT}", SOCKET, (), 22,
     "invalid shift 64"),
    ("a loop of ten rounds", f"{ZERO} 07 00 0000 01000000 a5 00 feff 0a000000 {EXIT}", SOCKET, (),
     0, ""),
    ("a loop without an end", f"{RANDOM} b7 07 0000 00000000 {AGAIN}", SOCKET, (), 22,
     "infinite loop detected at insn 3"),
    ("a loop without an end that copies a number", f"{RANDOM} bf 07 0000 00000000 {AGAIN}", SOCKET,
     (), 14, "The sequence of 8193 jumps is too complex."),
    ("an atomic on the stack", f"7a 0a f8ff 01000000 b7 01 0000 01000000 db 1a f8ff 00000000 "
                               f"{ZERO} {EXIT}",
     SOCKET, (), 0, ""),
    ("an atomic that is not aligned",
     f"{LOOKUP} {NULL_CHECK} c3 00 0300 00000000 {ZERO} {EXIT}", KPROBE, (HASH,), 13,
     "misaligned"),
    ("a tail call", f"{TAIL_CALL} {ZERO} {EXIT}", SOCKET, (PROGRAMS,), 0, ""),
    ("the result of a tail call", f"{TAIL_CALL} {EXIT}", SOCKET, (PROGRAMS,), 13, "R0 !read_ok"),
    ("a tail call by a map of something else", f"{TAIL_CALL} {ZERO} {EXIT}", SOCKET, (HASH,), 22,
     "expected prog array map for tail call"),
    ("a tail call by a map of maps", f"{TAIL_CALL} {ZERO} {EXIT}", SOCKET, (MAPS,), 22,
     "expected prog array map for tail call"),
    ("a tail call with the stack", f"bf a1 0000 00000000 {TAIL_CALL} {ZERO} {EXIT}", SOCKET,
     (PROGRAMS,), 13, "R1 type=fp expected=ctx"),
    ("a tail call with a part of the context", f"07 01 0000 08000000 {TAIL_CALL} {ZERO} {EXIT}",
     SOCKET, (PROGRAMS,), 13, "dereference of modified ctx ptr R1 off=8 disallowed"),
    ("a program as a value", f"{LOOKUP} {ZERO} {EXIT}", SOCKET, (PROGRAMS,), 22,
     "cannot pass map_type 3 into func bpf_map_lookup_elem#1"),
    ("a value of a map in a map",
     f"{LOOKUP} {IN_IT} {NULL_CHECK} 79 00 0000 00000000 {ZERO} {EXIT}", SOCKET, (MAPS,), 0, ""),
    ("a map in a map without a check",
     f"{LOOKUP} bf 01 0000 00000000 {KEY} 85 00 0000 01000000 {ZERO} {EXIT}", SOCKET, (MAPS,), 13,
     "R1 type=map_value_or_null expected=map_ptr"),
    ("beyond a value of a map in a map",
     f"{LOOKUP} {IN_IT} {NULL_CHECK} 79 00 0800 00000000 {ZERO} {EXIT}", SOCKET, (MAPS,), 13,
     "invalid access to map value, value_size=8 off=8 size=8"),
    ("arithmetic on a map",
     f"{LOOKUP} 55 00 0200 00000000 {ZERO} {EXIT} 07 00 0000 08000000 {ZERO} {EXIT}", SOCKET,
     (MAPS,), 13, "R0 pointer arithmetic on map_ptr prohibited"),
    ("another map into a map of maps",
     f"{KEY} {MAP} bf 23 0000 00000000 b7 04 0000 00000000 85 00 0000 02000000 {ZERO} {EXIT}",
     SOCKET, (MAPS,), 22, "cannot pass map_type 12 into func bpf_map_update_elem#2"),
    ("an array's value", VALUE, SOCKET, (ONE,), 0, ""),
    ("behind an array's value", BEHIND, SOCKET, (ONE,), 22,
     "invalid access to map value pointer, value_size=8 off=8"),
    ("the value of an array of four", VALUE, SOCKET, (FOUR,), 524,
     "invalid access to map value pointer, value_size=8 off=0"),
    ("the value of a hash", VALUE, SOCKET, (HASH,), 22,
     "no direct value access support for this map type"),
    ("a map in a map as a result", f"{LOOKUP} {EXIT}", SOCKET, (MAPS,), 0, ""),
]  # fmt: skip
NAMES = [case[0] for case in CASES]


def build(text: str, prog_type: int, maps: tuple[MapDesc, ...]) -> Program:
    return Program(bytes.fromhex(text.replace(" ", "")), prog_type, license="GPL", maps=maps,
                   log_level=1)


@pytest.mark.parametrize(("name", "text", "kind", "maps", "errno", "words"), CASES, ids=NAMES)
def test_verdict(
    name: str, text: str, kind: int, maps: tuple[MapDesc, ...], errno: int, words: str
) -> None:
    verdict = verify(build(text, kind, maps))
    assert verdict.errno == errno, verdict.log
    assert words in verdict.log
    assert "processed" in verdict.log and "insns (limit 1000000)" in verdict.log
    assert (verdict.facts is None) == bool(errno)


def test_without_a_log_level_there_is_no_log() -> None:
    program = Program(bytes.fromhex((ZERO + EXIT).replace(" ", "")), SOCKET)
    assert verify(program).log == ""


def test_facts_name_what_the_program_uses() -> None:
    text = f"{LOOKUP} {NULL_CHECK} 7a 00 0000 01000000 {ZERO} {EXIT}"
    facts = verify(build(text, KPROBE, (PERCPU,))).facts
    assert facts and facts.percpu and facts.helpers == {1} and facts.maps == {0}
    facts = verify(build(text, KPROBE, (HASH,))).facts
    assert facts and not facts.percpu


def test_a_branch_never_taken_is_not_seen() -> None:
    text = f"{ZERO} 55 00 0100 00000000 {EXIT} b7 00 0000 07000000 {EXIT}"
    facts = verify(build(text, SOCKET, ())).facts
    assert facts and list(facts.seen) == [1, 1, 1, 0, 0]


def test_stack_that_was_never_written_is_noted() -> None:
    text = f"79 a0 f8ff 00000000 {EXIT}"
    facts = verify(build(text, SOCKET, ())).facts
    assert facts and facts.reads_unset
    text = f"7a 0a f8ff 00000000 79 a0 f8ff 00000000 {EXIT}"
    facts = verify(build(text, SOCKET, ())).facts
    assert facts and not facts.reads_unset


def test_stack_that_one_of_two_paths_has_not_written_is_noted() -> None:
    """The second is not run on: nothing was decided by what the first has written. In its state
    the slot is empty, or the stack does not reach so far."""
    def program(before: str, second: str) -> Program:
        text = (f"r6 = *(u32 *)(r1 + 8); r7 = *(u32 *)(r1 + 12); {before}; if r7 > 5 goto other; "
                f"*(u8 *)(r10 - 7) = r6; goto merged; other: {second}; "
                "merged: r7 = 0; r0 = *(u8 *)(r10 - 7); r0 = 0; exit")
        return Program(encode(assemble(text)), SOCKET, license="GPL", log_level=2,
                       prog_flags=BPF_F_TEST_STATE_FREQ)

    for before in "r0 = 0", "*(u64 *)(r10 - 16) = 0":
        for second, unset in ("r0 = 0", True), ("*(u8 *)(r10 - 7) = r6", False):
            verdict = verify(program(before, second))
            assert ": safe" in verdict.log
            assert verdict.facts and verdict.facts.reads_unset == unset, (before, second)


def row(m: MapDesc) -> dict[str, object]:
    """As the kernel's driver takes it."""
    found: dict[str, object] = {"type": m.type, "key_size": m.key_size,
                                "value_size": m.value_size, "max_entries": m.max_entries}
    return {**found, "inner": row(m.inner)} if m.inner else found


@pytest.mark.kernel
@pytest.mark.parametrize(("name", "text", "kind", "maps", "errno", "words"), CASES, ids=NAMES)
def test_kernel_agrees(
    name: str, text: str, kind: int, maps: tuple[MapDesc, ...], errno: int, words: str
) -> None:
    rows = [row(m) for m in maps]
    kinds = {SOCKET: "socket_filter", KPROBE: "kprobe"}
    found = kernel.driver().kernel_verdict(bytes.fromhex(text.replace(" ", "")), kinds[kind],
                                    maps=rows or None, license="GPL")  # fmt: skip
    assert found.errno == errno, found.log
    assert words in found.log
