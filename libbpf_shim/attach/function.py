"""Kprobes: the kernel's functions that a process comes to by itself.

Those are the functions that carry out system calls, __x64_sys_NAME: their entry lies behind
sys_enter of the call, their return before its sys_exit, and a program finds in rdi where the
registers of the application are (csrc/agent/func.c). Nobody comes by the others.
Source: kernel/events/core.c (perf_kprobe_event_init), kernel/trace/trace_event_perf.c
(perf_kprobe_init), kernel/trace/trace_kprobe.c, arch/x86/include/asm/syscall_wrapper.h.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from pathlib import Path

from libbpf_shim.attach.uprobe import pmu_type
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.syscalls import NUMBERS

PREFIX = "__x64_sys_"
# What bcc puts before a call's name where it is not root, who alone looks into /proc/kallsyms.
_OLD_PREFIX = "sys_"
KERNEL_ONLY = "AF0001"  # code of the error that says so
KERNEL_TYPE = "AF0003"  # of raw tracepoints, and what programs name by their BTF id
_KSYM_NAME_LEN = 512


@dataclass(frozen=True, slots=True)
class Function:
    """The function of a system call. number: the call's. ret: at its return."""

    name: str
    number: int
    ret: bool

    @property
    def event(self) -> int:
        """SHIM_EVENT_*."""
        from libbpf_shim._native import lib

        return int(lib.SHIM_EVENT_FUNC) + self.number


def _refused(code: int, what: str, *, only: bool = False) -> ShimError:
    return ShimError(KERNEL_ONLY if only else "AF0002", code, f"kprobe {what}")


def kprobe_type(library: Path) -> int:
    """The number of the kprobe PMU that loaders are shown."""
    return pmu_type("kprobe", library)


def parse(symbol: bytes, offset: int, ret: bool) -> Function:
    """What perf_event_attr.kprobe_func, .probe_offset and .config name. ENOENT: a function that is
    not there; E2BIG, EINVAL, EOPNOTSUPP."""
    if len(symbol) >= _KSYM_NAME_LEN:
        raise _refused(errno.E2BIG, f"of a name of {len(symbol)} bytes")
    name = symbol.decode(errors="replace")
    if not name:
        raise _refused(errno.EINVAL, f"at address {offset:#x}: no function is there")
    prefix = next((p for p in (PREFIX, _OLD_PREFIX) if name.startswith(p)), None)
    number = None if prefix is None else NUMBERS.get(name.removeprefix(prefix))
    if number is None:
        raise _refused(
            errno.ENOENT, f"{name}: only the kernel comes by there; in userspace there are the "
            f"functions of system calls ({PREFIX}openat ...), tracepoints and uprobes", only=True)
    if offset and ret:
        raise _refused(errno.EINVAL, f"{name}+{offset:#x}: a return is the function's")
    if offset:
        raise _refused(errno.EOPNOTSUPP, f"{name}+{offset:#x}: only the function's entry is met")
    return Function(name, number, ret)
