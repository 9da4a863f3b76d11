"""Links of many places in a process that runs already and whose return addresses must stay: of
what cannot be there the others do without, and each counts its own."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from compat_tests.attach.host import LIMIT, Counter, Host, Victim, eventually
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.target import look_by_name
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError

HERE = Path(__file__).resolve().parent
FLAGS = ["-O2", "-Wl,--no-as-needed", "-lgcc_s"]  # an unwinder is there
SUM = sum((n + 1) + (2 * n + 1) + (n + 1) for n in range(5))


class Running:
    """Without the shim."""

    def __init__(self, program: Path) -> None:
        self.path = program
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        assert self.line() == "ready"

    def line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def calls(self) -> None:
        assert self.process.stdin
        self.process.stdin.write("\n")
        assert self.line() == str(SUM)

    def end(self) -> None:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        status = self.process.wait(LIMIT)
        self.process.stdout.close()
        assert status == 0


@pytest.fixture
def running() -> Iterator[Running]:
    made = build.make("partly", [HERE / "partly.c"], FLAGS)
    folder = build.private_copy({"partly": made})
    process = Running(folder / "partly")
    yield process
    process.process.kill()
    process.process.wait()
    shutil.rmtree(folder)


def returns(host: Host, path: Path, *names: str, pid: int = 0, more: tuple[int, ...] = (),
            ) -> tuple[list[Attachment], Counter]:
    """A link of these functions' returns; not enabled yet."""
    first, counter = host.attachment(path, names[0], pid=pid)
    module = Module(str(path))
    found = [module.find(name) for name in names]
    places = [Code(str(path), module.vaddr_to_offset(s.vaddr), ret=True) for s in found if s]
    atts = [Attachment(first.link_id, first.link, first.prog, place, 0, pid, more=more)
            for place in places]
    return atts, counter


def test_a_link_counts_where_it_can_be_and_says_where_not(host: Host, running: Running) -> None:
    atts, counter = returns(host, running.path, "anywhere", "plus", "onward")
    host.delivery.attach(*atts)
    host.control.enable(atts[0].link, True)
    assert [n for n in host.notices if f"process {running.process.pid}: " in n] == [
        n for n in host.notices if "not attached at 1 place: " in n and "its return" in n]
    running.calls()
    assert counter.hits == 5 * 4  # plus by all three, and onward
    host.control.enable(atts[0].link, False)
    host.delivery.detach(*atts)
    running.calls()
    assert counter.hits == 5 * 4
    running.end()


def entries(host: Host, path: Path, *names: str) -> tuple[list[Attachment], Counter]:
    """The same of their entries."""
    atts, counter = returns(host, path, *names)
    return [replace(a, place=replace(a.place, ret=False)) for a in atts
            if isinstance(a.place, Code)], counter


def test_a_place_where_a_breakpoint_stands_is_left_out(host: Host, running: Running) -> None:
    pid, module = running.process.pid, Module(str(running.path))
    found, target = module.find("plus"), look_by_name(pid)
    assert found and target
    loaded = next(m for m in target.modules if m.path == str(running.path))
    with open(f"/proc/{pid}/mem", "r+b", buffering=0) as memory:
        memory.seek(found.vaddr + loaded.bias(module))
        code = memory.read(1)
        memory.seek(-1, os.SEEK_CUR)
        memory.write(b"\xcc")
        atts, counter = entries(host, running.path, "onward", "plus", "anywhere")
        host.delivery.attach(*atts)
        host.control.enable(atts[0].link, True)
        assert [n for n in host.notices if f"process {pid}: " in n] == [
            n for n in host.notices if "not attached at 1 place: " in n and "other bytes" in n]
        memory.seek(-1, os.SEEK_CUR)
        memory.write(code)
    running.calls()
    assert counter.hits == 5 * 2
    host.control.enable(atts[0].link, False)
    host.delivery.detach(*atts)
    running.end()


def test_a_mailbox_puts_a_link_where_it_can_be(
    host: Host, start: Callable[..., Victim], program: Path
) -> None:
    victim = start(host, no_ptrace=True)
    assert victim.say("threads 1") == "threads 1"
    atts, counter = entries(host, program, "several", "one")
    host.delivery.attach(*atts)
    host.control.enable(atts[0].link, True)
    assert [n for n in host.notices if "not attached at 1 place: " in n and "several" in n]
    eventually(lambda: counter.word(0) > 0)
    assert victim.say("stop").startswith("stopped")
    before = counter.hits
    victim.run(3)
    assert counter.hits == before + 3


def test_a_function_named_twice_is_counted_twice(host: Host, running: Running) -> None:
    atts, counter = returns(host, running.path, "onward", more=(1,))
    host.delivery.attach(*atts)
    host.control.enable(atts[0].link, True)
    running.calls()
    assert counter.hits == 5 * 2
    running.end()


def test_a_process_that_is_named_is_an_errno(host: Host, running: Running) -> None:
    atts, counter = returns(
        host, running.path, "plus", "anywhere", pid=running.process.pid)
    with pytest.raises(ShimError, match="it may end by a jump that cannot be followed"):
        host.delivery.attach(*atts)
    host.control.enable(atts[0].link, True)
    running.calls()
    assert counter.hits == 0
    running.end()
