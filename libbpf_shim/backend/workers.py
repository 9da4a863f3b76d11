"""Processes that judge large programs, so that the loop which answers everybody does not wait.

A worker is started when it is first needed and ends with the backend, or when it had nothing to do
for a while. It has limits of memory and of CPU time; what it dies of is an errno for the one load
that it was at. Messages both ways are a length and a pickle: a worker is this code of this user's,
started by us over a socket that nobody else has.
"""

from __future__ import annotations

import contextlib
import errno
import os
import selectors
import signal
import socket
import struct
import sys
from collections import deque
from collections.abc import Callable
from typing import Any

from libbpf_shim.compiled import PACKAGE
from libbpf_shim.errors import ShimError
from libbpf_shim.jit import tiers
from libbpf_shim.jit.build import Built, build, improved
from libbpf_shim.verifier.facts import Facts
from libbpf_shim.verifier.program import Program

MEMORY = 1 << 30  # bytes of address space
SECONDS = 60  # of CPU time, for one program
IDLE = 30.0  # seconds that a worker waits for the next one
_MOST = 2  # workers
_PATIENT = 10  # the priority of what nobody waits for
_LENGTH = struct.Struct("<Q")
_ROOT = os.path.dirname(PACKAGE)
_MAIN = ("import sys; sys.path.insert(0, sys.argv[1]); "
         "from libbpf_shim.backend.workers import main; main(*map(int, sys.argv[2:]))")

# a program to be verified and compiled, or one that was, to be compiled by tier 2
Task = Program | tuple[Program, Facts]
Done = Callable[["Built | ShimError"], None]


def _dumps(value: object) -> bytes:
    from libbpf_shim.backend.pickled import dumps

    data = dumps(value)
    return _LENGTH.pack(len(data)) + data


def _loads(data: bytes) -> Any:
    from libbpf_shim.backend.pickled import loads

    return loads(data)


class Job:
    """One program that is at hand. done: called in the loop, unless nobody waits any more."""

    def __init__(self, task: Task, done: Done) -> None:
        self.task, self.done = task, done
        self.wanted = True


class _Worker:
    def __init__(self) -> None:
        import subprocess

        self.sock, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _MAIN, _ROOT, str(theirs.fileno()),
                 str(os.getpid())],
                pass_fds=[theirs.fileno()], env={tiers.VARIABLE: str(tiers.chosen())},
                stdin=subprocess.DEVNULL)
        self.job: Job | None = None
        self.inbox = bytearray()
        self.outbox = memoryview(b"")

    def end(self) -> None:
        self.sock.close()
        self.process.kill()
        self.process.wait()


class Workers:
    """Started and asked on a selector whose keys' data are callables."""

    def __init__(self, selector: selectors.BaseSelector) -> None:
        self._selector = selector
        self._waiting: deque[Job] = deque()
        self._workers: list[_Worker] = []

    def submit(self, task: Task, done: Done) -> Job:
        """done(Built), or done(ShimError) if the worker died: ENOMEM."""
        job = Job(task, done)
        self._waiting.append(job)
        self._hand_out()
        return job

    def forget(self, job: Job) -> None:
        """Nobody waits for it any more: a worker that is at it is ended."""
        job.wanted = False
        if job in self._waiting:
            self._waiting.remove(job)
        for worker in [w for w in self._workers if w.job is job]:
            self._drop(worker)
        self._hand_out()

    def close(self) -> None:
        for worker in list(self._workers):
            self._drop(worker)

    def _hand_out(self) -> None:
        while self._waiting:
            worker = next((w for w in self._workers if w.job is None), None)
            if worker is None:
                if len(self._workers) >= _MOST:
                    return
                worker = self._start()
            worker.job = self._waiting.popleft()
            worker.outbox = memoryview(_dumps(worker.job.task))
            self._flush(worker)

    def _start(self) -> _Worker:
        worker = _Worker()
        worker.sock.setblocking(False)
        self._workers.append(worker)
        self._selector.register(worker.sock, selectors.EVENT_READ, lambda _: self._ready(worker))
        return worker

    def _drop(self, worker: _Worker) -> None:
        self._workers.remove(worker)
        self._selector.unregister(worker.sock)
        worker.end()

    def _flush(self, worker: _Worker) -> None:
        """Writes what there is room for; the rest when the worker has read."""
        with contextlib.suppress(BlockingIOError, BrokenPipeError, ConnectionResetError):
            while worker.outbox:
                worker.outbox = worker.outbox[worker.sock.send(worker.outbox) :]
        events = selectors.EVENT_READ | (selectors.EVENT_WRITE if worker.outbox else 0)
        self._selector.modify(worker.sock, events, lambda _: self._ready(worker))

    def _ready(self, worker: _Worker) -> None:
        if worker.outbox:
            self._flush(worker)
        try:
            data = worker.sock.recv(1 << 20)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._died(worker)
            return
        worker.inbox += data
        if len(worker.inbox) < _LENGTH.size:
            return
        (length,) = _LENGTH.unpack_from(worker.inbox)
        if len(worker.inbox) < _LENGTH.size + length:
            return
        result = _loads(bytes(worker.inbox[_LENGTH.size :]))
        worker.inbox.clear()
        self._finish(worker, result)

    def _died(self, worker: _Worker) -> None:
        """It ended by itself: for want of work, or at a program."""
        job = worker.job
        self._drop(worker)
        if job and job.wanted:
            program = job.task if isinstance(job.task, Program) else job.task[0]
            text = f"program {program.name}: its verification ran out of memory or time"
            job.done(ShimError("BW0001", errno.ENOMEM, text))
        self._hand_out()

    def _finish(self, worker: _Worker, result: Built) -> None:
        job, worker.job = worker.job, None
        self._hand_out()
        if job and job.wanted:
            job.done(result)


# what a worker does


def main(fd: int, parent: int) -> None:
    """Judges what comes, until nothing does or the backend is gone."""
    import resource

    from libbpf_shim._native import lib

    if lib.shim_native_die_with(parent):
        return
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's is for the loader
    sock = socket.socket(fileno=fd)
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    file = sock.makefile("rwb")
    while True:
        sock.settimeout(IDLE)
        try:
            head = file.read(_LENGTH.size)
        except TimeoutError:
            return
        if len(head) < _LENGTH.size:
            return
        sock.settimeout(None)
        task = _loads(file.read(*_LENGTH.unpack(head)))
        used = resource.getrusage(resource.RUSAGE_SELF)
        spent = int(used.ru_utime + used.ru_stime) + 1
        resource.setrlimit(resource.RLIMIT_CPU, (spent + SECONDS, resource.RLIM_INFINITY))
        if not isinstance(task, Program):
            os.setpriority(os.PRIO_PROCESS, 0, _PATIENT)
        try:
            result = build(task, tier=tiers.chosen()) if isinstance(task, Program) else \
                improved(*task)
        except MemoryError:
            return
        file.write(_dumps(result))
        file.flush()
