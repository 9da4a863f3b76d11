"""Attrs of one command with two or three fields in every combination."""

from __future__ import annotations

import struct
from typing import Any

Value = int | str
Case = dict[str, Any]
LARGE = 0xFFFFFFFF
RET0 = "b700000000000000" "9500000000000000"
LICENSE = "47504c00"
ATTACH_TYPES = range(66)
# map_type, key_size, value_size, max_entries, map_flags
SHAPES = ((4, 4, 1, 0), (4, 8, 4, 0), (0, 8, 4, 0), (8, 8, 4, 1), (0, 0, 4096, 0), (4, 8, 0, 1),
          (4, 64, 4, 0), (0, 0, 4, 1 << 10), (4, 4, 0, 0), (3, 8, 4, 0), (4, 8, 4, 1))
MODED = ("rdonly", "wronly", "rdonly-id", "wronly-id", "frozen", "percpu", "queue", "ringbuf",
         "perf-array", "prog-array", "lpm", "stack-trace", "locks")


def case(cmd: int, size: int, *put: tuple[int, int, Value], **more: Any) -> Case:
    return {"cmd": cmd, "size": size, "put": [list(row) for row in put], **more}


def attach() -> dict[str, Case]:
    """PROG_ATTACH, _DETACH and _QUERY of every attach type. Devices have large numbers."""
    found = {}
    for kind in ATTACH_TYPES:
        for cmd, name in ((8, "attach"), (9, "detach")):
            for prog in (9999, "fd:prog", "fd:xdp", "fd:perf", "fd:array", 0):
                for flags in (0, 1, 4, 8, 0x40, 0x80, 0x2000):
                    if prog != 9999 and flags not in (0, 8):
                        continue
                    found[f"{name} {kind}: {prog} flags {flags:#x}"] = case(
                        cmd, 32, (0, 4, 99999), (4, 4, prog), (8, 4, kind), (12, 4, flags))
            for at, what in ((16, "replace"), (20, "relative"), (24, "revision")):
                found[f"{name} {kind}: {what}"] = case(
                    cmd, 32, (0, 4, 99999), (4, 4, 9999), (8, 4, kind), (at, 4, 9999))
        if kind not in (46, 47):  # there the number is a device's
            for target in ("fd:null", "fd:array", "fd:root"):
                found[f"query {kind}: {target}"] = case(16, 64, (0, 4, target), (4, 4, kind))
                found[f"detach {kind}: from {target}"] = case(
                    9, 32, (0, 4, target), (8, 4, kind))
        for flags in (0, 1, 2):
            found[f"query {kind}: flags {flags}"] = case(
                16, 64, (0, 4, 99999), (4, 4, kind), (8, 4, flags))
    return found


def links() -> dict[str, Case]:
    """LINK_CREATE of every attach type with programs of many types; of perf events with each."""
    found = {}
    for prog in ("kprobe", "tracepoint", "perf"):
        for event in ("clock2", "output", "uprobe", "uretprobe"):
            found[f"perf link: {prog} at {event}"] = case(
                28, 60, (0, 4, f"fd:{prog}"), (4, 4, f"fd:{event}"), (8, 4, 41))
    for kind in ATTACH_TYPES:
        for prog in ("prog", "kprobe", "tracepoint", "perf", "raw-tp", "xdp", "cls",
                     "kprobe-multi", "uprobe-multi", "array"):
            for target in (LARGE, 99999, "fd:array"):
                if target == "fd:array" and kind in (37, 46, 47):
                    continue  # there the number is a device's
                found[f"link {kind}: {prog} at {target}"] = case(
                    28, 60, (0, 4, f"fd:{prog}"), (4, 4, target), (8, 4, kind))
    return found


def maps() -> dict[str, Case]:
    """MAP_CREATE of every type, in many shapes, with and without BTF."""
    found = {}
    for kind in range(36):
        for shape in SHAPES:
            name = f"map of type {kind}: {shape}"
            put = [(0, 4, kind), *((4 + 4 * n, 4, value) for n, value in enumerate(shape))]
            found[name] = case(0, 72, *put)
            for key, value in ((0, 1), (1, 1), (1, 3), (0, 3), (3, 3), (1, 0), (99, 1), (1, 5)):
                if shape in SHAPES[:3] or (kind in (11, 24, 28, 29, 32) and shape[3]):
                    found[f"{name}, BTF {key} {value}"] = case(
                        0, 72, *put, (48, 4, "fd:btf"), (52, 4, key), (56, 4, value))
        found[f"map of type {kind}: maps in it"] = case(
            0, 72, (0, 4, kind), (4, 4, 4), (8, 4, 4), (12, 4, 1), (20, 4, "fd:array"))
    return found


def elements() -> dict[str, Case]:
    """Element commands on maps of several types and by restricted descriptors."""
    found = {}
    bufs: dict[str, Any] = {"k": "01000000", "v": 256}
    for what in ("array", "hash", *MODED):
        for cmd in (1, 2, 3, 4, 21):
            end = {3: 16, 4: 24}.get(cmd, 32)
            where = f"fd:new-{what}" if what in ("hash", "queue") else f"fd:{what}"
            for flags in (0, 1, 2, 4) if end == 32 else (0,):
                put = ((0, 4, where), (8, 8, "ptr:k"), (16, 8, "ptr:v"), (24, 8, flags))
                found[f"element {what}: {cmd} flags {flags}"] = case(
                    cmd, end, *(row for row in put if row[0] < end), bufs=bufs)
        for cmd in (24, 25, 26, 27):
            found[f"batch {what}: {cmd}"] = case(
                cmd, 56, (8, 8, "ptr:b"), (16, 8, "ptr:k"), (24, 8, "ptr:v"), (32, 4, 1),
                (36, 4, f"fd:new-{what}" if what in ("hash", "queue") else f"fd:{what}"),
                bufs=bufs | {"b": 16})
        found[f"freeze {what}: once"] = case(22, 4, (0, 4, f"fd:new-{what}"))
    return found


def batches() -> dict[str, Case]:
    """Batch commands with one field wrong."""
    found = {}
    right: dict[int, tuple[int, Value]] = {
        8: (8, "ptr:b"), 16: (8, "ptr:k"), 24: (8, "ptr:v"), 32: (4, 4), 36: (4, "fd:new-hash")}
    changes: tuple[tuple[int, int, Value], ...] = (
        (0, 8, "ptr:bad"), (0, 8, "ptr:b"), (8, 8, 0), (8, 8, "ptr:bad"), (16, 8, 0),
        (16, 8, "ptr:bad"), (24, 8, 0), (24, 8, "ptr:bad"), (32, 4, 0), (32, 4, 1),
        (36, 4, LARGE), (36, 4, "fd:null"), (36, 4, "fd:prog"), (40, 8, 1), (40, 8, 2),
        (40, 8, 4), (40, 8, 1 << 40), (48, 8, 1), (56, 1, 1), (167, 1, 1))
    for cmd in (24, 25, 26, 27):
        for at, size, value in changes:
            put = {where: (bytes_, what) for where, (bytes_, what) in right.items()}
            put[at] = (size, value)
            found[f"batch: {cmd}, {value} at {at}"] = case(
                cmd, max(56, at + size), *((w, b, v) for w, (b, v) in put.items()),
                bufs={"k": 64, "v": 256, "b": 16})
    return found


def programs() -> dict[str, Case]:
    """PROG_LOAD of every type and attach type; flags of every type."""
    found = {}
    base = ((4, 4, 2), (8, 8, "ptr:i"), (16, 8, "ptr:l"))
    bufs = {"i": RET0, "l": LICENSE}
    for kind in range(35):
        for expected in (0, 1, 2, 8, 10, 12, 21, 36, 37, 39, 41, 42, 45, 46, 48, 99):
            found[f"program of type {kind}: attach type {expected}"] = case(
                5, 168, (0, 4, kind), (68, 4, expected), *base, bufs=bufs)
        for flags in (1, 16, 32, 64, 128, 256):
            found[f"program of type {kind}: flags {flags}"] = case(
                5, 168, (0, 4, kind), (44, 4, flags), *base, bufs=bufs)
        for at, value in ((64, 99999), (108, 1), (112, "fd:prog"), (112, "fd:btf"),
                          (112, "fd:vmlinux"), (112, 9999)):
            found[f"program of type {kind}: {value} at {at}"] = case(
                5, 168, (0, 4, kind), (at, 4, value), *base, bufs=bufs)
    for keyring in (0, 2, 3, -1, -3, 99999):
        for size in (0, 16, 8192, 8193, LARGE):
            for where in ("ptr:s", "ptr:bad"):
                found[f"signed program: {keyring} {size} {where}"] = case(
                    5, 168, (0, 4, 1), *base, (152, 8, where), (160, 4, size),
                    (164, 4, keyring), bufs=bufs | {"s": 16384})
    return found


# r0 = 0; call +1; exit; r0 = 0; exit
TWO = "b700000000000000" "8510000001000000" "9500000000000000" + RET0
FUNCS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((0, 5),), ((0, 5), (3, 5)), ((1, 5),), ((0, 5), (0, 5)), ((0, 5), (2, 5)), ((0, 4),),
    ((0, 1),), ((0, 99),), ((0, 0),), ((0, 5), (3, 99)), ((0, 5), (99, 5)),
    ((0, 5), (3, 5), (4, 5)), ((0, LARGE),))
LINES: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((0, 1, 1, 0),), ((0, 1, 1, 0), (3, 1, 1, 0)), ((1, 1, 1, 0),), ((3, 1, 1, 0),),
    ((0, 1, 1, 0), (0, 1, 1, 0)), ((0, 1, 1, 0), (99, 1, 1, 0)), ((0, 9999, 1, 0),),
    ((0, 1, 9999, 0),), ((0, 1, 1, 0), (2, 1, 1, 0), (3, 1, 1, 0)), ((0, 1, 1, LARGE),),
    ((0, 1, 1, 0), (4, 1, 1, 0)))
RELOS: tuple[tuple[tuple[int, ...], ...], ...] = (
    ((0, 1, 1, 0),), ((8, 3, 1, 0),), ((3, 3, 1, 0),), ((800, 3, 1, 0),), ((0, 99, 1, 0),),
    ((0, 3, 9999, 0),), ((0, 3, 1, 99),), ((0, 3, 1, 6),))


def infos() -> dict[str, Case]:
    """func_info, line_info and CO-RE relocations that are read and judged."""
    found = {}
    for insns, many in ((RET0, "one"), (TWO, "two")):
        for funcs in FUNCS:
            found[f"functions of {many}: {funcs}"] = _informed(insns, funcs, ())
            found[f"functions of {many}: {funcs}, wide"] = _informed(insns, funcs, (), wide=12)
            found[f"functions of {many}: {funcs}, more"] = _informed(
                insns, funcs, (), wide=12, more=1)
        right = FUNCS[0] if many == "one" else FUNCS[1]
        for lines in LINES:
            for with_funcs in (right, ()):
                found[f"lines of {many}: {lines}, {len(with_funcs)} functions"] = _informed(
                    insns, with_funcs, lines)
            found[f"lines of {many}: {lines}, more"] = _informed(
                insns, right, lines, lines_wide=20, more=1)
    for relos in RELOS:
        for size, more in ((16, 0), (20, 0), (20, 1), (8, 0), (18, 0), (256, 0)):
            found[f"relocations: {relos} of {size}, {more}"] = _relocated(relos, size, more)
    return found


def _records(rows: tuple[tuple[int, ...], ...], size: int, more: int) -> str:
    packed = (struct.pack(f"<{len(row)}I", *row) for row in rows)
    return b"".join(row[:size].ljust(size, bytes([more])) for row in packed).hex()


def _informed(
    insns: str, funcs: tuple[tuple[int, ...], ...], lines: tuple[tuple[int, ...], ...],
    wide: int = 8, lines_wide: int = 16, more: int = 0, **extra: Any,
) -> Case:
    return case(
        5, 168, (0, 4, 1), (4, 4, len(insns) // 16), (8, 8, "ptr:i"), (16, 8, "ptr:l"),
        (24, 4, 1), (28, 4, 4096), (32, 8, "ptr:log"), (72, 4, "fd:btf"), (76, 4, wide),
        (80, 8, "ptr:fi"), (88, 4, len(funcs)), (92, 4, lines_wide), (96, 8, "ptr:li"),
        (104, 4, len(lines)), *extra.get("put", ()),
        bufs={"i": insns, "l": LICENSE, "log": 4096, "fi": _records(funcs, wide, more) or 1,
              "li": _records(lines, lines_wide, more) or 1} | extra.get("bufs", {}),
        say=[[76, 4], [92, 4], [136, 4]])


def _relocated(relos: tuple[tuple[int, ...], ...], size: int, more: int) -> Case:
    return _informed(
        RET0, ((0, 5),), (), put=((116, 4, len(relos)), (128, 8, "ptr:cr"), (136, 4, size)),
        bufs={"cr": _records(relos, size, more)})


def logs() -> dict[str, Case]:
    """Fields of a log that do and do not fit together; programs and BTF, right and wrong."""
    found = {}
    bad = "bf30000000000000" "9500000000000000"
    blob = "9feb01001800000000000000000000000000000001000000" "00"
    for level in (0, 1, 2, 4, 7, 8, 9, 15, 16, LARGE):
        for size in (0, 1, 4, 128, 4096, 1 << 30, LARGE):
            for where in (0, "ptr:log", "ptr:bad"):
                if size > 4096 and where == "ptr:log":
                    continue  # the kernel would believe it
                bufs: dict[str, Any] = {"l": LICENSE, "log": 4096}
                for insns in (RET0, bad):
                    found[f"log of a program: {level} {size} {where} {insns == bad}"] = case(
                        5, 168, (0, 4, 1), (4, 4, 2), (8, 8, "ptr:i"), (16, 8, "ptr:l"),
                        (24, 4, level), (28, 4, size), (32, 8, where),
                        bufs=bufs | {"i": insns})
                for text in (blob, blob[:-2]):
                    found[f"log of BTF: {level} {size} {where} {len(text)}"] = case(
                        18, 40, (0, 8, "ptr:b"), (8, 8, where), (16, 4, len(text) // 2),
                        (20, 4, size), (24, 4, level), bufs={"b": text, "log": 4096})
    return found


def unknown() -> dict[str, Case]:
    """Commands that are none."""
    return {f"command {cmd}: {size} bytes at {at}": case(cmd, size, (0, 4, 1), at=at)
            for cmd in (38, 39, 40, 100, 9999, -1, LARGE, 1 << 16)
            for size in (0, 4, 168, 169, 4096, 4097) for at in (0, 8)}


CASES = attach() | links() | maps() | elements() | batches() | programs() | infos() \
    | logs() | unknown()
