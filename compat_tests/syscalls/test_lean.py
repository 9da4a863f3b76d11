"""Calls whose hook is the run of one image that calls nothing (csrc/agent/sys.S): what the program
is told, and that the caller has all it had, of registers, flags and the red zone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
from libbpf_shim._native import ffi, lib

from compat_tests.attach.host import LIBRARY, Counter, Host, Prog, Victim, by_hand, serving
from libbpf_shim.attach.attachment import Attachment, Event
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import read_maps
from libbpf_shim.rewrite.callregion import HEAD

Start = Callable[..., Victim]

GETPID, GETPPID, ROW, LEAN = 39, 110, 513, 2
TELLS = by_hand(
    "48b9", "mapval:0",  # movabs, %rcx
    "f048ff01",  # lock incq (%rcx)
    "488b4708 f048014108",  # mov 8(%rdi), %rax: the number; lock add %rax, 8(%rcx)
    "8b4704 482b4710 48894110",  # mov 4(%rdi), %eax: tid; sub 16(%rdi), %rax; mov %rax, 16(%rcx)
    "4883cfff 4883ceff 4883caff 4983c8ff 4983c9ff 4983caff 4983cbff",  # or $-1, the others
    "48c7c07fffffff 0404",  # mov $-129, %rax; add $4, %al: other flags
    "31c0 c3")  # fmt: skip


def watch(host: Host, event: int, vcpu: bool) -> tuple[Attachment, Counter]:
    prog = host.prog()
    image = replace(TELLS, bare=True, writes=False, needs_vcpu=vcpu)
    prog = Prog(prog.id, image, prog.maps)
    att = Attachment(
        link_id=host.number(), link=host.control.take_link(0), prog=prog,
        place=Event(event, str(event)), cookie=0, pid=0)  # fmt: skip
    host.delivery.attach(att)
    host.control.enable(att.link, True)
    return att, prog.maps[0]


def wanted(victim: Victim, nr: int) -> list[int]:
    """What the process's trampolines look at, for entry and exit."""
    library = Module(str(LIBRARY))
    root = library.find_object("shim_agent_root")
    assert root
    base = min(m.start for m in read_maps(victim.pid) if m.path == str(LIBRARY))
    at = base + root.vaddr - library.load_base + ffi.offsetof("struct shim_agent", "calls")
    with open(f"/proc/{victim.pid}/mem", "rb") as memory:
        memory.seek(at)
        memory.seek(int.from_bytes(memory.read(8), "little"))
        bytes_at = HEAD.unpack(memory.read(HEAD.size))[6]
        memory.seek(bytes_at)
        rows = memory.read(3 * ROW)
    return [rows[ROW + nr], rows[2 * ROW + nr]]


def ran(victim: Victim, test: str, host: Host) -> None:
    with serving(host):
        assert victim.say(f"{test} 3") == f"ran {test}"


@pytest.mark.parametrize("vcpu", [False, True])
def test_a_lean_call_leaves_everything_and_tells_number_thread_and_result(
    host: Host, start: Start, vcpu: bool
) -> None:
    _, entered = watch(host, lib.SHIM_EVENT_SYS_ENTER + GETPID, vcpu)
    _, left = watch(host, lib.SHIM_EVENT_SYS_EXIT + GETPID, vcpu)
    victim = start(host)
    assert wanted(victim, GETPID) == [LEAN, LEAN]
    ran(victim, "sites", host)
    for counter in (entered, left):
        assert [counter.word(0), counter.word(1)] == [3 * 16, 3 * 16 * GETPID]
    assert left.word(2) == 0  # getpid() of a process with one thread
    for test in ("jumps", "forks", "signals", "interrupted", "dlopen"):
        ran(victim, test, host)
    assert host.notices == []


def test_what_is_not_alone_at_a_call_is_not_lean(host: Host, start: Start) -> None:
    """Who detaches may leave it so until links come or go within the process."""
    _, first = watch(host, lib.SHIM_EVENT_SYS_ENTER + GETPID, False)
    victim = start(host)
    assert wanted(victim, GETPID) == [LEAN, 0]
    att, second = watch(host, lib.SHIM_EVENT_SYS_ENTER + GETPID, False)
    assert wanted(victim, GETPID) == [1, 0]
    ran(victim, "sites", host)
    assert [first.word(0), second.word(0)] == [48, 48]
    host.detach(att)
    ran(victim, "sites", host)
    assert [first.word(0), second.word(0)] == [96, 48]
    host.watch(lib.SHIM_EVENT_ALL_ENTER)
    assert wanted(victim, GETPID) == [1, 0]
    ran(victim, "sites", host)
    assert first.word(0) == 144


def test_threads_at_a_lean_call_are_each_counted(host: Host, start: Start) -> None:
    _, entered = watch(host, lib.SHIM_EVENT_SYS_ENTER + GETPPID, False)
    _, left = watch(host, lib.SHIM_EVENT_SYS_EXIT + GETPPID, False)
    victim = start(host)
    ran(victim, "threads", host)
    assert [entered.word(0), left.word(0)] == [2400, 2400]
