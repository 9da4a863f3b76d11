"""What a program is attached to by BTF: a tracepoint, a function of the kernel, an iterator, a
hook of security modules, a member of a structure of operations."""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.btf.parse import Member, Type
from libbpf_shim.verifier.state import BTF_PTR, BUF, MAYBE_NULL, RDONLY, TRUSTED

TRACING: Final = 26  # BPF_PROG_TYPE_*
STRUCT_OPS: Final = 27
EXT: Final = 28
LSM: Final = 29
TYPES: Final = frozenset((TRACING, STRUCT_OPS, EXT, LSM))
RAW_TP: Final = 23  # BPF_TRACE_RAW_TP and the like
FENTRY: Final = 24
FEXIT: Final = 25
MODIFY_RETURN: Final = 26
LSM_MAC: Final = 27
ITER: Final = 28
LSM_CGROUP: Final = 43

_OR_NULL: Final = BTF_PTR | MAYBE_NULL
_KEY: Final = BUF | MAYBE_NULL | RDONLY
_SOCK: Final = (_OR_NULL, "sock")
# Iterators: by name of bpf_iter_NAME, by number of the argument, what is not a trusted pointer to
# what the argument's type says: flags, structure (measured on Linux 6.18).
ITERATORS: Final[dict[str, dict[int, tuple[int, str]]]] = {
    "bpf_link": {1: (_OR_NULL, "bpf_link")},
    "bpf_map": {1: (_OR_NULL | TRUSTED, "bpf_map")},
    "bpf_map_elem": {2: (_KEY, ""), 3: (BUF | MAYBE_NULL, "")},
    "bpf_prog": {1: (_OR_NULL, "bpf_prog")},
    "bpf_sk_storage_map": {2: _SOCK, 3: (BUF | MAYBE_NULL, "")},
    "cgroup": {1: (_OR_NULL | TRUSTED, "cgroup")},
    "dmabuf": {1: (_OR_NULL, "dma_buf")},
    "ipv6_route": {1: (_OR_NULL, "fib6_info")},
    "kmem_cache": {1: (_OR_NULL | TRUSTED, "kmem_cache")},
    "ksym": {1: (_OR_NULL, "kallsym_iter")},
    "netlink": {1: (_OR_NULL, "netlink_sock")},
    "sockmap": {2: (_KEY, ""), 3: _SOCK},
    "task": {1: (_OR_NULL | TRUSTED, "task_struct")},
    "task_file": {1: (_OR_NULL, "task_struct"), 3: (_OR_NULL, "file")},
    "task_vma": {1: (_OR_NULL, "task_struct"), 2: (_OR_NULL, "vm_area_struct")},
    "tcp": {1: (_OR_NULL | TRUSTED, "sock_common")},
    "udp": {1: (_OR_NULL | TRUSTED, "udp_sock")},
    "unix": {1: (_OR_NULL, "unix_sock")},
}


@final
class Target:
    """name: of the function, tracepoint, member. proto: its FUNC_PROTO, of the kernel's BTF.
    skip: arguments that the program does not see (1 of tracepoints). trusted: are its pointers?
    args: of an iterator (ITERATORS)."""

    __slots__ = ("name", "proto", "skip", "trusted", "args")

    def __init__(self, name: str, proto: Type, skip: int, trusted: bool) -> None:
        self.name: str = name
        self.proto: Type = proto
        self.skip: int = skip
        self.trusted: bool = trusted
        self.args: dict[int, tuple[int, str]] = {}

    def params(self) -> tuple[Member, ...]:
        """The arguments that the program sees."""
        return self.proto.members[self.skip :]
