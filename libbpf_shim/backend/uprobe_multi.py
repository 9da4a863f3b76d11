"""LINK_CREATE of a uprobe multi link, and what its information says.

Source: kernel/trace/bpf_trace.c (bpf_uprobe_multi_link_attach, _fill_link_info, _show_fdinfo).
"""

from __future__ import annotations

import errno
import struct
from typing import TYPE_CHECKING

from libbpf_shim.attach import uprobe
from libbpf_shim.attach.multi import RETURN, MultiLink, Place, Uprobes
from libbpf_shim.backend.command import RefusedError
from libbpf_shim.backend.info_out import Given
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.uapi.bpf import bpf_link_type

if TYPE_CHECKING:
    from libbpf_shim.backend.served import Served

_MAX_CNT = 1 << 20  # MAX_UPROBE_MULTI_CNT
_PATH_MAX = 4096
_WORD = 8  # bytes of an offset, a cookie


def _refused(code: int, what: str) -> ShimError:
    return ShimError("BM0001", code, f"link of uprobes: {what}")


def _words(request: BpfRequest, attr: Attr, name: str, count: int) -> tuple[int, ...]:
    """An array of the caller's; zeroes if there is none. EFAULT."""
    if not attr[f"uprobe_multi.{name}"]:
        return (0,) * count
    data = request.bytes_at(attr.offset(f"uprobe_multi.{name}"))
    return struct.unpack(f"<{count}Q", data[: count * _WORD])


def asked(
    request: BpfRequest, attr: Attr, client: int, served: Served | None = None
) -> Uprobes:
    """What the attr asks for, checked in the kernel's order: EINVAL, E2BIG, EFAULT, errors of the
    path, EBADF (not a regular file), ESRCH."""
    count, pid = attr["uprobe_multi.cnt"], attr.signed("uprobe_multi.pid")
    flags = attr["uprobe_multi.flags"]
    needed = all(attr[f"uprobe_multi.{name}"] for name in ("path", "offsets", "cnt"))
    if attr["flags"] or flags & ~RETURN or not needed or pid < 0:
        raise _refused(errno.EINVAL, "without a path, offsets or a count of them")
    if count > _MAX_CNT:
        raise _refused(errno.E2BIG, f"{count} places, at most {_MAX_CNT}")
    name = request.bytes_at(attr.offset("uprobe_multi.path"))
    if b"\0" not in name:
        raise _refused(errno.EINVAL, f"a path over {_PATH_MAX} bytes")
    if served:
        served.place(name.split(b"\0")[0])
        served.event(count)
    file = uprobe.find(client, name.split(b"\0")[0], errno.EBADF)
    if pid and uprobe.group_of(pid) != pid:
        raise _refused(errno.ESRCH, f"{pid} is a thread, not a process")
    offsets, refs, cookies = (
        _words(request, attr, what, count) for what in ("offsets", "ref_ctr_offsets", "cookies"))
    if any(word >> 63 for word in offsets):
        raise _refused(errno.EINVAL, "a negative offset")
    places = tuple(map(Place, offsets, refs, cookies))
    return Uprobes(file, places, flags, pid)


def info(obj: MultiLink, given: Given) -> None:
    """EINVAL; ENAMETOOLONG, ENOSPC: no room for the path, for all places; EFAULT."""
    what, spec = given.what, obj.spec
    lists = {"offsets": [p.offset for p in spec.places],
             "ref_ctr_offsets": [p.ref for p in spec.places],
             "cookies": [p.cookie for p in spec.places]}
    path, room = what["uprobe_multi.path"], what["uprobe_multi.path_size"]
    count = what["uprobe_multi.count"]
    wanted = [name for name in lists if what[f"uprobe_multi.{name}"]]
    if bool(path) != bool(room) or (wanted and not count):
        raise _refused(errno.EINVAL, "a place for a list or path without its size")
    what["type"] = bpf_link_type.BPF_LINK_TYPE_UPROBE_MULTI
    what["id"], what["prog_id"] = obj.id, obj.prog.id
    what["uprobe_multi.count"], what["uprobe_multi.flags"] = len(spec.places), spec.flags
    what["uprobe_multi.pid"] = spec.pid
    name = obj.path + b"\0"
    if len(name) > min(room or _PATH_MAX, _PATH_MAX):
        raise _refused(errno.ENAMETOOLONG, "the path does not fit")
    if path:
        given.through("uprobe_multi.path", name, len(name))
    what["uprobe_multi.path_size"] = len(name)
    for field in wanted:
        rows = lists[field][:count]
        given.through(f"uprobe_multi.{field}", struct.pack(f"<{len(rows)}Q", *rows),
                      len(rows) * _WORD)
    if wanted and count < len(spec.places):
        raise RefusedError(_refused(errno.ENOSPC, "more places than there is room for"),
                           BpfReply(out=given.out))


def fdinfo(obj: MultiLink) -> str:
    """The lines behind those that all links have."""
    spec = obj.spec
    rows = "".join(f"{p.cookie}\t {p.offset:#x}\t {p.ref:#x}\n" for p in spec.places)
    return (f"uprobe_cnt:\t{len(spec.places)}\npid:\t{spec.pid}\n"
            f"path:\t{spec.file.path}\ncookie\t offset\t ref_ctr_offset\n{rows}")
