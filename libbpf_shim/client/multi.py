"""Attaching one program to many functions of a binary: BPF_TRACE_UPROBE_MULTI and _SESSION.

Source: libbpf 1.6 src/libbpf.c, bpf_program__attach_uprobe_multi(); LINK_CREATE of bpf(2).
"""

from __future__ import annotations

import errno
import fnmatch
import os
import struct
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from libbpf_shim.client import attach
from libbpf_shim.client.link import Link
from libbpf_shim.client.session import Command
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import BPF_F_UPROBE_MULTI_RETURN, bpf_attach_type, bpf_cmd

if TYPE_CHECKING:
    from libbpf_shim.client.program import Program

_PLACES: Final = (bpf_attach_type.BPF_TRACE_UPROBE_MULTI, bpf_attach_type.BPF_TRACE_UPROBE_SESSION)


def offsets_of(path: str, functions: str | Sequence[str | int]) -> list[int]:
    """Offsets in the file, in bytes: of the functions that a pattern of * and ? matches, each
    place once; of functions by name; as they are. ENOENT: there is none."""
    from libbpf_shim.elf.module import STT_FUNC, Module

    module = Module(path)
    if not isinstance(functions, str):
        return [f if isinstance(f, int) else attach.symbol_offset(path, f, 0) for f in functions]
    pattern = functions.replace("[", "[[]")
    found = {s.vaddr for s in module.symbols
             if s.type == STT_FUNC and fnmatch.fnmatchcase(s.name, pattern)}
    if not found:
        raise ShimError("CM0001", errno.ENOENT, f"uprobe: no function {functions} in {path}")
    return sorted(module.vaddr_to_offset(vaddr) for vaddr in found)


def uprobe_multi(
    program: Program, path: str, functions: str | Sequence[str | int], *, ret: bool, pid: int,
    cookies: Sequence[int] | None, ref_ctrs: Sequence[int] | None,
) -> Link:
    """One link at many places; pid -1: in every process, 0: in this one."""
    path = attach.find_binary(path)
    offsets = offsets_of(path, functions)
    if program.attach_type not in _PLACES:
        raise ShimError("CM0002", errno.EINVAL,
                        f"program {program.name}: SEC({program.section!r}) is for one place",
                        'SEC("uprobe.multi") or SEC("uprobe.session")')
    command = Command(bpf_cmd.BPF_LINK_CREATE, "link_create", attach_type=program.attach_type)
    command.fd("prog_fd", program.need_fd())
    command.put("uprobe_multi.cnt", len(offsets))
    command.put("uprobe_multi.flags", BPF_F_UPROBE_MULTI_RETURN if ret else 0)
    command.put("uprobe_multi.pid", os.getpid() if pid == 0 else max(pid, 0))
    command.give("uprobe_multi.path", os.fsencode(path) + b"\0")
    for name, words in (("offsets", offsets), ("cookies", cookies), ("ref_ctr_offsets", ref_ctrs)):
        if words is not None and len(words) != len(offsets):
            raise ShimError("CM0003", errno.EINVAL,
                            f"uprobe: {len(words)} {name} for {len(offsets)} places")
        if words is not None:
            command.give(f"uprobe_multi.{name}", struct.pack(f"<{len(words)}Q", *words))
    what = f"{program.name}: not attached to {path}"
    return Link(program.session, program.session.must(command, what).fd, program.name)


def parse_section(section: str) -> tuple[str, str]:
    """Of `uprobe.multi/PATH:PATTERN`. EINVAL."""
    path, colon, pattern = section.partition("/")[2].rpartition(":")
    if not colon or not path or not pattern:
        raise ShimError("CM0004", errno.EINVAL,
                        f"SEC({section!r}): names no functions: uprobe.multi/PATH:PATTERN",
                        "say it: program.attach_uprobe_multi(path, pattern)")
    return path, pattern
