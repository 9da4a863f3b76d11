"""profile:hz:N samples CPU time where it is spent, and nothing in the process can tell."""

from __future__ import annotations

import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Session, Way, run
from compat_tests.victims import build

HERE = Path(__file__).parent
FLAGS = [*build.WARN, "-O1", "-fomit-frame-pointer", "-fno-optimize-sibling-calls", "-rdynamic",
         "-pthread"]
ALL = ("waits", "waiter", "cancel", "children", "timer")
BUSY = 'profile:hz:499 /comm == "busy"/ '


@pytest.fixture
def folder() -> Iterator[Path]:
    place = build.private_copy({"busy": build.make("busy", [HERE / "busy.c"], FLAGS)})
    yield place
    shutil.rmtree(place)


def profile(way: Way, folder: Path, what: str, program: str) -> tuple[dict[str, int], list[str]]:
    """bpftrace's scalars by name, and the victim's own lines."""
    outcome = run(way.tool(["bpftrace", "-c", f"{folder}/busy {what}", "-e", program]))
    assert outcome.status == 0, outcome
    maps = {name: int(value) for name, value in re.findall(r"^@(\S+): (\d+)$", outcome.out, re.M)}
    own = [line for line in outcome.out.splitlines()
           if re.match(r"(used|" + "|".join(ALL) + r") ", line)]
    return maps, own


def shares(maps: dict[str, int], own: list[str]) -> float:
    """Samples to those that so much CPU time is worth, at 499 Hz."""
    used = int(next(line for line in own if line.startswith("used")).split()[1])
    return maps["n"] / (used * 0.499)


@pytest.mark.parametrize("way", [SHIM, pytest.param(KERNEL, marks=[pytest.mark.kernel])],
                         ids=lambda way: way.name)
def test_threads_children_and_a_new_image_are_sampled_and_undisturbed(
    folder: Path, way: Way
) -> None:
    program = BUSY + "{ @n = count(); @leader[tid == pid] = count(); }"
    maps, own = profile(way, folder, f"0.1 {' '.join(ALL)} exec", program)
    assert own[:-1] == [f"{name} ok" for name in ALL]
    assert 0.8 < shares(maps, own) < 1.25, (maps, own)
    assert maps["leader[0]"] > 100 and maps["leader[1]"] > 100


def test_rates_above_the_machines_ticks_are_made_good_for(folder: Path) -> None:
    maps, own = profile(SHIM, folder, "0.4", BUSY.replace("499", "4990") + "{ @n = count(); }")
    assert 8 < shares(maps, own) < 12


def test_two_profiles_and_an_interval_each_have_their_own_rate(folder: Path) -> None:
    program = (BUSY + "{ @n = count(); } " + BUSY.replace("hz:499", "ms:10")
               + "{ @slow = count(); } interval:ms:50 { @i = count(); }")
    maps, own = profile(SHIM, folder, "0.6", program)
    assert 0.8 < shares(maps, own) < 1.25
    assert 4 < maps["n"] / maps["slow"] < 6.3
    assert maps["i"] >= 10


@pytest.mark.parametrize("way", [SHIM, pytest.param(KERNEL, marks=[pytest.mark.kernel])],
                         ids=lambda way: way.name)
def test_page_faults_are_counted_to_the_last(folder: Path, way: Way) -> None:
    """Of the victim's own and those of its start, which are not many."""
    mine = '/comm == "busy"/'
    outcome = run(way.tool(["bpftrace", "-c", f"{folder}/busy fault", "-e",
                            f"software:page-faults:1 {mine} {{ @one = count(); }} "
                            f"software:minor-faults:100 {mine} {{ @hundred = count(); }}"]))
    assert outcome.status == 0, outcome
    found = {name: int(n) for name, n in re.findall(r"^@?(\w+):? (\d+)$", outcome.out, re.M)}
    assert found["faults"] >= 6000
    assert found["faults"] <= found["one"] < found["faults"] + 1000
    assert -4 <= found["hundred"] - found["one"] // 100 <= 4


def test_stacks_lead_to_who_uses_the_time(folder: Path) -> None:
    outcome = run(SHIM.tool(["bpftrace", "-e", BUSY + '{ printf("%s---", ustack); } '
                             f"uprobe:{folder}/busy:done {{ exit(); }}",
                             "-c", f"{folder}/busy 0.3 done"]))
    assert outcome.status == 0, outcome
    stacks = outcome.out.split("---")[:-1]
    # __libc_start_call_main, which Debian 13's libc has no name for
    chain = r"spin\+\d+\s+burn\+\d+\s+main\+\d+\s+(__libc_start_call_main|0x\w+\s+__libc_start)"
    assert sum(1 for frames in stacks if re.search(chain, frames)) > 0.8 * len(stacks) > 80


def test_a_running_process_is_sampled_until_the_tool_ends(folder: Path) -> None:
    def timers(pid: int) -> int:
        return Path(f"/proc/{pid}/timers").read_text().count("ID:")

    with Session(SHIM.target([f"{folder}/busy", "stay"]), stdin=subprocess.PIPE) as victim:
        victim.until(b"\n")
        pid = int(victim.seen.split()[1])
        # not ==: two threads may count at once, and both look afterwards
        argv = ["bpftrace", "-e", f'BEGIN {{ printf("READY\\n"); }} profile:hz:99 /pid == {pid}/ '
                "{ @t[tid] = count(); @++; if (@ >= 40) { exit(); } }"]
        with Session(SHIM.tool(argv)) as session:
            session.until(b"READY\n")
            assert session.end().status == 0
            found = re.findall(rb"@t\[\d+\]: (\d+)", session.seen)
            assert len(found) == 3 and all(int(n) > 3 for n in found), session.seen
        end = time.monotonic() + 20
        while timers(pid) and time.monotonic() < end:
            time.sleep(0.05)
        assert not timers(pid)
        victim.send(b"end\n")
        assert victim.end().status == 0
