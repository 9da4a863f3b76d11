"""System calls of a Go program, made on the small stacks of goroutines."""

from __future__ import annotations

import re

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Terminal, Way
from compat_tests.guard import launch
from compat_tests.inject.targets import Target, go_server
from compat_tests.inject.test_verbs import verb

# server.go makes them a known number of times each time that it works
CALLS = {"getppid": 200, "newfstatat": 200, "pread64": 200, "clone": 1, "execve": 1}
RESULTS = {("getppid", 1): 200, ("newfstatat", -2): 200, ("pread64", -9): 200, ("clone", 0): 1,
           ("clone", 1): 1}
ROUNDS = 3
OURS = f'/comm == "server" && uid == {launch.UID}/'


def script(pid: int) -> str:
    """READY comes from a tick: then all probes are there."""
    enter = ",".join(f"tracepoint:syscalls:sys_enter_{name}" for name in CALLS)
    leave = ",".join(f"tracepoint:syscalls:sys_exit_{name}" for name in CALLS)
    return (f"{enter} {OURS} {{ @in[probe] = count(); }} "
            f"{leave} {OURS} "
            "{ @out[probe, args->ret > 0 ? 1 : args->ret] = count(); } "
            f"tracepoint:syscalls:sys_enter_pread64 {OURS} "
            "{ @args[args->buf, args->count, args->pos] = count(); } "
            f"tracepoint:raw_syscalls:sys_enter /pid == {pid} && args->id == 110/ "
            "{ @raw = count(); } "
            "interval:ms:50 { @ticks++; if (@ticks == 2) { printf(\"READY\\n\"); } }")


def seen(way: Way) -> str:
    with Target([str(go_server()), "child"], guarded=True) as target:
        target.works()
        if way is SHIM:
            assert verb("attach", str(target.pid)).returncode == 0
        with Terminal(way.tool(["bpftrace", "-e", script(target.pid)])) as tool:
            tool.until(b"READY")
            for _ in range(ROUNDS):
                target.works()
            out = tool.interrupt()
        target.works()
        if way is SHIM:
            assert verb("detach", str(target.pid)).returncode == 0
            assert target.ours() == []
        target.works()
        target.end()
    return out


@pytest.mark.parametrize("way", [pytest.param(KERNEL, marks=pytest.mark.kernel, id="kernel"),
                                 pytest.param(SHIM, id="shim")])
def test_calls_and_results_of_goroutines_are_told(way: Way) -> None:
    out = seen(way)
    entered = {name: int(n) for name, n in
               re.findall(r"@in\[tracepoint:syscalls:sys_enter_(\w+)\]: (\d+)", out)}
    left = {(name, int(ret)): int(n) for name, ret, n in
            re.findall(r"@out\[tracepoint:syscalls:sys_exit_(\w+), (-?\d+)\]: (\d+)", out)}
    # threads of Go's own, which it makes when it likes
    threads = entered["clone"] - ROUNDS * CALLS["clone"]
    assert threads >= 0
    assert entered == {name: ROUNDS * n + threads * (name == "clone") for name, n in CALLS.items()}
    begun = left.pop(("clone", 0)) - ROUNDS * RESULTS["clone", 0]
    assert 0 <= begun <= threads
    assert {k: n for k, n in left.items() if k[0] != "execve"} == {
        k: ROUNDS * n + threads * (k == ("clone", 1)) for k, n in RESULTS.items()
        if k != ("clone", 0)}
    assert f"@args[0x1, 2, 3]: {ROUNDS * CALLS['pread64']}" in out
    assert f"@raw: {ROUNDS * CALLS['getppid']}" in out


def test_a_call_of_a_goroutine_is_skipped() -> None:
    """The server ends if it has no parent."""
    program = (f"kprobe:__x64_sys_getppid {OURS} {{ override(0); }} "
               "interval:ms:50 { @ticks++; if (@ticks == 2) { printf(\"READY\\n\"); } }")
    with Target([str(go_server())], guarded=True) as target:
        target.works()
        assert verb("attach", str(target.pid)).returncode == 0
        with Terminal(SHIM.tool(["bpftrace", "--unsafe", "-e", program])) as tool:
            tool.until(b"READY")
            with pytest.raises(AssertionError, match="the target ended with 2"):
                target.works()
            tool.interrupt()
