"""perf_event_open: which attr is which event, and the kernel's errno for the others."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from libbpf_shim.attach.clock import Clock, Timer
from libbpf_shim.attach.event import Pmus, Request, Ring, Uprobe, parse
from libbpf_shim.attach.function import Function
from libbpf_shim.attach.tracepoint import by_id, number_of, tracefs
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.structs import PERF_EVENT_ATTR

PMU, KPROBES, CPUS = 8, 9, 8
PMUS = Pmus(PMU, KPROBES)


def request(
    pid: int = -1, cpu: int = 0, path: str = "", group: int = -1, bits: int = 0, **fields: int
) -> Request:
    attr = bytearray(136)
    for name, value in fields.items():
        at, size = PERF_EVENT_ATTR[name]
        attr[at : at + size] = value.to_bytes(size, "little")
    attr[40:48] = struct.pack("<Q", bits)
    return Request(os.getpid(), bytes(attr), pid, cpu, group, 8, (path.encode(),) if path else ())


def test_a_ring() -> None:
    assert parse(request(type=1, config=10, cpu=3), PMUS, CPUS) == Ring(3)


def test_a_uprobe_and_a_uretprobe() -> None:
    asked = request(type=PMU, config2=64, path="/bin/true")
    assert parse(asked, PMUS, CPUS) == Uprobe(os.path.realpath("/bin/true"), 64, False, 0)
    asked = request(type=PMU, config=1, path="/bin/true", pid=os.getpid(), cpu=-1)
    assert parse(asked, PMUS, CPUS) == Uprobe(os.path.realpath("/bin/true"), 0, True, os.getpid())


def test_a_kprobe_and_a_kretprobe() -> None:
    asked = request(type=KPROBES, path="__x64_sys_openat")
    assert parse(asked, PMUS, CPUS) == Function("__x64_sys_openat", 257, False)
    asked = request(type=KPROBES, path="sys_openat")
    assert parse(asked, PMUS, CPUS) == Function("sys_openat", 257, False)
    asked = request(type=KPROBES, config=1, path="__x64_sys_newstat")
    assert parse(asked, PMUS, CPUS) == Function("__x64_sys_newstat", 4, True)


def test_a_reference_counter_is_not_looked_at() -> None:
    assert isinstance(
        parse(request(type=PMU, config=6 << 32, path="/bin/true"), PMUS, CPUS), Uprobe
    )


def test_an_interval_by_period_and_by_frequency() -> None:
    assert parse(request(type=1, sample_period=5_000_000), PMUS, CPUS) == Timer(5_000_000)
    assert parse(request(type=1, sample_period=100, bits=1 << 10), PMUS, CPUS) == Timer(10_000_000)


def test_a_clock_of_another_cpu_or_of_a_process_is_of_cpu_time() -> None:
    me = os.getpid()
    asked = request(type=1, sample_period=9_000_000, cpu=1)
    assert parse(asked, PMUS, CPUS) == Clock(9_000_000, 1)
    assert parse(request(type=1, sample_period=1, pid=me, cpu=-1), PMUS, CPUS) == Clock(
        10_000, -1, me, me)
    inherited = request(type=1, config=1, sample_period=50, bits=1 << 10 | 2, pid=me, cpu=0)
    assert parse(inherited, PMUS, CPUS) == Clock(20_000_000, 0, me)
    faults = request(type=1, config=6, sample_period=7, cpu=0)
    assert parse(faults, PMUS, CPUS) == Clock(7, 0, kind=3)


def test_a_tracepoint_that_only_the_kernel_comes_by_is_refused_with_its_name() -> None:
    number = number_of("sched", "sched_switch", tracefs())
    assert number
    with pytest.raises(ShimError, match="sched:sched_switch") as caught:
        parse(request(type=2, config=number), PMUS, CPUS)
    assert caught.value.errno == 95


def test_a_tracepoint_is_known_by_its_id_with_the_size_of_its_record() -> None:
    for category, name, size in (("syscalls", "sys_enter_openat", 48),
                                 ("syscalls", "sys_exit_read", 24),
                                 ("raw_syscalls", "sys_enter", 64)):
        known = by_id(number_of(category, name, tracefs()), tracefs())
        assert known and (known.category, known.name, known.size) == (category, name, size)


@pytest.mark.parametrize(("errno", "asked"), [
    (2, {"type": 7777}), (2, {"type": PMU, "path": "/no/such/file"}),
    (22, {"type": PMU, "path": "/tmp"}), (22, {"type": PMU}),
    (22, {"type": PMU, "path": "/bin/true", "config2": 1 << 40}),
    (22, {"type": 1, "config": 10, "cpu": 4000}), (22, {"type": 1, "config": 10, "cpu": -1}),
    (3, {"type": 1, "config": 10, "pid": 999999999}), (22, {"type": 2, "config": 1 << 20}),
    (2, {"type": 0}), (95, {"type": 5}), (95, {"type": 1, "config": 3}), (22, {"type": 1}),
    (22, {"type": 1, "config": 2}),
    (95, {"type": 1, "config": 2, "sample_period": 9, "bits": 1 << 10}),
    (95, {"type": 1, "config": 10, "bits": 1 << 27}),
    (22, {"type": 1, "sample_period": 1 << 63}),
    (22, {"type": 1, "sample_period": 100_001, "bits": 1 << 10}),
])  # fmt: skip
def test_what_cannot_be_is_an_errno(errno: int, asked: dict[str, object]) -> None:
    with pytest.raises(ShimError) as caught:
        parse(request(**asked), PMUS, CPUS)  # type: ignore[arg-type]
    assert caught.value.errno == errno


def test_a_relative_path_is_the_clients(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "program").write_bytes(bytes(16))
    monkeypatch.chdir(tmp_path)
    found = parse(request(type=PMU, path="program"), PMUS, CPUS)
    assert isinstance(found, Uprobe) and found.path == str(tmp_path / "program")
