"""Lean entries: what is saved is enough, and completed for a program that looks."""

from __future__ import annotations

from pathlib import Path

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


def test_what_an_image_may_change_comes_back(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    attacher.lean = True

    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.site(talk, "work")
        image = attacher.image(talk, counts_and_spoils(0))
        attacher.link(talk, "work", image, 1, flags=NO_CONTEXT)
        talk.patch(attacher.sites["work"], True)

    backend.serve(1, answer)
    assert finish(start(library, victim, backend, "threads", 4, 20000)) == "bad 0"
    assert (backend.counter(0), backend.errors) == (80000, [])


def test_a_program_that_looks_finds_all_registers(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    attacher.lean = True

    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.site(talk, "work")
        plain = attacher.image(talk, counts_and_spoils(0))
        attacher.link(talk, "work", plain, 1, flags=NO_CONTEXT)
        attacher.link(talk, "work", attacher.image(talk, LOOKS), 2)
        talk.patch(attacher.sites["work"], True)

    backend.serve(1, answer)
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
    attacher.lean = True

    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.site(talk, "work")
        image = attacher.image(
            talk, "inc qword ptr [rdi+112]; mov rax, [rdi+40]; mov [rdi+40], rax;"
                  "xor eax, eax; ret")
        attacher.link(talk, "work", image, 1)
        talk.patch(attacher.sites["work"], True)

    backend.serve(1, answer)
    assert finish(start(library, victim, backend, "threads", 1, 50)) == "bad 50"


def test_signal_handlers_inside_lean_runs_lose_no_hit(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    attacher.lean = True

    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.count(talk, "work", 0, flags=lib.SHIM_PROG_VCPU)
        attacher.count(talk, "work", 1, ret=True)

    backend.serve(1, answer)
    words = finish(start(library, victim, backend, "storm", 100000)).split()
    assert (words[1], backend.errors) == ("0", [])
    hits = 100000 + int(words[3])
    assert backend.counter(0) + backend.missed(0) == hits
    assert backend.counter(1) + backend.missed(1) == hits
    assert all(backend.ctl.vcpu[i].owner == 0 for i in range(8))
