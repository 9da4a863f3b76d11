"""What programs may be attached as: attach types by program type.

Source: kernel/bpf/syscall.c (attach_type_to_prog_type, bpf_prog_attach_check_attach_type).
"""

from __future__ import annotations

import errno

from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_prog_type
from libbpf_shim.verifier.program import Program

_A, _P = bpf_attach_type, bpf_prog_type
_MULTI = (_A.BPF_TRACE_KPROBE_MULTI, _A.BPF_TRACE_KPROBE_SESSION, _A.BPF_TRACE_UPROBE_MULTI,
          _A.BPF_TRACE_UPROBE_SESSION)
_OF_TYPE: dict[int, tuple[int, ...]] = {
    _P.BPF_PROG_TYPE_KPROBE: (_A.BPF_PERF_EVENT, *_MULTI),
    _P.BPF_PROG_TYPE_TRACEPOINT: (_A.BPF_PERF_EVENT,),
    _P.BPF_PROG_TYPE_PERF_EVENT: (_A.BPF_PERF_EVENT,),
    _P.BPF_PROG_TYPE_SCHED_CLS: (46, 47, 54, 55),  # BPF_TCX_*, BPF_NETKIT_*
    _P.BPF_PROG_TYPE_XDP: (_A.BPF_XDP,),
    _P.BPF_PROG_TYPE_CGROUP_SKB: (0, 1),
    _P.BPF_PROG_TYPE_CGROUP_SOCK: (2, 12, 13, 34),
    _P.BPF_PROG_TYPE_CGROUP_SOCK_ADDR: (
        *range(8, 12), 14, 15, 19, 20, *range(29, 33), *range(49, 54)),
    _P.BPF_PROG_TYPE_SOCK_OPS: (_A.BPF_CGROUP_SOCK_OPS,),
    _P.BPF_PROG_TYPE_CGROUP_DEVICE: (_A.BPF_CGROUP_DEVICE,),
    _P.BPF_PROG_TYPE_SK_MSG: (_A.BPF_SK_MSG_VERDICT,),
    _P.BPF_PROG_TYPE_SK_SKB: (4, 5, 38),
    _P.BPF_PROG_TYPE_FLOW_DISSECTOR: (_A.BPF_FLOW_DISSECTOR,),
    _P.BPF_PROG_TYPE_CGROUP_SYSCTL: (_A.BPF_CGROUP_SYSCTL,),
    _P.BPF_PROG_TYPE_CGROUP_SOCKOPT: (21, 22),
    _P.BPF_PROG_TYPE_SK_LOOKUP: (_A.BPF_SK_LOOKUP,),
    _P.BPF_PROG_TYPE_NETFILTER: (_A.BPF_NETFILTER,),
}  # fmt: skip
# types of which only the expected attach type fits
_EXACT = (_P.BPF_PROG_TYPE_CGROUP_SOCK, _P.BPF_PROG_TYPE_CGROUP_SOCK_ADDR,
          _P.BPF_PROG_TYPE_CGROUP_SOCKOPT, _P.BPF_PROG_TYPE_SK_LOOKUP)  # fmt: skip
_SOCK_CREATE = _A.BPF_CGROUP_INET_SOCK_CREATE  # what an expected attach type of 0 is made
# whose programs the kernel calls where userspace has nothing
_ELSEWHERE = frozenset((8, 9, *range(13, 17), 18, 19, *range(21, 26), 30, 32))


def fits(program: Program, attach_type: int) -> bool:
    """The program may be attached as that."""
    kind, expected = program.prog_type, program.expected_attach_type
    if attach_type not in _OF_TYPE.get(kind, ()):
        return False
    if kind in _EXACT:
        return attach_type == (expected or _SOCK_CREATE)
    return expected not in _MULTI or attach_type == expected


def require(program: Program) -> None:
    """EOPNOTSUPP: programs of that type run inside the kernel only."""
    kind = program.prog_type
    if kind in _ELSEWHERE:
        name = bpf_prog_type(kind).name.removeprefix("BPF_PROG_TYPE_").lower()
        text = f"program {program.name or '-'}: {name} programs run in the kernel only"
        raise ShimError("OB0026", errno.EOPNOTSUPP, text)
