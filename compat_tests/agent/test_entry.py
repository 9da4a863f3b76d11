"""Entry probes: exact counts, threads, forks, filters, silence."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.agent.backend import Attacher, Backend, finish, start
from libbpf_shim.attach.agent import Conversation


def test_eight_threads_are_counted_exactly(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def answer(talk: Conversation) -> None:
        assert talk.hello.reason == lib.SHIM_SYNC_START
        assert talk.hello.nthreads == 1
        attacher.begin(talk)
        attacher.count(talk, "work", 0)

    backend.serve(1, answer)
    out = finish(start(library, victim, backend, "threads", 8, 50000))
    assert (out, backend.errors) == ("bad 0", [])
    assert (backend.counter(0), backend.missed(0)) == (400000, 0)


@pytest.mark.long
@pytest.mark.timeout(90)
def test_a_backend_that_is_busy_is_waited_for(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    """For more than the ten seconds that one has which stands still."""
    def answer(talk: Conversation) -> None:
        end = time.monotonic() + 11
        while time.monotonic() < end:
            pass
        attacher.begin(talk)
        attacher.count(talk, "work", 0)

    backend.serve(1, answer)
    out = finish(start(library, victim, backend, "threads", 1, 100))
    assert (out, backend.errors, backend.counter(0)) == ("bad 0", [], 100)


def test_a_window_of_several_instructions_is_patched_before_threads_exist(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.count(talk, "many", 0, orig=b"\x90" * 5)
        attacher.count(talk, "work", 1)

    backend.serve(1, answer)
    process = start(library, victim, backend, "spin")
    assert process.stdout and process.stdout.readline() == "ready\n"
    out, _ = process.communicate("x", timeout=20)
    did = int(out.split()[1])
    assert backend.errors == []
    # each thread may be between its two calls when it is told to stop, not more
    assert backend.counter(0) == backend.counter(1) == did


def test_the_newest_link_runs_first(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.site(talk, "work")
        for number in (1, 2, 3):
            image = attacher.image(
                talk,
                "movabs rcx, COUNTER+0; mov rax, [rcx]; imul rax, rax, 10;"
                f"add rax, {number}; mov [rcx], rax; xor eax, eax; ret",
            )
            attacher.link(talk, "work", image, number)
        talk.patch(attacher.sites["work"], True)

    backend.serve(1, answer)
    process = start(library, victim, backend, "lines")
    process.communicate("1\n", timeout=20)
    assert (backend.counter(0), backend.errors) == (321, [])


def test_the_program_sees_registers_and_the_site_address(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.site(talk, "work")
        image = attacher.image(
            talk,
            "movabs rcx, COUNTER+0; mov rax, [rdi+112]; lock add [rcx], rax;"
            "mov rax, [rdi+128]; mov [rcx+8], rax; mov rax, [rsi+32]; mov [rcx+16], rax;"
            "mov rax, [rsi+24]; mov [rcx+24], rax; xor eax, eax; ret",
        )
        attacher.link(talk, "work", image, 1, cookie=4711)
        talk.patch(attacher.sites["work"], True)

    backend.serve(1, answer)
    finish(start(library, victim, backend, "threads", 1, 100))
    assert backend.errors == []
    assert backend.counter(0) == sum(range(100))
    assert backend.counter(1) == backend.counter(2) == attacher.symbols["work"]
    assert backend.counter(3) == 4711


def test_fork_children_count_and_claim_their_own_slot(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.count(talk, "work", 0, flags=lib.SHIM_PROG_VCPU)

    backend.serve(1, answer)
    assert finish(start(library, victim, backend, "fork", 20, 1000)) == "bad 0"
    assert backend.errors == []
    assert (backend.counter(0), backend.missed(0)) == (20000, 0)
    assert backend.slots() == 21


def test_a_pid_filter_leaves_fork_children_out(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.count(talk, "work", 0, tgid=talk.hello.pid)
        attacher.count(talk, "work", 1, tgid=talk.hello.pid + 1)
        attacher.count(talk, "work", 2)

    backend.serve(1, answer)
    finish(start(library, victim, backend, "fork", 3, 100))
    assert backend.errors == []
    assert [backend.counter(i) for i in range(3)][0] == 0
    assert backend.counter(2) == 300


def test_a_dead_backend_and_a_disabled_link_are_silent_at_once(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        attacher.count(talk, "work", 0)

    backend.serve(1, answer)
    process = start(library, victim, backend, "lines")
    assert process.stdin and process.stdout

    def work(count: int) -> int:
        assert process.stdin and process.stdout
        process.stdin.write(f"{count}\n")
        process.stdin.flush()
        assert process.stdout.readline() == f"did {count} bad 0\n"
        return backend.counter(0)

    assert process.stdout.readline() == "ready\n"
    assert work(10) == 10
    backend.ctl.link[0].enabled = 0
    assert work(10) == 10
    backend.ctl.link[0].enabled = 1
    assert work(10) == 20
    backend.ctl.backend_lock[0] = lib.SHIM_BACKEND_DEAD
    assert work(10) == 20
    assert backend.missed(0) == 0
    finish(process)


@pytest.mark.parametrize("lean", [False, True], ids=["whole", "lean"])
def test_signal_handlers_inside_runs_neither_lose_hits_nor_break_the_target(
    library: Path, victim: Path, backend: Backend, attacher: Attacher, lean: bool
) -> None:
    attacher.lean = lean

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
    assert backend.counter(0) > 100000 * 0.9
    assert backend.in_runs() == 0


def test_a_runnable_runs_and_a_dead_end_in_it_gives_zero(
    library: Path, victim: Path, backend: Backend, attacher: Attacher
) -> None:
    def answer(talk: Conversation) -> None:
        attacher.begin(talk)
        good = attacher.image(talk, "mov eax, 42; ret")
        unreachable = talk.hello.syms[lib.SHIM_SYM_UNREACHABLE]
        bad = attacher.image(
            talk, f"push rbx; sub rsp, 512; mov r12, rsi; movabs rax, {unreachable};jmp rax; nop"
        )
        talk.runnable(prog_id=5, session=attacher.session, flags=1, image=good, cookie=0)
        talk.runnable(prog_id=6, session=attacher.session, flags=1, image=bad, cookie=0)

    for prog, expected in ((5, "0 42"), (6, "0 0"), (9, "-2 0")):
        attacher.images = 0
        backend.serve(1, answer)
        assert finish(start(library, victim, backend, "run", 1, prog)) == expected
        assert backend.errors == []
