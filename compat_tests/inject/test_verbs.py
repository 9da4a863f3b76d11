"""bpf-shim attach and detach."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, Terminal
from compat_tests.guard import launch
from compat_tests.inject.targets import COMMANDS, Target
from compat_tests.inject.test_live import Reads, counted, own_copy, soon
from compat_tests.victims import build
from libbpf_shim.cli.sessions import LIMIT, ask

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def folder() -> Iterator[Path]:
    made = build.private_copy(build.calls())
    yield made
    shutil.rmtree(made)


def verb(*words: str) -> subprocess.CompletedProcess[str]:
    python = str(launch.product() / ".venv" / "bin" / "python")
    argv = launch.guarded([python, "-m", "libbpf_shim", *words],
                          env={"PYTHONPATH": str(launch.product())})
    return subprocess.run(argv, capture_output=True, text=True, timeout=60)


def test_an_agent_that_was_asked_for_stays_until_it_is_asked_to_go(folder: Path) -> None:
    command = own_copy(folder, COMMANDS["static glibc"]())
    with Target(command, guarded=True) as target:
        pid = str(target.pid)
        said = json.loads(verb("attach", "-j", pid).stdout)
        assert said["pid"] == target.pid and said["agent"] == "injected"
        agent = target.ours()
        assert agent
        with Reads(Path(command[0]), "asked") as loader:
            target.works()
            assert loader.counters()[0] > 0
            loader.finish()
        soon("the session is left", lambda: len(target.ours()) == len(agent))
        assert json.loads(verb("attach", "-j", pid).stdout) == said
        done = verb("detach", pid)
        assert (done.returncode, done.stdout) == (0, f"{pid}: agent gone\n")
        assert target.ours() == []
        target.works()
        target.end()


def test_tracepoints_of_tools_that_run_see_a_process_while_it_has_an_agent() -> None:
    """One that was given to it; not before, nor once they were asked to leave it."""
    with subprocess.Popen(launch.guarded(["cat"]), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          bufsize=0) as target:
        to, of = target.stdin, target.stdout
        assert to and of

        def writes() -> None:
            to.write(b"x\n")
            assert of.readline() == b"x\n"

        writes()
        pid = str(target.pid)
        script = (f"tracepoint:syscalls:sys_enter_write /pid == {pid}/ "
                  "{ @n++; printf(\"hit %d\\n\", @n); } BEGIN { printf(\"ready\\n\"); }")
        with Terminal(SHIM.tool(["bpftrace", "-e", script])) as tool:
            tool.until(b"ready")
            for hits in (1, 2):
                writes()
                assert verb("attach", pid).returncode == 0
                writes()
                tool.until(f"hit {hits}\r".encode())
                assert verb("detach", pid).returncode == 0
            writes()
            assert "@n: 2\n" in tool.interrupt()
        to.close()
        assert target.wait(LIMIT) == 0


def test_detach_takes_a_session_out_of_one_process_alone(folder: Path) -> None:
    command = own_copy(folder, COMMANDS["glibc"]())
    with Target(command, guarded=True) as left, Target(command, guarded=True) as kept:
        with Reads(Path(command[0]), "asked") as loader:
            left.works()
            kept.works()
            done = verb("detach", "-j", str(left.pid))
            assert json.loads(done.stdout) == {"pid": left.pid, "agent": "gone"}, done.stderr
            assert left.ours() == []
            with Target(command, guarded=True) as later:  # all have been looked at once it counts
                soon("not attached", lambda: counted(later, loader))
                before = loader.counters()[0]
                left.works()
                assert loader.counters()[0] == before
                asked = kept.asked
                kept.works()
                assert loader.counters()[0] - before == kept.asked - asked
            loader.finish()
        left.works()
        left.end()
        kept.end()


def backends() -> dict[str, int]:
    """By session."""
    found = {}
    for socket in (launch.RUN_DIR / "sessions").glob("*/sock"):
        with contextlib.suppress(OSError, ValueError):  # one that ends
            found[socket.parent.name] = int(ask(socket)["pid"])
    return found


@pytest.mark.parametrize("hears", [True, pytest.param(False, marks=pytest.mark.long)])
def test_a_session_whose_backend_does_not_answer_is_not_passed_over(
    folder: Path, hears: bool
) -> None:
    """It is waited for much longer than for its status, and named if it does not leave."""
    command = own_copy(folder, COMMANDS["glibc"]())
    with Target(command, guarded=True) as target, Reads(Path(command[0]), "asked") as loader:
        target.works()
        soon("no session of others is left", lambda: len(backends()) == 1)
        (number, pid), = backends().items()
        os.kill(pid, signal.SIGSTOP)
        try:
            with ThreadPoolExecutor() as beside:
                detach = beside.submit(verb, "detach", str(target.pid))
                if hears:
                    time.sleep(LIMIT + 1)  # longer than a status is waited for
                    os.kill(pid, signal.SIGCONT)
                done = detach.result()
        finally:
            os.kill(pid, signal.SIGCONT)
        if hears:
            assert (done.returncode, done.stdout) == (0, f"{target.pid}: agent gone\n"), done
            assert target.ours() == []
        else:
            assert done.returncode == 3 and done.stderr.startswith(
                f"bpf-shim: session {number}: has not left process {target.pid}"), done
        target.works()
        loader.finish()
        target.end()


def test_a_preloaded_process_is_left_by_sessions(folder: Path) -> None:
    command = own_copy(folder, COMMANDS["glibc"]())
    preload = ["env", f"LD_PRELOAD={launch.library()}", *command]
    with Target(preload, guarded=True) as target:
        with Reads(Path(command[0]), "asked") as loader:
            target.works()
            before = loader.counters()[0]
            assert before > 0 and target.ours()
            done = verb("detach", str(target.pid))
            assert done.returncode == 0 and "preloaded" in done.stdout, done.stderr
            assert target.ours() == []
            target.works()
            assert loader.counters()[0] == before
            loader.finish()
        target.end()


def test_what_cannot_be_done_is_said(folder: Path) -> None:
    with Target(own_copy(folder, COMMANDS["glibc"]()), guarded=True) as target:
        done = verb("detach", str(target.pid))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"bpf-shim: process {target.pid}: has no agent\n"
    done = verb("attach", "1")
    assert done.returncode == 3 and "process 1: no agent: it runs as user 0" in done.stderr


def test_threads_that_end_while_they_are_looked_at_are_in_nobodys_way(folder: Path) -> None:
    """What /proc says of one is read in parts; of one that ends in between it is not all there."""
    command = [own_copy(folder, COMMANDS["glibc"]())[0], "nap", *["come"] * 15]
    with Target(command, guarded=True) as target:
        pid = str(target.pid)
        for _ in range(10):
            done = verb("attach", pid)
            assert done.returncode == 0, done.stderr
            done = verb("detach", pid)
            assert done.returncode == 0, done.stderr
        target.works()
        target.end()
