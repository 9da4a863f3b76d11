"""Lean entries: what is saved is enough, and completed for a program that looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.agent.backend import Attacher, Backend, finish, start
from libbpf_shim.attach.agent import Conversation

CHANGED = ("rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11")  # by a call
NO_CONTEXT = int(lib.SHIM_PROG_NO_CONTEXT) | int(lib.SHIM_PROG_NO_STACKS)
# reads ip, orig_ax, cs and the distance of sp from the registers
LOOKS = ("movabs rcx, COUNTER+1; mov rax, [rdi+128]; mov [rcx], rax; mov rax, [rdi+120];"
         "mov [rcx+8], rax; mov rax, [rdi+136]; mov [rcx+16], rax; mov rax, [rdi+152];"
         "sub rax, rdi; mov [rcx+24], rax; mov rax, [rdi+112]; lock add [rcx+32], rax;"
         "xor eax, eax; ret")


def counts_and_spoils(counter: int) -> str:
    spoil = "".join(f"mov {name}, -1;" for name in CHANGED)
    return f"movabs rax, COUNTER+{counter}; lock inc qword ptr [rax]; {spoil} xor eax, eax; ret"


BARE = NO_CONTEXT | int(lib.SHIM_PROG_BARE)


def put(attacher: Attacher, talk: Conversation, *programs: tuple[str, int]) -> None:
    """Links of these images (assembly, flags) at `work`, from 1 on."""
    attacher.lean = True
    attacher.begin(talk)
    attacher.site(talk, "work")
    for number, (text, flags) in enumerate(programs, 1):
        attacher.link(talk, "work", attacher.image(talk, text), number, flags=flags)
    talk.patch(attacher.sites["work"], True)


@pytest.mark.parametrize("flags", [NO_CONTEXT, BARE], ids=["lean", "bare"])
def test_what_an_image_may_change_comes_back(
    flags: int, library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    backend.serve(1, lambda talk: put(attacher, talk, (counts_and_spoils(0), flags)))
    assert finish(start(library, victim, backend, "threads", 4, 20000)) == "bad 0"
    assert (backend.counter(0), backend.errors) == (80000, [])


def test_a_program_that_looks_finds_all_registers(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    backend.serve(1, lambda talk: put(
        attacher, talk, (counts_and_spoils(0), NO_CONTEXT), (LOOKS, 0)))
    assert finish(start(library, victim, backend, "threads", 1, 100)) == "bad 0"
    assert backend.errors == []
    assert backend.counter(0) == 100
    assert backend.counter(1) == attacher.symbols["work"]
    assert (backend.counter(2) + 1) % 2**64 == 0
    assert (backend.counter(3), backend.counter(4)) == (0x33, 168)
    assert backend.counter(5) == sum(range(100))


def test_what_a_program_puts_into_its_registers_is_what_the_function_gets(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    """rdi, which the function takes 1 more of, and rbx, which nobody has changed since."""
    changes = "inc qword ptr [rdi+112]; mov rax, [rdi+40]; mov [rdi+40], rax; xor eax, eax; ret"
    backend.serve(1, lambda talk: put(attacher, talk, (changes, 0)))
    assert finish(start(library, victim, backend, "threads", 1, 50)) == "bad 50"


@pytest.mark.parametrize("order", ["entry first", "return first"])
def test_a_return_gives_back_what_its_image_may_change(
    order: str, library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    """Two bare images on one function, in either order; what it returns is kept."""
    def attach(talk: Conversation) -> None:
        attacher.lean = True
        attacher.begin(talk)
        attacher.site(talk, "work")
        for number in (0, 1) if order == "entry first" else (1, 0):
            image = attacher.image(talk, counts_and_spoils(number))
            attacher.link(talk, "work", image, number, ret=bool(number), flags=BARE)
        talk.patch(attacher.sites["work"], True)

    backend.serve(1, attach)
    assert finish(start(library, victim, backend, "threads", 4, 20000)) == "bad 0"
    assert backend.errors == []
    assert (backend.counter(0), backend.counter(1)) == (80000, 80000)
    assert (backend.missed(0), backend.missed(1)) == (0, 0)


def test_a_bare_image_knows_its_run(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    """Cookie and function, and a virtual CPU that is its own meanwhile and nobody's afterwards."""
    vcpu = int(lib.SHIM_PROG_VCPU)
    looks = ("movabs rcx, COUNTER+1; mov rax, [rsi+24]; mov [rcx], rax; mov rax, [rsi+32];"
             "mov [rcx+8], rax; mov eax, [rsi+44]; cmp eax, 512; sbb rax, rax;"
             "sub [rcx+16], rax; xor eax, eax; ret")

    def attach(talk: Conversation) -> None:
        attacher.lean = True
        attacher.begin(talk)
        attacher.site(talk, "work")
        image = attacher.image(talk, looks)
        attacher.link(talk, "work", image, 1, flags=BARE | vcpu, cookie=1234)
        talk.patch(attacher.sites["work"], True)

    backend.serve(1, attach)
    assert finish(start(library, victim, backend, "threads", 1, 100)) == "bad 0"
    assert backend.errors == []
    assert (backend.counter(1), backend.counter(2)) == (1234, attacher.symbols["work"])
    assert backend.counter(3) + backend.missed(1) == 100
    assert backend.in_runs() == 0


# counts in the word of its virtual CPU by plain instructions, with time for who else is in it
PLAIN = ("mov eax, [rsi+44]; shl eax, 3; movabs rcx, COUNTER+8; add rax, rcx; mov rcx, [rax];"
         f"{'imul rcx, rcx, 1;' * 20} inc rcx; mov [rax], rcx; xor eax, eax; ret")


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("way", ["bare", "lean", "whole"])
def test_runs_have_a_virtual_cpu_alone(
    way: str, processes: int, library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    flags = int(lib.SHIM_PROG_VCPU) | {"bare": BARE, "lean": NO_CONTEXT, "whole": 0}[way]
    attachers = [attacher, *(Attacher(backend, attacher.symbols) for _ in range(processes - 1))]
    backend.serve(processes, lambda talk: put(attachers.pop(), talk, (PLAIN, flags)))
    started = [start(library, victim, backend, "threads", 6, 1000000) for _ in range(processes)]
    assert [finish(process) for process in started] == ["bad 0"] * processes
    assert backend.errors == []
    counted = sum(backend.counter(8 + cpu) for cpu in range(backend.ctl.nr_vcpus))
    assert counted + backend.missed(1) == 6000000 * processes
    assert backend.in_runs() == 0
