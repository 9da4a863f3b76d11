"""One process as a session knows it: what was put into it, and putting more there, through an
open conversation with its agent."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from libbpf_shim.attach import keys
from libbpf_shim.attach.agent import Conversation, Pending
from libbpf_shim.attach.hostaddr import Home, addresses, check
from libbpf_shim.attach.target import reach_all, whole
from libbpf_shim.attach.window import Window, reserve
from libbpf_shim.elf.process import LoadedModule, loaded_modules, read_maps
from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.window import INSIDE, number_of
from libbpf_shim.rewrite.plan import TRAP, SitePlan
from libbpf_shim.rewrite.region import find_gap, find_place

if TYPE_CHECKING:
    from typing_extensions import TypeIs

_READ, _WRITE, _EXEC = 1, 2, 4
_SHARED, _PRIVATE_ANON = 1, 0x22
_PAGE = 4096
_REGION = 16 * _PAGE
_REACH = 0x7FFF_0000
_MAP, _PROG, _UNWIND, _WINDOW = 1, 2, 3, 4  # SHIM_OBJECT_*
_WALKERS = ("helper:27", "helper:67")  # bpf_get_stackid, bpf_get_stack
_SKIPPER = "helper:58"  # bpf_override_return
_TRIES = 8  # at a place that somebody else takes meanwhile


class MapRef(Protocol):
    """A map that images use. desc: struct shim_map_desc of any mapping of it. contents: the maps
    and programs that are its values, None where values are bytes. frozen: by MAP_FREEZE."""

    desc: Any

    @property
    def id(self) -> int: ...
    @property
    def fd(self) -> int: ...
    @property
    def ino(self) -> int: ...
    @property
    def file_size(self) -> int: ...
    @property
    def frozen(self) -> bool: ...
    @property
    def contents(self) -> Iterable[MapRef | ProgRef] | None: ...


class ProgRef(Protocol):
    """A compiled program; its image counts `maps`."""

    @property
    def id(self) -> int: ...
    @property
    def image(self) -> Image: ...
    @property
    def maps(self) -> Sequence[MapRef]: ...


def is_prog(ref: MapRef | ProgRef) -> TypeIs[ProgRef]:
    """Which of the two it is. isinstance() would look at each member, and more slowly."""
    return hasattr(ref, "image")


def object_key(ref: MapRef | ProgRef) -> int:
    """What the process's table of objects knows it by."""
    return (_PROG if is_prog(ref) else _MAP) << 32 | ref.id


def walks_stacks(prog: ProgRef) -> bool:
    """The program asks for stacks of whom it interrupts."""
    return any(reloc.symbol in _WALKERS for reloc in prog.image.relocs)


def skips(prog: ProgRef) -> bool:
    """The program may leave out the function that it is attached to."""
    return any(reloc.symbol == _SKIPPER for reloc in prog.image.relocs)


@dataclass(slots=True)
class _Region:
    """Anonymous memory of the process, given out from the front; what comes back is given out
    again to what has the same size."""

    start: int
    size: int
    used: int = 0
    free: dict[int, list[int]] = field(default_factory=dict)

    def take(self, size: int) -> int | None:
        size = size + 15 & ~15
        if again := self.free.get(size):
            return again.pop()
        if self.used + size > self.size:
            return None
        at = self.start + self.used
        self.used += size
        return at

    def give_back(self, at: int, size: int) -> None:
        self.free.setdefault(size + 15 & ~15, []).append(at)

    def put_back(self, at: int, size: int) -> None:
        """The same, of what has not been used: the last that was taken may then be any size."""
        if at + (size + 15 & ~15) >= self.start + self.used:
            self.used = at - self.start
        else:
            self.give_back(at, size)


@dataclass(slots=True)
class Site:
    """A site as it was put there. index: in the agent's table. where: what says so as text."""

    index: int
    addr: int
    where: object
    tactic: str


@dataclass(frozen=True, slots=True)
class Tramp:
    """A trampoline that was made for a site, to be used again by the same: for the record of that
    index, a plan (or, of a guest, its slot) and a size."""

    index: int
    at: int
    size: int
    of: object


@dataclass(frozen=True, slots=True)
class Foreseen:
    """A site that was asked for ahead (sites.py), with a trampoline of so many bytes, which
    `make` writes for the record of an index."""

    plan: SitePlan
    at: int
    size: int
    pending: Pending
    make: Callable[[int], object]


@dataclass(slots=True)
class Process:
    """pid and root name one image of a process; exec makes it another."""

    pid: int
    root: int
    start_time: int
    session: int = -1  # index into its sessions[]
    ctl: int = 0
    perf: int = 0
    maps: dict[int, tuple[int, int]] = field(default_factory=dict)  # id: (mapping, descriptor)
    windows: dict[int, Window] = field(default_factory=dict)  # of isolated programs, by class
    images: dict[int, int] = field(default_factory=dict)  # program id: address
    placed: dict[int, Image] = field(default_factory=dict)  # the same: what was put there by us
    # maps of objects that any process has, by id: how often one came to have it. Shared by all
    # processes of the session
    outers: dict[int, int] = field(default_factory=dict)
    linked: set[tuple[int, int]] = field(default_factory=set)  # (link id, address of the site)
    trapped: bool = False  # it has, or had, sites of int3: its signal calls are watched
    runnables: set[int] = field(default_factory=set)
    sites: dict[int, Site] = field(default_factory=dict)
    # by the site's address, and of a guest its slot's
    tramps: dict[tuple[int, int], Tramp] = field(default_factory=dict)
    foreseen: dict[int, Foreseen] = field(default_factory=dict)  # by the site's address
    refused: list[str] = field(default_factory=list)
    # by module: system calls that are met, and how many of them on one side only
    calls: dict[str, tuple[int, int]] = field(default_factory=dict)
    modules: list[LoadedModule] = field(default_factory=list)  # in the conversation under way
    walks_stacks: bool = False  # some program there does
    keyed: bool = False  # the session's memory there is under a protection key (keys.py)
    reads: bool = False  # memory that may not be there: some program does
    quick: bool = False  # its reads may come to fault (quick.py)
    unwound: Sequence[object] = ()  # what its walker was told of modules (unwinding.Row)
    told: list[LoadedModule] | None = None  # the modules that these were found among
    _tables: int = 0  # where the file of unwind tables is mapped
    _before: list[LoadedModule] | None = None  # in the one before; None: there was none
    _shared: list[tuple[int, int]] = field(default_factory=list)  # mappings of maps: start, size
    _text: list[_Region] = field(default_factory=list)
    _data: list[_Region] = field(default_factory=list)
    _near: list[_Region] = field(default_factory=list)
    _sizes: dict[int, int] = field(default_factory=dict)  # of what was put there by us
    _waits: dict[int, int] = field(default_factory=dict)  # object key: its grace period's number
    _unfilled: list[MapRef] = field(default_factory=list)  # maps whose values are not all there

    def read_root(self, talk: Conversation, perf_size: int) -> None:
        """Where the session's control page and perf area lie there."""
        from libbpf_shim._native import ffi

        offset = ffi.offsetof("struct shim_agent", "sessions")
        size = ffi.sizeof("struct shim_session")
        record = ffi.new("struct shim_session *")
        ffi.memmove(record, talk.read(self.root + offset + self.session * size, size), size)
        self.ctl, self.perf = int(record.ctl), int(record.perf) if perf_size else 0
        self.keyed = keys.inherited(talk, self.root, self.session)

    def read_objects(self, talk: Conversation) -> None:
        """Maps and images that a fork child has inherited."""
        from libbpf_shim._native import ffi

        (table,) = struct.unpack("<Q", talk.read(self._table_word(), 8))
        if not table:
            return
        head = ffi.new("struct shim_objects *")
        ffi.memmove(head, talk.read(table, ffi.sizeof(head[0])), ffi.sizeof(head[0]))
        rows = talk.read(table + ffi.sizeof(head[0]), head.nr * ffi.sizeof("struct shim_object"))
        desc = ffi.new("struct shim_map_desc *")
        for key, at in struct.iter_unpack("<QQ", rows):
            if key >> 32 == _MAP:
                ffi.memmove(desc, talk.read(at, ffi.sizeof(desc[0])), ffi.sizeof(desc[0]))
                self.maps[key & 0xFFFFFFFF] = (int(desc.base), at)
                self._shared.append((int(desc.base), int(desc.file_size)))
            elif key >> 32 == _PROG:
                self.images[key & 0xFFFFFFFF] = at
            elif key >> 32 == _WINDOW:
                self._window(key & 0xFFFFFFFF, Window(at)).read(talk, partial(self._where, talk))
            elif key >> 32 == _UNWIND:
                self._tables, self.walks_stacks = at, True
                self._shared.append((at, key & 0xFFFFFFFF))

    def _table_word(self) -> int:
        """Where the address of its table of objects stands."""
        from libbpf_shim._native import ffi

        return int(
            self.root + ffi.offsetof("struct shim_agent", "sessions")
            + self.session * ffi.sizeof("struct shim_session")
            + ffi.offsetof("struct shim_session", "objects"))

    def has(self, ref: MapRef | ProgRef) -> bool:
        return self.knows(object_key(ref))

    def knows(self, key: int) -> bool:
        """The same, by the key of an object."""
        number = key & 0xFFFFFFFF
        if key >> 32 == _PROG:
            return number in self.images
        return number in self.maps or any(number in w.maps for w in self.windows.values())

    def add(self, talk: Conversation, ref: MapRef | ProgRef) -> None:
        """The object, and all that its programs reach, so that it may become a value of a map
        that is there already."""
        if is_prog(ref):
            self._place(talk, ref)
        else:
            self._map(talk, ref)
        self.fill(talk)

    def unfilled(self, outer: MapRef) -> None:
        """Something is missing in this map there: the next conversation makes good for it."""
        if outer not in self._unfilled:
            self._unfilled.append(outer)

    def fill(self, talk: Conversation) -> None:
        """The objects in the maps that have come, and those in theirs."""
        while self._unfilled:
            outer = self._unfilled[0]
            for ref in outer.contents or ():
                if is_prog(ref):
                    self._place(talk, ref)
                else:
                    self._map(talk, ref)
            self._unfilled.remove(outer)  # not before: what fails is tried again

    def take_out(self, talk: Conversation, ended: Iterable[int]) -> None:
        """Objects that nothing refers to any more are given back, by their keys: once the runs
        that were in progress when they were first asked for here have ended."""
        keys = [key for key in ended if self.knows(key)]
        if not keys:
            return
        grace = talk.grace()
        for key in keys:
            if self._waits.setdefault(key, grace.begun + (not grace.fresh)) <= grace.over:
                self._forget(talk, key)
                del self._waits[key]

    def _forget(self, talk: Conversation, key: int) -> None:
        number = key & 0xFFFFFFFF
        if key >> 32 == _PROG:
            if number in self.runnables:
                talk.runnable(prog_id=number, session=self.session, flags=0, image=0, cookie=0)
                self.runnables.discard(number)
            talk.drop_object(key, self.session)
            self._give_back(self._text, self.images.pop(number))
            self.placed.pop(number, None)
            return
        for window in self.windows.values():
            if number in window.maps:
                self._give_back(self._data, window.drop(talk, number))
        if number not in self.maps:
            return
        base, at = self.maps[number]
        size = next((size for start, size in self._shared if start == base), 0)
        talk.drop_object(key, self.session, base, size)
        if size:
            self._shared.remove((base, size))
        del self.maps[number]
        self._give_back(self._data, at)

    def _give_back(self, regions: list[_Region], at: int) -> None:
        size = self._sizes.pop(at, 0)
        for region in regions:
            if size and region.start <= at < region.start + region.size:
                region.give_back(at, size)

    def read_links(self, talk: Conversation) -> None:
        """Links that a fork child has inherited: known by nobody but its own table. Those at what
        it has unloaded since are taken out."""
        from libbpf_shim._native import ffi, lib

        count, = struct.unpack("<I", talk.read(
            self.root + ffi.offsetof("struct shim_agent", "nr_sites"), 4))
        links, = struct.unpack("<Q", talk.read(
            self.root + ffi.offsetof("struct shim_agent", "links"), 8))
        link = ffi.new("struct shim_site_link *")
        size = ffi.sizeof("struct shim_site_link")
        gone: dict[int, int] = {}
        for index in range(count):
            site = talk.site_record(index)
            at, seen = int(site.first), 0
            if at and not site.addr >> lib.SHIM_EVENT_SHIFT and not self._holds(site.addr):
                gone[index] = int(site.addr)
            while site.addr and at and seen < 1024:
                ffi.memmove(link, talk.read(links + (at - 1) * size, size), size)
                if link.live and link.session == self.session:
                    self.linked.add((int(link.link_id), int(site.addr)))
                at, seen = int(link.next), seen + 1
        for index, addr in gone.items():
            self._lose(talk, Site(index, addr, "", ""))

    def _holds(self, addr: int) -> bool:
        """Some module that is loaded now lies there."""
        return any(m.base <= addr < m.mappings[-1].end for m in self.modules)

    def unlinked(self, link_id: int) -> None:
        """A link (0: every one) is not in its table any more."""
        self.linked = {(i, a) for i, a in self.linked if link_id and i != link_id}
        used = {a for _, a in self.linked}
        self.sites = {n: s for n, s in self.sites.items() if s.addr in used}

    def see(self, talk: Conversation) -> None:
        """Once a conversation: what is loaded now. Sites of what is not any more are forgotten,
        there too: something else may be loaded at their addresses."""
        self._before = self.modules if self.modules else None
        self.modules = reach_all(self.pid, loaded_modules(whole(read_maps(self.pid))))
        gone = [m for m in self._before or () if not _among(m, self.modules)]
        for site in list(self.sites.values()):
            if any(m.base <= site.addr < m.mappings[-1].end for m in gone):
                self._lose(talk, site)

    def is_new(self, module: LoadedModule) -> bool:
        """It was not there in the conversation before; False if there was none."""
        return self._before is not None and not _among(module, self._before)

    def _lose(self, talk: Conversation, site: Site) -> None:
        from libbpf_shim._native import lib

        record = talk.site_record(site.index)
        host = talk.site_record(record.host - 1) if record.host else record
        size = int(host.window_len)
        with contextlib.suppress(ShimError):
            if talk.read(int(host.window), size) == bytes(host.patch)[:size]:
                return  # it is there after all
        for link_id in {i for i, a in self.linked if a == site.addr}:
            talk.unlink(link_id, self.session)
            self.unlinked(link_id)
        self.sites.pop(site.index, None)
        if record.addr != site.addr:
            return
        self._unpatched(talk, site.index)
        if record.host and not host.flags & lib.SHIM_SITE_HOLE:  # a slot, to be used again
            talk.write(int(record.window), bytes(record.orig)[: record.window_len])
        while record.host:
            self._unpatched(talk, record.host - 1)
            record = talk.site_record(record.host - 1)

    def _unpatched(self, talk: Conversation, index: int) -> None:
        from libbpf_shim._native import ffi

        patched = ffi.offsetof("struct shim_site", "patched")
        talk.write(talk.site_address(index) + patched, bytes(4))

    def _sessions(self, talk: Conversation) -> Any:
        """Its table of sessions: struct shim_session[]."""
        from libbpf_shim._native import ffi, lib

        table = ffi.new("struct shim_session[]", int(lib.SHIM_MAX_SESSIONS))
        at = self.root + ffi.offsetof("struct shim_agent", "sessions")
        ffi.memmove(table, talk.read(at, ffi.sizeof(table)), ffi.sizeof(table))
        return table

    def end_dead_sessions(self, talk: Conversation) -> int:
        """Ends those whose backend died before it could; how many."""
        from libbpf_shim._native import ffi, lib

        ended = 0
        for index, session in enumerate(self._sessions(talk)):
            if not session.id:
                continue
            lock = int(session.ctl) + ffi.offsetof("struct shim_ctl", "backend_lock")
            with contextlib.suppress(ShimError):
                word, = struct.unpack("<I", talk.read(lock, 4))
                if word & lib.SHIM_BACKEND_DEAD:
                    talk.unlink(0, index)
                    talk.end(index)
                    ended += 1
        return ended

    def leave(self, talk: Conversation, session_id: int, ctl_ino: int) -> None:
        """Gives back everything but trampolines, in which a thread may stand. EBUSY: a program
        runs; try again."""
        for index, session in enumerate(self._sessions(talk)):
            if session.id == session_id and session.ctl_ino == ctl_ino:
                talk.end(index)
        self.session = -1
        self.windows.clear()
        while self._shared:
            talk.munmap(*self._shared[-1])
            self._shared.pop()
        for regions in (self._text, self._data):
            while regions:
                talk.munmap(regions[-1].start, regions[-1].size)
                regions.pop()

    def _take(
        self, talk: Conversation, regions: list[_Region], size: int, prot: int
    ) -> int:
        for region in regions:
            if (at := region.take(size)) is not None:
                self._sizes[at] = size
                return at
        length = max(_REGION, -(-size // _PAGE) * _PAGE)
        at_all = talk.mmap(length, prot, _PRIVATE_ANON)
        if prot & _WRITE:
            self._protect(talk, at_all, length, prot)
        fresh = _Region(at_all, length)
        regions.append(fresh)
        at = fresh.take(size)
        assert at is not None
        self._sizes[at] = size
        return at

    def take_near(self, talk: Conversation, window: int, size: int) -> int:
        """Executable memory that a jmp at `window` reaches. ENOMEM."""
        for region in self._near:
            close = abs(region.start - window) < _REACH - region.size
            if close and (at := region.take(size)) is not None:
                return at
        for _ in range(_TRIES):
            place = find_gap(read_maps(self.pid), window, window + 32, _REGION)
            try:
                at = talk.mmap(_REGION, _READ | _EXEC, _PRIVATE_ANON, address=place)
            except ShimError as error:
                if error.errno == errno.EEXIST:
                    continue
                raise
            region = _Region(at, _REGION)
            self._near.append(region)
            taken = region.take(size)
            assert taken is not None
            return taken
        raise ShimError("AP0001", errno.ENOMEM, f"process {self.pid}: no room near {window:#x}")

    def take_many(self, talk: Conversation, lo: int, hi: int, size: int) -> int:
        """The same of any size, for all windows in [lo, hi], in one piece."""
        for region in self._near:
            far = max(abs(region.start - lo), abs(region.start - hi))
            if far < _REACH - region.size and region.used + size <= region.size:
                at = region.take(size)
                assert at is not None
                return at
        length = max(_REGION, -(-size // _PAGE) * _PAGE)
        for _ in range(_TRIES):
            place = find_gap(read_maps(self.pid), lo, hi + 32, length)
            try:
                start = talk.mmap(length, _READ | _EXEC, _PRIVATE_ANON, address=place)
            except ShimError as error:
                if error.errno == errno.EEXIST:
                    continue
                raise
            self._near.append(_Region(start, length, size))
            return start
        raise ShimError("AP0001", errno.ENOMEM, f"process {self.pid}: no room near {lo:#x}")

    def take_between(self, talk: Conversation, lo: int, hi: int, size: int) -> int:
        """Executable memory that begins in [lo, hi]. ENOMEM."""
        for region in self._near:
            at = max(region.start + region.used, lo)
            at = -(-at // 16) * 16 if at < hi - 15 else at
            if at <= hi and at + size <= region.start + region.size:
                region.used = at + size - region.start
                return at
        for _ in range(_TRIES):
            at = find_place(read_maps(self.pid), lo, hi, size)
            start = at & -_PAGE
            length = (at + size + _PAGE - 1 & -_PAGE) - start
            try:
                talk.mmap(length, _READ | _EXEC, _PRIVATE_ANON, address=start)
            except ShimError as error:
                if error.errno == errno.EEXIST:
                    continue
                raise
            self._near.append(_Region(start, length, at + size - start))
            return at
        raise ShimError("AP0001", errno.ENOMEM, f"process {self.pid}: no room at {lo:#x}")

    def trap_links(self) -> set[int]:
        """Ids of links at sites of int3."""
        traps = {s.addr for s in self.sites.values() if s.tactic == TRAP}
        return {link_id for link_id, addr in self.linked if addr in traps}

    def forget_tramp(self, index: int) -> None:
        """It may not hold what it should: the site of that index gets another."""
        self.tramps = {key: t for key, t in self.tramps.items() if t.index != index}

    def put_back(self, at: int, size: int) -> None:
        """Room that was taken and not written to."""
        for region in self._near:
            if region.start <= at < region.start + region.used:
                region.put_back(at, size)

    def _under_key(self, talk: Conversation) -> None:
        """What the session has there, and will have; images are read-only as it is."""
        if self.keyed:
            return
        keys.begin(talk, self.pid, self.session)
        self.keyed = True
        for at, size in self._shared:
            tables = at == self._tables
            if not any((at, size) == window.reserved for window in self.windows.values()):
                self._protect(talk, at, size, _READ if tables else _READ | _WRITE)
        for region in self._data:
            self._protect(talk, region.start, region.size, _READ | _WRITE)

    def _protect(self, talk: Conversation, at: int, size: int, prot: int) -> None:
        """Something that was just mapped."""
        if self.keyed:
            talk.under_key(self.session, at, size, prot)

    def _map(self, talk: Conversation, ref: MapRef) -> tuple[int, int]:
        """Mapping and descriptor of a map there."""
        if ref.id not in self.maps:
            base = talk.mmap(ref.file_size, _READ | _WRITE, _SHARED, fd=ref.fd)
            self._protect(talk, base, ref.file_size, _READ | _WRITE)
            self._shared.append((base, ref.file_size))
            at = self._describe(talk, ref, base)
            talk.set_object(object_key(ref), at, self.session)
            self.maps[ref.id] = (base, at)
            if ref.contents is not None:
                self.outers[ref.id] = self.outers.get(ref.id, 0) + 1
                self._unfilled.append(ref)
        return self.maps[ref.id]

    def _describe(self, talk: Conversation, ref: MapRef, base: int) -> int:
        """The descriptor of a mapping of a map there."""
        from libbpf_shim._native import ffi

        desc = ffi.new("struct shim_map_desc *", ref.desc[0])
        desc.base, desc.ctl, desc.perf = base, self.ctl, self.perf
        desc.objects = self._table_word() if ref.contents is not None else 0
        at = self._take(talk, self._data, ffi.sizeof("struct shim_map_desc"), _READ | _WRITE)
        talk.write(at, bytes(ffi.buffer(desc)))
        return at

    @staticmethod
    def _where(talk: Conversation, at: int) -> tuple[int, int]:
        """Of a descriptor there: where its mapping lies, and its size."""
        from libbpf_shim._native import ffi

        desc = ffi.new("struct shim_map_desc *")
        ffi.memmove(desc, talk.read(at, ffi.sizeof(desc[0])), ffi.sizeof(desc[0]))
        return int(desc.base), int(desc.file_size)

    def _window(self, number: int, window: Window) -> Window:
        """It is there from now on."""
        self.windows[number] = window
        self._shared.append(window.reserved)
        return window

    def _isolated(self, talk: Conversation, prog: ProgRef) -> Window | None:
        """The window of an isolated program."""
        name = prog.image.window
        if not name:
            return None
        number = number_of(name)
        if number not in self.windows:
            base = self._window(number, reserve(talk, self.pid)).base
            talk.set_object(_WINDOW << 32 | number, base, self.session)
        return self.windows[number]

    def _mapped(self, talk: Conversation, ref: MapRef, window: Window | None) -> tuple[int, int]:
        """Mapping and descriptor of a map for a program that has that window, or none."""
        if window is None or int(ref.desc.type) not in INSIDE:
            return self._map(talk, ref)
        if ref.id not in window.maps:
            window.map(talk, ref, partial(self._describe, talk, ref))
        return window.maps[ref.id]

    def image(self, talk: Conversation, prog: ProgRef, home: Home | None = None) -> int:
        """Address of a relocated copy of the program, with all that it reaches. home: what it is
        attached to. ENOSYS: it calls what this agent lacks; EOPNOTSUPP: a function or variable of
        the application's that is not there."""
        at = self._place(talk, prog, home)
        self.fill(talk)
        return at

    def _place(self, talk: Conversation, prog: ProgRef, home: Home | None = None) -> int:
        hosts = addresses(self.pid, self.root, self.modules, prog.image, home)
        if prog.id in self.images:
            check(talk, self.images[prog.id], prog.image, hosts)
            return self.images[prog.id]
        if prog.image.keyed:
            self._under_key(talk)
        symbols = self._symbols(talk, prog) | hosts
        self.walks_stacks = self.walks_stacks or walks_stacks(prog)
        at = self._take(talk, self._text, len(prog.image.text), _READ | _EXEC)
        talk.write(at, prog.image.relocate(at, symbols))
        talk.set_object(object_key(prog), at, self.session)
        self.images[prog.id], self.placed[prog.id] = at, prog.image
        return at

    def outdated(self, prog: ProgRef) -> bool:
        """It runs another image of the program than the program has now."""
        return prog.id in self.images and self.placed.get(prog.id) is not prog.image

    def swap(self, talk: Conversation, prog: ProgRef) -> None:
        """The program's new image in the place of the one that is there: for links and runnables,
        then for tail calls. The old one stays where it is: runs may be in it for long, and tables
        of fork children lead to it."""
        if not self.outdated(prog):
            return
        before = self.images.pop(prog.id)
        try:
            at = self._place(talk, prog)
            talk.swap(prog_id=prog.id, session=self.session, image=at)
        except ShimError:  # it may be tried again
            self.images.setdefault(prog.id, before)
            self.placed.pop(prog.id, None)
            raise

    def tables(self, talk: Conversation, fd: int, size: int) -> int:
        """Where the session's file of unwind tables lies there, from now on."""
        if not self._tables:
            self._tables = talk.mmap(size, _READ, _SHARED, fd=fd)
            self._protect(talk, self._tables, size, _READ)
            self._shared.append((self._tables, size))
            talk.set_object(_UNWIND << 32 | size, self._tables, self.session)
        return self._tables

    def _symbols(self, talk: Conversation, prog: ProgRef) -> dict[str, int]:
        from libbpf_shim._native import lib

        found = {}
        window = self._isolated(talk, prog)
        for name in {reloc.symbol for reloc in prog.image.relocs}:
            kind, _, what = name.partition(":")
            if kind == "map":
                found[name] = self._mapped(talk, prog.maps[int(what)], window)[1]
            elif kind == "mapval":
                found[name] = self._mapped(talk, prog.maps[int(what)], window)[0]
            elif kind == "window" and window:
                found[name] = window.base
            elif kind in ("ctl", "prog"):
                found[name] = self.ctl if kind == "ctl" else prog.id
            elif kind == "helper":
                found[name] = talk.hello.syms[lib.SHIM_SYM_HELPER0 + int(what)]
            elif kind == "sym":
                found[name] = talk.hello.syms[getattr(lib, f"SHIM_SYM_{what}")]
            if kind in ("helper", "sym") and not found[name]:
                raise ShimError("AP0002", errno.ENOSYS, f"process {self.pid}: no {name}")
        return found


def _among(module: LoadedModule, others: Sequence[LoadedModule]) -> bool:
    """The same file at the same place; a page that was patched counts as another mapping, so the
    bounds may differ."""
    lo, hi = module.base, module.mappings[-1].end
    return any(
        o.ino == module.ino and o.base < hi and lo < o.mappings[-1].end for o in others
    )
