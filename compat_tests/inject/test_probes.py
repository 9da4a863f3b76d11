"""Injections with probes, hits and detachments, over and over, into a process that fights back."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator

import pytest

from compat_tests.clients.tool import SHIM, Session
from compat_tests.inject.targets import COMMANDS, HERE, HOSTILE, Target
from compat_tests.inject.test_verbs import verb
from compat_tests.victims import build
from libbpf_shim.elf.module import Module

LIMIT = 60.0  # seconds for what must happen
TRAMPOLINES = 64 << 10  # bytes that may be left


@pytest.fixture
def command() -> Iterator[list[str]]:
    """A copy of the target: other tests' are not to be met."""
    folder = build.private_copy({})
    copy = folder / "target"
    shutil.copy(COMMANDS["hostile"]()[0], copy)
    copy.chmod(0o755)
    yield [str(copy), "steady", *HOSTILE]
    shutil.rmtree(folder)


def loader(program: str, pid: int) -> list[str]:
    """cycles.c at the function of the program that every thread calls after each step."""
    module = Module(program)
    found = module.find("stepped")
    assert found
    made = build.make("cycles.bpf.o", [HERE / "cycles.bpf.c"], build.BPF_FLAGS,
                      compiler=build.CLANG, headers=[HERE / "counters.h"])
    binary = build.make("cycles", [HERE / "cycles.c"], [*build.WARN, "-O1"], ["-lbpf"])
    return [str(binary), str(made), program, f"{module.vaddr_to_offset(found.vaddr):x}", str(pid)]


def one_cycle(argv: list[str], target: Target) -> bool:
    """A loader attaches a uprobe, a uretprobe and a tracepoint of system calls, all are hit, and
    it ends. False: it was refused, with the reason."""
    with Session(SHIM.tool(argv), stdin=subprocess.PIPE) as tool:
        try:
            tool.until(b"READY\n")
        except AssertionError:
            assert tool.child.wait(LIMIT) == 1, tool.seen
            assert re.search(rb"process \d+: .+", tool.seen), tool.seen
            return False
        end = time.monotonic() + LIMIT
        while True:
            tool.seen = b""
            tool.send(b"\n")
            tool.until(b"\n")
            if all(map(int, tool.seen.split())):
                break
            assert time.monotonic() < end, f"not hit: {tool.seen!r}"
        target.works()
        assert tool.child.stdin
        tool.child.stdin.close()
        assert tool.end().status == 0
    return True


def left_alone(target: Target) -> None:
    end = time.monotonic() + LIMIT
    while left := target.ours():
        assert time.monotonic() < end, left
        time.sleep(0.01)  # between two looks, under the deadline above


def cycles(number: int, command: list[str]) -> None:
    done = 0
    with Target(command, guarded=True) as target:
        argv = loader(command[0], target.pid)
        target.works()
        states = []
        for _ in range(number):
            done += one_cycle(argv, target)
            left_alone(target)
            target.stands()
            states.append((target.size(), target.executable(), target.fds()))
            target.works()
        target.end()
    assert done > number // 2, "most were refused"
    second, last = states[1], states[-1]
    assert last[0] == second[0], "it has grown"
    assert max(size for _, size, _ in states) <= TRAMPOLINES
    assert all(fds == second[2] for _, _, fds in states[1:])


@pytest.mark.timeout(300)
def test_tools_attach_to_sixteen_busy_threads_and_leave_nothing(command: list[str]) -> None:
    cycles(3, command)


@pytest.mark.timeout(120)
def test_a_named_process_that_cannot_be_had_is_an_errno_and_a_line(command: list[str]) -> None:
    fenced = build.make("fenced", [HERE / "fenced.c"], [*build.WARN, "-O1"])
    quiet = [str(fenced), "kill-bpf", command[0], "nap"]
    with Target(quiet, guarded=True) as target:
        with Session(SHIM.tool(loader(command[0], target.pid))) as tool:
            done = tool.end()
        why = f"libbpf_shim: process {target.pid}: no agent: what its seccomp filter does to it "
        assert done.status == 1 and done.out.count(why) == 1, done.out
        assert "cycles: attach: Permission denied" in done.out
        assert target.ours() == []
        target.works()
        target.end()


@pytest.mark.timeout(300)
def test_detach_takes_a_tool_out_of_sixteen_busy_threads(command: list[str]) -> None:
    """While they tell its backend of the libraries that they load: those that have been told of
    when it leaves do not bring it back."""
    with Target(command, guarded=True) as target:
        with Session(SHIM.tool(loader(command[0], target.pid)), stdin=subprocess.PIPE) as tool:
            tool.until(b"READY\n")
            target.works()
            done = verb("detach", str(target.pid))
            assert (done.returncode, target.ours()) == (0, []), done.stderr
            target.works()
            assert tool.child.stdin
            tool.child.stdin.close()
            assert tool.end().status == 0
        target.works()
        target.end()


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_hundred_tools_attach_to_sixteen_busy_threads(command: list[str]) -> None:
    cycles(100, command)
