"""Tier 2 for programs that stay: compiled by a worker of its own, once nobody waits for anything.

A program that pays (jit/tiers.py) and is still there some time after its load is given to LLVM in
another process, at a low priority. Its new image takes the place of the old one in the object, so
that processes which come to have it get that, and Session.improved() sees to those that have the
old one.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Final

from libbpf_shim.backend.session import Session
from libbpf_shim.backend.workers import Job, Workers
from libbpf_shim.errors import ShimError
from libbpf_shim.jit import tiers
from libbpf_shim.jit.build import Built
from libbpf_shim.jit.image import Image
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.object.store import Object

log = logging.getLogger("libbpf_shim.backend")
_AFTER: Final = 0.5  # seconds after its load


class Better:
    """workers: one, that only this asks."""

    def __init__(self, session: Session, workers: Workers) -> None:
        self._session, self._workers = session, workers
        self._waiting: deque[tuple[float, ProgObject]] = deque()
        self._job: Job | None = None
        self._at: ProgObject | None = None  # that it is about, while it is there

    def added(self, obj: Object) -> None:
        """An object of the session's."""
        if isinstance(obj, ProgObject) and obj.image.text and \
                tiers.pays(obj.program, obj.facts) and tiers.improves():
            self._waiting.append((time.monotonic() + _AFTER, obj))

    def removed(self, obj: Object) -> None:
        """It has ended."""
        if obj is self._at:
            self._at = None
        self._waiting = deque(row for row in self._waiting if row[1] is not obj)

    def close(self) -> None:
        self._workers.close()

    @property
    def due(self) -> float | None:
        """When `look` is to be called, time.monotonic()."""
        return self._waiting[0][0] if self._waiting and self._job is None else None

    def look(self) -> None:
        """One program at a time."""
        if self.due is None or time.monotonic() < self.due:
            return
        _, self._at = self._waiting.popleft()
        self._job = self._workers.submit((self._at.program, self._at.facts), self._done)

    def _done(self, result: Built | ShimError) -> None:
        obj, self._at, self._job = self._at, None, None
        if not self._waiting:
            self._workers.close()  # LLVM takes some memory
        if obj is None:
            return
        image = None if isinstance(result, ShimError) else result.image
        if image is None or not _serves(obj.image, image):
            log.debug("program %d: no better code", obj.id)
            return
        obj.image = image
        log.debug("program %d: better code, %d bytes", obj.id, len(obj.image.text))
        self._session.verdicts.improved(obj.program, obj.image)
        self._session.improved(obj)


def _serves(old: Image, image: Image) -> bool:
    """What links say of the old image (SHIM_PROG_BARE, _ENDS, _READS, _KEEPS) holds of this."""
    return old.bare <= image.bare and old.ends <= image.ends and old.reads <= image.reads \
        and image.writes <= old.writes
