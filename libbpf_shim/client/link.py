"""Links: a program at an event, for as long as the link is there."""

from __future__ import annotations

import contextlib
import os
from typing import ClassVar

from libbpf_shim.client import handle
from libbpf_shim.client.handle import Handle
from libbpf_shim.client.session import Command, Session
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_cmd


class Link(Handle):
    """A program that is attached. Closing it detaches, unless it is pinned.

    event: the descriptor of a perf event that goes with it, or -1.
    """

    INFO: ClassVar[structs.Fields] = structs.BPF_LINK_INFO
    INFO_SIZE: ClassVar[int] = structs.BPF_LINK_INFO_SIZE
    GET_BY_ID: ClassVar[int] = bpf_cmd.BPF_LINK_GET_FD_BY_ID

    def __init__(self, session: Session, fd: int, name: str = "", event: int = -1) -> None:
        super().__init__(session, fd, name)
        self._event = event

    def close(self) -> None:
        """Its program does not run any more when this returns, unless somebody else holds it."""
        was_open = self.fd >= 0
        self._let_go()
        if was_open:
            with contextlib.suppress(ShimError):  # the session has ended before
                self.session.request(self.session.lib.SHIM_OP_FLUSH, b"")

    def _let_go(self) -> None:
        super().close()
        event, self._event = self._event, -1
        if event >= 0:
            os.close(event)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # wherever it comes: in a request of this thread too
            self._let_go()

    def detach(self) -> None:
        """Ends it wherever else it is held. EOPNOTSUPP: links of this kind end by `close` alone,
        as the kernel's of perf events do."""
        command = Command(bpf_cmd.BPF_LINK_DETACH, "link_detach")
        command.fd("link_fd", self.need_fd())
        self.session.must(command, f"link {self.name}: not detached")

    @classmethod
    def from_pin(cls, path: str, session: Session | None = None) -> Link:
        """What is pinned at a path below /sys/fs/bpf."""
        session = session or Session.default()
        return cls(session, handle.from_pin(session, path), os.path.basename(path))
