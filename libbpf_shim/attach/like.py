"""One more place for a program that is at others of the process: a site and a link like those that
the agent has made, which the keeper puts into the tables by itself (csrc/keeper/like.c). So the
process is stopped once, for a moment, and makes no call.

A sample is what a conversation has put there. Where anything is not as it was then, there is
another conversation.
"""

from __future__ import annotations

import errno
from typing import NamedTuple

from libbpf_shim.attach import unwinders
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.hostaddr import names
from libbpf_shim.attach.keeper import LONGEST, REFUSED, Keeper, Window
from libbpf_shim.attach.keeper import Like as Request
from libbpf_shim.attach.many import SITE, replaced
from libbpf_shim.attach.objects import flags_of, skips, walks_stacks
from libbpf_shim.attach.plans import Plans, may_come
from libbpf_shim.attach.process import DL_LINK, Process, Sample, Site, Tramp
from libbpf_shim.attach.target import Target
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.object.control import start_time
from libbpf_shim.rewrite.template import Template

_ENTRY, _RET = 0, 1  # SHIM_LINK_*
_TRIES = 8  # refusals in a row, after which a process is talked to at once
_CONVERSE = errno.EOPNOTSUPP
# Nothing had changed yet: the trampoline's room is free
_EARLY = (_CONVERSE, errno.EAGAIN, errno.EBUSY, errno.ESTALE)


def note(
    talk: Conversation, process: Process, att: Attachment, index: int, kind: int
) -> None:
    """An attachment that was put at the site of that index."""
    from libbpf_shim._native import lib

    if not _simple(att) or kind not in (_ENTRY, _RET) or walks_stacks(att.prog) or (
            skips(att.prog) or names(att.prog.image)):
        return
    syms = talk.hello.syms
    process.top = max(process.top, index + 1)
    process.samples[_key(att, kind)] = Sample(
        index, att.link_id, kind, flags_of(att.prog), talk.site_records()[0],
        syms[lib.SHIM_SYM_ENTER], syms[lib.SHIM_SYM_ENTER_LEAN],
        unwinders.of(process) if kind == _RET else None)


def _simple(att: Attachment) -> bool:
    place = att.place
    return isinstance(place, Code) and not place.ref and not place.both and not att.more


def _key(att: Attachment, kind: int) -> tuple[int, int, int]:
    return att.prog.id, kind, att.pid


class _Place(NamedTuple):
    """Where the window is in the process. off: in its file."""

    made: Template
    module: LoadedModule
    bias: int
    off: int

    @property
    def window(self) -> int:
        return self.made.window + self.bias

    @property
    def addr(self) -> int:
        return self.made.vaddr + self.bias


class Like:
    """Of one session, by its number."""

    def __init__(self, plans: Plans, session_id: int) -> None:
        self._plans, self._session_id = plans, session_id

    def put(self, keeper: Keeper, target: Target, process: Process, att: Attachment) -> bool:
        """It is there; False: it is for a conversation. ShimError: the process cannot be stopped,
        or the window not be written, for the moment or at all."""
        place = att.place
        if not _simple(att) or not isinstance(place, Code):
            return False
        sample = process.samples.get(_key(att, _RET if place.ret else _ENTRY))
        if not sample or not self._unchanged(target, process, att, sample):
            return False
        process.top = max(process.top, next(reversed(process.sites), -1) + 1)
        spot = self._spot(process, att, place)
        if not spot or (place.ret and not replaced(self._plans, att, sample.stay)):
            return False
        size = spot.made.shape.size
        tramp = process.near.at_hand(spot.window, size) if size <= LONGEST else 0
        if not tramp:
            return False
        index = process.top
        record = sample.table + index * SITE.size
        try:
            made = _made(spot, tramp, record, sample)
        except ShimError:  # out of reach
            process.near.put_back(tramp, size)
            return False
        request = Request(
            sample.table, index, sample.link_id, sample.number, att.prog.id,
            process.images[att.prog.id], sample.kind, att.link, att.cookie, att.link_id,
            spot.module.dev, spot.module.ino, spot.off)
        try:
            keeper.like(process.pid, process.root, self._session_id, request, *made)
        except ShimError as error:
            if error.code != REFUSED:  # the keeper has died, and may have done it
                process.unsure.add(att.link_id)
                process.linked.add((att.link_id, spot.addr))
                raise
            if error.errno in _EARLY:
                process.near.put_back(tramp, size)
            if error.errno != _CONVERSE:
                raise
            del process.samples[_key(att, sample.kind)]
            process.unlike += 1
            return False
        process.top += 1
        process.unlike = 0
        process.linked.add((att.link_id, spot.addr))
        process.sites[index] = Site(index, spot.addr, place, spot.made.shape.tactic)
        process.tramps[spot.addr, 0] = Tramp(index, tramp, size, spot.made)
        return True

    def _unchanged(
        self, target: Target, process: Process, att: Attachment, sample: Sample
    ) -> bool:
        """It is as the last conversation has found it, and needs nothing but the link."""
        return (
            process.unlike < _TRIES and process.root == target.root
            and process.session >= 0 and process.filled
            and not process.calls and not process.trapped and not process.walks_stacks
            and process.modules == list(target.modules) and att.prog.id in process.images
            and sample.flags == flags_of(att.prog)
            and start_time(target.pid) == process.start_time)

    def _spot(self, process: Process, att: Attachment, place: Code) -> _Place | None:
        file = self._plans.file(att)
        mapped = self._plans.mapped(att, process.modules)
        made = self._plans.templates(file)[place.offset]
        if len(mapped) != 1 or made is None or is_go(file):
            return None
        module = mapped[0]
        bias = module.bias(file)
        addr, window = made.vaddr + bias, made.window + bias
        if (addr, 0) in process.tramps or (att.link_id, addr) in process.linked:
            return None
        if may_come(place) and module.base not in (process.staying or ()) and not any(
                link == DL_LINK for link, _ in process.linked):
            return None
        for m in module.mappings:
            if m.start <= window < m.end:
                return _Place(made, module, bias, m.offset + window - m.start)
        return None


def _made(
    spot: _Place, tramp: int, record: int, sample: Sample
) -> tuple[bytes, Window, bytes]:
    """struct shim_site, the window and the trampoline of a site. ShimError ERANGE."""
    from libbpf_shim._native import lib

    window, shape = spot.window, spot.made.shape
    jump = shape.jump(window, tramp)
    flags = lib.SHIM_SITE_SINGLE * shape.single | lib.SHIM_SITE_SKIPS * shape.lean
    lo, hi = shape.scan
    site = SITE.pack(spot.addr, window, tramp, len(shape.orig), 0, 0, flags, shape.size, 0,
                     shape.orig, jump, spot.addr, 0, 0)
    fixups = tuple([(window + at, tramp + copy) for at, copy in shape.fixups])
    scan = (window + lo, window + hi) if hi else (0, 0)
    enter = sample.lean if shape.lean else sample.enter
    return (site, Window(window, shape.orig, jump, fixups, scan, record),
            shape.fill(window & ~15, tramp, record, enter))
