"""PROG_LOAD's attr before any instruction is looked at: flags, sizes, what it would attach to.

Source: kernel/bpf/syscall.c (bpf_prog_load, bpf_prog_load_check_attach,
bpf_prog_verify_signature), kernel/bpf/offload.c (bpf_prog_dev_bound_init). Errnos are measured on
Linux 6.18.
"""

from __future__ import annotations

import errno
import socket

from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_prog_type

MAX_INSNS = 1_000_000  # BPF_COMPLEXITY_LIMIT_INSNS
TOKEN_FD = 1 << 16  # BPF_F_TOKEN_FD
_FLAGS = 0xFF | TOKEN_FD  # BPF_F_STRICT_ALIGNMENT to BPF_F_TEST_REG_INVARIANTS
_HAS_FRAGS, _DEV_BOUND = 1 << 5, 1 << 6  # BPF_F_XDP_*
_MAX_TYPE = 0x000FFFFF  # BTF_MAX_TYPE
_MAX_SIGNATURE = 8192  # bytes: KMALLOC_MAX_CACHE_SIZE
_SYSTEM_KEYRINGS = (0, 1, 2)  # built in, secondary, platform
_OWN_KEYRINGS = (-3, -4)  # session's and user's: those a process always has
_P, _A = bpf_prog_type, bpf_attach_type
_BTF_ATTACHED = (_P.BPF_PROG_TYPE_TRACING, _P.BPF_PROG_TYPE_LSM, _P.BPF_PROG_TYPE_STRUCT_OPS,
                 _P.BPF_PROG_TYPE_EXT)
_PROG_ATTACHED = (_P.BPF_PROG_TYPE_TRACING, _P.BPF_PROG_TYPE_EXT)
_NO_ATTACH_TYPE = (_P.BPF_PROG_TYPE_SYSCALL, _P.BPF_PROG_TYPE_EXT)
# expected_attach_type of types that insist on one of theirs; 0 of the first is made its first.
_EXPECTED: dict[int, tuple[int, ...]] = {
    _P.BPF_PROG_TYPE_CGROUP_SOCK: (
        0, _A.BPF_CGROUP_INET_SOCK_CREATE, _A.BPF_CGROUP_INET_SOCK_RELEASE,
        _A.BPF_CGROUP_INET4_POST_BIND, _A.BPF_CGROUP_INET6_POST_BIND),
    _P.BPF_PROG_TYPE_CGROUP_SOCK_ADDR: (
        *range(8, 12), 14, 15, 19, 20, *range(29, 33), *range(49, 54)),
    _P.BPF_PROG_TYPE_CGROUP_SKB: (0, 1),
    _P.BPF_PROG_TYPE_CGROUP_SOCKOPT: (_A.BPF_CGROUP_GETSOCKOPT, _A.BPF_CGROUP_SETSOCKOPT),
    _P.BPF_PROG_TYPE_SK_LOOKUP: (_A.BPF_SK_LOOKUP,),
    _P.BPF_PROG_TYPE_SK_REUSEPORT: (
        0, _A.BPF_SK_REUSEPORT_SELECT, _A.BPF_SK_REUSEPORT_SELECT_OR_MIGRATE),
    _P.BPF_PROG_TYPE_NETFILTER: (_A.BPF_NETFILTER,),
}  # fmt: skip


def refused(what: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("OB0021", code, f"program: {what}")


def check_flags(attr: Attr) -> None:
    """EINVAL."""
    if attr["prog_flags"] & ~_FLAGS:
        raise refused(f"flags {attr['prog_flags']:#x}")


def check_size(attr: Attr) -> None:
    """E2BIG."""
    if not 0 < attr["insn_cnt"] <= MAX_INSNS:
        raise refused(f"{attr['insn_cnt']} instructions, 1 to {MAX_INSNS}", errno.E2BIG)


def check_attach(attr: Attr, to_prog: bool, to_kernel: bool) -> None:
    """What the program would be attached to suits its type. to_prog, to_kernel: attach_prog_fd
    named a program, or the kernel's BTF. EINVAL."""
    kind, expected, type_id = (
        attr[name] for name in ("prog_type", "expected_attach_type", "attach_btf_id"))
    to_kernel = to_kernel or (type_id > 0 and not attr["attach_prog_fd"])
    if type_id and (type_id > _MAX_TYPE or kind not in _BTF_ATTACHED):
        raise refused(f"type {kind} attached to BTF type {type_id}")
    if to_kernel and (not type_id or to_prog):
        raise refused("a kernel to attach to, and no function of it")
    if to_prog and kind not in _PROG_ATTACHED:
        raise refused(f"type {kind} attached to a program")
    if kind in _NO_ATTACH_TYPE and expected:
        raise refused(f"type {kind} with attach type {expected}")
    if kind in _EXPECTED and expected not in _EXPECTED[kind]:
        raise refused(f"type {kind} with attach type {expected}")


def check_signature(attr: Attr, readable: bool) -> None:
    """There are no keys to check a signature with. EINVAL, ENOMEM, EOPNOTSUPP."""
    if not attr["signature"]:
        return
    known = attr.signed("keyring_id") in (*_SYSTEM_KEYRINGS, *_OWN_KEYRINGS)
    if attr["signature_size"] > _MAX_SIGNATURE or not known:
        raise refused("keyring or size of the signature")
    if not readable:
        raise refused("the signature is not readable", errno.ENOMEM)
    raise refused("signatures are not checked here", errno.EOPNOTSUPP)


def check_device(attr: Attr) -> None:
    """Programs of one network device: none takes any. EINVAL, EOPNOTSUPP."""
    kind, index, flags = attr["prog_type"], attr["prog_ifindex"], attr["prog_flags"]
    if not index:
        return
    if kind not in (_P.BPF_PROG_TYPE_SCHED_CLS, _P.BPF_PROG_TYPE_XDP):
        raise refused(f"type {kind} for a network device")
    if flags & ~(_HAS_FRAGS | _DEV_BOUND):
        raise refused(f"flags {flags:#x} for a network device")
    if kind == _P.BPF_PROG_TYPE_SCHED_CLS and flags & _DEV_BOUND:
        raise refused("only XDP programs are bound to a device")
    try:
        socket.if_indextoname(index)
    except (OSError, OverflowError) as err:
        raise refused(f"network device {index} is not there") from err
    raise refused(f"network device {index} takes no programs", errno.EOPNOTSUPP)


def check_type(attr: Attr) -> None:
    """EINVAL: there is no such type."""
    kind = attr["prog_type"]
    if not kind or kind not in bpf_prog_type.__members__.values():
        raise refused(f"type {kind}")
