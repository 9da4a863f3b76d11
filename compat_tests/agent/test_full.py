"""Hits without C by images that call helpers or look at registers (csrc/agent/full.S)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.agent.backend import Attacher, Backend, finish, start
from libbpf_shim.attach.agent import Conversation

NO_STACKS = int(lib.SHIM_PROG_NO_STACKS)
NO_CONTEXT = NO_STACKS | int(lib.SHIM_PROG_NO_CONTEXT)
ENDS, READS, VCPU = map(int, (lib.SHIM_PROG_ENDS, lib.SHIM_PROG_READS, lib.SHIM_PROG_VCPU))
MAPS = int(lib.SHIM_PROG_MAPS)
KEEPS = ENDS | int(lib.SHIM_PROG_KEEPS)
KEPT = ("rbx", "rbp", "r12", "r13", "r14", "r15")
# counter 0: hits; 1: those on an aligned stack; 2: OR of all that has to be 0; 3 to 5: the run's
# regs, prog_id, cookie; 7: whether it has a virtual CPU
LOOKS = ("movabs rcx, COUNTER+0; lock inc qword ptr [rcx]; lea rax, [rsp+8]; and eax, 15;"
         "cmp eax, 1; sbb rax, rax; lock sub [rcx+8], rax; mov rax, [rsi+128]; or rax, [rsi+104];"
         "or rax, [rsi+112]; or rax, [rsi+120]; or rax, [rsi+72];"
         "or eax, [rsi+52]; lock or [rcx+16], rax; mov rax, [rsi+8];"
         "sub rax, rdi; mov [rcx+24], rax; mov eax, [rsi+48]; mov [rcx+32], rax;"
         "mov rax, [rsi+24]; mov [rcx+40], rax; mov eax, [rsi+44]; cmp eax, 512; sbb rax, rax;"
         "lock sub [rcx+56], rax; or rax, -1; mov rcx, rax; mov rdx, rax; mov rdi, rax;"
         "mov rsi, rax; mov r8, rax; mov r9, rax; mov r10, rax; mov r11, rax; ret")


def attach(
    attacher: Attacher, text: str, flags: int, lean: bool
) -> Callable[[Conversation], None]:
    def answer(talk: Conversation) -> None:
        attacher.lean = lean
        attacher.begin(talk)
        attacher.site(talk, "work")
        attacher.link(talk, "work", attacher.image(talk, text), 1, flags=flags, cookie=4711)
        talk.patch(attacher.sites["work"], True)

    return answer


@pytest.mark.parametrize("vcpu", [0, VCPU], ids=["", "vcpu"])
@pytest.mark.parametrize("lean, flags", [
    (False, NO_STACKS), (True, NO_STACKS), (True, NO_CONTEXT), (True, NO_CONTEXT | ENDS),
    (False, NO_STACKS | KEEPS), (True, NO_STACKS | KEEPS)])
def test_an_image_has_its_whole_run_and_spoils_nothing(
    lean: bool, flags: int, vcpu: int, library: Path, victim: Path, backend: Backend,
    attacher: Attacher,
) -> None:
    """On whatever stack; one that is not even a multiple of 8 is aligned too."""
    backend.serve(1, attach(attacher, LOOKS, flags | vcpu, lean))
    assert finish(start(library, victim, backend, "askew", 900)) == "bad 0"
    assert backend.errors == []
    found = [backend.counter(n) for n in range(8)]
    assert found[0] + backend.missed(1) == 900
    if flags & ENDS or not flags & int(lib.SHIM_PROG_NO_CONTEXT):
        assert found[1] == found[0]
    assert found[2:6] == [0, 0, 7, 4711]
    assert found[7] == (found[0] if vcpu else 0)
    assert backend.in_runs() == 0


@pytest.mark.parametrize("flags", [0, ENDS, KEEPS])
@pytest.mark.parametrize("lean", [False, True], ids=["whole", "lean"])
def test_an_image_that_reads_knows_who_runs(
    lean: bool, flags: int, library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    """On a stack that is aligned."""
    looks = ("movabs rcx, COUNTER+0; lock inc qword ptr [rcx]; mov rax, [rsi+8]; sub rax, rdi;"
             "mov [rcx+8], rax; mov rax, [rsi+16]; mov eax, [rax+12]; mov [rcx+16], rax;"
             "mov rax, [rsi+24]; mov [rcx+24], rax; mov rax, [rsi+32]; mov [rcx+32], rax;"
             "mov eax, [rsi+44]; mov [rcx+40], rax; mov rax, [rsi]; movzx eax, word ptr [rax+88];"
             "mov [rcx+48], rax; lea rax, [rsp+8]; and eax, 15; or [rcx+56], rax;"
             "xor eax, eax; ret")
    backend.serve(1, attach(attacher, looks, NO_STACKS | READS | flags, lean))
    process = start(library, victim, backend, "askew", 300)
    assert finish(process) == "bad 0"
    assert backend.errors == []
    assert [backend.counter(n) for n in range(8)] == [
        300, 0, process.pid, 4711, attacher.symbols["work"], lib.SHIM_NO_VCPU,
        backend.ctl.nr_vcpus, 0]


@pytest.mark.parametrize("vcpu", [0, VCPU], ids=["", "vcpu"])
@pytest.mark.parametrize("flags", [0, ENDS, KEEPS])
@pytest.mark.parametrize("lean", [False, True], ids=["whole", "lean"])
def test_an_image_that_changes_maps_knows_whose_its_locks_are(
    lean: bool, flags: int, vcpu: int, library: Path, victim: Path, backend: Backend,
    attacher: Attacher,
) -> None:
    """And has reserved in no ring yet. Words that are not the run's lie where the next one's
    signal does, the stack being askew: none is sent."""
    looks = ("movabs rcx, COUNTER+0; lock inc qword ptr [rcx]; mov rax, [rsi+8]; sub rax, rdi;"
             "or rax, [rsi+72]; or [rcx+8], rax; mov rax, [rsi+16]; mov eax, [rax+12];"
             "mov [rcx+16], rax; mov rax, [rsi+24]; mov [rcx+24], rax; mov rax, [rsi+32];"
             "mov [rcx+32], rax; mov eax, [rsi+44]; cmp eax, 512; sbb rax, rax; sub [rcx+40], rax;"
             "mov rax, [rsi]; movzx eax, word ptr [rax+88]; mov [rcx+48], rax; mov eax, [rsi+40];"
             "mov [rcx+56], rax; or rax, -1; mov [rsi+104], rax; mov [rsi+112], rax;"
             "mov [rsi+120], rax; xor eax, eax; ret")
    backend.serve(1, attach(attacher, looks, NO_STACKS | MAPS | flags | vcpu, lean))
    process = start(library, victim, backend, "askew", 300)
    assert finish(process) == "bad 0"
    assert backend.errors == []
    hits, *found, owner = [backend.counter(n) for n in range(8)]
    assert hits + backend.missed(1) == 300
    assert found == [0, process.pid, 4711, attacher.symbols["work"], hits if vcpu else 0,
                     backend.ctl.nr_vcpus]
    slot, thread = owner >> lib.SHIM_OWNER_SLOT_SHIFT, owner & 4095
    assert slot and thread and backend.ctl.slot[slot].pid == process.pid
    assert backend.in_runs() == 0


@pytest.mark.parametrize("place", [0, 8, 16, 24, 40], ids=["r15", "r14", "r13", "r12", "rbx"])
@pytest.mark.parametrize("flags", [0, READS, READS | ENDS, ENDS, ENDS | VCPU, MAPS,
                                   MAPS | ENDS | VCPU])
@pytest.mark.parametrize("lean", [False, True], ids=["whole", "lean"])
def test_what_is_left_in_the_context_is_what_goes_on(
    lean: bool, flags: int, place: int, library: Path, victim: Path, backend: Backend,
    attacher: Attacher,
) -> None:
    """Of the registers that calls keep, too."""
    changes = f"movabs rcx, COUNTER+0; lock inc qword ptr [rcx]; inc qword ptr [rdi+{place}]; ret"
    backend.serve(1, attach(attacher, changes, NO_STACKS | flags, lean))
    found = finish(start(library, victim, backend, "askew", 300))
    assert backend.errors == [] and backend.counter(0) + backend.missed(1) == 300
    assert found == f"bad {backend.counter(0)}" and backend.counter(0)


@pytest.mark.parametrize("flags", [NO_STACKS, NO_STACKS | READS, NO_STACKS | VCPU, NO_CONTEXT,
                                   NO_STACKS | MAPS, NO_STACKS | MAPS | VCPU])
@pytest.mark.parametrize("lean", [False, True], ids=["whole", "lean"])
def test_a_dead_end_leaves_the_application_as_it_was(
    lean: bool, flags: int, library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    """Deep in an image's stack, every register spoilt."""
    def answer(talk: Conversation) -> None:
        spoil = "".join(f"mov {name}, -1;" for name in KEPT if name != "r12")
        out = talk.hello.syms[lib.SHIM_SYM_UNREACHABLE]
        text = ("movabs rcx, COUNTER+0; lock inc qword ptr [rcx]; push rbx; sub rsp, 520;"
                f"mov r12, rsi; {spoil} movabs rax, {out}; jmp rax; nop")
        attach(attacher, text, flags, lean)(talk)

    backend.serve(1, answer)
    assert finish(start(library, victim, backend, "askew", 300)) == "bad 0"
    assert (backend.errors, backend.counter(0), backend.missed(1)) == ([], 300, 0)
    assert backend.in_runs() == 0


def test_a_second_link_and_a_hit_inside_a_run_are_left_to_c(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    """A signal's hit comes at any instruction."""
    def answer(talk: Conversation) -> None:
        attach(attacher, LOOKS, NO_STACKS | VCPU, False)(talk)
        attacher.link(talk, "work", attacher.adder(talk, 9), 2, flags=NO_STACKS)

    backend.serve(1, answer)
    words = finish(start(library, victim, backend, "storm", 20000)).split()
    assert (words[1], backend.errors) == ("0", [])
    hits = 20000 + int(words[3])
    assert backend.counter(0) + backend.missed(1) == hits
    assert backend.counter(9) + backend.missed(2) == hits
