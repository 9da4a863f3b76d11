"""Kernel functions that userspace has: the numbers of their code, beside those of helpers.

Numbers: SHIM_KFUNC_* of csrc/include/shim_runtime.h. A program that reaches a call of another one
is verified, and not compiled.
"""

from __future__ import annotations

from typing import Final

_FIRST: Final = 256
_NAMES: Final = (
    "bpf_iter_num_new", "bpf_iter_num_next", "bpf_iter_num_destroy",
    "bpf_iter_bits_new", "bpf_iter_bits_next", "bpf_iter_bits_destroy",
    "bpf_dynptr_from_skb", "bpf_dynptr_from_skb_rdonly", "bpf_dynptr_from_xdp",
    "bpf_dynptr_slice", "bpf_dynptr_slice_rdwr", "bpf_dynptr_adjust", "bpf_dynptr_is_null",
    "bpf_dynptr_is_rdonly", "bpf_dynptr_size", "bpf_dynptr_clone", "bpf_dynptr_copy",
    "bpf_dynptr_memset", "nothing", "bpf_strcmp", "bpf_strcasecmp", "bpf_strchr", "bpf_strchrnul",
    "bpf_strnchr", "bpf_strrchr", "bpf_strlen", "bpf_strnlen", "bpf_strspn", "bpf_strcspn",
    "bpf_strstr", "bpf_strnstr", "bpf_session_is_return", "bpf_session_cookie",
    "bpf_map_sum_elem_count",
)  # fmt: skip
CODE: Final[dict[str, int]] = {name: _FIRST + n for n, name in enumerate(_NAMES)}
# What a kernel is asked for, and userspace has always, or never.
_NO_CODE: Final = (
    "bpf_rcu_read_lock", "bpf_rcu_read_unlock", "bpf_preempt_disable", "bpf_preempt_enable",
    "bpf_local_irq_save", "bpf_local_irq_restore",
)  # fmt: skip
NUMBERS: Final = {**CODE, **dict.fromkeys(_NO_CODE, CODE["nothing"])}
THERE: Final = tuple(name for name in NUMBERS if name != "nothing")
# Program types that may write packets (kernel/bpf/verifier.c, may_access_direct_pkt_data): what
# others make of a packet is not to be written either.
_WRITE_PACKETS: Final = frozenset((3, 4, 6, 12, 14, 16, 25))


def number(name: str, prog_type: int) -> int:
    """Of the code for a call by a program of this type; 0: there is none."""
    if name == "bpf_dynptr_from_skb" and prog_type not in _WRITE_PACKETS:
        name = "bpf_dynptr_from_skb_rdonly"
    return NUMBERS.get(name, 0)
