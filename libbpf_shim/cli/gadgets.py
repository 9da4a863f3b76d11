"""doctor --gadgets BINARY|PID: where code could open what `isolation: mpk` has closed."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from libbpf_shim.elf.gadgets import Gadgets

_SHOWN = 4  # addresses of one kind in one file


def _of(what: str) -> list[Gadgets]:
    from libbpf_shim.elf import gadgets

    return gadgets.of_process(int(what)) if what.isdecimal() else [gadgets.of_file(what)]


def _row(one: Gadgets) -> str:
    if one.why:
        return f"{one.where}: not read: {one.why}"
    parts = []
    for kind in ("wrpkru", "xrstor"):
        at = [address for name, address in one.found if name == kind]
        more = ", ..." if len(at) > _SHOWN else ""
        if at:
            parts.append(f"{len(at)} {kind} ({', '.join(map(hex, at[:_SHOWN]))}{more})")
    return f"{one.where}: {', '.join(parts) or 'none'}"


def listed(what: str, as_json: bool) -> int:
    """A line a file, or a mapping. Files may have them: accidents are held (docs/eim.md)."""
    from libbpf_shim.errors import ShimError

    try:
        found = _of(what)
    except ShimError as error:
        print(f"bpf-shim: {error.message}", file=sys.stderr)
        return 2
    if as_json:
        print(json.dumps([asdict(one) for one in found]))
        return 0
    for one in found:
        print(_row(one))
    return 0
