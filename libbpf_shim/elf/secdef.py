"""What a section's name says of its programs: type, expected attach type, how it is attached.

Rows as in libbpf 1.1 (section_defs of src/libbpf.c), and what later ones have of uprobes; a name
that ends with "+" stands for itself and for itself followed by "/" and a target. `?` before a
name: not loaded unless asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Flag, auto
from typing import Final

from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_prog_type


class Mark(Flag):
    """What a row says beyond types. BTF: the program is loaded against a function of the kernel's
    BTF."""

    NONE = 0
    SLEEPABLE = auto()
    BTF = auto()
    FRAGS = auto()


@dataclass(frozen=True, slots=True)
class SecDef:
    """name: as in SEC(); attach: the verb that `Program.attach` follows, "" if there is none."""

    name: str
    prog_type: int
    attach_type: int
    attach: str = ""
    marks: Mark = Mark.NONE

    def matches(self, section: str) -> bool:
        """SEC(section) is of this row."""
        if not self.name.endswith("+"):
            return section == self.name
        stem = self.name[:-1]
        return section == stem or section.startswith(stem + "/")


_S, _B, _F, _NO = Mark.SLEEPABLE, Mark.BTF, Mark.FRAGS, Mark.NONE
# name, BPF_PROG_TYPE_*, BPF_*, verb, marks
_ROWS: Final = (
    ("socket", "SOCKET_FILTER", "", "", _NO),
    ("sk_reuseport/migrate", "SK_REUSEPORT", "SK_REUSEPORT_SELECT_OR_MIGRATE", "", _NO),
    ("sk_reuseport", "SK_REUSEPORT", "SK_REUSEPORT_SELECT", "", _NO),
    ("kprobe+", "KPROBE", "", "kprobe", _NO),
    ("uprobe+", "KPROBE", "", "uprobe", _NO),
    ("uprobe.s+", "KPROBE", "", "uprobe", _S),
    ("kretprobe+", "KPROBE", "", "kprobe", _NO),
    ("uretprobe+", "KPROBE", "", "uretprobe", _NO),
    ("uretprobe.s+", "KPROBE", "", "uretprobe", _S),
    ("kprobe.multi+", "KPROBE", "TRACE_KPROBE_MULTI", "kprobe", _NO),
    ("kretprobe.multi+", "KPROBE", "TRACE_KPROBE_MULTI", "kprobe", _NO),
    ("ksyscall+", "KPROBE", "", "kprobe", _NO),
    ("kretsyscall+", "KPROBE", "", "kprobe", _NO),
    ("usdt+", "KPROBE", "", "usdt", _NO),
    ("tc", "SCHED_CLS", "", "", _NO),
    ("classifier", "SCHED_CLS", "", "", _NO),
    ("action", "SCHED_ACT", "", "", _NO),
    ("tracepoint+", "TRACEPOINT", "", "tracepoint", _NO),
    ("tp+", "TRACEPOINT", "", "tracepoint", _NO),
    ("raw_tracepoint+", "RAW_TRACEPOINT", "", "raw_tracepoint", _NO),
    ("raw_tp+", "RAW_TRACEPOINT", "", "raw_tracepoint", _NO),
    ("raw_tracepoint.w+", "RAW_TRACEPOINT_WRITABLE", "", "raw_tracepoint", _NO),
    ("raw_tp.w+", "RAW_TRACEPOINT_WRITABLE", "", "raw_tracepoint", _NO),
    ("tp_btf+", "TRACING", "TRACE_RAW_TP", "trace", _B),
    ("fentry+", "TRACING", "TRACE_FENTRY", "trace", _B),
    ("fmod_ret+", "TRACING", "MODIFY_RETURN", "trace", _B),
    ("fexit+", "TRACING", "TRACE_FEXIT", "trace", _B),
    ("fentry.s+", "TRACING", "TRACE_FENTRY", "trace", _B | _S),
    ("fmod_ret.s+", "TRACING", "MODIFY_RETURN", "trace", _B | _S),
    ("fexit.s+", "TRACING", "TRACE_FEXIT", "trace", _B | _S),
    ("freplace+", "EXT", "", "trace", _B),
    ("lsm+", "LSM", "LSM_MAC", "trace", _B),
    ("lsm.s+", "LSM", "LSM_MAC", "trace", _B | _S),
    ("lsm_cgroup+", "LSM", "LSM_CGROUP", "", _B),
    ("iter+", "TRACING", "TRACE_ITER", "iter", _B),
    ("iter.s+", "TRACING", "TRACE_ITER", "iter", _B | _S),
    ("syscall", "SYSCALL", "", "", _S),
    ("xdp.frags/devmap", "XDP", "XDP_DEVMAP", "", _F),
    ("xdp/devmap", "XDP", "XDP_DEVMAP", "", _NO),
    ("xdp.frags/cpumap", "XDP", "XDP_CPUMAP", "", _F),
    ("xdp/cpumap", "XDP", "XDP_CPUMAP", "", _NO),
    ("xdp.frags", "XDP", "XDP", "", _F),
    ("xdp", "XDP", "XDP", "", _NO),
    ("perf_event", "PERF_EVENT", "", "", _NO),
    ("lwt_in", "LWT_IN", "", "", _NO),
    ("lwt_out", "LWT_OUT", "", "", _NO),
    ("lwt_xmit", "LWT_XMIT", "", "", _NO),
    ("lwt_seg6local", "LWT_SEG6LOCAL", "", "", _NO),
    ("sockops", "SOCK_OPS", "CGROUP_SOCK_OPS", "", _NO),
    ("sk_skb/stream_parser", "SK_SKB", "SK_SKB_STREAM_PARSER", "", _NO),
    ("sk_skb/stream_verdict", "SK_SKB", "SK_SKB_STREAM_VERDICT", "", _NO),
    ("sk_skb", "SK_SKB", "", "", _NO),
    ("sk_msg", "SK_MSG", "SK_MSG_VERDICT", "", _NO),
    ("lirc_mode2", "LIRC_MODE2", "LIRC_MODE2", "", _NO),
    ("flow_dissector", "FLOW_DISSECTOR", "FLOW_DISSECTOR", "", _NO),
    ("cgroup_skb/ingress", "CGROUP_SKB", "CGROUP_INET_INGRESS", "", _NO),
    ("cgroup_skb/egress", "CGROUP_SKB", "CGROUP_INET_EGRESS", "", _NO),
    ("cgroup/skb", "CGROUP_SKB", "", "", _NO),
    ("cgroup/sock_create", "CGROUP_SOCK", "CGROUP_INET_SOCK_CREATE", "", _NO),
    ("cgroup/sock_release", "CGROUP_SOCK", "CGROUP_INET_SOCK_RELEASE", "", _NO),
    ("cgroup/sock", "CGROUP_SOCK", "CGROUP_INET_SOCK_CREATE", "", _NO),
    ("cgroup/post_bind4", "CGROUP_SOCK", "CGROUP_INET4_POST_BIND", "", _NO),
    ("cgroup/post_bind6", "CGROUP_SOCK", "CGROUP_INET6_POST_BIND", "", _NO),
    ("cgroup/bind4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_BIND", "", _NO),
    ("cgroup/bind6", "CGROUP_SOCK_ADDR", "CGROUP_INET6_BIND", "", _NO),
    ("cgroup/connect4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_CONNECT", "", _NO),
    ("cgroup/connect6", "CGROUP_SOCK_ADDR", "CGROUP_INET6_CONNECT", "", _NO),
    ("cgroup/sendmsg4", "CGROUP_SOCK_ADDR", "CGROUP_UDP4_SENDMSG", "", _NO),
    ("cgroup/sendmsg6", "CGROUP_SOCK_ADDR", "CGROUP_UDP6_SENDMSG", "", _NO),
    ("cgroup/recvmsg4", "CGROUP_SOCK_ADDR", "CGROUP_UDP4_RECVMSG", "", _NO),
    ("cgroup/recvmsg6", "CGROUP_SOCK_ADDR", "CGROUP_UDP6_RECVMSG", "", _NO),
    ("cgroup/getpeername4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_GETPEERNAME", "", _NO),
    ("cgroup/getpeername6", "CGROUP_SOCK_ADDR", "CGROUP_INET6_GETPEERNAME", "", _NO),
    ("cgroup/getsockname4", "CGROUP_SOCK_ADDR", "CGROUP_INET4_GETSOCKNAME", "", _NO),
    ("cgroup/getsockname6", "CGROUP_SOCK_ADDR", "CGROUP_INET6_GETSOCKNAME", "", _NO),
    ("cgroup/sysctl", "CGROUP_SYSCTL", "CGROUP_SYSCTL", "", _NO),
    ("cgroup/getsockopt", "CGROUP_SOCKOPT", "CGROUP_GETSOCKOPT", "", _NO),
    ("cgroup/setsockopt", "CGROUP_SOCKOPT", "CGROUP_SETSOCKOPT", "", _NO),
    ("cgroup/dev", "CGROUP_DEVICE", "CGROUP_DEVICE", "", _NO),
    ("struct_ops+", "STRUCT_OPS", "", "", _NO),
    ("sk_lookup", "SK_LOOKUP", "SK_LOOKUP", "", _NO),
)  # fmt: skip

# of libbpf 1.3 and 1.6
_LATER: Final = (
    ("uprobe.multi+", "KPROBE", "TRACE_UPROBE_MULTI", "uprobe_multi", _NO),
    ("uretprobe.multi+", "KPROBE", "TRACE_UPROBE_MULTI", "uprobe_multi", _NO),
    ("uprobe.session+", "KPROBE", "TRACE_UPROBE_SESSION", "uprobe_multi", _NO),
    ("uprobe.multi.s+", "KPROBE", "TRACE_UPROBE_MULTI", "uprobe_multi", _S),
    ("uretprobe.multi.s+", "KPROBE", "TRACE_UPROBE_MULTI", "uprobe_multi", _S),
    ("uprobe.session.s+", "KPROBE", "TRACE_UPROBE_SESSION", "uprobe_multi", _S),
)  # fmt: skip


def _defs(rows: tuple[tuple[str, str, str, str, Mark], ...]) -> tuple[SecDef, ...]:
    return tuple(
        SecDef(name, bpf_prog_type[f"BPF_PROG_TYPE_{prog}"],
               bpf_attach_type[f"BPF_{how}"] if how else 0, verb, marks)
        for name, prog, how, verb, marks in rows)


SECTIONS: Final = _defs(_ROWS)
LATER: Final = _defs(_LATER)


def find(section: str) -> SecDef | None:
    """The row of SEC(section), `?` taken off, or None."""
    return next((row for row in (*SECTIONS, *LATER) if row.matches(section)), None)
