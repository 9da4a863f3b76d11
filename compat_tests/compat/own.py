"""The agent's own system calls, and those before its start, as the kernel sees them in a tree of
processes: what is to be left out of the kernel's figures, call by call.

A call is known by the bytes around its instruction and the instruction's place in its page: those
of libbpf_shim.so, of the agent's image and of what the keeper has a stopped process execute are in
their files. "Before the agent's start": from the exec to the entry of agent_start, or to the first
word of a keeper, which comes before the program's first instruction.
"""

from __future__ import annotations

import re
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from compat_tests.guard import launch
from libbpf_shim.elf.module import Module

_SYSCALL = b"\x0f\x05"
_PAGE = 4096
_AROUND = 8  # bytes before and behind the address behind the instruction
_HOME = launch.product() / "libbpf_shim"
_MARK = 0x5348494D  # SHIM_SERVICE_DONE, of membarrier(2)
_DI, _SI, _IP = 112, 104, 128  # in struct pt_regs
_OPEN, _OPENAT, _EXECVE = 2, 257, 59
_STACK, _REGS = 16384, 168  # bytes of a kernel's stack; of struct pt_regs, at its end
# Its place in its page; the 8 bytes before the address behind it, and the 8 there.
Site = tuple[int, int, int]


def _sites(text: bytes, base: int) -> Iterator[Site]:
    """Of code whose first byte lies at `base` (modulo a page)."""
    behind = 0
    while behind := text.find(_SYSCALL, behind) + len(_SYSCALL):
        if behind < len(_SYSCALL):
            return
        if _AROUND <= behind <= len(text) - _AROUND:
            before, after = struct.unpack_from("<QQ", text, behind - _AROUND)
            yield (base + behind) % _PAGE, before, after


@cache
def _agent() -> frozenset[Site]:
    """The agent's and the surface's, but for the surface's syscall(3), which makes the
    application's calls."""
    found: set[Site] = set()
    for name in ("libbpf_shim.so", "agent.so"):
        module = Module(str(_HOME / "_lib" / name))
        for part in module.text:
            found.update(_sites(module.data[part.offset : part.offset + part.filesz], part.vaddr))
    library = Module(str(_HOME / "_lib" / "libbpf_shim.so"))
    function = library.find("syscall")
    assert function
    start = library.vaddr_to_offset(function.vaddr)
    text = library.data[start - _AROUND : start + function.size + _AROUND]
    return frozenset(found - set(_sites(text, function.vaddr - _AROUND)))


@cache
def _cave() -> frozenset[tuple[int, int]]:
    """What the keeper has a process execute, at the end of a page: place, the 8 bytes behind."""
    keeper = _HOME / "_bin" / "keeper"
    listed = subprocess.run(["nm", str(keeper)], check=True, capture_output=True, text=True)
    at = {name: int(value, 16)
          for value, name in re.findall(r"^(\w+) R (kp_cave\w*)$", listed.stdout, re.M)}
    module, size = Module(str(keeper)), at["kp_cave_end"] - at["kp_cave"]
    start = module.vaddr_to_offset(at["kp_cave"])
    text = module.data[start - _AROUND : start + at["kp_cave_data"] - at["kp_cave"]]
    return frozenset((place, after) for place, _, after in _sites(text, -size - _AROUND))


def program(root: Path) -> str:
    """A bpftrace program for the processes that descend from the one that executes the file
    `root`, without that: their calls by process, number, site and whether the agent was to start
    yet, as they end; their opens by process, result, site, the same, and path."""
    library = launch.library()
    regs = f"(uint64)((struct task_struct *)curtask)->stack + {_STACK} - {_REGS}"
    path = "str(uptr(*(uint64 *)kptr($regs + {})))".format
    opens = "\n".join(f"""
            if (args->id == {number}) {{
                @opens[pid, args->ret, $ip & 4095, $before, $behind, @early[pid],
                       {path(where)}] = count();
            }}""" for number, where in ((_OPEN, _DI), (_OPENAT, _SI)))
    return f"""
        tracepoint:sched:sched_process_exec /str(args->filename) == "{root}"/ {{
            @tree[pid] = 2;
        }}
        tracepoint:sched:sched_process_fork /@tree[pid]/ {{ @tree[args->child_pid] = 1; }}
        tracepoint:sched:sched_process_exec /@tree[pid]/ {{ @early[pid] = 1; }}
        uprobe:{library}:agent_start /@tree[pid]/ {{ delete(@early[pid]); }}
        tracepoint:syscalls:sys_enter_membarrier /@tree[pid] && args->cmd == {_MARK}/ {{
            delete(@early[pid]);
        }}
        tracepoint:raw_syscalls:sys_exit /@tree[pid] == 1/ {{
            $regs = {regs}; $ip = *(uint64 *)kptr($regs + {_IP});
            $before = *(uint64 *)uptr($ip - 8); $behind = *(uint64 *)uptr($ip);
            @calls[pid, args->id, $ip & 4095, $before, $behind, @early[pid]] = count();{opens}
        }}
        END {{ clear(@early); clear(@tree); }}
        BEGIN {{ printf("READY\\n"); }}
    """


@dataclass(frozen=True, slots=True)
class Seen:
    """What the kernel saw of a tree. calls: (process, number, place in its page) -> the
    application's; own: the others of a process; opens: (process, errno, path) of those others."""

    calls: Counter[tuple[int, int, int]]
    own: Counter[int]
    opens: Counter[tuple[int, int, str]]


def parse(text: str) -> Seen:
    """What `program` has printed."""
    seen = Seen(Counter(), Counter(), Counter())
    row = r"^@{}\[(\d+), (-?\d+), (\d+), (-?\d+), (-?\d+), (\d){}\]: (\d+)\s*$"
    for pid, nr, *site, early, count in re.findall(row.format("calls", ""), text, re.M):
        number = int(nr)
        if number < 0:
            continue  # behind rt_sigreturn(2)
        if _is_own(site) or (early == "1" and number != _EXECVE):
            seen.own[int(pid)] += int(count)
        else:
            seen.calls[int(pid), number, int(site[0])] += int(count)
    opens = row.format("opens", ", (.*)")
    for pid, ret, *site, early, path, count in re.findall(opens, text, re.M):
        if _is_own(site) or early == "1":
            seen.opens[int(pid), max(0, -int(ret)), path] += int(count)
    return seen


def _is_own(site: list[str]) -> bool:
    place, before, after = (int(word) % (1 << 64) for word in site)
    return (place, before, after) in _agent() or (place, after) in _cave()
