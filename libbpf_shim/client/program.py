"""Programs: loading, attaching, running for a test."""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from libbpf_shim.client import attach, handle, multi, usdt
from libbpf_shim.client.handle import Handle
from libbpf_shim.client.link import Link
from libbpf_shim.client.session import Command, Session, failed
from libbpf_shim.elf.program import Function
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_cmd

LOG_SIZE = 16 << 20  # bytes
_MAX_OUT = 1 << 20


class LoadError(ShimError):
    """The verifier refuses a program. log: its text, as the kernel writes it."""

    def __init__(self, name: str, code: int, log: str) -> None:
        last = [line for line in log.splitlines() if line and not line.startswith("processed")]
        why = f": {last[-1]}" if last else ""
        super().__init__("CP0001", code, f"program {name}: not loaded{why}",
                         "the whole log is in the error's `log`")
        self.log = log


@dataclass(frozen=True, slots=True)
class TestResult:
    """What a test run came to. retval: the program's; duration: ns a run; data, ctx: as the
    program left them, where the type has them."""

    __test__ = False

    retval: int
    data: bytes = b""
    ctx: bytes = b""
    duration: int = 0


class Program(Handle):
    """One program of an object. type, attach_type: BPF_PROG_TYPE_*, BPF_*; section: as in SEC();
    autoload: `Object.load` loads it. Each of them may be changed until then.

    log: the verifier's, where it was asked for by log_level or where it refused."""

    INFO: ClassVar[structs.Fields] = structs.BPF_PROG_INFO
    INFO_SIZE: ClassVar[int] = structs.BPF_PROG_INFO_SIZE
    GET_BY_ID: ClassVar[int] = bpf_cmd.BPF_PROG_GET_FD_BY_ID

    def __init__(self, session: Session | None, name: str, function: Function | None = None,
                 fd: int = -1) -> None:
        super().__init__(session, fd, name)
        self.function = function
        definition = function.definition if function else None
        self.type = definition.prog_type if definition else 0
        self.attach_type = definition.attach_type if definition else 0
        self.section = function.section_name if function else ""
        self.autoload = function.autoload if function else False
        self.usdt_specs: usdt.Specs | None = None
        self.log_level = 0
        self.log = ""

    def load(self, session: Session, command: Command) -> None:
        """PROG_LOAD; once more with the log where it fails, as libbpf does. LoadError."""
        if self.log_level:
            self._ask_for_log(command, self.log_level)
        reply = session.bpf(command)
        if reply.ret < 0 and not self.log_level:
            self._ask_for_log(command, 1)
            reply = session.bpf(command)
        place = structs.ATTR["prog_load"]["log_buf"][0]
        text = reply.out.get(place, b"").rstrip(b"\0").decode(errors="replace")
        self.log = text
        if reply.ret < 0:
            raise LoadError(self.name, -reply.ret, text)
        self._session, self.fd = session, reply.fd

    @staticmethod
    def _ask_for_log(command: Command, level: int) -> None:
        command.put("log_level", level)
        command.put("log_size", LOG_SIZE)
        command.take("log_buf", LOG_SIZE)

    # attaching

    def attach(self, cookie: int = 0) -> Link:
        """To what its section names. EINVAL: it names nothing; EOPNOTSUPP: it is not there."""
        definition = self.function.definition if self.function else None
        verb = definition.attach if definition else ""
        rest = self.section.partition("/")[2]
        if verb in ("uprobe", "uretprobe"):
            path, symbol, offset = attach.parse_uprobe(self.section)
            return self.attach_uprobe(path, symbol, offset=offset, cookie=cookie)
        if verb == "kprobe" and rest and not self.attach_type:
            function, offset, ret = attach.parse_kprobe(self.section)
            return self.attach_kprobe(function, offset=offset, ret=ret, cookie=cookie)
        if verb == "uprobe_multi":
            return self.attach_uprobe_multi(*multi.parse_section(self.section))
        if verb == "tracepoint" and rest.count("/") == 1:
            category, name = rest.split("/")
            return self.attach_tracepoint(category, name, cookie)
        if verb == "raw_tracepoint" and rest:
            return self.attach_raw_tracepoint(rest)
        if verb == "usdt":
            path, provider, name = usdt.parse_section(self.section)
            return self.attach_usdt(path, provider, name, cookie=cookie)
        if verb in ("trace", "iter") and self.attach_type:
            return attach.raw_tracepoint(self, "")
        raise ShimError(
            "CP0002", errno.EOPNOTSUPP if verb == "kprobe" else errno.EINVAL,
            f"program {self.name}: SEC({self.section!r}) cannot be attached by itself",
            "attach_uprobe, attach_kprobe, attach_usdt, attach_tracepoint, attach_raw_tracepoint "
            "or attach_timer say where")

    def attach_uprobe(
        self, path: str, symbol: str | int, *, offset: int = 0, pid: int = -1,
        ret: bool | None = None, cookie: int = 0,
    ) -> Link:
        """At a function (or a file offset in bytes) of a binary. pid: -1 every process, 0 this
        one;
        ret: when it returns, by default as the section says."""
        if ret is None:
            ret = self.section.startswith("uretprobe")
        return attach.uprobe(self, path, symbol, ret=ret, pid=pid, offset=offset, cookie=cookie)

    def attach_kprobe(
        self, function: str, *, offset: int = 0, ret: bool | None = None, cookie: int = 0
    ) -> Link:
        """At a kernel's function that processes come to: a system call's, as __x64_sys_openat.
        ret: when it returns, by default as the section says. ENOENT: another one."""
        if ret is None:
            ret = self.section.startswith("kret")
        return attach.kprobe(self, function, ret=ret, offset=offset, cookie=cookie)

    def attach_uretprobe(
        self, path: str, symbol: str | int, *, pid: int = -1, cookie: int = 0
    ) -> Link:
        """When a function returns."""
        return self.attach_uprobe(path, symbol, pid=pid, ret=True, cookie=cookie)

    def attach_uprobe_multi(
        self, path: str, functions: str | Sequence[str | int], *, pid: int = -1,
        ret: bool | None = None, cookies: Sequence[int] | None = None,
        ref_ctrs: Sequence[int] | None = None,
    ) -> Link:
        """At many functions of a binary, as one link (SEC("uprobe.multi"), SEC("uprobe.session")):
        a pattern of * and ?, or names and file offsets in bytes, each with its cookie and, in
        ref_ctrs, the offset of its reference counter. pid: -1 every process, 0 this one; ret: when
        they return, by default as the section says."""
        if ret is None:
            ret = self.section.startswith("uretprobe")
        return multi.uprobe_multi(
            self, path, functions, ret=ret, pid=pid, cookies=cookies, ref_ctrs=ref_ctrs)

    def attach_usdt(
        self, path: str, provider: str, name: str, *, pid: int = -1, cookie: int = 0
    ) -> Link:
        """At a USDT probe of a binary, in all its places; cookie: what bpf_usdt_cookie() says.
        EINVAL: its arguments cannot be read, or the object is not made with usdt.bpf.h."""
        if self.usdt_specs is None:
            raise ShimError("CP0004", errno.EINVAL,
                            f"program {self.name}: its object has no map {usdt.SPECS}",
                            "include bpf/usdt.bpf.h")
        return usdt.usdt(self, self.usdt_specs, path, provider, name, pid, cookie)

    def attach_tracepoint(self, category: str, name: str, cookie: int = 0) -> Link:
        """At a tracepoint, such as syscalls, sys_enter_openat."""
        return attach.tracepoint(self, category, name, cookie)

    def attach_raw_tracepoint(self, name: str) -> Link:
        """At a raw tracepoint, such as sys_enter."""
        return attach.raw_tracepoint(self, name)

    def attach_perf_event(self, event: int, cookie: int = 0) -> Link:
        """To a perf event's descriptor, which the link takes over."""
        return attach.by_event(self, event, cookie, "a perf event")

    def attach_timer(self, *, period_ns: int = 0, frequency: int = 0) -> Link:
        """Every period_ns, or `frequency` times a second, in this process (SEC("perf_event"))."""
        from libbpf_shim.client import inprocess

        if bool(period_ns) == bool(frequency):
            raise ShimError("CP0003", errno.EINVAL, "timer: period_ns or frequency, one of them")
        inprocess.joined(self.session)
        return inprocess.timer(self, attach.clock_attr(period_ns, frequency))

    # running

    def test_run(
        self, data: bytes = b"", ctx: bytes = b"", *, repeat: int = 0, flags: int = 0,
        cpu: int = 0, data_out: int = 0, ctx_out: int = 0,
    ) -> TestResult:
        """PROG_TEST_RUN in this process. data: a packet, ctx: the context, as the type has them;
        data_out, ctx_out: bytes of room for what the program leaves. ENOTSUPP (524): not of this
        type."""
        from libbpf_shim.client import inprocess

        inprocess.joined(self.session)
        room = data_out or (len(data) + 256 if data else 0)
        buffers = {"data_in": ctypes.create_string_buffer(data, max(len(data), 1)),
                   "ctx_in": ctypes.create_string_buffer(ctx, max(len(ctx), 1)),
                   "data_out": ctypes.create_string_buffer(min(room, _MAX_OUT) or 1),
                   "ctx_out": ctypes.create_string_buffer(ctx_out or 1)}
        command = Command(bpf_cmd.BPF_PROG_TEST_RUN, "test", prog_fd=self.need_fd(),
                          repeat=repeat, flags=flags, cpu=cpu)
        for name, size, used in (("data_in", "data_size_in", len(data)),
                                 ("ctx_in", "ctx_size_in", len(ctx)),
                                 ("data_out", "data_size_out", room),
                                 ("ctx_out", "ctx_size_out", ctx_out)):
            if used:
                command.put(name, ctypes.addressof(buffers[name]))
                command.put(size, used)
        attr = ctypes.create_string_buffer(bytes(command.attr), len(command.attr))
        ret = inprocess.syscall(inprocess.SYS_BPF, command.number, ctypes.addressof(attr), 80)
        if ret < 0:
            raise failed(f"program {self.name}: test run", ret)
        command.attr[:] = attr.raw
        return TestResult(
            command.field("retval"), buffers["data_out"].raw[: command.field("data_size_out")]
            if room else b"", buffers["ctx_out"].raw[: command.field("ctx_size_out")]
            if ctx_out else b"", command.field("duration"))

    @classmethod
    def from_pin(cls, path: str, session: Session | None = None) -> Program:
        """What is pinned at a path below /sys/fs/bpf."""
        return cls._made(session, handle.from_pin(session or Session.default(), path))

    @classmethod
    def from_id(cls, number: int, session: Session | None = None) -> Program:
        """By id."""
        held = session or Session.default()
        return cls._made(held, handle.from_id(held, cls.GET_BY_ID, number))

    @classmethod
    def _made(cls, session: Session | None, fd: int) -> Program:
        found = cls(session or Session.default(), "", fd=fd)
        info = found.info()
        name = info["name"]
        found.name = name.decode(errors="replace") if isinstance(name, bytes) else ""
        found.type = int(info["type"])
        return found


