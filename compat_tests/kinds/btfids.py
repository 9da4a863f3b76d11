"""Numbers of functions in the kernel's BTF (linux/btf.h), by the standard library alone."""

from __future__ import annotations

import struct

FUNC = 12
# bytes behind a type's 12, by kind; and for each of its `vlen`
MORE = {1: 4, 3: 12, 14: 4, 17: 4}
EACH = {4: 12, 5: 12, 6: 8, 13: 8, 15: 12, 19: 12}


def ids(names: tuple[str, ...], path: str = "/sys/kernel/btf/vmlinux") -> dict[str, int]:
    """Name to id of those functions that there are."""
    with open(path, "rb") as file:
        data = file.read()
    head, = struct.unpack_from("<I", data, 4)
    types, length, strings, _ = struct.unpack_from("<IIII", data, 8)
    at, end, number, found = head + types, head + types + length, 1, {}
    while at < end:
        name, info, _ = struct.unpack_from("<III", data, at)
        kind = info >> 24 & 31
        if kind == FUNC:
            start = head + strings + name
            text = data[start : data.index(b"\0", start)].decode()
            if text in names:
                found[text] = number
        at += 12 + MORE.get(kind, 0) + (info & 0xFFFF) * EACH.get(kind, 0)
        number += 1
    return found
