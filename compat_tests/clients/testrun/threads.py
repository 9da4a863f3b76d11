"""Timers, signals, threads and processes that run one program."""

import os
import struct
from collections.abc import Callable

from compat_tests.clients.testrun.bpf import (
    CLS,
    EXIT,
    PACKET,
    SYSCALL,
    XDP,
    call,
    create,
    element,
    insn,
    load,
    load_btf,
    ret,
    run,
    say,
)
from compat_tests.clients.testrun.calls import ON


def timed(fd: int, steps: bytes, body: bytes, after: bytes = b"") -> tuple[bytes, int]:
    """R6 = the value of key 0; steps; bpf_timer_set_callback; after; R0 = R8. And where the
    callback begins, which has R6 = its value."""
    main = (insn(0x62, 10, 0, -4, 0) + insn(0xBF, 2, 10) + insn(0x07, 2, 0, 0, -4)
            + insn(0x18, 1, 1, 0, fd) + insn(0) + call(1) + insn(0x55, 0, 0, 1, 0) + EXIT
            + insn(0xBF, 6, 0) + insn(0xB7, 8, 0, 0, 77) + steps + TIMER)
    rest = call(170) + (after or insn(0xBF, 8, 0)) + insn(0xBF, 0, 8) + EXIT
    entry = len(main) // 8 + 2 + len(rest) // 8
    func = insn(0x18, 2, 4, 0, entry - len(main) // 8 - 1) + insn(0)
    return main + func + rest + insn(0xBF, 6, 3) + body + ON + EXIT, entry


TIMER = insn(0xBF, 1, 6) + insn(0x07, 1, 0, 0, 8)


def init(fd: int, flags: int = 1) -> bytes:
    return TIMER + insn(0x18, 2, 1, 0, fd) + insn(0) + insn(0xB7, 3, 0, 0, flags) + call(169)


def start(ns: int, flags: int = 0) -> bytes:
    return TIMER + insn(0xB7, 2, 0, 0, ns) + insn(0xB7, 3, 0, 0, flags) + call(171)


HIT = insn(0x79, 1, 6, 24) + insn(0x07, 1, 0, 0, 1) + insn(0x7B, 6, 1, 24)
RESULT = insn(0xBF, 8, 0)


def timers() -> None:
    """bpf_timer: results of its calls, and callbacks that run."""
    import time

    btf_fd = load_btf()

    def hits(fd: int, wanted: int) -> int:
        """The count in the value, once it is `wanted` or three seconds are over."""
        end = time.monotonic() + 3
        while True:
            got = struct.unpack_from("<Q", element(1, fd, bytes(4))[1], 24)[0]
            if got >= wanted or time.monotonic() > end:
                return int(got)
            time.sleep(0.001)

    again = HIT + insn(0x35, 1, 0, 5, 3) + start(1000)
    def by_clock(number: int) -> Callable[[int], bytes]:
        return lambda fd: init(fd, number) + RESULT

    cases: tuple[tuple[str, Callable[[int], bytes], bytes, bytes, int], ...] = (
        ("init", lambda fd: init(fd) + RESULT, HIT, RESULT, 0),
        ("init twice", lambda fd: init(fd) + init(fd) + RESULT, HIT, insn(0xBF, 0, 0), 0),
        *((f"init with clock {n}", by_clock(n), HIT, insn(0xBF, 0, 0), 0)
          for n in (0, 2, 7, 8, 16, 17)),
        ("set without init", lambda fd: b"", HIT, b"", 0),
        ("start without init", lambda fd: start(0) + RESULT, HIT, insn(0xBF, 0, 0), 0),
        ("start without set", lambda fd: init(fd) + start(0) + RESULT, HIT, insn(0xBF, 0, 0), 0),
        ("cancel without init", lambda fd: TIMER + call(172) + RESULT, HIT, insn(0xBF, 0, 0), 0),
        ("once", init, HIT, start(0) + RESULT, 1),
        ("in a while", init, HIT, start(2000000) + RESULT, 1),
        ("wrong flags", init, HIT, start(0, 4) + RESULT, 0),
        ("at a time that is over", init, HIT, start(1, 1) + RESULT, 1),
        ("three times", init, again, start(0) + RESULT, 3),
        ("cancelled", init, HIT, start(1 << 30) + TIMER + call(172) + RESULT, 0),
        ("cancelled, not started", init, HIT, TIMER + call(172) + RESULT, 0),
        ("started after a cancel", init, HIT, TIMER + call(172) + start(0) + RESULT, 0),
        ("cancelled by itself", init, TIMER + call(172) + insn(0x7B, 6, 0, 24),
         start(0) + RESULT, 1),
        ("its key", init, insn(0x61, 1, 2, 0) + insn(0x07, 1, 0, 0, 5) + insn(0x7B, 6, 1, 24),
         start(0) + RESULT, 5),
    )  # fmt: skip
    for kind in (1, 2, 9):
        for name, steps, body, after, wanted in cases:
            for prog_kind in (CLS, SYSCALL):
                if prog_kind == SYSCALL and (kind != 2 or name != "once"):
                    continue
                fd = create(kind, 4, 32, 4, 0, btf_fd, 11)
                element(2, fd, bytes(4), bytes(32))
                code, entry = timed(fd, steps(fd), body, after)
                prog = load(prog_kind, code, 0, None, entry, btf_fd)
                row = run(prog, None if prog_kind == SYSCALL else PACKET, None)
                count = hits(fd, wanted)
                say(f"map {kind}, type {prog_kind}, {name}", {**row, "hits": count})
    # an element that is gone has no timer
    fd = create(1, 4, 32, 4, 0, btf_fd, 11)
    element(2, fd, bytes(4), bytes(32))
    code, entry = timed(fd, init(fd), HIT, start(30000000) + RESULT)
    row = run(load(CLS, code, 0, None, entry, btf_fd), PACKET, None)
    element(3, fd, bytes(4))
    element(2, fd, bytes(4), bytes(32))
    time.sleep(0.06)  # until it would have come
    say("of an element that was deleted", {**row, "hits": hits(fd, 0)})


def interrupted() -> None:
    """A signal with a handler ends a long run; one that is ignored does not."""
    import signal

    seen: list[int] = []
    fd = load(XDP, ret(2))
    signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    say("a handler", {**run(fd, PACKET, None, repeat=1 << 31), "handled": list(seen)})
    os.kill(os.getpid(), signal.SIGUSR1)
    say("ignored", run(fd, PACKET, None, repeat=200000))


def threads() -> None:
    """Eight threads run one program, whose counter is exact."""
    import threading

    fd = create(2, 4, 8, 1)
    code = (insn(0x18, 1, 2, 0, fd) + insn(0) + insn(0xB7, 2, 0, 0, 1) + insn(0xDB, 1, 2)
            + ret(2))
    prog = load(XDP, code)
    rows: list[int] = []

    def go() -> None:
        rows.extend(run(prog, PACKET, None, repeat=1000)["ret"] for _ in range(10))

    workers = [threading.Thread(target=go) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    count = struct.unpack_from("<Q", element(1, fd, bytes(4))[1])[0]
    say("threads", {"ret": rows, "count": count})


def contend() -> None:
    """Processes run one program under one lock; some are killed at it. The lock of the dead is
    taken over, and what it protects is behind by at most one for each of them."""
    import signal
    import time

    fd = create(2, 4, 16, 1, 0, load_btf())
    element(2, fd, bytes(4), bytes(16))
    code = (insn(0x62, 10, 0, -4, 0) + insn(0xBF, 2, 10) + insn(0x07, 2, 0, 0, -4)
            + insn(0x18, 1, 1, 0, fd) + insn(0) + call(1) + insn(0x55, 0, 0, 1, 0) + EXIT
            + insn(0xBF, 7, 0) + insn(0xBF, 1, 7) + insn(0x07, 1, 0, 0, 4) + call(93)
            + insn(0x61, 1, 7, 0) + insn(0x07, 1, 0, 0, 1) + insn(0x63, 7, 1, 0)
            + insn(0x79, 1, 7, 8) + insn(0x07, 1, 0, 0, 1) + insn(0x7B, 7, 1, 8)
            + insn(0xBF, 1, 7) + insn(0x07, 1, 0, 0, 4) + call(94) + ret(2))
    prog = load(XDP, code)
    run(prog, PACKET, None)
    killed = 0
    for round_ in range(12):
        children = []
        for _ in range(3):
            pid = os.fork()
            if not pid:
                while True:
                    run(prog, PACKET, None, repeat=1000)
            children.append(pid)
        time.sleep(0.02 + 0.003 * round_)  # long enough to be at it
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            killed += 1
    row = run(prog, PACKET, None, repeat=1000)
    first, _, second = struct.unpack_from("<IIQ", element(1, fd, bytes(4))[1])
    say("contend", {**row, "behind": not 0 <= (first - second) & 0xFFFFFFFF <= killed,
                    "some": first > 1000})
