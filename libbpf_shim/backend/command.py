"""What every family of bpf(2) commands shares: the row a command has, giving out descriptors, and
refusals that carry a reply.
"""

from __future__ import annotations

from collections.abc import Callable

from libbpf_shim.backend.session import Session
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.file import MemFile, SocketFile
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.store import Object

Function = Callable[[BpfRequest, Attr, int], BpfReply]
# Number of a command: the part of union bpf_attr it has, that part's last field, what it does.
Table = dict[int, tuple[str, str, Function]]


class Family:
    """Commands of one session that belong together."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.store = session.store

    def table(self) -> Table:
        """The commands of this family."""
        raise NotImplementedError

    def new(self, obj: Object) -> BpfReply:
        """Puts obj into the session; a descriptor of it."""
        self.store.add(obj)
        return self.give(obj)

    def give(self, obj: Object) -> BpfReply:
        """A descriptor of obj. Not open: its number is a description of its own."""
        assert isinstance(obj.file, MemFile | SocketFile)
        fd = obj.file.hand_out()
        obj.open = True
        return BpfReply(ret=0, fd=fd)

    def map_at(self, request: BpfRequest, attr: Attr) -> MapObject:
        """The map that map_fd names; EBADF, EINVAL."""
        return self.store.at(request.key(attr.signed("map_fd")), MapObject)


class RefusedError(Exception):
    """A command that fails and has something to write back all the same: a log."""

    def __init__(self, error: ShimError, reply: BpfReply) -> None:
        super().__init__(str(error))
        self.error = error
        self.reply = reply
