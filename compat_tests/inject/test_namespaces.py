"""Processes that see other files than the tool does, as services and containers do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from compat_tests.clients.tool import SHIM, Terminal
from compat_tests.inject.targets import COMMANDS, Target
from compat_tests.inject.test_live import Reads, each_is_counted, nothing_left, own_copy
from compat_tests.inject.test_refusals import plain
from compat_tests.inject.test_verbs import folder, verb

__all__ = ["folder"]
pytestmark = pytest.mark.timeout(180)
UNSHARE = shutil.which("unshare") or "unshare"
# what is below /tmp of ours, its run directory too, is not there; the program is nowhere else
INSIDE = ('mount -t tmpfs none /mnt && cp "$0" /mnt/target && mount -t tmpfs none /tmp && '
          'exec /mnt/target "$@"')


def possible() -> bool:
    argv = plain([UNSHARE, "-Urm", "mount", "-t", "tmpfs", "none", "/mnt"])
    return subprocess.run(argv, capture_output=True, timeout=30).returncode == 0


needs_users = pytest.mark.skipif(not possible(), reason="namespaces of users are not allowed")


def elsewhere(kind: str, folder: Path) -> list[str]:
    """Without the guard's filter: in a namespace of users it could be any other."""
    return plain([UNSHARE, "-Urm", "sh", "-c", INSIDE, *own_copy(folder, COMMANDS[kind]())])


@needs_users
@pytest.mark.parametrize("kind", ["glibc", "static musl"])
def test_a_process_with_mounts_of_its_own_is_counted(kind: str, folder: Path) -> None:
    with Target(elsewhere(kind, folder)) as target:
        program = Path(f"/proc/{target.pid}/root/mnt/target")
        fds = target.fds()
        with Reads(program, "asked") as loader:
            each_is_counted(target, loader)
        nothing_left(target)
        target.works()
        assert target.fds() == fds
        target.end()


EVENTS = """
uprobe:{program}:asked {{ @in[pid, tid] = count(); }}
uretprobe:{program}:asked {{ @out[pid, retval] = count(); }}
tracepoint:raw_syscalls:sys_enter /pid == {pid}/ {{ @calls = count(); }}
uprobe:/proc/{pid}/root/{libc}:usleep /pid == {pid}/ {{ @slept = count(); }}
BEGIN {{ printf("READY\\n"); }}
"""


@needs_users
def test_events_there_are_as_anywhere(folder: Path) -> None:
    with Target(elsewhere("glibc", folder)) as target:
        maps = Path(f"/proc/{target.pid}/maps").read_text()
        libc = next(line.split()[5] for line in maps.splitlines() if "/libc.so" in line)
        text = EVENTS.format(program=f"/proc/{target.pid}/root/mnt/target", pid=target.pid,
                             libc=libc.lstrip("/"))
        with Terminal(SHIM.tool(["bpftrace", "-e", text])) as tool:
            tool.until(b"READY")
            before = target.asked
            for _ in range(3):
                target.works()
            asked = list(range(before, target.asked))
            out = tool.interrupt()
        assert f"@in[{target.pid}, {target.pid}]: {len(asked)}\n" in out
        returns = {int(v): int(n) for p, v, n in re.findall(r"@out\[(\d+), (\d+)\]: (\d+)", out)}
        assert returns == {number * 3 + 1: 1 for number in asked}
        assert re.search(r"@calls: [1-9]", out) and re.search(r"@slept: [1-9]", out), out
        nothing_left(target)
        target.works()
        target.end()


@needs_users
def test_the_agent_is_put_there_and_taken_out_by_name(folder: Path) -> None:
    with Target(elsewhere("glibc", folder)) as target:
        pid = str(target.pid)
        done = verb("attach", pid)
        assert done.returncode == 0 and target.ours(), done.stderr
        done = verb("detach", pid)
        assert (done.returncode, target.ours()) == (0, []), done.stderr
        target.works()
        target.end()
