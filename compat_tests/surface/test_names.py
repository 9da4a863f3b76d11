"""linux/bpf.h is older or newer where this is built: what csrc/ needs of a newer one it calls by
names of its own, which no header will declare again."""

from __future__ import annotations

import re
from enum import EnumMeta

from compat_tests.guard.launch import ROOT
from libbpf_shim.uapi import bpf, bpf_func

DECLARED = re.compile(r"#\s*define\s+(BPF_\w+)|\b(BPF_\w+)\s*=[^=]")


def names(module: object) -> set[str]:
    """Those of its constants, and of the members of its enumerations."""
    found = set(vars(module))
    for value in vars(module).values():
        found |= set(value.__members__) if isinstance(value, EnumMeta) else set()
    return found


def test_no_source_declares_what_linux_bpf_h_does() -> None:
    theirs = names(bpf) | names(bpf_func)
    sources = list((ROOT / "csrc").glob("*/*.[ch]"))
    assert "BPF_F_ADJ_ROOM_DECAP_L3_IPV4" in theirs and len(sources) > 100
    ours = {f"{path.parent.name}/{path.name}": sorted(theirs & {one or other for one, other in
                                                                DECLARED.findall(path.read_text())})
            for path in sources}
    assert {path: found for path, found in ours.items() if found} == {}
