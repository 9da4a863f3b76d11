"""PROG_TEST_RUN: checks the fields and says how the context begins; the loader runs the program
(csrc/surface/testrun.c).

Source: kernel/bpf/syscall.c, bpf_prog_test_run(); net/bpf/test_run.c, whose checks stand here in
their order. Program types that are absent from the tables have no test run in Linux 6.18 either.
"""

from __future__ import annotations

import errno
import socket
import struct
from pathlib import Path
from typing import Any

from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd, bpf_prog_type

_ON_CPU, _LIVE_FRAMES, _CHECKSUM = 1, 2, 4  # BPF_F_TEST_RUN_ON_CPU, BPF_F_TEST_*
_ENOTSUPP = 524
_NO_CPU = 0xFFFFFFFF  # SHIM_NO_VCPU
_ETH = 14
_SKB_SIZE, _XDP_SIZE = 192, 24  # struct __sk_buff, struct xdp_md
# a page, less headroom and struct skb_shared_info
_SKB_ROOM, _XDP_ROOM = 4096 - 64 - 320, 4096 - 256 - 320
_XDP_FRAGS = 17 * 4096  # MAX_SKB_FRAGS pages
_META_MAX = 256 - 40  # of the headroom, struct xdp_frame left out
_WIRE_MAX = 65536  # GSO_LEGACY_MAX_SIZE
_GSO_SEGS = 65535  # GSO_MAX_SEGS
_WORDS_MAX = 12 * 8  # MAX_BPF_FUNC_ARGS
_BYTES_MAX = 65535
# what a caller may set of struct __sk_buff; the rest must be zero
_SKB_GIVEN = ((8, 12), (32, 44), (48, 68), (152, 168), (176, 180), (184, 192))
_IP, _IP6 = 0x0800, 0x86DD


def _wrong(code: int, why: str) -> ShimError:
    return ShimError("BC0010", code, f"test run: {why}")


class RunCommands(Family):
    """Test runs."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_PROG_TEST_RUN: ("test", "batch_size", self.test_run),
        }

    def test_run(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_TEST_RUN."""
        from libbpf_shim._native import ffi

        for way in ("in", "out"):
            if bool(attr[f"ctx_size_{way}"]) != bool(attr[f"ctx_{way}"]):
                raise _wrong(errno.EINVAL, f"ctx_{way} without its size, or the other way round")
        prog = self.store.at(request.key(attr.signed("prog_fd")), ProgObject)
        t, kind = bpf_prog_type, prog.program.prog_type
        act = ffi.new("struct shim_act_run *")
        act.prog_id, act.repeat, act.cpu = prog.id, attr["repeat"], _NO_CPU
        if kind == t.BPF_PROG_TYPE_RAW_TRACEPOINT:
            self._words(attr, prog, act)
        elif kind == t.BPF_PROG_TYPE_SYSCALL:
            self._buffer(attr, prog, act)
        elif kind == t.BPF_PROG_TYPE_XDP:
            _xdp(request, attr, prog, act)
        elif kind in _SKB_KINDS:
            _skb(request, attr, act, _SKB_KINDS[kind])
        elif kind in _NOT_HERE:
            raise _wrong(errno.EOPNOTSUPP, f"{t(kind).name[14:].lower()}: in the kernel only")
        else:
            from libbpf_shim.attach.hostaddr import names

            why = "" if not names(prog.image) else \
                ": it names functions or variables of an application, and there is none here"
            raise _wrong(_ENOTSUPP, f"not of programs of type {kind}{why}")
        prog.require_runnable()
        if self.session.gate:
            self.session.gate.run(prog)
        delivery = self.session.delivery
        delivery.arrivals.want_run(loader, prog)
        prog.at_end[loader] = lambda: delivery.arrivals.drop_run(loader, prog.id)
        return BpfReply(action=1, payload=bytes(ffi.buffer(act)))  # SHIM_ACT_RUN

    def _words(self, attr: Attr, prog: ProgObject, act: Any) -> None:
        """bpf_prog_test_run_raw_tp()."""
        fields = ("data_in", "data_out", "ctx_out", "duration", "repeat", "batch_size")
        size = _context_size(attr, prog, fields, _WORDS_MAX)
        if not attr["flags"] & _ON_CPU and attr["cpu"]:
            raise _wrong(errno.EINVAL, f"flags {attr['flags']:#x}, CPU {attr['cpu']}")
        if attr["flags"] & _ON_CPU:
            if attr["cpu"] >= self.session.control.nr_vcpus:
                raise _wrong(errno.ENXIO, f"CPU {attr['cpu']}")
            act.cpu = attr["cpu"]
        act.kind, act.ctx_size = 1, size  # SHIM_RUN_WORDS

    def _buffer(self, attr: Attr, prog: ProgObject, act: Any) -> None:
        """bpf_prog_test_run_syscall()."""
        fields = ("data_in", "data_out", "ctx_out", "duration", "repeat", "flags", "batch_size")
        act.ctx_size = _context_size(attr, prog, fields, _BYTES_MAX)
        act.kind = 2  # SHIM_RUN_BUFFER


def _context_size(attr: Attr, prog: ProgObject, absent: tuple[str, ...], most: int) -> int:
    """Of a context that is memory: all that the program names of it, and no more than `most`."""
    if any(attr[f] for f in absent):
        raise _wrong(errno.EINVAL, "fields that the type has not")
    size = attr["ctx_size_in"]
    needed = max((at + n for at, n in prog.facts.ctx_loads), default=0)
    if not needed <= size <= most:
        raise _wrong(errno.EINVAL, f"context of {size} bytes, {needed} to {most} are wanted")
    return size


def _context_in(request: BpfRequest, attr: Attr, act: Any, size: int) -> bytes | None:
    """bpf_ctx_init(): what ctx_in leads to, at the size of the structure; E2BIG, EFAULT. None:
    there is neither a way in nor out."""
    if not attr["ctx_in"] and not attr["ctx_out"]:
        return None
    given = request.bytes_at(attr.offset("ctx_in")) if attr["ctx_in"] else b""
    if any(given[size:]):
        raise _wrong(errno.E2BIG, f"context: bytes behind {size}")
    ctx = given[:size].ljust(size, b"\0")
    act.ctx_out = 1
    act.out = ctx.ljust(_SKB_SIZE, b"\0")
    return ctx


def _u32(data: bytes | bytearray, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _xdp(request: BpfRequest, attr: Attr, prog: ProgObject, act: Any) -> None:
    """bpf_prog_test_run_xdp()."""
    a = bpf_attach_type
    if prog.program.expected_attach_type in (a.BPF_XDP_DEVMAP, a.BPF_XDP_CPUMAP):
        raise _wrong(errno.EINVAL, "of a program for a device or CPU map")
    if attr["flags"] & ~_LIVE_FRAMES or (attr["batch_size"] and not attr["flags"]):
        raise _wrong(errno.EINVAL, f"flags {attr['flags']:#x}, batch {attr['batch_size']}")
    if attr["flags"]:
        raise _wrong(errno.EOPNOTSUPP, "frames go nowhere: there are no devices here")
    size = attr["data_size_in"]
    linear, meta, room = size, 0, _XDP_ROOM
    ctx = _context_in(request, attr, act, _XDP_SIZE)
    if ctx:
        meta, end, data_meta = struct.unpack_from("<III", ctx)
        if data_meta or end > size or meta > end or meta & 3 or meta > _META_MAX:
            raise _wrong(errno.EINVAL, f"context: data {meta}, data_end {end}")
        room += meta
        linear = end
    linear = min(linear, room)
    if size - meta < _ETH:
        raise _wrong(errno.EINVAL, f"packet of {size - meta} bytes")
    request.bytes_at(attr.offset("data_in"))
    device, queue = 1, 0
    if ctx:
        device, queue, egress = struct.unpack_from("<III", ctx, 12)
        if egress or (queue and not device):
            raise _wrong(errno.EINVAL, "context: a device to leave by, or a queue without one")
        if device:
            _interface(device)
            if queue >= 1:
                raise _wrong(errno.EINVAL, f"context: receive queue {queue}")
        device = device or 1
    if size - linear > _XDP_FRAGS:
        raise _wrong(errno.ENOMEM, f"packet of {size} bytes")
    act.kind, act.meta, act.linear = 5, meta, linear  # SHIM_RUN_XDP
    act.ctx = struct.pack("<12xII", device, queue).ljust(_SKB_SIZE, b"\0")


# what the kernel test-runs and userspace does not
_NOT_HERE = (
    bpf_prog_type.BPF_PROG_TYPE_LWT_SEG6LOCAL, bpf_prog_type.BPF_PROG_TYPE_FLOW_DISSECTOR,
    bpf_prog_type.BPF_PROG_TYPE_SK_LOOKUP, bpf_prog_type.BPF_PROG_TYPE_NETFILTER,
)  # fmt: skip
# BPF_PROG_TYPE_*: the packet begins with its Ethernet header
_SKB_KINDS: dict[int, bool] = {
    bpf_prog_type.BPF_PROG_TYPE_SOCKET_FILTER: False,
    bpf_prog_type.BPF_PROG_TYPE_SCHED_CLS: True,
    bpf_prog_type.BPF_PROG_TYPE_SCHED_ACT: True,
    bpf_prog_type.BPF_PROG_TYPE_CGROUP_SKB: False,
    bpf_prog_type.BPF_PROG_TYPE_LWT_IN: False,
    bpf_prog_type.BPF_PROG_TYPE_LWT_OUT: False,
    bpf_prog_type.BPF_PROG_TYPE_LWT_XMIT: False,
}


def _skb(request: BpfRequest, attr: Attr, act: Any, ethernet: bool) -> None:
    """bpf_prog_test_run_skb()."""
    if attr["flags"] & ~_CHECKSUM or attr["cpu"] or attr["batch_size"]:
        raise _wrong(errno.EINVAL, f"flags {attr['flags']:#x}, CPU {attr['cpu']}")
    if attr["flags"]:
        raise _wrong(errno.EOPNOTSUPP, "no checksum over the packet is kept here")
    size = attr["data_size_in"]
    if not _ETH <= size <= _SKB_ROOM:
        raise _wrong(errno.EINVAL, f"packet of {size} bytes")
    data = request.bytes_at(attr.offset("data_in"))
    ctx = _context_in(request, attr, act, _SKB_SIZE)
    device = _u32(ctx, 40) if ctx else 0
    addresses = _interface(device) if device > 1 else (bytes(6), bytes(6))
    skb = bytearray(ctx or bytes(_SKB_SIZE))
    length = size if ethernet else size - _ETH
    protocol = _protocol(data)
    _addresses(skb, data[_ETH:], socket.ntohs(protocol))
    if ctx:
        _check_skb(ctx, length)
    struct.pack_into("<II", skb, 0, length, _packet_type(data, *addresses))
    struct.pack_into("<I", skb, 16, protocol)
    struct.pack_into("<I", skb, 40, device if device > 1 else 1)
    if ctx and not _u32(skb, 160):
        struct.pack_into("<I", skb, 160, length)  # wire_len
    act.kind = 3 if ethernet else 4  # SHIM_RUN_SKB, SHIM_RUN_SKB_L3
    act.ctx = bytes(skb)


def _check_skb(ctx: bytes, length: int) -> None:
    """convert___skb_to_skb()."""
    at = 0
    for lo, hi in (*_SKB_GIVEN, (_SKB_SIZE, _SKB_SIZE)):
        if any(ctx[at:lo]):
            raise _wrong(errno.EINVAL, f"context: bytes {at} to {lo} are not to be given")
        at = hi
    wire, segments = _u32(ctx, 160), _u32(ctx, 164)
    if (wire and not length <= wire <= _WIRE_MAX) or segments > _GSO_SEGS:
        raise _wrong(errno.EINVAL, f"context: wire_len {wire}, gso_segs {segments}")


def _interface(index: int) -> tuple[bytes, bytes]:
    """A network device's own address and the one for all of its neighbours; ENODEV."""
    try:
        folder = Path("/sys/class/net", socket.if_indextoname(index))
        own, every = [
            bytes.fromhex((folder / name).read_text().strip().replace(":", ""))[:6].ljust(6, b"\0")
            for name in ("address", "broadcast")
        ]
        return own, every
    except (OSError, ValueError, OverflowError):
        raise _wrong(errno.ENODEV, f"no device {index}") from None


def _packet_type(data: bytes, own: bytes, every: bytes) -> int:
    """PACKET_HOST, BROADCAST, MULTICAST, OTHERHOST, as eth_type_trans()."""
    to = data[:6]
    if to == own:
        return 0
    if to[0] & 1:
        return 1 if to == every else 2
    return 3


def _protocol(data: bytes) -> int:
    """Of eth_type_trans(), in network order as an integer of this machine."""
    kind = int.from_bytes(data[12:14], "big")
    if kind < 0x600:  # ETH_P_802_3_MIN: a length; ETH_P_802_3 if Novell's, else ETH_P_802_2
        kind = 1 if data[14:16] == b"\xff\xff" else 4
    return socket.htons(kind)


def _addresses(skb: bytearray, packet: bytes, protocol: int) -> None:
    """The family and addresses of the socket that the packet is given. EINVAL: not a header."""
    least = {_IP: 20, _IP6: 40}.get(protocol, 0)
    if len(packet) < least:
        raise _wrong(errno.EINVAL, f"{len(packet)} bytes of an IP packet, {least} are its header")
    if protocol == _IP:
        struct.pack_into("<I", skb, 88, socket.AF_INET)
        skb[92:96], skb[96:100] = packet[16:20], packet[12:16]
    elif protocol == _IP6:
        struct.pack_into("<I", skb, 88, socket.AF_INET6)
        skb[100:116], skb[116:132] = packet[24:40], packet[8:24]
