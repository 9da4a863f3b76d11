"""Many places of a file in one go: what most of them need is said to the agent in a few messages,
with trampolines that are filled in (rewrite/template.py).

For a place whose window is a jump of its own, at which nothing else is wanted, in a process that
is stopped or begins. What is not like that, or turns out not to be, is left to attach/sites.py.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from libbpf_shim.attach import unwinders
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.hostaddr import Home
from libbpf_shim.attach.keeper import Window
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process, Site, Tramp
from libbpf_shim.attach.unwinders import Addresses
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.template import Template

_SITE = struct.Struct("<QQQIIIIII32s32sQII")  # struct shim_site
_PLACE = struct.Struct("<IIQQ")  # struct shim_agent_place
_FLAGS_AT = 36  # in struct shim_site
_FEW = 2  # for less than these it does not pay

# Of process, attachment, image and kind: struct shim_site_link but for cookie and counter
Record = Callable[[Process, Attachment, int, int], bytes]
Group = tuple[int, int, int, int, int]  # of attachments with the same record


class _File(NamedTuple):
    """Where a file is mapped."""

    module: LoadedModule
    bias: int
    flags: int  # of its sites


class _Place(NamedTuple):
    att: Attachment
    file: _File
    made: Template
    addr: int
    tramp: int
    jump: bytes  # to it
    kind: int
    known: Tramp | None  # a trampoline from earlier


class Many:
    """For all processes of a session. fresh: a module that was loaded just now."""

    def __init__(
        self, plans: Plans, fresh: Callable[[Conversation, Process, LoadedModule], bool],
        record: Record,
    ) -> None:  # fmt: skip
        self._plans, self._fresh, self._record = plans, fresh, record

    def put(
        self, talk: Conversation, process: Process, wanted: list[Attachment],
        windows: dict[int, Window],
    ) -> list[Attachment]:  # fmt: skip
        """Those of the attachments that are there now, with their links; their windows are added.
        ShimError: what the agent refuses."""
        if len(wanted) < _FEW or talk.hello.ptrace:
            return []
        found = self._with_room(talk, process, self._places(talk, process, wanted))
        if len(found) < _FEW:
            return []
        answers = talk.add_sites(self._sites(found))
        new: list[tuple[_Place, int]] = []
        for place, (index, state) in zip(found, answers, strict=True):
            if index < 0 or state:
                if not place.known:
                    process.near.put_back(place.tramp, place.made.size)
            elif place.known and place.known.index != index:
                # the record is another one: threads may still run what names the old
                del process.tramps[place.addr, 0]
                talk.write(talk.site_address(index) + _FLAGS_AT, bytes(4))
            else:
                new.append((place, index))
        self._trampolines(talk, process, new, windows)
        self._links(talk, process, new)
        return [place.att for place, _ in new]

    def _places(
        self, talk: Conversation, process: Process, wanted: list[Attachment]
    ) -> list[_Place]:
        """Those that are of the usual kind; no trampoline yet."""
        from libbpf_shim._native import lib

        files: dict[Module, _File | None] = {}
        taken: set[int] = set()
        found = []
        stay = None
        entry, at_return = int(lib.SHIM_LINK_ENTRY), int(lib.SHIM_LINK_RET)
        for att in wanted:
            if not isinstance(att.place, Code):
                continue
            module = self._plans.file(att)
            if module not in files:
                files[module] = self._file(talk, process, att, module)
            file = files[module]
            if file is None:
                continue
            made = self._plans.template(att)
            addr = (made.vaddr if made else module.offset_to_vaddr(att.place.offset)) + file.bias
            first = addr not in taken
            taken.add(addr)
            known = process.tramps.get((addr, 0))
            if not made or not first or (att.link_id, addr) in process.linked:
                continue
            if known and known.of != made:
                continue
            if att.place.ret and stay is None:
                stay = unwinders.of(process)
            if att.place.both or (att.place.ret and not self._replaced(att, stay)):
                continue
            kind = at_return if att.place.ret else entry
            found.append(_Place(
                att, file, made, addr, known.at if known else 0, b"", kind, known))
        return found

    def _file(
        self, talk: Conversation, process: Process, att: Attachment, module: Module
    ) -> _File | None:
        from libbpf_shim._native import lib

        mapped = self._plans.mapped(att, process.modules)
        if len(mapped) != 1 or is_go(module):
            return None
        flags = lib.SHIM_SITE_HELD
        flags |= lib.SHIM_SITE_FRESH * self._fresh(talk, process, mapped[0])
        return _File(mapped[0], mapped[0].bias(module), flags)

    def _replaced(self, att: Attachment, stay: Addresses | None) -> bool:
        """The return address may be replaced: no more is needed than a link at the entry."""
        try:
            returns = self._plans.returns(att, stay is not Addresses.FREE)
        except ShimError:
            return False
        return not returns.leaves and not returns.kept

    def _with_room(
        self, talk: Conversation, process: Process, found: list[_Place]
    ) -> list[_Place]:
        """The same with trampolines, one behind the other; none: no room near all of them."""
        new = [place for place in found if not place.known]
        at = 0
        if new:
            windows = [place.made.window + place.file.bias for place in new]
            try:
                at = process.near.take_many(talk, min(windows), max(windows),
                                       sum(place.made.size for place in new))
            except ShimError:
                return []
        out = []
        for place in found:
            tramp, made = place.tramp or at, place.made
            out.append(place._replace(tramp=tramp, jump=made.jump(place.file.bias, tramp)))
            at += 0 if place.tramp else made.size
        return out

    @staticmethod
    def _sites(found: list[_Place]) -> list[bytes]:
        from libbpf_shim._native import lib

        single, skips, records = int(lib.SHIM_SITE_SINGLE), int(lib.SHIM_SITE_SKIPS), []
        for place in found:
            made, bias = place.made, place.file.bias
            flags = place.file.flags | (single if made.single else 0)
            flags |= skips if made.lean else 0
            records.append(_SITE.pack(
                place.addr, made.window + bias, place.tramp, len(made.orig), 0, 0, flags,
                made.size, 0, made.orig, place.jump, place.addr, 0, 0))
        return records

    @staticmethod
    def _trampolines(
        talk: Conversation, process: Process, new: list[tuple[_Place, int]],
        windows: dict[int, Window],
    ) -> None:  # fmt: skip
        """Writes them, neighbours together, and notes the windows."""
        from libbpf_shim._native import lib

        syms = talk.hello.syms
        enter, lean = syms[lib.SHIM_SYM_ENTER], syms[lib.SHIM_SYM_ENTER_LEAN]
        start, run = 0, bytearray()
        for place, index in new:
            made, bias, tramp = place.made, place.file.bias, place.tramp
            site = talk.site_address(index)
            if not place.known:
                if start + len(run) != tramp:
                    if run:
                        talk.write(start, bytes(run), ahead=True)
                    start, run = tramp, bytearray()
                run += made.fill(bias, tramp, site, lean if made.lean else enter)
                process.tramps[place.addr, 0] = Tramp(index, tramp, made.size, made)
            lo, hi = made.scan
            windows.pop(index, None)
            windows[index] = Window(
                made.window + bias, made.orig, place.jump,
                tuple((at + bias, tramp + copy) for at, copy in made.fixups),
                (lo + bias, hi + bias) if hi else (0, 0), site)
            process.sites[index] = Site(index, place.addr, place.att.place, made.tactic)
        if run:
            talk.write(start, bytes(run), ahead=True)

    def _links(
        self, talk: Conversation, process: Process, new: list[tuple[_Place, int]]
    ) -> None:
        groups: dict[Group, list[tuple[_Place, int]]] = {}
        for place, index in new:
            att = place.att
            key = (att.link_id, att.link, att.prog.id, att.pid, place.kind)
            groups.setdefault(key, []).append((place, index))
        for members in groups.values():
            first = members[0][0]
            rows = []
            for place, index in members:
                att = place.att
                assert isinstance(att.place, Code)
                ref = att.place.ref
                counter = place.file.module.writable(ref) if ref else 0
                rows += [_PLACE.pack(index, 0, cookie, counter)
                         for cookie in (att.cookie, *att.more)]
                process.linked.add((att.link_id, place.addr))
            image = process.image(talk, first.att.prog,
                                  Home(self._plans.file(first.att), self._plans.module))
            talk.add_links(self._record(process, first.att, image, first.kind), rows)
