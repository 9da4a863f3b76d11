"""Test runs of many rounds end with EINTR where a signal waits for the thread that asked, as they
do in a loader's own thread (csrc/surface/testrun.c). Here another thread runs them, and no signal
of the loader's reaches that one.

Source: net/bpf/test_run.c, bpf_test_timer_continue().
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Final

from libbpf_shim.client.proxy.process import Waiting

_SIGNAL: Final = signal.SIGUSR1  # nobody else sends it to this process
_LOOK: Final = 0.005  # seconds


def begin() -> None:
    """Once, in the main thread. The handler does nothing: that there is one is enough."""
    signal.signal(_SIGNAL, lambda number, frame: None)


@contextlib.contextmanager
def passed_on(waiting: Waiting, rounds: int) -> Iterator[None]:
    """To what this thread does meanwhile. One round is never interrupted."""
    over, worker = threading.Event(), threading.get_ident()

    def look() -> None:
        before = 0
        while not over.wait(_LOOK):
            own, shared = waiting.signals()
            # one that is the process's is taken by some other thread, if there is one
            if own or shared & before:
                signal.pthread_kill(worker, _SIGNAL)
            before = shared

    if rounds <= 1:
        yield
        return
    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
