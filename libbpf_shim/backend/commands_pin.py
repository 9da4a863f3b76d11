"""OBJ_PIN and OBJ_GET.

Source: kernel/bpf/syscall.c (bpf_obj_pin(), bpf_obj_get()), kernel/bpf/inode.c.
"""

from __future__ import annotations

import errno
import os

from libbpf_shim.attach.link import LinkObject
from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_cmd

_RDONLY, _WRONLY, _PATH_FD = 1 << 3, 1 << 4, 1 << 14  # BPF_F_*


class PinCommands(Family):
    """Names in the bpffs."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_OBJ_PIN: ("obj", "path_fd", self.obj_pin),
            c.BPF_OBJ_GET: ("obj", "path_fd", self.obj_get),
        }

    def obj_pin(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_OBJ_PIN of a map, program or link."""
        if attr["file_flags"] & ~_PATH_FD or (attr["path_fd"] and not attr["file_flags"]):
            raise ShimError("BC0015", errno.EINVAL, f"pin: flags {attr['file_flags']:#x}")
        obj = self.store.by_file.get(request.key(attr.signed("bpf_fd")))
        if not isinstance(obj, MapObject | ProgObject | LinkObject):
            raise ShimError("BC0015", errno.EINVAL, "pin: not a map, program or link")
        self.session.pins.pin(obj, _path(request, attr, loader))
        return BpfReply()

    def obj_get(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_OBJ_GET."""
        flags = attr["file_flags"]
        way = flags & (_RDONLY | _WRONLY)
        if (attr["bpf_fd"] or flags & ~(_RDONLY | _WRONLY | _PATH_FD) or way == _RDONLY | _WRONLY
                or (attr["path_fd"] and not flags & _PATH_FD)):
            raise ShimError("BC0015", errno.EINVAL, f"pin: flags {flags:#x}")
        path = _path(request, attr, loader)
        try:
            obj = self.session.pins.get(path, way != _WRONLY, way != _RDONLY)
        except ShimError as err:
            before = self.session.pinned_before(path) if err.errno == errno.ENOENT else None
            if not before:
                raise
            raise ShimError("BH0002", errno.ENOENT, f"{path}: pinned under another build of this "
                            f"library, not to be had here; it ends with `rm {before}`") from err
        if isinstance(obj, LinkObject) and way:
            raise ShimError("BC0015", errno.EINVAL, "pin: a link is neither read nor written")
        return self.give(obj, way)


def _path(request: BpfRequest, attr: Attr, loader: int) -> str:
    """The absolute path that OBJ_PIN and OBJ_GET mean; EFAULT, ENOENT, EBADF, ENAMETOOLONG."""
    raw = request.bytes_at(attr.offset("pathname"))
    name, nul, _ = raw.partition(b"\0")
    if not nul:
        raise ShimError("BC0016", errno.ENAMETOOLONG, "pin: a path without an end")
    if not name:
        raise ShimError("BC0016", errno.ENOENT, "pin: an empty path")
    path = os.fsdecode(name)
    if path.startswith("/"):
        return path
    at = f"fd/{attr.signed('path_fd')}" if attr["file_flags"] & _PATH_FD else "cwd"
    try:
        return os.path.join(os.readlink(f"/proc/{loader}/{at}"), path)
    except OSError as err:
        raise ShimError("BC0016", errno.EBADF, f"pin: {path}: no directory") from err
