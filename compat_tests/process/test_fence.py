"""Processes that put themselves under a seccomp filter which would end them for calls of the
agent's: it falls silent before, and they go on."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, Session, Terminal
from compat_tests.process.programs import HERE
from compat_tests.victims import build

# deeds before the filter, those behind it, and of two further bytes
BEFORE, BEHIND, MORE = 5, 9, 4


@pytest.fixture
def program() -> Iterator[Path]:
    made = build.make("fences", [HERE / "fences.c"], [*build.WARN, "-O1", "-pthread", "-rdynamic"])
    folder = build.private_copy({"fences": made})
    yield folder / "fences"
    shutil.rmtree(folder)


def counted(program: Path, way: str, also: str, ways: list[str]) -> int:
    """How many deeds a tool has seen that was there first. also: more of its program; ways: words
    that the process says, one after the other, at a byte each."""
    script = f'uprobe:{program}:deed {{ @ = count(); }} {also} BEGIN {{ printf("READY\\n"); }}'
    with Session(SHIM.target([str(program), way]), stdin=subprocess.PIPE) as process:
        process.until(b"ready")
        with Terminal(SHIM.tool(["bpftrace", "-e", script])) as tool:
            tool.until(b"READY")
            for word in ways:
                process.send(b"x")
                process.until(word.encode())
                process.seen = b""
            out = tool.interrupt()
        # a tool that comes later finds it closed, and does it no harm
        with Terminal(SHIM.tool(["bpftrace", "-e", script])) as tool:
            tool.until(b"READY")
            process.send(b"x")
            process.until(b"again")
            tool.interrupt()
        assert process.child.stdin
        process.child.stdin.close()
        assert process.child.wait(20) == 0
    found = re.search(r"^@: (\d+)\s*$", out, re.M)
    return int(found[1]) if found else 0


@pytest.mark.parametrize("way", [
    pytest.param("prctl", marks=pytest.mark.long), "seccomp"])
def test_a_process_that_fences_itself_goes_on_unseen(way: str, program: Path) -> None:
    assert counted(program, way, "", ["fenced 7", "again", "again"]) == BEFORE


@pytest.mark.long
def test_a_filter_that_an_instruction_of_its_own_installs_is_seen_with_system_calls(
    program: Path
) -> None:
    also = "tracepoint:syscalls:sys_enter_getppid { @ppid = count(); }"
    assert counted(program, "raw", also, ["fenced 7", "again"]) == BEFORE


@pytest.mark.long
def test_a_filter_that_minds_nothing_changes_nothing(program: Path) -> None:
    seen = counted(program, "harmless", "", ["fenced 7", "again", "again"])
    assert seen == BEFORE + BEHIND + MORE
