"""Processes that cannot or must not be given an agent: a reason, and no harm."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compat_tests.guard import launch
from compat_tests.inject.targets import COMMANDS, HERE, LIMIT, Target
from compat_tests.victims import build
from libbpf_shim.attach.inject import IMAGE, image_name, inject
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.errors import ShimError

# which filters leave the agent what it needs
ALLOWED = ("none", "kill-bpf", "errno-readv", "docker")
REFUSED = {
    "strict": "in seccomp's strict mode",
    "kill-mmap": "may end it for mmap",
    "errno-mmap": "refuses mmap",
    "kill-exec": "may end it for mmap of code",
    "trap-readv": "may end it for process_vm_readv",
    "list": "may end it for open",
    "sleeps": "may end it for open",
    "kill-219": "may end it for restart_syscall",
    "kill-15": "may end it for rt_sigreturn",
}


def fenced() -> str:
    return str(build.make("fenced", [HERE / "fenced.c"], [*build.WARN, "-O1", "-pthread"]))


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    made = Keeper()
    yield made
    made.close()


def refused(target: Target, give: Callable[[], object]) -> ShimError:
    """It is refused, and the target goes on without an agent."""
    with pytest.raises(ShimError, match="no agent: ") as error:
        give()
    target.works()
    assert target.ours() == []
    target.end()
    return error.value


@pytest.mark.parametrize("kind", ALLOWED)
def test_a_filter_that_leaves_what_is_needed_is_no_hindrance(
    kind: str, keeper: Keeper, tmp_path: Path
) -> None:
    with Target([fenced(), kind]) as target:
        keeper.eject(target.pid, inject(keeper, target.pid, str(tmp_path)).root)
        target.works()
        target.end()


@pytest.mark.skipif(os.getuid() != 0, reason="filters are read with CAP_SYS_ADMIN")
@pytest.mark.parametrize("kind", REFUSED)
def test_a_filter_that_would_end_the_process_is_found_out_first(
    kind: str, keeper: Keeper, tmp_path: Path
) -> None:
    with Target([fenced(), kind]) as target:
        error = refused(target, lambda: inject(keeper, target.pid, str(tmp_path)))
    assert error.errno == errno.EACCES
    assert REFUSED[kind] in error.message


# As the guard's user: argv is the product, PID, run directory; prints the errno and the reason.
GIVE = """
import sys
sys.path.insert(0, sys.argv[1])
from libbpf_shim.attach.inject import inject
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.errors import ShimError
keeper = Keeper()
try:
    keeper.eject(int(sys.argv[2]), inject(keeper, int(sys.argv[2]), sys.argv[3]).root)
    print("0")
except ShimError as error:
    print(error.errno, error.message)
keeper.close()
"""


def as_user(pid: int, way: Callable[[list[str]], list[str]]) -> str:
    python = str(launch.product() / ".venv" / "bin" / "python")
    argv = way([python, "-I", "-c", GIVE, str(launch.product()), str(pid), "/tmp"])
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def plain(argv: list[str]) -> list[str]:
    """As the guard's user, without a filter."""
    code = "import os, sys; os.setgroups([]); os.setresgid(*[int(sys.argv[1])] * 3); " \
           "os.setresuid(*[int(sys.argv[1])] * 3); os.execv(sys.argv[2], sys.argv[2:])"
    return [sys.executable, "-I", "-c", code, str(launch.UID), *argv]


root_only = pytest.mark.skipif(os.getuid() != 0, reason="becomes another user")


@root_only
def test_a_user_gives_an_agent_to_a_process_under_the_same_filter() -> None:
    with Target(COMMANDS["glibc"](), guarded=True) as target:
        assert as_user(target.pid, launch.guarded) == "0"
        target.works()
        target.end()


@root_only
@pytest.mark.parametrize("kind", ["kill-mmap", "strict", "kill-bpf", "sleeps", "docker"])
def test_a_filter_of_its_own_that_a_user_cannot_read_is_refused(kind: str) -> None:
    # strict mode cannot come on top of a filter
    for way in (plain,) if kind == "strict" else (launch.guarded, plain):
        with Target(way([fenced(), kind])) as target:
            for asks in (launch.guarded, plain):
                said = as_user(target.pid, asks)
                assert said.startswith(f"{errno.EACCES} "), said
                assert "CAP_SYS_ADMIN" in said or "strict mode" in said
            target.works()
            target.end()


@root_only
def test_another_user_s_process_is_refused() -> None:
    with Target([fenced(), "none"]) as target:
        said = as_user(target.pid, plain)
        assert said.startswith((f"{errno.EPERM} ", f"{errno.EACCES} ")), said
        assert "it runs as user 0" in said
        target.works()


@root_only
def test_a_process_that_is_not_dumpable_is_refused() -> None:
    """A set-user-ID program, as its user's."""
    sleep = shutil.which("sleep")
    assert sleep
    copy = build.CACHE / "setuid-sleep"
    shutil.copy(sleep, copy)
    os.chown(copy, 0, 0)
    copy.chmod(0o4755)
    process = subprocess.Popen(plain([str(copy), "30"]))
    try:
        while os.readlink(f"/proc/{process.pid}/exe") != str(copy):
            assert process.poll() is None
        said = as_user(process.pid, plain)
    finally:
        process.kill()
        process.wait()
        copy.unlink()
    assert said.startswith((f"{errno.EPERM} ", f"{errno.EACCES} ")), said


def test_a_process_that_is_traced_is_busy(keeper: Keeper, tmp_path: Path) -> None:
    tracer = build.make("tracer", [HERE / "tracer.c"], [*build.WARN, "-O1"])
    with Target([fenced(), "none"]) as target, Target([str(tracer), str(target.pid)]):
        with pytest.raises(ShimError, match="no agent: process [0-9]+ traces it") as error:
            inject(keeper, target.pid, str(tmp_path))
        assert error.value.errno == errno.EBUSY


def test_an_agent_is_there_once(keeper: Keeper, tmp_path: Path) -> None:
    with Target(COMMANDS["glibc"]()) as target:
        first = inject(keeper, target.pid, str(tmp_path))
        with pytest.raises(ShimError) as error:
            keeper.inject(target.pid, str(IMAGE), image_name(), str(tmp_path))
        assert error.value.errno == errno.EEXIST
        assert inject(keeper, target.pid, str(tmp_path)) == first
        keeper.eject(target.pid, first.root)
        target.end()


def test_a_process_that_carries_the_library_keeps_it(keeper: Keeper, tmp_path: Path) -> None:
    command = ["env", f"LD_PRELOAD={launch.library()}", *COMMANDS["glibc"]()]
    with Target(command) as target:
        found = inject(keeper, target.pid, str(tmp_path))
        assert not found.injected
        with pytest.raises(ShimError) as error:
            keeper.eject(target.pid, found.root)
        assert error.value.errno == errno.EOPNOTSUPP
        target.works()
        target.end()


def is_stopped(pid: int) -> None:
    """A thread that a tracer has let go of goes on to stand still, and does nothing before."""
    end = time.monotonic() + LIMIT
    while "State:\tT" not in Path(f"/proc/{pid}/status").read_text():
        assert time.monotonic() < end, "it runs"
        time.sleep(0.005)  # between two looks, under the deadline above


def test_a_stopped_process_gets_its_agent_and_stays_stopped(
    keeper: Keeper, tmp_path: Path
) -> None:
    with Target(COMMANDS["glibc"]()) as target:
        target.works()
        target.process.send_signal(19)  # SIGSTOP
        os.waitpid(target.pid, os.WUNTRACED)
        root = inject(keeper, target.pid, str(tmp_path)).root
        is_stopped(target.pid)
        keeper.eject(target.pid, root)
        is_stopped(target.pid)
        target.process.send_signal(18)  # SIGCONT
        target.works()
        target.end()


# the preloaded library's alone: its mailbox, what it finds out about itself as it begins, and what
# programs ask of a test run's packet
NOT_INJECTED = {"mailbox.c": None, "procfs.c": {"PTRACE"}, "helpers_sock.c": None}


def test_every_call_of_the_agent_is_one_that_filters_are_asked_about() -> None:
    csrc = launch.ROOT / "csrc"
    numbers: dict[str, int] = {}
    made: set[str] = set()
    folders = [csrc / name for name in ("agent", "runtime", "image")]
    for source in [p for folder in folders for p in folder.glob("*.[ch]")]:
        text = source.read_text()
        numbers.update((name, int(n)) for name, n in re.findall(r"\bNR_(\w+) = (\d+)", text))
        own = NOT_INJECTED.get(source.name, set())
        if own is not None:
            made |= set(re.findall(r"shim_sys\d\(\s*NR_(\w+)", text)) - own
    made |= {"PROCESS_VM_READV", "PROCESS_VM_WRITEV", "RT_SIGRETURN"}  # by a variable; by a frame
    assert len(made) > 50
    table = (csrc / "include" / "shim_filter.h").read_text()
    header = subprocess.run(["gcc", "-E", "-dM", "-include", "asm/unistd.h", "-x", "c", "-"],
                            input="", capture_output=True, text=True, check=True).stdout
    kernel = {name: int(n) for name, n in re.findall(r"^#define __NR_(\w+) (\d+)$", header, re.M)}
    asked = {kernel[name] for name in re.findall(r"\{ __NR_(\w+),", table)}
    assert {name for name in made if numbers[name] not in asked} == set()
