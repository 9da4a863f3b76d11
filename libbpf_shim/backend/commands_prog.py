"""PROG_LOAD.

Source: kernel/bpf/syscall.c, bpf_prog_load(); kernel/bpf/verifier.c, bpf_check().
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

from libbpf_shim.backend.command import Family, RefusedError, Table
from libbpf_shim.backend.verdicts import Later
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.btf.parse import Btf
from libbpf_shim.errors import ShimError
from libbpf_shim.jit.build import Built
from libbpf_shim.object import core, prog_attr
from libbpf_shim.object import map as maps
from libbpf_shim.object import prog as progs
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.fdmap import PROG_ARRAY, FdMap
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import Loaded, ProgObject, Records
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import bpf_cmd

if TYPE_CHECKING:
    from libbpf_shim.backend.modules import Named
    from libbpf_shim.eim.entries import Entries
    from libbpf_shim.verifier.program import Program

ENOTSUPP = 524
_STATS = 4  # BPF_LOG_STATS
_MAX_ARRAY = 0xFFFFFFFF // 4  # fd_array_cnt
_TASK_HELPERS = frozenset((35, 158))  # bpf_get_current_task, bpf_get_current_task_btf
_PRINTERS = frozenset((6, 177))  # bpf_trace_printk, bpf_trace_vprintk
_TAILS = (("func_info", 8), ("line_info", 16))  # bytes of struct bpf_func_info, bpf_line_info


class ProgCommands(Family):
    """Programs."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_PROG_LOAD: ("prog_load", "keyring_id", self.prog_load),
        }

    def prog_load(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_LOAD. The log reaches its buffer whether the program does or not."""
        prog_attr.check_flags(attr)
        if attr["prog_flags"] & prog_attr.TOKEN_FD:
            self.token(request, attr.signed("prog_token_fd"))
        prog_attr.check_size(attr)
        prog_attr.check_attach(attr, *self._target(request, attr))
        insns = request.bytes_at(attr.offset("insns"))
        license_ = request.bytes_at(attr.offset("license")).split(b"\0", 1)[0].decode(
            errors="replace")
        prog_attr.check_signature(attr, not request.fault(attr.offset("signature")))
        prog_attr.check_device(attr)
        prog_attr.check_type(attr)
        maps.object_name(attr.raw("prog_name"))
        progs.check_log(attr["log_level"], attr["log_size"], attr["log_buf"])
        return self._judged(request, attr, insns, license_)

    def _finish(
        self, request: BpfRequest, attr: Attr, loaded: Loaded, btf: BtfObject | None,
        entries: Entries | None = None,
    ) -> BpfReply:
        """The log, and the program if it is one. entries: where its class lets it run."""
        if self.session.served:
            self.session.served.note["log"] = loaded.log
        error = loaded.error
        if error and error.errno == errno.EACCES and entries and not entries.class_:
            # what a class would have granted is missing, and the log says nothing of classes
            error = entries.unbound("not loaded", errno.EACCES)
        reply = self._log(request, attr, loaded.log, error)
        assert loaded.program and loaded.image and loaded.verdict and loaded.verdict.facts
        overrides = progs.OVERRIDE in loaded.verdict.facts.helpers
        for used in loaded.maps:
            if isinstance(used, FdMap) and used.type == PROG_ARRAY:
                try:
                    used.check_prog(loaded.program, overrides)
                except ShimError as error:
                    raise RefusedError(error, reply) from error
        if loaded.verdict.facts.helpers & _TASK_HELPERS:
            self.session.control.show_tasks(self.session.kernel_btf)
        if loaded.verdict.facts.helpers & _PRINTERS and not self.session.served:
            self.session.trace_pipe.begin()
        obj = ProgObject(
            self.session.counters.next("prog"), loaded.program, loaded.image,
            loaded.verdict.facts, loaded.maps, loaded.verdict.stats.insns_processed)
        obj.entries = entries
        obj.count_in(self.session.control)
        if btf:
            obj.btf = btf
            obj.hold(btf)
        reply.fd = self.new(obj).fd
        return reply

    def _target(self, request: BpfRequest, attr: Attr) -> tuple[bool, bool]:
        """What attach_prog_fd names: a program; the kernel's BTF. EINVAL; ENOTSUPP (524): the BTF
        of a program."""
        if not attr["attach_prog_fd"]:
            return False, False
        found = self.store.by_file.get(request.key(attr.signed("attach_prog_fd")))
        if isinstance(found, ProgObject):
            return True, False
        if not isinstance(found, BtfObject):
            raise prog_attr.refused("attach_prog_fd is neither a program nor BTF")
        if not found.kernel:
            raise prog_attr.refused("attached to a program's BTF", ENOTSUPP)
        return False, True

    def _judged(
        self, request: BpfRequest, attr: Attr, insns: bytes, license_: str
    ) -> BpfReply:
        """bpf_check(): what is wrong with descriptors and records is refused with a log too.
        Raises Later where that takes time."""
        finder = self._finder(request, attr)
        if self.session.served:
            self.session.served.program(len(self.store.of_kind(ProgObject)))
        try:
            if wrong := self._fd_array(request, attr, finder, progs.sha256(insns)):
                early = Loaded(progs.early_log(wrong.message, attr["log_level"]), wrong)
                return self._finish(request, attr, early, None)
            btf = self._btf(request, attr)
            if btf and attr["core_relo_cnt"]:
                insns = self._relocate(request, attr, insns, btf)
        except ShimError as error:
            log = error.log if isinstance(error, core.RelocationError) else ""
            early = Loaded(progs.early_log(log, attr["log_level"]), error)
            return self._finish(request, attr, early, None)
        rows = [self._records(request, attr, what) for what, _ in _TAILS]
        found = self.store.by_file.get(request.key(attr.signed("attach_prog_fd")))
        to = found.program if attr["attach_prog_fd"] and isinstance(found, ProgObject) else None
        program = progs.describe(attr, insns, license_, finder, btf, rows[0], rows[1],
                                 self.session.control.seen_cpus, to)

        try:
            program, entries = self._classed(*self._named(request, attr, program))
        except ShimError as error:
            log = progs.early_log(error.message, attr["log_level"])
            return self._finish(request, attr, Loaded(log, error), None)

        def finish(built: Built) -> BpfReply:
            judged = progs.judged(program, built, finder.maps)
            return self._finish(request, attr, judged, btf, entries)

        if built := self.session.verdicts.now(program):
            return finish(built)
        held = Object(0, None)
        for used in [*finder.maps, *([btf] if btf else [])]:
            held.hold(used)
        raise Later(program, finish, held)

    def _named(
        self, request: BpfRequest, attr: Attr, program: Program
    ) -> tuple[Program, Named]:
        """With what the program names of its policy's interfaces. EINVAL, EBADF."""
        if self.session.modules is None:
            return program, {}

        def by_fd(fd: int) -> BtfObject:
            return self.store.at(request.key(fd), BtfObject)

        return self.session.modules.named(
            program, lambda index: by_fd(self._fd_at(request, attr, index)), by_fd)

    def _classed(
        self, program: Program, named: Named
    ) -> tuple[Program, Entries | None]:
        """The program with its class, and where that lets it run, in a session with a policy.
        ShimError EPERM: it is bound to several, or its loader's token does not grant it."""
        gate, entries, of = self.session.gate, None, ""
        if self.session.classes:
            policy, entries = self.session.classes.of(
                program, progs.sha256(program.insns), gate.minted if gate else None)
            program, of = replace(program, policy=policy), entries.class_
        if served := self.session.served:
            # what is missing is to be told of, though the loader wants no log
            program = replace(program, log_level=program.log_level or _STATS)
            served.note |= {"class": of, "tag": progs.tag(program.insns).hex()}
        if named:
            from libbpf_shim.backend import modules

            program = modules.of_class(program, named)
        if program.policy and program.policy.probes:
            from libbpf_shim.eim import usdt

            program = usdt.applied(program)
        if gate:
            gate.load(program, of, held=entries is not None)
        return program, entries

    def _fd_array(
        self, request: BpfRequest, attr: Attr, finder: progs.MapFinder, digest: bytes
    ) -> ShimError | None:
        """process_fd_array(): with a count, each is a map or BTF of the program. What is wrong, in
        the kernel's words."""
        count = attr["fd_array_cnt"]
        if count >= _MAX_ARRAY:
            return ShimError("BC0008", errno.EINVAL, f"fd_array_cnt is too big ({count})")
        fds = request.bytes_at(attr.offset("fd_array")) if count else b""
        for at in range(0, min(4 * count, len(fds)), 4):
            fd = int.from_bytes(fds[at : at + 4], "little", signed=True)
            found = self.store.by_file.get(request.key(fd))
            if isinstance(found, MapObject):
                try:
                    finder.use(found, digest)
                except ShimError as error:
                    return error
            elif not isinstance(found, BtfObject):
                code = errno.EBADF if request.key(fd) == (0, 0) else errno.EINVAL
                return ShimError(
                    "BC0008", code, f"fd {fd} is not pointing to valid bpf_map or btf")
        if 4 * count > len(fds):
            raise ShimError("BC0008", errno.EFAULT, "fd_array: not all of it can be read")
        return None

    def _btf(self, request: BpfRequest, attr: Attr) -> BtfObject | None:
        """The program's own BTF. EBADF, EINVAL; EACCES: the kernel's."""
        if not attr["func_info_cnt"] and not attr["line_info_cnt"]:
            return None
        btf = self.store.at(request.key(attr.signed("prog_btf_fd")), BtfObject)
        if btf.kernel:
            raise prog_attr.refused("BTF of the kernel", errno.EACCES)
        return btf

    def _relocate(self, request: BpfRequest, attr: Attr, insns: bytes, btf: BtfObject) -> bytes:
        size = attr["core_relo_rec_size"]
        core.check_sizes(attr["core_relo_cnt"], size)
        records = request.bytes_at(attr.offset("core_relos"))
        return core.apply(insns, records, size, Btf(btf.blob), self.session.kernel_btf())

    @staticmethod
    def _records(request: BpfRequest, attr: Attr, what: str) -> Records:
        size, count = attr[f"{what}_rec_size"], attr[f"{what}_cnt"]
        fault = errno.EFAULT if count and request.fault(attr.offset(what)) else 0
        data = b"" if fault or not count else request.bytes_at(attr.offset(what))
        return Records(data, size, count, fault)

    def _finder(self, request: BpfRequest, attr: Attr) -> progs.MapFinder:
        def by_fd(fd: int) -> MapObject:
            return self.store.at(request.key(fd), MapObject)

        return progs.MapFinder(by_fd, lambda index: self._fd_at(request, attr, index))

    @staticmethod
    def _fd_at(request: BpfRequest, attr: Attr, index: int) -> int:
        """An entry of fd_array. EPROTO: there is none; EFAULT."""
        fds = request.bytes_at(attr.offset("fd_array"), errno.EPROTO)
        at = 4 * index
        if index < 0 or at + 4 > len(fds):
            raise ShimError("BC0008", errno.EFAULT, f"fd_array: no entry {index}")
        return int.from_bytes(fds[at : at + 4], "little", signed=True)

    def _say_known(
        self, request: BpfRequest, attr: Attr, error: ShimError, reply: BpfReply
    ) -> None:
        """Where records have more in them than is known: their known size, into the attr."""
        from libbpf_shim.verifier import infos

        sizes = [("core_relo", error.known)] if isinstance(error, core.RelocationError) else []
        for what, known in _TAILS:
            size = attr[f"{what}_rec_size"]
            if attr[f"{what}_cnt"] and size > known:
                records = self._records(request, attr, what)
                if not records.fault and infos.tail(records.data, size, known):
                    sizes.append((what, known))
        for what, known in sizes[:1]:
            reply.put(request, attr.offset(f"{what}_rec_size"), known.to_bytes(4, "little"))

    def _log(
        self, request: BpfRequest, attr: Attr, text: str, error: ShimError | None
    ) -> BpfReply:
        """The log into its buffer and its true size into the attr (bpf_vlog_finalize). Raises
        `error`, or ENOSPC: the log was cut."""
        reply = BpfReply()
        if error and error.errno == errno.E2BIG:
            self._say_known(request, attr, error, reply)
        where, room = attr.offset("log_buf"), request.room(attr.offset("log_buf"))
        if attr["log_level"]:
            at, size = attr.offset("log_true_size"), progs.log_size(text)
            if request.size >= at + 4:
                reply.put(request, at, size.to_bytes(4, "little"))
            if room:
                data, fits = progs.cut_log(text, room, attr["log_level"])
                reply.out = [(where, 0, data)]
                if not fits:
                    error = ShimError("BC0009", errno.ENOSPC, "log: larger than its buffer")
        if error:
            raise RefusedError(error, reply)
        return reply
