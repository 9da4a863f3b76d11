"""What a session attaches: a program, and the place where it is to run."""

from __future__ import annotations

from dataclasses import dataclass

from libbpf_shim.attach.process import ProgRef


@dataclass(frozen=True, slots=True)
class Code:
    """An instruction of a file: its offset in bytes. ret: at the return of the function that
    begins there."""

    path: str
    offset: int
    ret: bool = False

    def __str__(self) -> str:
        return f"{self.path}+{self.offset:#x}"


@dataclass(frozen=True, slots=True)
class Event:
    """What a process comes to by itself, without an instruction of its own: a system call, an
    exec. number: SHIM_EVENT_*."""

    number: int
    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(eq=False, slots=True)
class Attachment:
    """A program at a place. link: index into shim_ctl.link[]; pid 0: every process."""

    link_id: int
    link: int
    prog: ProgRef
    place: Code | Event
    cookie: int
    pid: int
