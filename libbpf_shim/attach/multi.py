"""Links of BPF_TRACE_UPROBE_MULTI and _SESSION: one program at many places of a file.

Source: kernel/trace/bpf_trace.c (bpf_uprobe_multi_link_attach, uprobe_prog_run).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from libbpf_shim.attach import uprobe
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.link import LinkObject
from libbpf_shim.object.control import Control
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_attach_type

if TYPE_CHECKING:
    from libbpf_shim.attach.deliver import Delivery

RETURN = 1  # BPF_F_UPROBE_MULTI_RETURN
_SESSION = bpf_attach_type.BPF_TRACE_UPROBE_SESSION


class Place(NamedTuple):
    """Offsets in bytes of the file; ref 0: no reference counter."""

    offset: int
    ref: int
    cookie: int


@dataclass(frozen=True, slots=True)
class Uprobes:
    """What the link is asked for. pid 0: every process."""

    file: uprobe.File
    places: tuple[Place, ...]
    flags: int
    pid: int


class MultiLink(LinkObject):
    """The link. ShimError: EINVAL (a counter, an offset), ESRCH, or why it cannot be there; then
    nothing is."""

    def __init__(
        self, number: int, spec: Uprobes, prog: ProgObject, control: Control, delivery: Delivery
    ) -> None:
        prog.require_runnable()
        if not prog.entries:
            prog.require_no_override()
        else:
            for at in spec.places:
                prog.entries.require(spec.file.path, spec.file.key, at.offset,
                                     bool(spec.flags & RETURN), prog.overrides)
        refs = uprobe.places(spec.file, [(p.offset, p.ref) for p in spec.places])
        start = uprobe.start_of(spec.pid) if spec.pid else 0
        super().__init__(number, prog, 0)
        self.spec, self._control, self._delivery = spec, control, delivery
        self._taken: list[int] = []
        self.index = control.take_link(spec.pid)
        both = prog.program.expected_attach_type == _SESSION
        ret = bool(spec.flags & RETURN) and not both
        cookies: dict[tuple[int, int], list[int]] = {}  # a place may be named again
        for place, ref in zip(spec.places, refs, strict=True):
            cookies.setdefault((place.offset, ref), []).append(place.cookie)
        self._attachments = [
            Attachment(number, self.index, prog, Code(spec.file.path, offset, ret, both, ref),
                       first, spec.pid, start, tuple(more))
            for (offset, ref), (first, *more) in cookies.items()]
        try:
            for place, ref in zip(spec.places, refs, strict=True):
                delivery.uprobes.take(spec.file.key, place.offset, ref)
                self._taken.append(place.offset)
            delivery.attach(*self._attachments)
        except BaseException:
            self._give_back()
            self.socket.close()
            raise
        self.hold(prog)
        control.enable(self.index, True)

    def _give_back(self) -> None:
        for offset in self._taken:
            self._delivery.uprobes.put(self.spec.file.key, offset)
        self._control.put_link(self.index)

    def silence(self) -> None:
        """Its program runs nowhere any more."""
        self._control.enable(self.index, False)

    def end(self) -> None:
        """Silent everywhere at once, then out of every process."""
        self.silence()
        self._delivery.detach(*self._attachments)
        self._give_back()

    @property
    def path(self) -> bytes:
        return os.fsencode(self.spec.file.path)
