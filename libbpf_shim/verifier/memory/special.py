"""Names and sizes of special fields, and what is known of one. Ready for mypyc.

Source: linux/bpf.h (the opaque structures), kernel/bpf/btf.c (their sizes).
"""

from __future__ import annotations

from typing import Final, final

SPIN_LOCK: Final = "bpf_spin_lock"
RES_SPIN_LOCK: Final = "bpf_res_spin_lock"
TIMER: Final = "bpf_timer"
WORKQUEUE: Final = "bpf_wq"
TASK_WORK: Final = "bpf_task_work"
REFCOUNT: Final = "bpf_refcount"
LIST_HEAD: Final = "bpf_list_head"
LIST_NODE: Final = "bpf_list_node"
RB_ROOT: Final = "bpf_rb_root"
RB_NODE: Final = "bpf_rb_node"
KPTR: Final = "kptr"
KPTR_UNTRUSTED: Final = "kptr_untrusted"
PERCPU_KPTR: Final = "percpu_kptr"
UPTR: Final = "uptr"
POINTERS: Final = frozenset((KPTR, KPTR_UNTRUSTED, PERCPU_KPTR, UPTR))
SIZES: Final = {
    SPIN_LOCK: 4, RES_SPIN_LOCK: 4, TIMER: 16, WORKQUEUE: 16, TASK_WORK: 8, REFCOUNT: 4,
    LIST_HEAD: 16, LIST_NODE: 24, RB_ROOT: 16, RB_NODE: 32,
    KPTR: 8, KPTR_UNTRUSTED: 8, PERCPU_KPTR: 8, UPTR: 8,
}  # fmt: skip


@final
class Special:
    """One special field: name of its structure or tag, offset in bytes. btf, type_id: of a list or
    tree, the structure that it is of; of a pointer, what it is to; node: offset of the list's or
    tree's node there."""

    __slots__ = ("name", "off", "btf", "type_id", "node")

    def __init__(self, name: str, off: int) -> None:
        self.name: str = name
        self.off: int = off
        self.btf: int = 0
        self.type_id: int = 0
        self.node: int = 0
