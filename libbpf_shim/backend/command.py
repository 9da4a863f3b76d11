"""What every family of bpf(2) commands shares: the row a command has, giving out descriptors, and
refusals that carry a reply.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable

from libbpf_shim.backend.session import Session
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.file import MemFile, SocketFile
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.store import Object
from libbpf_shim.object.token import TokenObject

Function = Callable[[BpfRequest, Attr, int], BpfReply]
# Number of a command: the part of union bpf_attr it has, that part's last field, what it does.
Table = dict[int, tuple[str, str, Function]]


_RDONLY, _WRONLY = 1 << 3, 1 << 4  # BPF_F_*


def file_mode(flags: int) -> int:
    """bpf_get_file_flag(): what a descriptor of a map may do; EINVAL."""
    if flags & _RDONLY and flags & _WRONLY:
        raise ShimError("BC0017", errno.EINVAL, "map: neither to be read nor written")
    return os.O_RDONLY if flags & _RDONLY else os.O_WRONLY if flags & _WRONLY else os.O_RDWR


class Family:
    """Commands of one session that belong together."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.store = session.store

    def table(self) -> Table:
        """The commands of this family."""
        raise NotImplementedError

    def new(self, obj: Object, flags: int = 0) -> BpfReply:
        """Puts obj into the session; a descriptor of it, as `give`."""
        self.store.add(obj)
        try:
            return self.give(obj, flags)
        except BaseException:  # nobody has it, and nobody will
            self.store.collect(obj)
            raise

    def give(self, obj: Object, flags: int = 0) -> BpfReply:
        """A descriptor of obj: its number is a description of its own. flags: BPF_F_RDONLY or
        BPF_F_WRONLY, which restrict this descriptor of a map."""
        if isinstance(obj, MapObject):
            fd = obj.hand_out(file_mode(flags))
        else:
            assert isinstance(obj.file, MemFile | SocketFile)
            fd = obj.file.hand_out()
        obj.open = True
        return BpfReply(ret=0, fd=fd)

    def token(self, request: BpfRequest, fd: int) -> None:
        """A BPF token, which grants what its loader's capability token does: EBADF, EINVAL."""
        if request.key(fd) == (0, 0):
            raise ShimError("BC0018", errno.EBADF, f"token: descriptor {fd} is not open")
        if isinstance(self.store.by_file.get(request.key(fd)), TokenObject):
            return
        raise ShimError("BC0018", errno.EINVAL, f"token: descriptor {fd} is none")

    def map_at(self, request: BpfRequest, attr: Attr) -> MapObject:
        """The map that map_fd names; EBADF, EINVAL."""
        return self.store.at(request.key(attr.signed("map_fd")), MapObject)


class RefusedError(Exception):
    """A command that fails and has something to write back all the same: a log."""

    def __init__(self, error: ShimError, reply: BpfReply) -> None:
        super().__init__(str(error))
        self.error = error
        self.reply = reply
