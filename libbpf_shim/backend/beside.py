"""Threads of a backend that nobody waits for at their start."""

from __future__ import annotations

import _thread
from collections.abc import Callable


class Beside:
    """One thread, which ends with the process if it has not before."""

    def __init__(self, work: Callable[[], object]) -> None:
        self._running = _thread.allocate_lock()
        self._running.acquire()
        _thread.start_new_thread(self._run, (work,))

    def _run(self, work: Callable[[], object]) -> None:
        try:
            work()
        finally:
            self._running.release()

    def join(self, seconds: float) -> None:
        """Waits for its end, so long at most."""
        if self._running.acquire(timeout=seconds):
            self._running.release()
