"""Virtual CPUs that threads keep from run to run (csrc/runtime/vcpu.c), and who wants
them meanwhile; keepers.c does that with threads that are moved from CPU to CPU."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.runtime.test_maps import VCPUS, Control
from compat_tests.runtime.test_stress import plain

KEEPERS = Path(__file__).with_name("keepers.c")
NONE = int(lib.SHIM_NO_VCPU)


class Thread:
    """What the thread of a process is to the runtime, wherever this one runs."""

    def __init__(self, control: Control, number: int = 1) -> None:
        self.ctl = control.ctl
        self.owner = int(control.run().owner) - 1 + number
        self.entry = int(lib.shim_vcpu_entry(self.ctl, self.owner))

    def keep(self) -> int:
        return int(lib.shim_vcpu_keep(self.ctl, self.entry, self.owner))

    def claim(self, cpu: int | None = None) -> int:
        if cpu is not None:
            return int(lib.shim_vcpu_claim_at(self.ctl, cpu, self.owner))
        return int(lib.shim_vcpu_claim(self.ctl, self.owner))

    def end(self, cpu: int) -> None:
        lib.shim_vcpu_release(self.ctl, cpu, self.owner)


@pytest.fixture(autouse=True)
def rdpid() -> None:
    """The kernel's own: without it no thread keeps any."""
    if not Thread(Control()).entry:
        pytest.skip("no rdpid here")


@pytest.fixture
def control() -> Control:
    return Control()


@pytest.fixture
def cpus() -> Iterator[list[int]]:
    """Two of the machine's, on the first of which this runs."""
    before = os.sched_getaffinity(0)
    found = sorted(cpu for cpu in before if cpu < VCPUS)
    if len(found) < 2:
        pytest.skip("two CPUs of the first four are needed")
    os.sched_setaffinity(0, found[:1])
    yield found[:2]
    os.sched_setaffinity(0, before)


def test_a_thread_keeps_the_one_of_its_cpu(control: Control, cpus: list[int]) -> None:
    keeper = Thread(control)
    assert keeper.entry >= VCPUS and Thread(control).entry != keeper.entry  # another slot
    assert int(lib.shim_vcpu_entry(control.ctl, keeper.owner)) == keeper.entry
    for _ in range(3):
        assert keeper.keep() == cpus[0]
        keeper.end(cpus[0])
    os.sched_setaffinity(0, cpus[1:])
    assert keeper.keep() == cpus[1]
    assert control.ctl.vcpu[cpus[0]].word == 0, "the other one is still kept"


def test_who_is_on_that_cpu_has_it_once_the_run_is_over(control: Control, cpus: list[int]) -> None:
    keeper, other = Thread(control), Thread(control, 2)
    assert keeper.keep() == cpus[0]
    for take in (other.claim, other.keep):
        took = take()
        assert took != cpus[0]
        other.end(took)
    keeper.end(cpus[0])
    assert other.claim() == cpus[0]
    assert keeper.keep() == NONE
    other.end(cpus[0])
    assert keeper.keep() == cpus[0]
    keeper.end(cpus[0])
    assert other.keep() == cpus[0] and keeper.keep() == NONE


def test_a_keeper_claims_its_own(control: Control, cpus: list[int]) -> None:
    keeper, other = Thread(control), Thread(control, 2)
    keeper.end(keeper.keep())
    word = control.ctl.vcpu[cpus[0]].word
    assert keeper.claim(cpus[0]) == cpus[0] and control.ctl.vcpu[cpus[0]].word == word
    assert other.claim() != cpus[0]
    keeper.end(cpus[0])
    assert keeper.keep() == cpus[0]
    keeper.end(cpus[0])
    os.sched_setaffinity(0, cpus[1:])
    assert keeper.claim(cpus[0]) == cpus[0] and not control.ctl.vcpu[cpus[0]].kept
    keeper.end(cpus[0])
    assert control.ctl.vcpu[cpus[0]].word == 0


def test_who_is_on_another_cpu_leaves_it_unless_there_is_no_other(
    control: Control, cpus: list[int]
) -> None:
    keeper, other, third = (Thread(control, number) for number in (1, 2, 3))
    keeper.end(keeper.keep())
    os.sched_setaffinity(0, cpus[1:])
    taken = [other.claim() for _ in range(VCPUS - 1)]
    assert taken[0] == cpus[1] and cpus[0] not in taken
    assert third.claim() == cpus[0], "its keeper is in no run"
    assert keeper.keep() == NONE and keeper.claim(cpus[0]) == NONE  # that of one who stays


def test_one_of_a_number_is_had_from_another_cpu(control: Control, cpus: list[int]) -> None:
    keeper, other = Thread(control), Thread(control, 2)
    keeper.end(keeper.keep())
    os.sched_setaffinity(0, cpus[1:])
    assert other.claim(cpus[0]) == cpus[0]


def test_entries_are_those_that_are_no_virtual_cpus(control: Control) -> None:
    control.ctl.nr_vcpus = lib.SHIM_MAX_VCPUS - 2
    threads = [Thread(control, number) for number in (1, 2, 3)]
    assert sorted(thread.entry for thread in threads) == [0, 510, 511]
    slot = control.ctl.slot[threads[0].owner >> lib.SHIM_OWNER_SLOT_SHIFT]
    slot.gen, slot.state = slot.gen + 1, lib.SHIM_SLOT_FREE
    assert Thread(control, 4).entry == threads[0].entry, "the dead keep theirs"
    control.ctl.nr_vcpus = lib.SHIM_MAX_VCPUS
    assert Thread(control, 5).entry == 0


def threads(seconds: float, processes: int, each: int, kill: bool) -> dict[str, int]:
    """How often a virtual CPU was had again, kept from then on, claimed once; moves, kills."""
    words = [str(number) for number in (seconds, processes, each, int(kill))]
    done = subprocess.run([*plain(KEEPERS), *words], capture_output=True, text=True,
                          timeout=seconds + 60)
    assert done.returncode == 0, done.stderr
    return {name: int(number) for number, name in re.findall(r"(\d+) (\w+)", done.stdout)}


@pytest.mark.parametrize(("processes", "each"), [(2, 1), (2, 2), (1, 8)])
def test_no_two_runs_have_one_virtual_cpu(processes: int, each: int) -> None:
    done = threads(1, processes, each, False)
    assert min(done[how] for how in ("again", "kept", "claimed", "moved")) > 100


@pytest.mark.parametrize("each", [1, 4])
def test_who_dies_leaves_no_virtual_cpu_in_a_run(each: int) -> None:
    done = threads(2, 4, each, True)
    assert done["killed"] > 5 and done["again"] > 1000


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize(("each", "kill"), [(1, False), (2, False), (4, True)])
def test_no_two_runs_have_one_virtual_cpu_for_a_minute(each: int, kill: bool) -> None:
    assert threads(60, 2, each, kill)["kept"] > 10000
