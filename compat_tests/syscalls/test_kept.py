"""A call that waited when the tool came, of a place that makes calls of many numbers: its end is
told, as by the kernel."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way
from compat_tests.victims import build
from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite.syscalls import UNKNOWN, make_plan

HERE = Path(__file__).resolve().parent
READ, CLOSE, GETPPID = 0, 3, 110


def built() -> Path:
    return build.make("kept", [HERE / "kept.c"], [*build.WARN, "-O2"])


def test_where_the_number_was_taken_from_is_known() -> None:
    (site,) = (site for site in make_plan(Module(str(built())), None).sites if site.nr == UNKNOWN)
    assert site.after and site.kept == 1


@pytest.mark.parametrize("way", [
    pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"), pytest.param(SHIM, id="shim")])
def test_the_end_of_a_call_that_waited_is_told(way: Way) -> None:
    folder = build.private_copy({"kept": built()})
    with Session(way.target([str(folder / "kept")]), stdin=subprocess.PIPE) as process:
        process.until(b"\n")
        pid = int(process.seen.split()[1])
        end = time.monotonic() + 20
        while not Path(f"/proc/{pid}/syscall").read_text().startswith(f"{READ} 0x0 "):
            assert time.monotonic() < end
            time.sleep(0.01)  # between two looks
        script = ('BEGIN { printf("READY\\n"); } tracepoint:raw_syscalls:sys_exit '
                  f"/pid == {pid}/ {{ @[args->id] = count(); }}")
        with Session(way.tool(["bpftrace", "-B", "line", "-e", script])) as tool:
            tool.until(b"READY\n")
            process.send(b"x")
            assert process.end().status == 0
            out = tool.stop().out
    shutil.rmtree(folder)
    counts = {int(nr): int(n) for nr, n in re.findall(r"^@\[(\d+)\]: (\d+)$", out, re.M)}
    assert [counts.get(nr) for nr in (READ, GETPPID, CLOSE)] == [1, 3, 1], out
