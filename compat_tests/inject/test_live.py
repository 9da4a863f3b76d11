"""Tools that attach to what runs already and knows nothing of the shim: exact counts, and nothing
of ours is left in it afterwards."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from compat_tests.clients.processes import Eight, Victim, computed
from compat_tests.clients.tool import SHIM, Session, Terminal, Way
from compat_tests.guard import launch
from compat_tests.inject.targets import COMMANDS, HERE, Target
from compat_tests.victims import build
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.target import look
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError

LIMIT = 30.0  # seconds for what must happen
pytestmark = pytest.mark.timeout(180)


class Bare(Way):
    """The tool under the shim, its targets without."""

    def target(self, argv: list[str]) -> list[str]:
        return launch.guarded(argv)


def soon(what: str, holds: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < end, f"after {LIMIT} s: {what}"
        time.sleep(0.02)  # between two looks, under the deadline above


class Reads(Session):
    """reads.c on a function of a program, with the four counters of its object: of reads.bpf.c,
    hits, bad reads that were refused, good ones, others."""

    def __init__(
        self, program: Path, symbol: str, source: str = "reads", *, variables: Sequence[str] = ()
    ) -> None:
        module = Module(str(program))
        found = module.find(symbol)
        assert found, f"{program}: no {symbol}"
        loader = build.make("reads", [HERE / "reads.c"], [*build.WARN, "-O1"], ["-lbpf"])
        made = build.make(f"{source}.bpf.o", [HERE / f"{source}.bpf.c"], build.BPF_FLAGS,
                          compiler=build.CLANG, headers=[HERE / "counters.h"])
        argv = ["env", *variables, str(loader), str(made), str(program),
                f"{module.vaddr_to_offset(found.vaddr):x}"]
        super().__init__(SHIM.tool(argv), stdin=subprocess.PIPE)
        try:
            self.until(b"READY\n")
        except BaseException:
            self.__exit__()
            raise

    def counters(self) -> tuple[int, ...]:
        self.seen = b""
        self.send(b"\n")
        self.until(b"\n")
        return tuple(map(int, self.seen.split()))

    def finish(self) -> None:
        assert self.child.stdin
        self.child.stdin.close()
        assert self.end().status == 0


@pytest.fixture
def folder() -> Iterator[Path]:
    made = build.private_copy({**build.calls(), **build.eight(static=False)})
    yield made
    shutil.rmtree(made)


def _why(target: Target) -> str:
    """What keeps the agent there, for the report."""
    keeper, there = Keeper(), look(target.pid)
    try:
        if there:
            keeper.eject(target.pid, there.root)
        return "it could be taken out now"
    except ShimError as error:
        return error.message
    finally:
        keeper.close()


def nothing_left(target: Target) -> None:
    end = time.monotonic() + LIMIT
    while left := target.ours():
        if time.monotonic() > end:
            raise AssertionError(f"after {LIMIT} s: {left}: {_why(target)}")
        time.sleep(0.02)  # between two looks, under the deadline above


def each_is_counted(target: Target, loader: Reads) -> None:
    """reads.bpf.c, at a function that twenty steps of the target call; then it goes."""
    before = target.asked
    for _ in range(20):
        target.works()
    hits = target.asked - before
    assert loader.counters() == (hits, 12 * hits, hits, 0)
    loader.finish()


def own_copy(folder: Path, command: list[str]) -> list[str]:
    """The command with a copy of its program: other tests' targets are not to be met."""
    copy = folder / "target"
    if not copy.exists():
        shutil.copy(command[0], copy)
        copy.chmod(0o755)
    return [str(copy), *command[1:]]


def test_eight_probes_in_a_process_that_was_started_without_the_shim(folder: Path) -> None:
    with Victim(Bare("shim"), folder, "-t", "3") as victim:
        code = victim.code()
        for _ in range(2):
            with Eight(SHIM, folder) as loader:
                victim.rounds(2000)
                assert loader.report() == computed(2000, 3, 1)
                loader.finish()
            victim.code_becomes(code)
            soon("an agent is left", lambda: "memfd:bpf-" not in maps(victim.pid))
        victim.rounds(10)
        victim.finish()


def maps(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("kind", ["glibc", "static glibc", "musl", "static musl", "zombie leader"])
def test_hits_in_any_living_process_are_counted(kind: str, folder: Path) -> None:
    command = own_copy(folder, COMMANDS[kind]())
    with Target(command, guarded=True) as target:
        target.works()
        fds = target.fds()
        with Reads(Path(command[0]), "asked") as loader:
            assert target.ours()
            each_is_counted(target, loader)
        nothing_left(target)
        target.works()
        assert target.fds() == fds
        target.end()


@pytest.mark.parametrize("threads", [["deaf", "deaf"], ["segv", "deaf"], ["told"]])
def test_bad_pointers_are_efault_and_nobody_dies(threads: list[str], folder: Path) -> None:
    """In threads that block all signals, and where the application handles SIGSEGV itself."""
    command = own_copy(folder, [COMMANDS["glibc"]()[0], *threads])
    with Target(command, guarded=True) as target:
        with Reads(Path(command[0]), "stepped") as loader:
            soon("few hits", lambda: loader.counters()[0] > 200)
            target.works()
            loader.finish()
        target.works()
        target.end()
    with Target(command, guarded=True) as target, Reads(Path(command[0]), "asked") as loader:
        for _ in range(10):
            target.works()
        assert loader.counters() == (target.asked, 12 * target.asked, target.asked, 0)


def test_a_process_that_is_stopped_anywhere_stops_nobody_else(folder: Path) -> None:
    """Both do nothing but update one hash map; one of them is stopped, often while it holds a
    lock of it."""
    command = own_copy(folder, [COMMANDS["glibc"]()[0], "hot"])
    text = (f"uprobe:{command[0]}:stepped {{ @[rand % 8] = nsecs; }} "
            'BEGIN { printf("READY\\n"); }')
    with Target(command, guarded=True) as stopped, Target(command, guarded=True) as other:
        with Session(SHIM.tool(["bpftrace", "-e", text])) as tool:
            tool.until(b"READY")
            for _ in range(40):
                stopped.process.send_signal(signal.SIGSTOP)
                os.waitpid(stopped.pid, os.WUNTRACED)
                other.works()
                other.works()  # since then
                stopped.process.send_signal(signal.SIGCONT)
                stopped.works()
            assert tool.stop().status == 0
        stopped.end()
        other.end()


def test_a_go_server_is_probed_live(folder: Path) -> None:
    """On goroutines, with bad pointers; then entries and returns with their values."""
    command = own_copy(folder, COMMANDS["go"]())
    with Target(command, guarded=True) as target:
        target.works()
        with Reads(Path(command[0]), "main.handle") as loader:
            for _ in range(3):
                target.works()
            hits, *others = loader.counters()
            # where its stack has to grow Go begins a function again
            assert 3000 <= hits < 3100 and others == [12 * hits, hits, 0]
            loader.finish()
        with Session(SHIM.tool(["bpftrace", "-e", GO.format(program=command[0])])) as tool:
            tool.until(b"READY")
            for _ in range(3):
                target.works()
            out = tool.stop().out
        assert re.search(r"@in: 30\d\d\n", out) and "@out: 3000\n" in out
        sums = {int(a): int(b) for a, b in re.findall(r"@value\[(\d+)\]: (\d+)", out)}
        assert sums == {n * (n + 1) // 2: 300 for n in range(1, 11)}
        nothing_left(target)
        target.works()
        target.end()


GO = """
uprobe:{program}:main.handle {{ @in = count(); }}
uretprobe:{program}:main.handle {{ @out = count(); @value[retval] = count(); }}
uprobe:{program}:main.deep {{ @deep = count(); }}
uprobe:{program}:runtime.mallocgc {{ @allocated[ustack(5)] = count(); }}
BEGIN {{ printf("READY\\n"); }}
"""


def test_events_come_with_the_agent_whatever_was_attached_first(folder: Path) -> None:
    """The process has none when the tracepoint is attached; it gets one for the uprobe."""
    command = own_copy(folder, COMMANDS["glibc"]())
    with Target(command, guarded=True) as target:
        text = (f"tracepoint:raw_syscalls:sys_enter /pid == {target.pid}/ {{ @calls = count(); }} "
                f"uprobe:{command[0]}:asked {{ @asked = count(); }} "
                'BEGIN { printf("READY\\n"); }')
        with Terminal(SHIM.tool(["bpftrace", "-e", text])) as tool:
            tool.until(b"READY")
            before = target.asked
            target.works()
            out = tool.interrupt()
        assert re.search(r"@calls: [1-9]", out) and f"@asked: {target.asked - before}\n" in out
        target.works()
        target.end()


def test_processes_that_start_later_are_found(folder: Path) -> None:
    command = own_copy(folder, COMMANDS["static glibc"]())
    with Reads(Path(command[0]), "asked") as loader:
        total = 0
        for _ in range(2):
            with Target(command, guarded=True) as target:
                soon("no agent came", target.ours)
                soon("not attached", lambda: counted(target, loader))
                before, seen = target.asked, loader.counters()[0]
                target.works()
                total = loader.counters()[0]
                assert total - seen == target.asked - before
                target.end()
        loader.finish()


def counted(target: Target, loader: Reads) -> bool:
    seen = loader.counters()[0]
    target.works()
    return loader.counters()[0] > seen


def test_a_fork_child_of_a_process_with_an_agent_is_counted(folder: Path) -> None:
    """It has its parent's agent, without anybody's help."""
    with Victim(Bare("shim"), folder, "-f", "2") as victim, Eight(SHIM, folder) as loader:
        victim.rounds(500)
        assert loader.report() == computed(500, 3, 3)
        loader.finish()
        victim.finish()


def test_threads_of_fork_children_are_counted_from_their_first_hit_on(folder: Path) -> None:
    """Whichever of them puts the child's agent right, the others wait for it."""
    with Victim(Bare("shim"), folder, "-f", "12", "-t", "8") as victim, \
            Eight(SHIM, folder) as loader:
        victim.rounds(20)
        assert loader.report() == computed(20, 8 * 13, 13)
        loader.finish()
        victim.finish()


def test_a_tool_that_is_killed_leaves_no_agent(folder: Path) -> None:
    with Victim(Bare("shim"), folder, "-t", "2") as victim:
        code = victim.code()
        with Eight(SHIM, folder) as loader:
            victim.rounds(100)
            loader.kill()
        victim.code_becomes(code)
        soon("an agent is left", lambda: "memfd:bpf-" not in maps(victim.pid))
        victim.rounds(100)
        victim.finish()


def test_a_backend_that_is_killed_leaves_no_agent(folder: Path) -> None:
    from compat_tests.faults import survivors

    with Victim(Bare("shim"), folder, "-t", "2") as victim:
        code = victim.code()
        with Eight(SHIM, folder) as loader:
            victim.rounds(100)
            survivors.kill(survivors.shim_processes("backend"))
            victim.code_becomes(code)
            soon("an agent is left", lambda: "memfd:bpf-" not in maps(victim.pid))
            victim.rounds(100)
            loader.kill()
        victim.finish()


def test_a_process_that_cannot_be_had_is_a_line_of_the_tool(folder: Path) -> None:
    """The others are attached to, and the tool says why this one is not."""
    fenced = build.make("fenced", [HERE / "fenced.c"], [*build.WARN, "-O1"])
    command = own_copy(folder, COMMANDS["glibc"]())
    with Target([str(fenced), "kill-bpf", *command], guarded=True) as refused:
        with Reads(Path(command[0]), "asked") as loader:
            why = f"process {refused.pid}: not attached: process {refused.pid}: no agent: what its"
            assert why.encode() in loader.seen
            with Target(command, guarded=True) as target:
                soon("not attached", lambda: counted(target, loader))
            loader.finish()
        assert refused.ours() == []
        refused.works()
        refused.end()


def test_threads_of_go_that_park_keep_no_agent(folder: Path) -> None:
    """The stacks on which they took the signals of bad pointers lie anywhere in Go's heap."""
    command = own_copy(folder, COMMANDS["locked go"]())
    with Target(command, guarded=True) as target:
        with Reads(Path(command[0]), "main.handle") as loader:
            for _ in range(10):
                target.works()
            assert loader.counters() == (4800, 12 * 4800, 4800, 0)
            loader.finish()
        nothing_left(target)
        target.works()
        target.end()
