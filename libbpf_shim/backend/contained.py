"""Isolated programs that would have left their window: where that happened their links were
silenced at once (csrc/agent/contained.c); here they are taken out for good, and it is written
down: a line of JSON in the run directory's contained.jsonl, and in the gate's audit log if there
is one."""

from __future__ import annotations

import logging
import os

from libbpf_shim.attach.link import EventObject, LinkObject
from libbpf_shim.attach.multi import MultiLink
from libbpf_shim.backend.session import Session
from libbpf_shim.errors import ShimError
from libbpf_shim.object.fdmap import FdMap
from libbpf_shim.object.prog import ProgObject

NAME = "contained.jsonl"
log = logging.getLogger("libbpf_shim.backend")


class Contained:
    """Those of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def look(self) -> None:
        """What processes have told since."""
        from libbpf_shim._native import lib

        for row in self._session.control.ctl.contained:
            if row.state != lib.SHIM_CONTAINED_TOLD:
                continue
            number, pid, offset = int(row.prog_id), int(row.pid), int(row.offset)
            row.state = lib.SHIM_CONTAINED_FREE
            prog = self._session.store.of_kind(ProgObject).get(number)
            if prog and not prog.contained:
                self._end(prog, pid, offset)

    def _end(self, prog: ProgObject, pid: int, offset: int) -> None:
        from libbpf_shim.backend.audit import Audit, comm

        prog.contained = True
        slot = prog.slot_at(offset)
        policy = prog.program.policy
        line = (f"program {prog.name or prog.id} (id {prog.id}, class "
                f"{policy.name if policy else '?'}) was ended and detached: in process {pid}, "
                f"insn {slot} would have left its window")
        log.warning("%s", line)
        self._session.notice(line)
        try:
            Audit(self._session.run / NAME).write(
                "contained", uid=os.getuid(), pid=pid, comm=comm(pid), program=prog.name,
                id=prog.id, tag=prog.tag.hex(), insn=slot, what=line,
                **{"class": policy.name if policy else ""})
        except ShimError as error:
            log.warning("%s", error.message)
        if self._session.gate:
            self._session.gate.contained(pid, prog, line)
        self._detach(prog)

    def _detach(self, prog: ProgObject) -> None:
        for link in list(self._session.store.of_kind(LinkObject).values()):
            if isinstance(link, MultiLink) and link.prog is prog:
                link.silence()
        for event in list(self._session.store.of_kind(EventObject).values()):
            if event.attached and event.attached.prog is prog:
                try:
                    event.detach()
                except ShimError as error:
                    log.warning("program %d: %s", prog.id, error.message)
        for array in self._session.store.of_kind(FdMap).values():
            for key in [key for key, obj in array.elements.items() if obj is prog]:
                if before := array.drop(key):  # nobody calls it any more
                    self._session.store.collect(before)
