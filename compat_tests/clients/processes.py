"""The two programs that tests talk to: the obedient victim and the libbpf loader."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from compat_tests.clients.tool import LIMIT, Session, Way

LABELS, NAMES = "nesw", "abc"


class Victim(Session):
    """`calls -l`: does rounds when told, and shows the code of its functions."""

    def __init__(self, way: Way, folder: Path, *arguments: str) -> None:
        super().__init__(way.target([str(folder / "calls"), "-l", *arguments]),
                         stdin=subprocess.PIPE)
        try:
            self.until(b"\n")
            found = re.search(rb"pid (\d+)\n", self.seen)
            assert found, f"no pid from {self.argv}: {self.seen!r}"
        except BaseException:
            self.__exit__()
            raise
        self.pid = int(found.group(1))

    def ask(self, line: str, answer: str, limit: float = LIMIT) -> str:
        """Sends LINE and gives the rest of the answering line that begins with ANSWER."""
        self.seen = b""
        self.send(line.encode() + b"\n")
        self.until(b"\n", limit)
        text = self.seen.decode().strip()
        assert text.startswith(answer), f"{text!r} is no answer to {line!r}"
        return text[len(answer):].strip()

    def rounds(self, count: int) -> None:
        assert self.ask(str(count), "done") == str(count)

    def code(self) -> str:
        """First 16 bytes of each function, in hexadecimal."""
        return self.ask("bytes", "bytes")

    def code_becomes(self, wanted: str, limit: float = 10.0) -> None:
        """Looks again until the code is WANTED; an error with both after LIMIT seconds."""
        end = time.monotonic() + limit
        while (found := self.code()) != wanted:
            assert time.monotonic() < end, f"after {limit} s the code is\n{found}, not\n{wanted}"
            time.sleep(0.02)  # between two looks; the loop is bounded by the deadline above

    def finish(self) -> None:
        """End of input: the victim ends by itself, with success."""
        assert self.child.stdin is not None
        self.child.stdin.close()
        outcome = self.end()
        assert outcome.status == 0, f"the victim ended with {outcome.status}: {outcome.out}"


@dataclass(frozen=True)
class Report:
    """What eight.c printed: (hits, sum, per-CPU total) a probe, and the rest."""

    probes: tuple[tuple[int, int, int], ...]
    total: int
    processes: int
    events: int


class Eight(Session):
    """The loader with eight uprobes, attached when the constructor returns."""

    def __init__(self, way: Way, folder: Path, linked: str = "shared",
                 program: str = "", objects: str = "eight.bpf.o") -> None:
        argv = [str(folder / (program or f"eight-{linked}")), str(folder / objects),
                str(folder / "calls"), str(folder / "libvictim.so")]
        super().__init__(way.tool(argv), stdin=subprocess.PIPE)
        try:
            self.until(b"READY\n")
        except BaseException:
            self.__exit__()
            raise

    def report(self) -> Report:
        self.seen = b""
        self.send(b"\n")
        self.until(b"\n")
        text = self.seen.decode()
        found = re.search(r"total (\d+) processes (\d+) events (\d+)", text)
        assert found, f"no report: {text!r}"
        probes = tuple((int(a), int(b), int(c))
                       for a, b, c in re.findall(r"(\d+):(\d+):(\d+)", text))
        return Report(probes, *map(int, found.groups()))

    def finish(self) -> None:
        assert self.child.stdin is not None
        self.child.stdin.close()
        outcome = self.end()
        assert outcome.status == 0, f"the loader ended with {outcome.status}: {outcome.out}"

    def kill(self) -> None:
        """kill -9; returns when it is dead."""
        self.child.send_signal(signal.SIGKILL)
        self.child.wait(LIMIT)


def computed(rounds: int, runs: int, processes: int) -> Report:
    """What eight.c must report after RUNS runs (threads times processes) of ROUNDS rounds."""
    each = range(rounds)
    sums = (
        rounds,
        sum(i + 2 for i in each),
        sum(3 * i * i for i in each),
        sum(ord(NAMES[i % 3]) for i in each),
        4 * rounds,
        sum(ord(LABELS[i % 4]) for i in each),
        sum(i + 1 for i in each),
        sum(3 * i for i in each),
    )
    probes = tuple((rounds * runs, total * runs, rounds * runs) for total in sums)
    events = runs * len(range(0, rounds, 1000))
    return Report(probes, 8 * rounds * runs, processes, events)
