"""Build-ids: which builds of a binary a policy is for.

Offsets of fields, registers of arguments and places of probes are those of one build. Where an
interface or its grants say which, programs are attached to no other.
"""

from __future__ import annotations

import os
from typing import Any

from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError

Key = tuple[int, int]  # device and inode of a file


def declared(row: dict[str, Any]) -> tuple[str, ...]:
    """What `build_id` says there: one, or several; (): nothing."""
    found = row.get("build_id", ())
    return (found,) if isinstance(found, str) else tuple(found)


def of(path: str, key: Key | None = None) -> bytes:
    """The build-id of the file there, if it is the one of that key; b"": it has none, or another
    file stands there now."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    try:
        found = os.fstat(fd)
        if key is not None and (found.st_dev, found.st_ino) != key:
            return b""
        return Module(f"/proc/self/fd/{fd}").build_id
    except ShimError:
        return b""
    finally:
        os.close(fd)


def wrong(path: str, wanted: tuple[str, ...], key: Key | None = None) -> str:
    """Why the file is none of those builds; "": it is one, or any will do."""
    if not wanted:
        return ""
    found = of(path, key).hex()
    if found in wanted:
        return ""
    has = f"has build-id {found}" if found else "has no build-id"
    return f"{path} {has}, and the policy is for {' or '.join(wanted)}"
