"""Which images need nothing of a hit: no register, no call of the runtime."""

from __future__ import annotations

import pytest

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.jit.build import build
from libbpf_shim.verifier.program import MapDesc, Program

_SOCKET, _KPROBE = 1, 2
_MOV, _LOAD, _CALL = 0xB7, 0x79, 0x85
_EXIT = Insn(0x95, 0, 0, 0, 0)
_ZERO = Insn(_MOV, 0, 0, 0, 0)

# instructions; whether the image looks at its context, and whether it calls nothing
CASES = {
    "nothing": ([_ZERO], False, True),
    "a register is read": ([Insn(_LOAD, 0, 1, 112, 0)], True, True),
    "the link's cookie, which needs the context's address alone": (
        [Insn(_CALL, 0, 0, 0, 174)], False, True),
    "the function's address": ([Insn(_CALL, 0, 0, 0, 173)], False, True),
    "a stack walk": (  # bpf_get_stack(ctx, fp - 8, 8, 0)
        [Insn(0x7A, 10, 0, -8, 0), Insn(0xBF, 2, 10, 0, 0), Insn(0x07, 2, 0, 0, -8),
         Insn(_MOV, 3, 0, 0, 8), Insn(_MOV, 4, 0, 0, 0), Insn(_CALL, 0, 0, 0, 67)], True, False),
    "the time": ([Insn(_CALL, 0, 0, 0, 5)], False, False),
    "a function of its own": (
        [Insn(_MOV, 1, 0, 0, 7), Insn(_CALL, 0, op.PSEUDO_CALL, 0, 1), _EXIT, _ZERO],
        False, True),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_image_says_what_it_needs(name: str) -> None:
    insns, context, bare = CASES[name]
    built = build(Program(encode([*insns, _EXIT]), _KPROBE, license="GPL"))
    assert built.image, built.verdict.log
    assert (built.image.context, built.image.bare) == (context, bare)


@pytest.mark.parametrize("helper, reads", [(5, True), (14, True), (7, False), (109, False)])
def test_an_image_whose_helpers_only_read_says_so(helper: int, reads: bool) -> None:
    """The time and who runs; a random number is of the run's owner, a signal changes something."""
    insns = [Insn(_MOV, 1, 0, 0, 0), Insn(_CALL, 0, 0, 0, helper), _ZERO, _EXIT]
    built = build(Program(encode(insns), _KPROBE, license="GPL"))
    assert built.image, built.verdict.log
    assert (built.image.reads, built.image.ends) == (reads, True)


@pytest.mark.parametrize("name", ["update", "reserve", "output to a perf ring", "tail call"])
def test_an_image_whose_helpers_change_maps_alone_says_so(name: str) -> None:
    """They look at nothing of the run that SHIM_PROG_MAPS does not name."""
    array = MapDesc(type=2, key_size=4, value_size=8, max_entries=4)
    on_stack = [Insn(0x62, 10, 0, -8, 0), Insn(0x7A, 10, 0, -16, 0), Insn(0xBF, 2, 10, 0, 0),
                Insn(0x07, 2, 0, 0, -8), Insn(0xBF, 3, 10, 0, 0), Insn(0x07, 3, 0, 0, -16)]
    a_map = [Insn(0x18, 1, 1, 0, 0), Insn(0, 0, 0, 0, 0)]
    insns, found, changes = {
        "update": ([*on_stack, *a_map, Insn(_MOV, 4, 0, 0, 0), Insn(_CALL, 0, 0, 0, 2)],
                   array, True),
        "reserve": ([*a_map, Insn(_MOV, 2, 0, 0, 8), Insn(_MOV, 3, 0, 0, 0),
                     Insn(_CALL, 0, 0, 0, 131), Insn(0x15, 0, 0, 3, 0), Insn(0xBF, 1, 0, 0, 0),
                     Insn(_MOV, 2, 0, 0, 0), Insn(_CALL, 0, 0, 0, 132)],
                    MapDesc(type=27, key_size=0, value_size=0, max_entries=4096), True),
        "output to a perf ring": (
            [Insn(0xBF, 6, 1, 0, 0), Insn(0x7A, 10, 0, -8, 0), Insn(0xBF, 4, 10, 0, 0),
             Insn(0x07, 4, 0, 0, -8), *a_map, Insn(0xBF, 2, 1, 0, 0), Insn(0xBF, 1, 6, 0, 0),
             Insn(_MOV, 3, 0, 0, 0), Insn(_MOV, 5, 0, 0, 8), Insn(_CALL, 0, 0, 0, 25)],
            MapDesc(type=4, key_size=4, value_size=4, max_entries=4), False),
        "tail call": (
            [Insn(0xBF, 6, 1, 0, 0), *a_map, Insn(0xBF, 2, 1, 0, 0), Insn(0xBF, 1, 6, 0, 0),
             Insn(_MOV, 3, 0, 0, 0), Insn(_CALL, 0, 0, 0, 12)],
            MapDesc(type=3, key_size=4, value_size=4, max_entries=4), False),
    }[name]
    built = build(Program(encode([*insns, _ZERO, _EXIT]), _KPROBE, maps=(found,), license="GPL"))
    assert built.image, built.verdict.log
    assert (built.image.reads, built.image.changes_maps) == (False, changes)


def test_an_image_with_a_way_that_no_run_takes_may_not_end_by_itself() -> None:
    insns = [Insn(_CALL, 0, 0, 0, 14), Insn(0x57, 0, 0, 0, 3), Insn(0x15, 0, 0, 2, 8), _ZERO,
             _EXIT, _ZERO, _EXIT]  # r0 = pid_tgid & 3; if r0 == 8
    built = build(Program(encode(insns), _KPROBE, license="GPL"))
    assert built.image and (built.image.reads, built.image.ends) == (True, False)


# instructions; type; whether the context may be changed, and whether the image ends by itself
_LEFT = {
    "nothing": ([_ZERO], _KPROBE, False, True),
    "a register is read": ([Insn(_LOAD, 0, 1, 112, 0)], _KPROBE, False, True),
    "a field is written": ([_ZERO, Insn(0x63, 1, 0, 48, 0)], _SOCKET, True, True),  # cb[0]
    "another program goes on": (
        [Insn(op.LD_IMM64, 2, op.PSEUDO_MAP_FD, 0, 0), Insn(0, 0, 0, 0, 0), Insn(_MOV, 3, 0, 0, 0),
         Insn(_CALL, 0, 0, 0, 12), _ZERO], _KPROBE, True, False),
}  # fmt: skip


@pytest.mark.parametrize("name", _LEFT)
def test_an_image_says_whether_registers_stay_as_they_are(name: str) -> None:
    insns, kind, writes, ends = _LEFT[name]
    array = MapDesc(3, 4, 4, 1)
    built = build(Program(encode([*insns, _EXIT]), kind, license="GPL", maps=(array,)))
    assert built.image, built.verdict.log
    assert (built.image.writes, built.image.ends) == (writes, ends)
