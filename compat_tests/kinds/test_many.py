"""One link at every function of libc, in processes that run and in one that starts."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, Session
from compat_tests.faults import survivors
from compat_tests.kinds import act
from compat_tests.kinds.test_deaths import Told, start
from compat_tests.victims import build
from libbpf_shim.client.multi import offsets_of
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import loaded_modules, read_maps

LIBC = os.path.realpath("/lib/x86_64-linux-gnu/libc.so.6")


def differs(pid: int) -> int:
    """Bytes of libc's code that are not those of its file."""
    module = next(m for m in loaded_modules(read_maps(pid)) if os.path.realpath(m.path) == LIBC)
    found = 0
    for segment in Module(LIBC).text:
        where = segment.vaddr + module.bias(Module(LIBC))
        with open(f"/proc/{pid}/mem", "rb") as memory:
            memory.seek(where)
            now = memory.read(segment.filesz)
        wanted = Module(LIBC).read_at(segment.offset, segment.filesz)
        found += sum(a != b for a, b in zip(now, wanted, strict=True)) if now != wanted else 0
    return found


def at_many(number: int) -> None:
    """The first so many functions of libc by address."""
    offsets = offsets_of(LIBC, "*")[:number]
    scripts = {s.name: s for s in (*act.SCRIPTS, Path(__file__).with_name("hold.py"))}
    folder = build.private_copy({**act.files(), **scripts})
    try:
        with start(SHIM, folder) as target:
            pid = int(target.line().split()[1])
            assert differs(pid) == 0
            argv = SHIM.tool([act.PYTHON, f"{folder}/hold.py", "-m", LIBC,
                              *(f"{offset}:0" for offset in offsets)])
            with Session(argv, stdin=-1) as tool:
                tool.until(b"READY\n")
                assert differs(pid) >= len(offsets) / 2, "windows may hold several"
                assert target.say("usdt 3") == "ok"
                with start(SHIM, folder) as other:
                    late = int(other.line().split()[1])
                    assert differs(late) >= len(offsets) / 2
                    assert other.say("fork").startswith("child")
                    assert other.say("sem") == "0 0 -1"
                    assert other.say("exit") == "back"
                assert tool.child.stdin
                tool.child.stdin.close()
                tool.child.stdin = None
                runs = int(tool.end().out.splitlines()[-1])
            assert runs > 10, "lines were written"
            # who ends does not wait for the end of its link
            survivors.wait_for("libc is altered", lambda: differs(pid) == 0)
            check(target)
    finally:
        shutil.rmtree(folder)


def check(target: Told) -> None:
    """It works as before."""
    assert target.say("rec 5") == "15"
    assert target.say("vfork 2") == "ok"


@pytest.mark.timeout(120)
def test_a_link_at_three_hundred_functions_of_libc() -> None:
    at_many(300)


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_link_at_every_function_of_libc() -> None:
    at_many(100_000)
