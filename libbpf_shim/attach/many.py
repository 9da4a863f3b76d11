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
from libbpf_shim.attach.met import cannot
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.process import Process, Site, Tramp
from libbpf_shim.attach.unwinders import Addresses
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.template import Template

SITE = struct.Struct("<QQQIIIIII32s32sQII")  # struct shim_site
_PLACE = struct.Struct("<IIQQ")  # struct shim_agent_place
_FLAGS_AT = 36  # in struct shim_site
_AT_ONCE = 16384  # bytes of trampolines that go out together
_FEW = 2  # for less than these it does not pay

# Of process, attachment, image and kind: struct shim_site_link but for cookie and counter
Record = Callable[[Process, Attachment, int, int], bytes]
Group = tuple[int, int, int, int, int]  # of attachments with the same record


class _File(NamedTuple):
    """Where a file is mapped. templates: of its places, by offset."""

    module: LoadedModule
    bias: int
    flags: int  # of its sites
    templates: dict[int, Template | None]


class _Place(NamedTuple):
    att: Attachment
    file: _File
    made: Template
    addr: int
    kind: int
    known: Tramp | None  # a trampoline from earlier


class _Laid(NamedTuple):
    """A place, its trampoline's address, and the jump to that."""

    place: _Place
    tramp: int
    jump: bytes


def replaced(plans: Plans, att: Attachment, stay: object) -> bool:
    """The return address may be replaced: no more is needed than a link at the entry. stay:
    unwinders.Addresses."""
    try:
        returns = plans.returns(att, stay is not Addresses.FREE)
    except ShimError:
        return False
    return not returns.leaves and not returns.kept


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
        found = self._with_room(process, talk, self._places(talk, process, wanted))
        if len(found) < _FEW:
            return []
        images = self._images(talk, process, found)
        answers = talk.add_sites(self._sites(found))
        new: list[tuple[_Laid, int]] = []
        for laid, (index, state) in zip(found, answers, strict=True):
            place = laid.place
            if index < 0 or state:
                if not place.known:
                    process.near.put_back(laid.tramp, place.made.shape.size)
            elif place.known and place.known.record != index:
                # the record is another one: threads may still run what names the old
                del process.tramps[place.addr, 0]
                talk.write(talk.site_address(index) + _FLAGS_AT, bytes(4))
            else:
                new.append((laid, index))
        self._trampolines(talk, process, new, windows)
        self._links(talk, process, new, images)
        return [laid.place.att for laid, _ in new]

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
        linked, tramps, sites = process.linked, process.tramps, process.sites
        for att in wanted:
            at = att.place
            if not isinstance(at, Code):
                continue
            module = self._plans.file(att)
            if module not in files:
                files[module] = self._file(talk, process, att, module)
            file = files[module]
            if file is None:
                continue
            made = file.templates[at.offset]
            addr = (made.vaddr if made else module.offset_to_vaddr(at.offset)) + file.bias
            first = addr not in taken
            taken.add(addr)
            known = tramps.get((addr, 0))
            if not made or not first or (att.link_id, addr) in linked:
                continue
            if known and (known.of != made or known.record in sites):  # that one is there
                continue
            if at.ret and stay is None:
                stay = unwinders.of(process)
            if at.both or (at.ret and not replaced(self._plans, att, stay)):
                continue
            window = made.window + file.bias
            if cannot(talk, process, (window, window + len(made.shape.orig))):
                continue
            found.append(_Place(att, file, made, addr, at_return if at.ret else entry, known))
        return found

    def _file(
        self, talk: Conversation, process: Process, att: Attachment, module: Module
    ) -> _File | None:
        from libbpf_shim._native import lib

        mapped = self._plans.loaded(att, process.modules)
        if len(mapped) != 1 or is_go(module):
            return None
        flags = lib.SHIM_SITE_HELD
        flags |= lib.SHIM_SITE_FRESH * self._fresh(talk, process, mapped[0])
        return _File(mapped[0], mapped[0].bias(module), flags, self._plans.templates(module))

    def _with_room(
        self, process: Process, talk: Conversation, found: list[_Place]
    ) -> list[_Laid]:
        """The same with trampolines, one behind the other; none: no room near all of them."""
        new = [(p.made.window + p.file.bias, p.made.shape.size) for p in found if not p.known]
        at = 0
        if new:
            try:
                at = process.near.take_many(
                    talk, min(new)[0], max(new)[0], sum(size for _, size in new))
            except ShimError:
                return []
        out = []
        for place in found:
            window, shape = place.made
            if place.known:
                tramp = place.known.at
            else:
                tramp, at = at, at + shape.size
            out.append(_Laid(place, tramp, shape.jump(window + place.file.bias, tramp)))
        return out

    def _images(
        self, talk: Conversation, process: Process, found: list[_Laid]
    ) -> dict[tuple[int, Module], int]:
        """Of their programs, by id and what these are attached to."""
        firsts: dict[tuple[int, Module], Attachment] = {}
        for (att, *_), _, _ in found:
            firsts.setdefault((att.prog.id, self._plans.file(att)), att)
        return {(number, file): process.image(talk, att.prog, Home(file, self._plans.module))
                for (number, file), att in firsts.items()}

    @staticmethod
    def _sites(found: list[_Laid]) -> list[bytes]:
        from libbpf_shim._native import lib

        single, skips, records = int(lib.SHIM_SITE_SINGLE), int(lib.SHIM_SITE_SKIPS), []
        pack = SITE.pack
        for (_, file, (window, shape), addr, _, _), tramp, jump in found:
            flags = file.flags | (single if shape.single else 0)
            flags |= skips if shape.lean else 0
            records.append(pack(
                addr, window + file.bias, tramp, len(shape.orig), 0, 0, flags,
                shape.size, 0, shape.orig, jump, addr, 0, 0))
        return records

    @staticmethod
    def _trampolines(
        talk: Conversation, process: Process, new: list[tuple[_Laid, int]],
        windows: dict[int, Window],
    ) -> None:  # fmt: skip
        """Writes them, neighbours together, and notes the windows. The process takes the first
        while the next are made."""
        from libbpf_shim._native import lib

        syms = talk.hello.syms
        enter, lean = syms[lib.SHIM_SYM_ENTER], syms[lib.SHIM_SYM_ENTER_LEAN]
        start, run = 0, bytearray()
        tramps, sites = process.tramps, process.sites
        records, size = talk.site_records()
        for (place, tramp, jump), index in new:
            att, file, made, addr, _, known = place
            window, shape = made
            window += file.bias
            site = records + index * size
            if not known:
                if start + len(run) != tramp or len(run) > _AT_ONCE:
                    if run:
                        talk.write(start, bytes(run), ahead=True)
                        talk.send()
                    start, run = tramp, bytearray()
                run += shape.fill(window & ~15, tramp, site, lean if shape.lean else enter)
                tramps[addr, 0] = Tramp(index, tramp, shape.size, made)
            lo, hi = shape.scan
            windows.pop(index, None)
            windows[index] = Window(
                window, shape.orig, jump,
                tuple([(window + at, tramp + copy) for at, copy in shape.fixups]),
                (window + lo, window + hi) if hi else (0, 0), site)
            sites[index] = Site(index, addr, att.place, shape.tactic)
        if run:
            talk.write(start, bytes(run), ahead=True)

    def _links(
        self, talk: Conversation, process: Process, new: list[tuple[_Laid, int]],
        images: dict[tuple[int, Module], int],
    ) -> None:  # fmt: skip
        groups: dict[Group, list[tuple[_Place, int]]] = {}
        for (place, _, _), index in new:
            att = place.att
            key = (att.link_id, att.link, att.prog.id, att.pid, place.kind)
            groups.setdefault(key, []).append((place, index))
        pack = _PLACE.pack
        for members in groups.values():
            first = members[0][0]
            rows = []
            for place, index in members:
                att = place.att
                assert isinstance(att.place, Code)
                ref = att.place.ref
                counter = place.file.module.writable(ref) if ref else 0
                rows.append(pack(index, 0, att.cookie, counter))
                for cookie in att.more:
                    rows.append(pack(index, 0, cookie, counter))
            process.linked.update([(first.att.link_id, place.addr) for place, _ in members])
            image = images[first.att.prog.id, self._plans.file(first.att)]
            talk.add_links(self._record(process, first.att, image, first.kind), rows)
