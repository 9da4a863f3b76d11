"""Loaders of one user meet in one session; pins outlive their loaders; the private stay alone."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compat_tests.clients.processes import Eight
from compat_tests.clients.tool import DROP_IN, SHIM, Outcome, run
from compat_tests.guard import launch
from compat_tests.victims import build
from libbpf_shim.backend.share import name
from libbpf_shim.backend.wire import VERSION
from libbpf_shim.cli.sessions import ask

LIMIT = 15.0  # seconds for something to come true
MAP = "type array key 4 value 4 entries 1 name"


def within(what: str, holds: Callable[[], bool], why: Callable[[], str] = str) -> None:
    """Looks until it holds; an error after LIMIT seconds, which says why."""
    end = time.monotonic() + LIMIT
    while not holds():
        assert time.monotonic() < end, f"not within {LIMIT} s: {what}: {why()}"
        time.sleep(0.02)  # between two looks; bounded by the deadline above


def sessions() -> dict[str, dict[str, Any]]:
    """Socket to status of every live session of the guard's user."""
    found = {}
    for folder in (launch.RUN_DIR / "sessions").glob("*"):
        try:
            found[str(folder)] = ask(folder / "sock")
        except (OSError, ValueError):
            continue
    return found


def whose() -> str:
    """What sessions have, and which processes their user has: those of another run perhaps."""
    lines = [f"session {status['session']}: " + ", ".join(
        f"{kind} {[row['id'] for row in status[kind]]}" for kind in ("progs", "maps", "links"))
        for status in sessions().values()]
    for folder in Path("/proc").glob("[1-9]*"):
        with contextlib.suppress(OSError):  # it has ended
            if folder.stat().st_uid == launch.UID:
                argv = (folder / "cmdline").read_bytes().replace(b"\0", b" ")
                lines.append(f"{folder.name} {argv.decode(errors='replace'):.160}")
    return "\n".join(lines)


def shared() -> dict[str, Any]:
    """The status of the session that loaders join."""
    for link in launch.RUN_DIR.glob("share-*/session"):
        if link.exists() and str(link.resolve()) in (live := sessions()):
            return live[str(link.resolve())]
    raise AssertionError("no session is shared")


def shell(script: str, **env: str) -> Outcome:
    argv = ["sh", "-c", "B=/sys/fs/bpf; " + script]
    return run(launch.guarded(argv, preload=True, env=env))


def fine(script: str, **env: str) -> str:
    outcome = shell(script, **env)
    assert outcome.status == 0 and not outcome.err, outcome
    return outcome.out


@pytest.fixture(autouse=True)
def nobody_before_and_after() -> Iterator[None]:
    """No session of an earlier test is joined, and none is left."""
    within("no session is left by others", lambda: not sessions(), whose)
    yield
    shell("rm -rf $B/*")
    within("the session ends", lambda: not sessions(), whose)


def memory_of_maps(pid: int) -> int:
    """Map files that a process has open."""
    files = set()
    try:
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            if "bpf-map" in os.readlink(fd):
                files.add(fd.stat().st_ino)
    except FileNotFoundError:  # it ends, or closed one
        pass
    return len(files)


def test_a_pin_outlives_its_loader_and_its_end_frees_the_memory() -> None:
    fine(f"bpftool map create $B/kept {MAP} kept && "
         "bpftool map update pinned $B/kept key 0 0 0 0 value 1 2 3 4")
    pid = shared()["pid"]
    within("nobody but the pin holds the map", lambda: memory_of_maps(pid) == 1)
    time.sleep(1.5)  # longer than a session without clients and objects lasts
    assert shared()["pid"] == pid
    assert "01 02 03 04" in fine("bpftool map dump pinned $B/kept")
    fine("rm $B/kept")
    within("the memory is free", lambda: not os.path.exists(f"/proc/{pid}")
           or memory_of_maps(pid) == 0)
    within("the session ends", lambda: not sessions())


def test_python_knows_where_loaders_meet() -> None:
    fine(f"bpftool map create $B/m {MAP} m")
    meeting = launch.RUN_DIR / name(launch.library().parent, VERSION) / "session"
    assert str(meeting.resolve()) in sessions()


def test_loaders_that_start_at_once_meet_in_one_session() -> None:
    argv = [launch.guarded(["bpftool", "map", "create", f"/sys/fs/bpf/at{i}", *MAP.split(),
                            f"at{i}"], preload=True) for i in range(8)]
    children = [subprocess.Popen(a, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                for a in argv]
    assert [(c.communicate(timeout=LIMIT)[0], c.returncode) for c in children] == [(b"", 0)] * 8
    assert sorted(m["name"] for m in shared()["maps"]) == [f"at{i}" for i in range(8)]
    assert len(sessions()) == 1
    listed = json.loads(fine("bpftool -j map list"))
    assert sorted(m["name"] for m in listed) == [f"at{i}" for i in range(8)]


@pytest.mark.parametrize("gaps", [
    (1.0, 1.02, 1.05), pytest.param((0.9, 0.95, 1.1), marks=pytest.mark.long)])
def test_loaders_that_come_as_a_session_ends_find_the_next(gaps: tuple[float, ...]) -> None:
    """Each comes when the one before it has been gone for about as long as a session lingers."""
    for gap in gaps:
        fine(f"bpftool map create $B/m {MAP} m; rm $B/m; sleep {gap}; "
             f"bpftool map create $B/n {MAP} n; bpftool map show pinned $B/n | grep -q n; "
             "rm $B/n")


def test_a_private_loader_sees_nobody_and_is_not_seen() -> None:
    fine(f"bpftool map create $B/open {MAP} in_the_open")
    alone = "LIBBPF_SHIM_SESSION=private"
    assert fine(f"{alone} bpftool map list") == ""
    assert fine(f"{alone} bpftool map create $B/mine {MAP} alone; ls $B") == "open\n"
    assert "alone" not in fine("bpftool map list")
    outcome = shell(f"{alone} bpftool map show pinned $B/open")
    assert outcome.status == 255 and "No such file" in outcome.err


def test_who_asks_for_a_pin_of_another_build_is_told_how_it_ends() -> None:
    home = launch.library().parent
    folder = build.private_copy(
        {name: home / name for name in ("libbpf_shim.so", "libbpf_shim.conf")})

    def with_it(script: str) -> Outcome:
        argv = ["sh", "-c", f"B=/sys/fs/bpf; {script}"]
        return run(launch.guarded(argv, env={"LD_PRELOAD": str(folder / "libbpf_shim.so")}))

    made = with_it(f"bpftool map create $B/kept {MAP} kept")
    assert (made.status, made.err) == (0, ""), made
    os.utime(folder / "libbpf_shim.so", (1, 1))  # as if it had been built anew
    asked = with_it("bpftool map show pinned $B/kept")
    told = re.search(r"^libbpf_shim: /sys/fs/bpf/kept: pinned under another build .*`rm (.*)`$",
                     asked.err, re.MULTILINE)
    assert asked.status and told, asked
    assert "libbpf_shim" not in with_it("bpftool map show pinned $B/other").err
    assert run(launch.guarded(["rm", told[1]])).status == 0
    again = with_it("bpftool map show pinned $B/kept")
    assert again.status and "libbpf_shim" not in again.err, again
    shutil.rmtree(folder)


def test_a_killed_backend_takes_its_pins_along_and_the_next_begins_anew() -> None:
    fine(f"mkdir $B/dir; bpftool map create $B/dir/lost {MAP} lost")
    victim = shared()["pid"]
    os.kill(victim, signal.SIGKILL)
    within("the backend is dead", lambda: not sessions())
    assert fine("bpftool map list; find $B -mindepth 1") == "/sys/fs/bpf/dir\n"
    fine(f"bpftool map create $B/dir/lost {MAP} anew; bpftool map show pinned $B/dir/lost")


def test_a_backend_that_is_told_to_end_leaves_no_pin() -> None:
    fine(f"mkdir $B/dir; bpftool map create $B/dir/lost {MAP} lost")
    os.kill(shared()["pid"], signal.SIGTERM)
    within("it ends", lambda: not sessions())
    assert fine("ls -A $B/dir") == ""


def test_loaders_go_on_while_the_backend_is_killed_among_them() -> None:
    """Whoever is served by the one that dies gets an errno; who comes next is served."""
    fine(f"bpftool map create $B/m {MAP} m")
    os.kill(shared()["pid"], signal.SIGKILL)
    for _ in range(3):
        fine(f"bpftool map create $B/again {MAP} again && rm $B/again")


def test_a_file_that_may_not_be_read_is_not_the_objects_way_in() -> None:
    if launch.UID == os.getuid():
        pytest.skip("the guard's user is the test's own")
    fine(f"bpftool map create $B/m {MAP} m; chmod 200 $B/m")
    outcome = shell("bpftool map show pinned $B/m")
    assert outcome.status == 255 and "Permission denied" in outcome.err


def test_another_user_sees_nothing_of_it() -> None:
    if os.getuid():
        pytest.skip("root alone can be somebody else")
    fine(f"bpftool map create $B/m {MAP} secret")
    argv = launch.guarded(["bpftool", "map", "list"], preload=True)
    argv[argv.index("--uid") + 1] = str(launch.UID + 1)
    outcome = run(argv)
    assert outcome == Outcome(0, "", "")
    argv = SHIM.tool(["ls", f"/tmp/libbpf_shim-{launch.UID + 1}"])
    assert "Permission denied" in run(argv).err


def test_a_loader_by_the_drop_in_libbpf_meets_those_that_are_preloaded() -> None:
    if not launch.library().with_name("libbpf.so.1").exists():
        pytest.skip("libbpf-dev is not installed")
    folder = build.private_copy({**build.calls(), **build.held()})
    with Eight(DROP_IN, folder, program="held", objects="held.bpf.o") as loader:
        listed = json.loads(fine("bpftool -j map list"))
        assert "bt_tallies" in [m["name"] for m in listed]
        loader.finish()
    shutil.rmtree(folder)


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["user,mode=1777", "user,mode=700", "root,mode=1777"])
def test_the_machines_own_bpffs_is_left_alone(mode: str) -> None:
    """One that all may write to, as it is mounted by default, or root alone, as systemd has it."""
    who, _, options = mode.partition(",")
    uid = launch.UID if who == "user" else 0
    folder = tempfile.mkdtemp(dir="/tmp")
    os.chown(folder, uid, uid)
    script = (f"export XDG_RUNTIME_DIR={folder} LD_PRELOAD={launch.library()}; "
              "mkdir /sys/fs/bpf/d && "
              f"bpftool map create /sys/fs/bpf/d/m {MAP} m && mv /sys/fs/bpf/d/m /sys/fs/bpf/n && "
              "ls /sys/fs/bpf && rm -r /sys/fs/bpf/d /sys/fs/bpf/n")
    argv = ["/bin/sh", "-c", script]
    outcome = run(["unshare", "-m", "sh", "-c", f"mount -t bpf -o {options} bpf /sys/fs/bpf && "
                   '"$@" && ls /sys/fs/bpf', "sh", *(launch.guarded(argv) if uid else argv)])
    shutil.rmtree(folder)
    assert outcome == Outcome(0, "d\nn\nmaps.debug\nprogs.debug\n", "")


GREEDY = """
import ctypes, os, struct
bpf = ctypes.CDLL(None, use_errno=True).syscall
fds = []
while True:
    attr = ctypes.create_string_buffer(struct.pack("<5I", 2, 4, 4, 1, 0), 72)
    fd = bpf(ctypes.c_long(321), ctypes.c_long(0), attr, ctypes.c_long(72))
    if fd < 0:
        break
    fds.append(fd)
print(ctypes.get_errno(), len(fds))
for fd in fds[:20]:
    os.close(fd)
"""


def test_a_backend_without_descriptors_says_so_and_lives() -> None:
    """The first loader's limit is the backend's; whoever asks for more gets EMFILE."""
    python = str(launch.product() / ".venv" / "bin" / "python")
    script = f"ulimit -n 200; {python} -c '{GREEDY}'; bpftool map list | grep -c array"
    found = shell(script)
    code, made, listed = found.out.split()
    assert int(code) == errno.EMFILE and int(made) > 20 and not found.err, found
    assert listed == "0"
    fine(f"bpftool map create $B/m {MAP} m; bpftool map show pinned $B/m")
