"""Loaders that are statically linked: under `bpf-shim run` their raw system calls are served."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from compat_tests.clients import test_bad_input
from compat_tests.clients.tool import KERNEL, SHIM, Session, run
from compat_tests.guard import launch
from compat_tests.process import programs
from compat_tests.victims import build
from libbpf_shim.elf.module import Module

HITS = 1000  # of four threads
SHOWN = Path(__file__).with_name("shown.expected").read_text().splitlines()


OTHER = launch.UID + 20000  # calls that are served look like successes to who watches UID


@dataclass(frozen=True)
class Served:
    """Under the guard, bpf(2) is refused by a filter further out, so that its calls get other
    numbers; else it is an unprivileged user's, to whom the kernel refuses it."""

    guard: bool

    def loader(self, argv: list[str]) -> list[str]:
        inner = launch.shim_run(argv)
        if self.guard:
            return inner
        user = str(OTHER)
        return ["setpriv", "--reuid", user, "--regid", user, "--clear-groups",
                "--bounding-set=-all", "--inh-caps=-all", *inner[inner.index("--") + 1:]]

    target = loader


needs_root = pytest.mark.skipif(os.getuid() != 0, reason="changes the user: needs root")
GUARD, ALONE = Served(True), Served(False)
SERVED = [
    pytest.param(GUARD, id="guard"),
    pytest.param(ALONE, id="alone", marks=needs_root),
]


@pytest.fixture(scope="module", autouse=True)
def no_run_directory_stays() -> Iterator[None]:
    yield
    end = time.monotonic() + 10
    while _processes(OTHER, "backend.main") and time.monotonic() < end:
        time.sleep(0.02)  # a backend ends a second after its last client
    shutil.rmtree(f"/tmp/libbpf_shim-{OTHER}", ignore_errors=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({
        **build.calls(), "loader-glibc": programs.loader("glibc"),
        "loader-musl": programs.loader("musl"), "loader-go": programs.loader("go"),
        "loader-go-dynamic": programs.loader("go-dynamic"),
        "loader-dynamic": programs.loader("dynamic")})
    yield place
    shutil.rmtree(place)


def offset(folder: Path) -> str:
    module = Module(str(folder / "calls"))
    found = module.find("v_tick")
    assert found
    return hex(module.vaddr_to_offset(found.vaddr))


def counted(argv: list[str], target_of: Callable[[list[str]], list[str]], folder: Path) -> str:
    """What the loader says after 1000 hits in four threads of another process."""
    with Session(argv) as session:
        session.until(b"READY\n", 30)
        target = run(target_of([str(folder / "calls"), "-n", "250", "-t", "4"]))
        assert target.status == 0, target
        end = session.end(40)
    assert end.status == 0, end
    return end.out.splitlines()[-1]


def judge(line: str) -> None:
    """Of loader.c: all hits, in the array and in each ring, from one process, of four threads."""
    words = line.split()
    assert words[:4] == ["count", str(HITS), "ring", str(HITS)], line
    assert words[6:8] == ["perf", str(HITS)], line
    assert words[5] == words[9] != "0", line
    assert words[10:] == ["threads", "4", "end", "1"], line


@pytest.mark.kernel
def test_the_loader_works_on_the_kernel(folder: Path) -> None:
    argv = KERNEL.tool([f"{folder}/loader-musl", f"{folder}/calls", offset(folder), str(HITS)])
    judge(counted(argv, KERNEL.target, folder))


@pytest.mark.parametrize(("libc", "by", "how"), [
    pytest.param("glibc", "ioctl", ALONE, marks=needs_root), ("musl", "link", GUARD),
    pytest.param("glibc", "ioctl", GUARD, marks=pytest.mark.long),
    pytest.param("musl", "link", ALONE, marks=[needs_root, pytest.mark.long])])
def test_a_static_loader_in_c_reads_maps_and_rings(
    libc: str, by: str, how: Served, folder: Path
) -> None:
    argv = [f"{folder}/loader-{libc}", f"{folder}/calls", offset(folder), str(HITS)]
    command = how.loader([*argv, "ioctl"] if by == "ioctl" else argv)
    judge(counted(command, how.target, folder))


@pytest.mark.parametrize("how", SERVED)
@pytest.mark.parametrize("libc", ["glibc", "musl"])
def test_a_static_loader_lifts_the_limit_of_locked_memory(
    libc: str, how: Served, folder: Path
) -> None:
    outcome = run(how.loader([f"{folder}/loader-{libc}", "lift"]))
    assert outcome.out.split() == ["1", "1", "1", str(errno.EINVAL), str(errno.EFAULT)], outcome


def test_a_loader_is_served_where_the_library_is_preloaded_in_run_too(folder: Path) -> None:
    """There it would answer what is asked of who serves."""
    argv = launch.shim_run([f"{folder}/loader-glibc", "lift"])
    argv[1:1] = ["--env", f"LD_PRELOAD={launch.library()}"]
    assert run(argv).out.split()[:3] == ["1", "1", "1"]


def judge_children(loader: Callable[[list[str]], list[str]], mode: str, folder: Path) -> None:
    """All hits of one child, or of both, in the array and in each ring, of four threads each."""
    outcome = run(loader([f"{folder}/loader-glibc", f"{folder}/calls", offset(folder), str(HITS),
                          mode]))
    words = outcome.out.splitlines()[-1].split()
    assert words[:4] == ["count", str(HITS), "ring", str(HITS)], outcome
    assert words[6:8] == ["perf", str(HITS)] and words[5] == words[9], outcome
    assert words[10:] == ["threads", "8" if mode == "both" else "4", "end", "1"], outcome


@pytest.mark.kernel
@pytest.mark.parametrize("mode", ["kin", "both"])
def test_on_the_kernel_a_loader_traces_what_it_starts(mode: str, folder: Path) -> None:
    judge_children(KERNEL.tool, mode, folder)


@pytest.mark.parametrize("how", SERVED)
def test_calls_of_several_threads_are_answered_while_who_serves_is_stopped(
    how: Served, folder: Path
) -> None:
    """By the keeper, which looks for agents wherever a link goes: there is one in the library."""
    outcome = run(how.loader([str(programs.many()), f"{folder}/calls", offset(folder)]))
    assert outcome.out == "maps made wrong 0\n", outcome


# Behind a filter further out, each process that runs already is traced by whom the loader needs.
@pytest.mark.parametrize(("how", "mode"), [
    pytest.param(GUARD, "kin", id="guard"), pytest.param(ALONE, "both", marks=needs_root)])
def test_a_static_loader_traces_what_it_starts(how: Served, mode: str, folder: Path) -> None:
    """Its children are under its filter, and so is the library in them, which maps the session's
    files while the backend waits for it, and a call of the loader's for the backend."""
    judge_children(how.loader, mode, folder)


MOUNT = "mount -t tracefs none /sys/kernel/tracing; mount -t bpf none /sys/fs/bpf; exec \"$@\""


@pytest.mark.kernel
def test_on_the_kernel_files_are_as_a_static_loader_is_shown_them() -> None:
    outcome = run(KERNEL.tool(["sh", "-c", MOUNT, "sh", str(programs.shown())]))
    assert outcome.out.splitlines() == SHOWN, outcome


@pytest.mark.parametrize("how", SERVED)
def test_a_static_loader_is_shown_files_by_each_system_call(how: Served) -> None:
    outcome = run(how.loader([str(programs.shown())]))
    assert outcome.out.splitlines() == SHOWN, outcome


@pytest.mark.parametrize("how", SERVED)
@pytest.mark.parametrize("name", ["loader-go", "loader-go-dynamic"])
def test_a_loader_in_go_reads_maps(name: str, how: Served, folder: Path) -> None:
    """Its runtime sends itself signals all the time."""
    argv = [f"{folder}/{name}", f"{folder}/calls", offset(folder), str(HITS)]
    assert counted(how.loader(argv), how.target, folder) == f"count {HITS} mapped {HITS}"


def test_a_loader_in_go_that_is_linked_to_libc_needs_no_more_than_the_library(
    folder: Path
) -> None:
    argv = [f"{folder}/loader-go-dynamic", f"{folder}/calls", offset(folder), str(HITS)]
    assert counted(SHIM.tool(argv), GUARD.target, folder) == f"count {HITS} mapped {HITS}"


@pytest.mark.parametrize("how", SERVED)
def test_a_loader_that_is_served_is_no_target_itself(how: Served, folder: Path) -> None:
    """Its thread could not be stopped while it attaches to a function of libc; the target makes
    three calls of it."""
    libc = next(line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()
                if "/libc.so.6" in line)
    module = Module(libc)
    found = module.find("getopt")
    assert found
    argv = [f"{folder}/loader-go-dynamic", libc, hex(module.vaddr_to_offset(found.vaddr)), "3"]
    with Session(how.loader(argv)) as session:
        session.until(b"READY\n", 30)
        target = run(how.target([str(folder / "calls"), "-n", "1", "-t", "1"]))
        assert target.status == 0, target
        end = session.end(40)
    assert end.out == "READY\ncount 3 mapped 3\n", end


@pytest.mark.kernel
def test_on_the_kernel_a_loader_may_name_itself(folder: Path) -> None:
    argv = [f"{folder}/loader-glibc", f"{folder}/calls", offset(folder), "0", "own"]
    outcome = run(KERNEL.tool(argv))
    assert outcome.status == 0 and outcome.out.startswith("READY\ncount 0 "), outcome


@pytest.mark.parametrize("name", ["loader-glibc", "loader-dynamic"])
def test_a_loader_that_is_served_may_name_itself(name: str, folder: Path) -> None:
    argv = GUARD.loader([f"{folder}/{name}", f"{folder}/calls", offset(folder), "0", "own"])
    argv.insert(argv.index("run") + 1, "--loader")
    outcome = run(argv)
    assert outcome.status == 0 and outcome.out.startswith("READY\ncount 0 "), outcome


@pytest.mark.parametrize("how", SERVED)
def test_a_loader_that_a_dynamic_program_starts_is_served_where_that_is_said(
    how: Served, folder: Path
) -> None:
    argv = how.loader(["/bin/sh", "-c", f"{folder}/loader-go {folder}/calls {offset(folder)} "
                       f"{HITS} && /bin/true"])
    argv.insert(argv.index("run") + 1, "--loader")
    assert counted(argv, how.target, folder) == f"count {HITS} mapped {HITS}"


@pytest.mark.parametrize("how", [
    pytest.param(GUARD, id="guard"), pytest.param(ALONE, id="alone", marks=pytest.mark.long)])
def test_every_wrong_call_has_the_kernels_errno(how: Served) -> None:
    outcome = run(how.loader([str(programs.bad_calls())]))
    assert outcome.status == 0, outcome
    assert outcome.out.splitlines() == test_bad_input.EXPECTED


FAMILY = ["children 0", "wrong numbers 0 ticks 1", "close on exec 1", "update 0",
          "child 0 value 7", "at an edge 0 value 7", "beyond it 14", "test run 4"]


@pytest.mark.kernel
def test_what_the_family_says_on_the_kernel() -> None:
    outcome = run(KERNEL.tool([str(programs.family()), "/bin/true"]))
    assert outcome.out.splitlines() == [*FAMILY, "dynamic 0"], outcome


@pytest.mark.parametrize("how", SERVED)
def test_children_signals_and_dynamic_programs_are_served_too(how: Served) -> None:
    """The last one is dynamic: there the preloaded library answers before the filter is asked."""
    dynamic = str(test_bad_input.badcalls())
    restart = [] if how.guard else ["restart"]  # docs/parity.md: else EINTR may show
    outcome = run(how.loader([str(programs.family()), dynamic, *restart]))
    assert outcome.out.splitlines() == [*FAMILY, *test_bad_input.EXPECTED, "dynamic 0"], outcome


def _processes(user: int, *words: str) -> list[str]:
    """Command lines of a user's processes that have one of the words in them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and entry.stat().st_uid == user:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                if any(word in line for word in words):
                    found.append(line)
        except OSError:
            continue
    return found


def test_who_serves_ends_with_the_last_of_the_program(folder: Path) -> None:
    outcome = run(GUARD.loader([str(programs.family()), "/bin/true"]))
    assert outcome.out.splitlines() == [*FAMILY, "dynamic 0"], outcome
    end = time.monotonic() + 10
    while left := _processes(launch.UID, "cli import main", "/rename "):
        assert time.monotonic() < end, left
        time.sleep(0.02)  # between two looks; bounded by the deadline above


def test_without_ptrace_and_behind_a_filter_it_is_refused_with_a_reason(folder: Path) -> None:
    outcome = run(launch.shim_run([f"{folder}/loader-glibc"], no_ptrace=True))
    assert outcome.status == 126 and outcome.out == ""
    assert outcome.err.startswith("bpf-shim run: "), outcome
    assert "filter further out" in outcome.err
