#!/usr/bin/env python3
"""Write libbpf_shim/uapi/syscalls.py: numbers of x86-64 system calls by the names of tracepoints.

Usage: tools/gen_syscalls.py [asm/unistd_64.h]

The installed header is older than the kernel whose tracepoints loaders are shown: what came since
stands here (arch/x86/entry/syscalls/syscall_64.tbl of Linux 6.18). A tracepoint is named after the
kernel's function, which for some is not the name of the number.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "libbpf_shim" / "uapi" / "syscalls.py"
HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")
NEWER = {
    "uretprobe": 335, "uprobe": 336, "cachestat": 451, "fchmodat2": 452, "map_shadow_stack": 453,
    "futex_wake": 454, "futex_wait": 455, "futex_requeue": 456, "statmount": 457,
    "listmount": 458, "lsm_get_self_attr": 459, "lsm_set_self_attr": 460, "lsm_list_modules": 461,
    "mseal": 462, "setxattrat": 463, "getxattrat": 464, "listxattrat": 465, "removexattrat": 466,
    "open_tree_attr": 467, "file_getattr": 468, "file_setattr": 469,
}  # fmt: skip
FUNCTIONS = {  # SYSCALL_DEFINE's name: that of the number
    "newstat": "stat", "newfstat": "fstat", "newlstat": "lstat", "newuname": "uname",
    "sendfile64": "sendfile", "umount": "umount2",
}  # fmt: skip


def main() -> None:
    header = Path(sys.argv[1]) if len(sys.argv) > 1 else HEADER
    found = {m[1]: int(m[2]) for m in re.finditer(r"__NR_(\w+)\s+(\d+)", header.read_text())}
    numbers = found | NEWER
    numbers |= {name: numbers[other] for name, other in FUNCTIONS.items()}
    for other in FUNCTIONS.values():
        del numbers[other]
    ordered = sorted(numbers.items(), key=lambda row: row[1])
    rows = "".join(f'    "{name}": {number},\n' for name, number in ordered)
    OUT.write_text(
        '"""Numbers of x86-64 system calls by the names of their tracepoints. Written by'
        "\ntools/gen_syscalls.py, not by hand.\"\"\"\n\n"
        f"from __future__ import annotations\n\nNUMBERS = {{\n{rows}}}\n")


if __name__ == "__main__":
    main()
