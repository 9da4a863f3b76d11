"""The main loop's ear for execs: what the kernel tells of newcomers, while somebody asks."""

from __future__ import annotations

import selectors
from dataclasses import dataclass

from libbpf_shim.attach.connector import Connector
from libbpf_shim.backend.session import Session


@dataclass(slots=True)
class Hearing:
    """On a selector whose keys' data are callables."""

    selector: selectors.BaseSelector
    session: Session
    _ear: Connector | None = None
    _fd: int = -1

    def look(self) -> None:
        """The session has begun to listen, or has ended that."""
        ear = self.session.hears
        if ear is self._ear:
            return
        if self._ear:
            self.selector.unregister(self._fd)  # it is closed
        self._ear = ear
        if ear:
            self._fd = ear.fileno()
            self.selector.register(
                self._fd, selectors.EVENT_READ, lambda _: self.session.told())
