"""What a session attaches: a program, and the place where it is to run."""

from __future__ import annotations

from dataclasses import dataclass

from libbpf_shim.attach.objects import ProgRef


@dataclass(frozen=True, slots=True)
class Code:
    """An instruction of a file: its offset in bytes. ret: at the return of the function that
    begins there; both: then too, as the run at its entry says. ref: offset of the word that is
    one more in each process where this is attached, 0: none."""

    path: str
    offset: int
    ret: bool = False
    both: bool = False
    ref: int = 0

    def __str__(self) -> str:
        return f"{self.path}+{self.offset:#x}"


@dataclass(frozen=True, slots=True)
class Event:
    """What a process comes to by itself, without an instruction of its own: a system call, an
    exec. number: SHIM_EVENT_*. type: id of the tracepoint, 0: it is none. ret: at the return of a
    kernel's function."""

    number: int
    name: str
    type: int = 0
    ret: bool = False

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Tick:
    """Every `period` ns of CPU time, or page faults. cpu: of the machine, -1: on any; tid 0: of
    every thread; kind: SHIM_CLOCK_*."""

    period: int
    cpu: int
    tid: int = 0
    kind: int = 0

    def __str__(self) -> str:
        return f"clock of {self.period} {'page faults' if self.kind else 'ns'}"


@dataclass(eq=False, slots=True)
class Attachment:
    """A program at a place. link: index into shim_ctl.link[]; pid 0: every process, else the one
    that started then (clock ticks; 0: any of that number)."""

    link_id: int
    link: int
    prog: ProgRef
    place: Code | Event | Tick
    cookie: int
    pid: int
    start: int = 0
    more: tuple[int, ...] = ()  # cookies of what the link has at the same place besides

    def meant_for(self, pid: int, start: int) -> bool:
        """That process is one of those."""
        another = bool(self.start and start) and self.start != start
        return not self.pid or (self.pid == pid and not another)
