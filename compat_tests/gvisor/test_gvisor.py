"""In gVisor: a kernel of a userspace program, without bpf(2), pidfds, OFD locks, MADV_WIPEONFORK,
process_vm_readv(2), a /proc/PID/mem that can be written, and with Yama's scope 1."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from compat_tests.guard import launch

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.getuid() != 0, reason="makes namespaces"),
    pytest.mark.skipif(not shutil.which("runsc"), reason="runsc: not installed"),
]
USER = ["setpriv", f"--reuid={launch.UID}", f"--regid={launch.UID}", "--clear-groups"]
EXPRESSIONS = "uprobe:/bin/bash:evalexp { @[str(arg0)] = count(); }"
FORKS = """
for i in 1 2 3; do (echo sub $BASHPID; ((1)); ((1))); done
((1)); echo main $$
"""
# It is attached to while it waits for its input, behind which are 501 comparisons, 500 additions
# and i=0. Waits are bounded by the test's timeout.
LIVE = """
cd $(mktemp -d)
mkfifo go
%s bash -c 'read x < go; for ((i=0;i<500;i++)); do :; done; echo done; read x < go' > said &
target=$!
%s bpftrace -e 'BEGIN { printf("ready\\n"); }
    uprobe:/bin/bash:evalexp /pid == '$target'/ { @ = count(); }' > out &
until grep -q ready out; do sleep 0.1; done
exec 3> go
echo >&3
until grep -q done said; do sleep 0.1; done
kill -0 $target
kill -INT %%2
wait %%2
cat out
exec 3>&-
"""
SHARED = """
cd $(mktemp -d)
bpftrace -e 'BEGIN { @five = 5; printf("ready\\n"); } interval:s:100 { exit(); }' > out &
until grep -q ready out; do sleep 0.1; done
bpftool -j map list
kill -INT %1
wait %1
"""


def sandbox(argv: list[str], user: bool, preload: bool = True) -> str:
    """What ARGV prints there; what it writes to the machine's files is gone behind it."""
    variables = [f"LD_PRELOAD={launch.library()}"] if preload else []
    command = ["runsc", "--network=none", "--platform=ptrace", "--ignore-cgroups", "do",
               "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", *(USER if user else []),
               "env", *variables, *argv]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240,
                          stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_an_unprivileged_tool_counts_in_its_command() -> None:
    script = "for ((i=0;i<100;i++)); do :; done"
    out = sandbox(["sh", "-c", f"cd /tmp && echo '{script}' > script && "
                   f"exec bpftrace -e '{EXPRESSIONS}' -c '/bin/bash script'"], user=True)
    assert dict(re.findall(r"@\[(\S+)\]: (\d+)", out)) == {"i=0": "1", "i++": "100",
                                                           "i<100": "101"}


def test_fork_children_are_processes_of_their_own() -> None:
    probe = "uprobe:/bin/bash:evalexp { @[pid, tid] = count(); }"
    out = sandbox(["sh", "-c", f"cd /tmp && echo '{FORKS}' > script && "
                   f"exec bpftrace -e '{probe}' -c '/bin/bash script'"], user=True)
    said = dict.fromkeys(re.findall(r"sub (\d+)", out), 2)
    said |= dict.fromkeys(re.findall(r"main (\d+)", out), 1)
    assert len(said) == 4
    assert {pid: int(n) for pid, tid, n in re.findall(r"@\[(\d+), (\d+)\]: (\d+)", out)
            if pid == tid} == said


@pytest.mark.parametrize("who", ["root, a bare target", "user, a target under the shim"])
def test_a_running_process_is_attached_to(who: str) -> None:
    """The second under Yama: the target's agent allows the keeper to trace it."""
    user = who.startswith("user")
    preload = f"env LD_PRELOAD={launch.library()}"
    script = LIVE % (preload if user else "", preload)
    out = sandbox(["bash", "-m", "-c", script], user=user, preload=False)
    assert re.findall(r"@: (\d+)", out) == ["1002"]


def test_loaders_share_a_session() -> None:
    out = sandbox(["bash", "-m", "-c", SHARED], user=True)
    assert "AT_five" in out
