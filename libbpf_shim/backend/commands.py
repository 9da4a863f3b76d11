"""bpf(2) commands: one function each, with the kernel's checks in the kernel's order.

Source: kernel/bpf/syscall.c (__sys_bpf and what it calls). Element commands on plain maps never
come here: the surface does them in shared memory.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from libbpf_shim.attach.link import EventObject, LinkObject, RingObject
from libbpf_shim.backend import info
from libbpf_shim.backend.events import timer_action
from libbpf_shim.backend.session import Session
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object import map as maps
from libbpf_shim.object import prog as progs
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import BtfObject
from libbpf_shim.object.file import MemFile, SocketFile
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd, bpf_map_type, bpf_prog_type

_MAP_CREATE_FLAGS = 0x7FFFF  # what some map type knows; each type refuses the rest
_NUMA_NODE = 1 << 2  # BPF_F_NUMA_NODE
_TEST_FLAGS = 1  # BPF_F_TEST_RUN_ON_CPU
_ACT_RUN = 1  # SHIM_ACT_RUN
_BTF_LOG_MASK = 15
_RDONLY, _WRONLY, _PATH_FD = 1 << 3, 1 << 4, 1 << 14  # BPF_F_*


class Commands:
    """The commands of one session."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.store = session.store
        c = bpf_cmd
        self._table: dict[int, tuple[str, str, Callable[[BpfRequest, Attr, int], BpfReply]]] = {
            c.BPF_MAP_CREATE: ("map_create", "map_token_fd", self.map_create),
            c.BPF_MAP_LOOKUP_ELEM: ("elem", "flags", self.map_other),
            c.BPF_MAP_UPDATE_ELEM: ("elem", "flags", self.map_update),
            c.BPF_MAP_DELETE_ELEM: ("elem", "key", self.map_delete),
            c.BPF_MAP_GET_NEXT_KEY: ("elem", "next_key", self.map_other),
            c.BPF_OBJ_PIN: ("obj", "path_fd", self.obj_pin),
            c.BPF_OBJ_GET: ("obj", "path_fd", self.obj_get),
            c.BPF_PROG_LOAD: ("prog_load", "keyring_id", self.prog_load),
            c.BPF_PROG_TEST_RUN: ("test", "batch_size", self.test_run),
            c.BPF_PROG_GET_NEXT_ID: ("by_id", "next_id", self.next_id(ProgObject)),
            c.BPF_MAP_GET_NEXT_ID: ("by_id", "next_id", self.next_id(MapObject)),
            c.BPF_BTF_GET_NEXT_ID: ("by_id", "next_id", self.next_id(BtfObject)),
            c.BPF_LINK_GET_NEXT_ID: ("by_id", "next_id", self.next_id(LinkObject)),
            c.BPF_PROG_GET_FD_BY_ID: ("by_id", "next_id", self.fd_by_id(ProgObject)),
            c.BPF_MAP_GET_FD_BY_ID: ("by_id", "open_flags", self.fd_by_id(MapObject)),
            c.BPF_BTF_GET_FD_BY_ID: ("by_id", "fd_by_id_token_fd", self.fd_by_id(BtfObject)),
            c.BPF_LINK_GET_FD_BY_ID: ("by_id", "next_id", self.fd_by_id(LinkObject)),
            c.BPF_OBJ_GET_INFO_BY_FD: ("info", "info", self.get_info),
            c.BPF_BTF_LOAD: ("btf_load", "btf_token_fd", self.btf_load),
            c.BPF_MAP_FREEZE: ("elem", "map_fd", self.map_freeze),
            c.BPF_LINK_CREATE: ("link_create", "uprobe_multi.pid", self.link_create),
            c.BPF_LINK_DETACH: ("link_detach", "link_fd", self.link_detach),
            c.BPF_PROG_BIND_MAP: ("prog_bind_map", "flags", self.bind_map),
            c.BPF_RAW_TRACEPOINT_OPEN: ("raw_tracepoint", "cookie", self.raw_tracepoint),
        }  # fmt: skip

    def run(self, request: BpfRequest, loader: int) -> BpfReply:
        """One command for the process `loader`; ShimError is its errno."""
        row = self._table.get(request.cmd)
        if row is None:
            known = request.cmd in bpf_cmd.__members__.values()
            code = errno.EOPNOTSUPP if known else errno.EINVAL
            name = bpf_cmd(request.cmd).name if known else str(request.cmd)
            raise ShimError("BC0001", code, f"bpf(2): command {name} is not there")
        part, last, function = row
        attr = Attr(part, request.attr)
        if not attr.ends_after(last):
            raise ShimError("BC0002", errno.EINVAL, f"bpf(2): bytes behind {last}")
        return function(request, attr, loader)

    def _new(self, obj: Object) -> BpfReply:
        self.store.add(obj)
        return self._give(obj)

    def _give(self, obj: Object) -> BpfReply:
        """A descriptor of obj. Not open: its number is a description of its own."""
        assert isinstance(obj.file, MemFile | SocketFile)
        fd = obj.file.hand_out()
        obj.open = True
        return BpfReply(ret=0, fd=fd)

    # maps

    def map_create(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_CREATE."""
        if attr["map_flags"] & ~_MAP_CREATE_FLAGS:
            raise ShimError("BC0003", errno.EINVAL, f"map: flags {attr['map_flags']:#x}")
        if attr["btf_vmlinux_value_type_id"]:
            raise ShimError("BC0003", errno.EOPNOTSUPP, "map: struct_ops is not there")
        if attr["btf_key_type_id"] and not attr["btf_value_type_id"]:
            raise ShimError("BC0003", errno.EINVAL, "map: BTF without a value type")
        if attr["numa_node"] and not attr["map_flags"] & _NUMA_NODE:
            raise ShimError("BC0003", errno.EINVAL, "map: a NUMA node without its flag")
        maps.object_name(attr.raw("map_name"))
        btf = None
        if attr["btf_value_type_id"]:
            btf = self.store.at(request.key(attr.signed("btf_fd")), BtfObject)
            if attr["map_type"] in (bpf_map_type.BPF_MAP_TYPE_STACK_TRACE,
                                    bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY):
                raise ShimError("BC0003", 524, "map: this type takes no BTF")  # ENOTSUPP
        hdr = maps.header(attr, self.session.counters.next("map"), self.session.control)
        obj = MapObject(int(hdr.id), hdr, attr, self.session.control)
        if btf:
            obj.btf = btf
            obj.hold(btf)
        return self._new(obj)

    def _map(self, request: BpfRequest, attr: Attr) -> MapObject:
        return self.store.at(request.key(attr.signed("map_fd")), MapObject)

    def map_other(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """Lookups come here only before a session has maps: what is wrong is the descriptor."""
        self._map(request, attr)
        raise ShimError("BC0004", errno.EOPNOTSUPP, "map: its values are not for system calls")

    def map_update(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_UPDATE_ELEM of an array of descriptors."""
        found = self._map(request, attr)
        if found.type == bpf_map_type.BPF_MAP_TYPE_PERF_EVENT_ARRAY:
            key = request.bytes_at(attr.offset("key"))
            fd = int.from_bytes(request.bytes_at(attr.offset("value")), "little", signed=True)
            ring = self.store.at(request.key(fd), RingObject)
            before = [r for r in self.store.of_kind(RingObject).values() if r.is_in(found, key)]
            ring.put_into(found, key, attr["flags"])
            for old in before:
                old.take_out(found, key)
                self.store.collect(old)
            return BpfReply()
        fd = int.from_bytes(request.bytes_at(attr.offset("value")), "little", signed=True)
        if request.key(fd) == (0, 0):
            raise ShimError("BC0005", errno.EBADF, f"descriptor {fd}: not open")
        raise ShimError("BC0005", errno.EOPNOTSUPP, "map: descriptors cannot be put into it")

    def map_delete(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_DELETE_ELEM of an array of descriptors."""
        found = self._map(request, attr)
        key = request.bytes_at(attr.offset("key"))
        found.delete(key)
        for ring in list(self.store.of_kind(RingObject).values()):
            if ring.is_in(found, key):
                ring.take_out(found, key)
                self.store.collect(ring)
        return BpfReply()

    def map_freeze(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_MAP_FREEZE."""
        self._map(request, attr).freeze()
        return BpfReply()

    def bind_map(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_BIND_MAP."""
        if attr["flags"]:
            raise ShimError("BC0006", errno.EINVAL, "bind: flags")
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        found = self._map(request, attr)
        if found not in prog.holds:
            prog.hold(found)
        return BpfReply()

    # programs

    def prog_load(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_LOAD. The log reaches its buffer whether the program does or not."""
        progs.check_attr(attr)
        progs.check_size(attr)
        insns = request.bytes_at(attr.offset("insns"))
        license_ = request.bytes_at(attr.offset("license")).split(b"\0", 1)[0].decode(
            errors="replace")
        if attr["prog_type"] not in bpf_prog_type.__members__.values() or not attr["prog_type"]:
            raise ShimError("BC0007", errno.EINVAL, f"program of type {attr['prog_type']}")
        maps.object_name(attr.raw("prog_name"))
        progs.check_log(attr["log_level"], attr["log_size"], attr["log_buf"])
        loaded = progs.build(
            attr, insns, license_, self._finder(request, attr), self._prog_btf(request, attr),
            self._rows(request, attr, "func_info"), self._rows(request, attr, "line_info"),
        )  # fmt: skip
        reply = self._log(request, attr, loaded.log, "log_true_size")
        if loaded.error:
            raise RefusedError(loaded.error, reply)
        assert loaded.program and loaded.image and loaded.verdict and loaded.verdict.facts
        obj = ProgObject(
            self.session.counters.next("prog"), loaded.program, loaded.image,
            loaded.verdict.facts, loaded.maps, loaded.verdict.stats.insns_processed)
        if btf := self._prog_btf(request, attr):
            obj.btf = btf
            obj.hold(btf)
        reply.fd = self._new(obj).fd
        return reply

    def _prog_btf(self, request: BpfRequest, attr: Attr) -> BtfObject | None:
        if not attr["func_info_cnt"] and not attr["line_info_cnt"]:
            return None
        return self.store.at(request.key(attr.signed("prog_btf_fd")), BtfObject)

    @staticmethod
    def _rows(request: BpfRequest, attr: Attr, what: str) -> bytes:
        return request.bytes_at(attr.offset(what)) if attr[f"{what}_cnt"] else b""

    def _finder(self, request: BpfRequest, attr: Attr) -> progs.MapFinder:
        def by_fd(fd: int) -> MapObject:
            return self.store.at(request.key(fd), MapObject)

        def by_index(index: int) -> MapObject:
            fds = request.bytes_at(attr.offset("fd_array"), errno.EPROTO)
            at = 4 * index
            if index < 0 or at + 4 > len(fds):
                raise ShimError("BC0008", errno.EFAULT, f"fd_array: no entry {index}")
            return by_fd(int.from_bytes(fds[at : at + 4], "little", signed=True))

        return progs.MapFinder(by_fd, by_index)

    @staticmethod
    def _log(request: BpfRequest, attr: Attr, text: str, true_size: str) -> BpfReply:
        """The log into its buffer, its true size into the attr; ENOSPC: it was cut."""
        where = attr.offset("log_buf")
        if not attr["log_level"] or not request.room(where):
            return BpfReply()
        data, fits = progs.cut_log(text, request.room(where), attr["log_level"])
        reply = BpfReply(out=[(where, 0, data)])
        if request.size >= attr.offset(true_size) + 4:
            size = len(text.encode()) + 1
            reply.attr = (attr.offset(true_size), size.to_bytes(4, "little"))
        if not fits:
            cut = ShimError("BC0009", errno.ENOSPC, "log: larger than its buffer")
            raise RefusedError(cut, reply)
        return reply

    def test_run(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_TEST_RUN of raw tracepoint programs: the loader runs it itself
        (bpf_prog_test_run_raw_tp())."""
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        if prog.program.prog_type != bpf_prog_type.BPF_PROG_TYPE_RAW_TRACEPOINT:
            raise ShimError("BC0010", 524, "test run: only of raw tracepoint programs")  # ENOTSUPP
        if any(attr[f] for f in ("data_in", "data_out", "ctx_out", "duration", "repeat",
                                 "batch_size")):
            raise ShimError("BC0010", errno.EINVAL, "test run: fields that the type has not")
        needed = max((at + size for at, size in prog.facts.ctx_loads), default=0)
        if attr["ctx_size_in"] < needed:
            raise ShimError("BC0010", errno.EINVAL,
                            f"test run: context of {attr['ctx_size_in']} bytes, {needed} are read")
        if attr["flags"] & ~_TEST_FLAGS or (not attr["flags"] and attr["cpu"]):
            raise ShimError("BC0010", errno.EINVAL, f"test run: flags {attr['flags']:#x}")
        if attr["cpu"] >= self.session.control.nr_vcpus:
            raise ShimError("BC0010", errno.ENXIO, f"test run: CPU {attr['cpu']}")
        self.session.delivery.want_runnable(loader, prog, None)
        run = prog.id.to_bytes(4, "little") + bytes(4) + attr["ctx_size_in"].to_bytes(8, "little")
        return BpfReply(action=_ACT_RUN, payload=run)

    # BTF

    def btf_load(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_BTF_LOAD."""
        from libbpf_shim.btf.check import check

        level, size, buffer = (attr[f"btf_log_{f}"] for f in ("level", "size", "buf"))
        if level & ~_BTF_LOG_MASK or bool(buffer) != bool(size) or (level and not buffer):
            raise ShimError("BC0011", errno.EINVAL, "BTF: log fields do not fit together")
        blob = request.bytes_at(attr.offset("btf"))
        try:
            check(blob)
        except ShimError as error:
            reply = self._btf_log(request, attr, error.message + "\n")
            raise RefusedError(error, reply) from error
        reply = self._btf_log(request, attr, "")
        reply.fd = self._new(BtfObject(self.session.counters.next("btf"), blob)).fd
        return reply

    @staticmethod
    def _btf_log(request: BpfRequest, attr: Attr, text: str) -> BpfReply:
        where = attr.offset("btf_log_buf")
        if not attr["btf_log_level"] or not request.room(where):
            return BpfReply()
        data, _ = progs.cut_log(text, request.room(where), attr["btf_log_level"])
        return BpfReply(out=[(where, 0, data)])

    # links

    def link_create(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_LINK_CREATE of PERF_EVENT links; others fail as in a kernel without them."""
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        kind = attr["attach_type"]
        if kind in (bpf_attach_type.BPF_TRACE_KPROBE_MULTI,
                    bpf_attach_type.BPF_TRACE_UPROBE_MULTI):
            raise ShimError("BC0012", errno.EOPNOTSUPP, "link: multi links are not there")
        if kind == bpf_attach_type.BPF_TRACE_RAW_TP:
            raise ShimError("BC0012", errno.EOPNOTSUPP, "link: raw tracepoints are not there")
        if kind != bpf_attach_type.BPF_PERF_EVENT:
            raise ShimError("BC0012", errno.EINVAL, f"link of attach type {kind}")
        if attr["flags"]:
            raise ShimError("BC0012", errno.EINVAL, "link: flags")
        event = self.store.at(request.key(attr.signed("target_fd")), EventObject)
        obj = LinkObject(self.session.counters.next("link"), event, prog,
                         attr["perf_event.bpf_cookie"], loader)
        reply = self._new(obj)
        reply.action, reply.payload = timer_action(event)
        return reply

    def link_detach(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_LINK_DETACH: perf links have no such operation."""
        self.store.at(request.key(attr.signed("link_fd")), LinkObject)
        raise ShimError("BC0013", errno.EOPNOTSUPP, "link: closed, not detached")

    def raw_tracepoint(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_RAW_TRACEPOINT_OPEN."""
        self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        raise ShimError("BC0012", errno.EOPNOTSUPP, "link: raw tracepoints are not there")

    # pins

    def obj_pin(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_OBJ_PIN of a map, program or link."""
        if attr["file_flags"] & ~_PATH_FD or (attr["path_fd"] and not attr["file_flags"]):
            raise ShimError("BC0015", errno.EINVAL, f"pin: flags {attr['file_flags']:#x}")
        obj = self.store.by_file.get(request.key(attr.signed("bpf_fd")))
        if not isinstance(obj, MapObject | ProgObject | LinkObject):
            raise ShimError("BC0015", errno.EINVAL, "pin: not a map, program or link")
        self.session.pins.pin(obj, _path(request, attr, loader))
        return BpfReply()

    def obj_get(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_OBJ_GET."""
        flags = attr["file_flags"]
        way = flags & (_RDONLY | _WRONLY)
        if (attr["bpf_fd"] or flags & ~(_RDONLY | _WRONLY | _PATH_FD) or way == _RDONLY | _WRONLY
                or (attr["path_fd"] and not flags & _PATH_FD)):
            raise ShimError("BC0015", errno.EINVAL, f"pin: flags {flags:#x}")
        path = _path(request, attr, loader)
        obj = self.session.pins.get(path, way != _WRONLY, way != _RDONLY)
        if isinstance(obj, LinkObject) and way:
            raise ShimError("BC0015", errno.EINVAL, "pin: a link is neither read nor written")
        return self._give(obj)

    # ids and information

    def next_id(self, cls: type[Object]) -> Callable[[BpfRequest, Attr, int], BpfReply]:
        """BPF_*_GET_NEXT_ID: written over start_id's neighbour, next_id (offset 4)."""

        def function(request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
            start = int.from_bytes(request.attr[:4].ljust(4, b"\0"), "little")
            found = self.store.next_id(start, cls)
            return BpfReply(attr=(attr.offset("next_id"), found.to_bytes(4, "little")))

        return function

    def fd_by_id(self, cls: type[Object]) -> Callable[[BpfRequest, Attr, int], BpfReply]:
        """BPF_*_GET_FD_BY_ID."""

        def function(request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
            number = int.from_bytes(request.attr[:4].ljust(4, b"\0"), "little")
            return self._give(self.store.with_id(number, cls))

        return function

    def get_info(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_OBJ_GET_INFO_BY_FD."""
        key = request.key(attr.signed("bpf_fd"))
        if key == (0, 0):
            raise ShimError("BC0014", errno.EBADFD, "information: descriptor not open")
        obj = self.store.at(key, Object)
        given = request.bytes_at(attr.offset("info"))
        out = info.fill(obj, given, request, attr.offset("info"))
        size = out[0][2] if out else b""
        return BpfReply(out=out, attr=(attr.offset("info_len"), len(size).to_bytes(4, "little")))


def _path(request: BpfRequest, attr: Attr, loader: int) -> str:
    """The absolute path that OBJ_PIN and OBJ_GET mean; EFAULT, ENOENT, EBADF, ENAMETOOLONG."""
    raw = request.bytes_at(attr.offset("pathname"))
    name, nul, _ = raw.partition(b"\0")
    if not nul:
        raise ShimError("BC0016", errno.ENAMETOOLONG, "pin: a path without an end")
    if not name:
        raise ShimError("BC0016", errno.ENOENT, "pin: an empty path")
    path = os.fsdecode(name)
    if path.startswith("/"):
        return path
    at = f"fd/{attr.signed('path_fd')}" if attr["file_flags"] & _PATH_FD else "cwd"
    try:
        return os.path.join(os.readlink(f"/proc/{loader}/{at}"), path)
    except OSError as err:
        raise ShimError("BC0016", errno.EBADF, f"pin: {path}: no directory") from err


class RefusedError(Exception):
    """A command that fails and has something to write back all the same: a log."""

    def __init__(self, error: ShimError, reply: BpfReply) -> None:
        super().__init__(str(error))
        self.error = error
        self.reply = reply

