"""Ways to attach a program: the event is opened, joined to the program, and let go.

Source: libbpf 1.1 src/libbpf.c, bpf_program__attach_*; perf_event_open(2), LINK_CREATE(2).
"""

from __future__ import annotations

import errno
import functools
import os
import re
import struct
from pathlib import Path
from typing import TYPE_CHECKING, Final

from libbpf_shim.client import meeting
from libbpf_shim.client.link import Link
from libbpf_shim.client.session import Command, Session, failed, identity, packed
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd

if TYPE_CHECKING:
    from libbpf_shim.attach.event import Pmus
    from libbpf_shim.client.program import Program

_ENABLE: Final = 0x2400  # PERF_EVENT_IOC_ENABLE
_TYPE_TRACEPOINT, _TYPE_SOFTWARE = 2, 1
_CPU_CLOCK, _BPF_OUTPUT = 0, 10
_FREQ, _SAMPLE_RAW = 1 << 10, 1 << 10
_CLOEXEC = 8  # PERF_FLAG_FD_CLOEXEC
_TRACING = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")


def _attr(flags: int = 0, **fields: int) -> bytes:
    """struct perf_event_attr."""
    out = bytearray(structs.PERF_EVENT_ATTR_SIZE)
    for name, value in {"size": len(out), **fields}.items():
        at, size = structs.PERF_EVENT_ATTR[name]
        out[at : at + size] = value.to_bytes(size, "little")
    struct.pack_into("<Q", out, 40, flags)
    return bytes(out)


def open_event(
    session: Session, attr: bytes, pid: int, cpu: int, strings: bytes = b""
) -> int:
    """perf_event_open(2): the caller's descriptor."""
    head = packed("shim_perf_open", pid=pid, cpu=cpu, group_fd=-1, attr_size=len(attr),
                  flags=_CLOEXEC)
    reply = session.request(session.lib.SHIM_OP_PERF_OPEN, head + attr + strings)
    if reply.ret < 0:
        raise failed("perf event: not opened", reply.ret)
    return reply.fd


def enable(session: Session, event: int) -> None:
    """PERF_EVENT_IOC_ENABLE."""
    head = packed("shim_perf_ioctl", event=identity(event), prog={"fd": -1}, request=_ENABLE)
    reply = session.request(session.lib.SHIM_OP_PERF_IOCTL, head)
    if reply.ret < 0:
        raise failed("perf event: not enabled", reply.ret)


def by_event(program: Program, event: int, cookie: int, name: str) -> Link:
    """A link of a perf event, which it takes over."""
    session = program.session
    command = Command(bpf_cmd.BPF_LINK_CREATE, "link_create",
                      attach_type=bpf_attach_type.BPF_PERF_EVENT)
    command.fd("prog_fd", program.need_fd())
    command.fd("target_fd", event)
    command.put("perf_event.bpf_cookie", cookie)
    try:
        link = Link(session, session.must(command, f"{program.name}: not attached to {name}").fd,
                    program.name, event)
    except BaseException:
        os.close(event)
        raise
    try:
        enable(session, event)
    except BaseException:
        link.close()
        raise
    return link


# uprobes


@functools.cache
def pmus() -> Pmus:
    """Numbers of the PMUs of probes, of the machine or of what loaders are shown."""
    from libbpf_shim.attach.event import Pmus

    return Pmus.shown(meeting.LIBRARY)


def find_binary(path: str) -> str:
    """A path as it is, a name as a library's or a program's. ENOENT."""
    if "/" in path:
        return path
    folders = (["/lib", "/usr/lib", "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu"]
               if path.endswith(".so") or ".so." in path else
               os.environ.get("PATH", "/usr/bin:/bin").split(":") + ["/usr/sbin", "/sbin"])
    for folder in folders:
        if os.access(os.path.join(folder, path), os.R_OK):
            return os.path.join(folder, path)
    raise ShimError("CA0001", errno.ENOENT, f"uprobe: no binary {path}")


def symbol_offset(path: str, symbol: str, extra: int) -> int:
    """Offset in the file, in bytes. ENOENT: no such function."""
    from libbpf_shim.elf.module import Module

    module = Module(path)
    found = module.find(symbol)
    if found is None:
        raise ShimError("CA0001", errno.ENOENT, f"uprobe: no function {symbol} in {path}")
    return module.vaddr_to_offset(found.vaddr) + extra


def uprobe(
    program: Program, path: str, symbol: str | int, *, ret: bool, pid: int, offset: int,
    cookie: int,
) -> Link:
    """At a function or an offset of a file; pid -1: in every process."""
    path = find_binary(path)
    at = symbol_offset(path, symbol, offset) if isinstance(symbol, str) else symbol + offset
    return uprobe_at(program, path, at, int(ret), pid, cookie)


def uprobe_at(
    program: Program, path: str, offset: int, config: int, pid: int, cookie: int
) -> Link:
    """At an offset of a file. config: bit 0 at the return, bits 32 to 63 a reference counter."""
    attr = _attr(type=pmus().uprobe, config=config, config2=offset)
    event = open_event(program.session, attr, pid if pid else os.getpid(),
                       0 if pid == -1 else -1, os.fsencode(path) + b"\0" + b"\0")
    return by_event(program, event, cookie, f"{path}+{offset:#x}")


def parse_uprobe(section: str) -> tuple[str, str, int]:
    """Of `uprobe/PATH:FUNC+OFFSET`. EINVAL: it is not written like that."""
    found = re.fullmatch(r"[^/]+/(.+):([A-Za-z0-9_.@]+)(?:\+(\d+|0x[0-9a-fA-F]+))?", section)
    if not found:
        raise ShimError("CA0002", errno.EINVAL,
                        f"SEC({section!r}): names no function: uprobe/PATH:FUNCTION[+OFFSET]",
                        "say it: program.attach_uprobe(path, function)")
    return found[1], found[2], int(found[3] or "0", 0)


# kprobes


def kprobe(program: Program, function: str, *, ret: bool, offset: int, cookie: int) -> Link:
    """At a kernel's function that processes come to (a system call's), or its return."""
    attr = _attr(type=pmus().kprobe, config=int(ret), config2=offset)
    event = open_event(program.session, attr, -1, 0, function.encode() + b"\0" + b"\0")
    return by_event(program, event, cookie, f"{function}+{offset:#x}")


def parse_kprobe(section: str) -> tuple[str, int, bool]:
    """Function, offset in bytes and whether at its return, of `kprobe/FUNC+OFFSET` and
    `ksyscall/NAME`. EINVAL: it is not written like that."""
    kind, _, place = section.partition("/")
    found = re.fullmatch(r"([A-Za-z0-9_.]+)(?:\+(\d+|0x[0-9a-fA-F]+))?", place)
    ret, call = kind.startswith("kret"), kind.endswith("syscall")
    if not found or (found[2] and (ret or call)):
        raise ShimError("CA0002", errno.EINVAL,
                        f"SEC({section!r}): names no function: kprobe/FUNCTION[+OFFSET]",
                        "say it: program.attach_kprobe(function)")
    return f"{'__x64_sys_' * call}{found[1]}", int(found[2] or "0", 0), ret


# tracepoints, timers


def tracepoint_id(category: str, name: str) -> int:
    """From tracefs, the machine's or what loaders are shown. ENOENT."""
    for root in (*_TRACING, str(meeting.LIBRARY.parent / "tracefs")):
        try:
            return int(Path(root, "events", category, name, "id").read_text())
        except (OSError, ValueError):
            continue
    raise ShimError("CA0003", errno.ENOENT, f"tracepoint {category}:{name}: there is none")


def tracepoint(program: Program, category: str, name: str, cookie: int) -> Link:
    attr = _attr(type=_TYPE_TRACEPOINT, config=tracepoint_id(category, name))
    event = open_event(program.session, attr, -1, 0)
    return by_event(program, event, cookie, f"{category}:{name}")


def raw_tracepoint(program: Program, name: str) -> Link:
    command = Command(bpf_cmd.BPF_RAW_TRACEPOINT_OPEN, "raw_tracepoint")
    command.fd("prog_fd", program.need_fd())
    command.give("name", name.encode() + b"\0")
    reply = program.session.must(command, f"{program.name}: not attached to {name}")
    return Link(program.session, reply.fd, program.name)


def output_event(session: Session, cpu: int, wakeup: int) -> int:
    """A ring that programs write by bpf_perf_event_output."""
    attr = _attr(type=_TYPE_SOFTWARE, config=_BPF_OUTPUT, sample_period=1,
                 sample_type=_SAMPLE_RAW, wakeup_events=wakeup)
    return open_event(session, attr, -1, cpu)


def clock_attr(period_ns: int, frequency: int) -> bytes:
    """A software clock: every period_ns, or so many times a second."""
    return _attr(_FREQ if frequency else 0, type=_TYPE_SOFTWARE, config=_CPU_CLOCK,
                 sample_period=frequency or period_ns)
