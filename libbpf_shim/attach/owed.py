"""What a session still owes to processes: links that could not be taken out when they ended,
because a thread stood in the way. They are silent; the code is to be restored all the same."""

from __future__ import annotations

import time
from collections.abc import Callable

from libbpf_shim.attach.target import Target, look
from libbpf_shim.errors import ShimError

_FIRST, _LAST = 0.5, 30.0  # seconds until the next try


class Owed:
    """due: when `tidy` is to be called, time.monotonic(); None: nothing is owed."""

    def __init__(self) -> None:
        self._links: dict[int, set[int]] = {}
        self._pause = _FIRST
        self.due: float | None = None

    def add(self, pid: int, link_id: int) -> None:
        """link_id 0: every link of the session."""
        self._links.setdefault(pid, set()).add(link_id)
        self._pause = _FIRST
        self.due = time.monotonic() + self._pause

    def paid(self, pid: int) -> None:
        """Everything is out of that process."""
        self._links.pop(pid, None)

    def tidy(self, remove: Callable[[Target, int], None], done: Callable[[int], None]) -> None:
        """Tries again, once each. remove: raises ShimError if it cannot yet; done: hears of
        processes that are owed nothing more."""
        if self.due is None or time.monotonic() < self.due:
            return
        for pid in list(self._links):
            target = look(pid)
            for link_id in list(self._links[pid]) if target else ():
                assert target
                try:
                    remove(target, link_id)
                except ShimError:
                    break
                self._links[pid].discard(link_id)
            if not target or not self._links[pid]:
                del self._links[pid]
                done(pid)
        self._pause = min(self._pause * 2, _LAST)
        self.due = time.monotonic() + self._pause if self._links else None
