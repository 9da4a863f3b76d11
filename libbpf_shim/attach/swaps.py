"""Programs that have come to have better code: what runs them goes over to it, while probes fire.

Each process is visited once for each such program, by a conversation as an attach has it. One that
cannot be reached in a few tries goes on with the code that it has, which is as right. Processes
that come to have the program later get the new code at once.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Container
from functools import partial

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.objects import ProgRef
from libbpf_shim.attach.process import Process
from libbpf_shim.attach.target import Target, look
from libbpf_shim.errors import ShimError
from libbpf_shim.object.control import start_time

log = logging.getLogger("libbpf_shim.attach")
_PAUSES = (0.1, 0.5, 2.0)  # seconds until it is tried again
_TIME = 0.5  # seconds for one conversation


class Swaps:
    """processes: what is known of each. inert: those that links could not leave. converse: one
    conversation with a running process, in so many seconds. meet: the Process of an open one."""

    def __init__(
        self, processes: dict[int, Process], inert: Container[int],
        converse: Callable[[Target, Callable[[Conversation], None], float], None],
        meet: Callable[[Conversation], Process],
    ) -> None:
        self._processes, self._inert = processes, inert
        self._converse, self._meet = converse, meet
        self._wanted: dict[int, ProgRef] = {}
        self._tries = 0
        self.due: float | None = None  # when `tidy` is to be called, time.monotonic()

    def replace(self, prog: ProgRef) -> None:
        """The program has another image now than processes were given."""
        self._wanted[prog.id] = prog
        self.due, self._tries = time.monotonic(), 0

    def forget(self, number: int) -> None:
        """The program has ended."""
        self._wanted.pop(number, None)

    def tidy(self) -> None:
        """Visits those that have an older image of some program."""
        if self.due is None or time.monotonic() < self.due:
            return
        left = False
        for pid, process in list(self._processes.items()):
            wanted = [p for p in self._wanted.values() if process.outdated(p)]
            if not wanted or pid in self._inert:
                continue
            target = look(pid)
            if target is None or (process.root, process.start_time) != (
                    target.root, start_time(pid)):
                continue
            try:
                self._converse(target, partial(self._swap, wanted=wanted), _TIME)
            except ShimError as error:
                log.debug("process %d: no better code: %s", pid, error)
                left = True
        if not left or self._tries >= len(_PAUSES):
            self._wanted.clear()
            self.due = None
            return
        self.due = time.monotonic() + _PAUSES[self._tries]
        self._tries += 1

    def _swap(self, talk: Conversation, wanted: list[ProgRef]) -> None:
        process = self._meet(talk)
        for prog in wanted:
            process.swap(talk, prog)
