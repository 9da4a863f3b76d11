"""Of which structures lists and trees are: the tag "contains:STRUCTURE:NODE" of a head.

Source: kernel/bpf/btf.c, btf_find_graph_root, btf_parse_graph_root.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from . import kinds
from .parse import Btf, Type

NODE_OF: Final = {"bpf_list_head": "bpf_list_node", "bpf_rb_root": "bpf_rb_node"}
_TAG: Final = "contains:"


@lru_cache(maxsize=8)
def _tags(btf: Btf) -> dict[tuple[int, int], list[str]]:
    found: dict[tuple[int, int], list[str]] = {}
    for tag in btf:
        if tag.kind == kinds.DECL_TAG and tag.name.startswith(_TAG):
            found.setdefault((tag.ref, tag.extra), []).append(tag.name.removeprefix(_TAG))
    return found


def root(btf: Btf, owner: int, part: int, head: str) -> tuple[int, int] | None:
    """The structure's type id and the node's offset in it, bytes. owner, part: the structure that
    the head is in and the member that it is, or the variable and -1. None: nothing valid."""
    texts = _tags(btf).get((owner, part), [])
    value, _, name = texts[0].partition(":") if len(texts) == 1 else ("", "", "")
    found: Type | None = btf.find(value, kinds.STRUCT) if value and name else None
    for row in found.members if found else ():
        inner = btf.type(row.type) if row.type else None
        if row.name == name and inner and inner.kind == kinds.STRUCT:
            if inner.name == NODE_OF[head] and found and not row.offset % 64:
                return found.id, row.offset // 8
    return None
