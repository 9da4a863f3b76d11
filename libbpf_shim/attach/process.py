"""One process as a session knows it: what was put into it, and putting more there, through an
open conversation with its agent."""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

from libbpf_shim.attach import keys
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment
from libbpf_shim.attach.exchange import Pending
from libbpf_shim.attach.hostaddr import Home, addresses, check
from libbpf_shim.attach.memory import Near, Pool
from libbpf_shim.attach.met import Row
from libbpf_shim.attach.objects import (
    MAP,
    PROG,
    UNWIND,
    WINDOW,
    MapRef,
    ProgRef,
    is_prog,
    object_key,
    walks_stacks,
)
from libbpf_shim.attach.window import Window, reserve
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import Image
from libbpf_shim.jit.window import INSIDE, number_of
from libbpf_shim.rewrite.plan import TRAP, SitePlan

DL_LINK = 1 << 62  # link id of a dlopen watch
_READ, _WRITE, _EXEC = 1, 2, 4
_SHARED = 1


@dataclass(slots=True)
class Site:
    """A site as it was put there. index: in the agent's table. where: what says so as text."""

    index: int
    addr: int
    where: object
    tactic: str


class Root(NamedTuple):
    """Of a process that the session has not met: how many sites there are, where its links lie,
    and the table of the session's objects (0: none)."""

    nr_sites: int
    links: int
    objects: int


class Tramp(NamedTuple):
    """A trampoline that was made for a site, to be used again by the same: for the record of that
    index, a plan or template (or, of a guest, its slot) and a size."""

    record: int
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


class Sample(NamedTuple):
    """A site with one link, which others may be like (like.py). number: the site's index. table:
    where records of sites are; enter, lean: what trampolines call. stay: unwinders.of, if it is
    for a return."""

    number: int
    link_id: int
    kind: int
    flags: int
    table: int
    enter: int
    lean: int
    stay: object


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
    failing: Attachment | None = None  # what stood in the way of those that came with it
    runnables: set[int] = field(default_factory=set)
    sites: dict[int, Site] = field(default_factory=dict)
    # by the site's address, and of a guest its slot's
    tramps: dict[tuple[int, int], Tramp] = field(default_factory=dict)
    foreseen: dict[int, Foreseen] = field(default_factory=dict)  # by the site's address
    # by program, kind and for whom: what more can be like
    samples: dict[tuple[int, int, int], Sample] = field(default_factory=dict)
    unlike: int = 0  # tries in a row that were refused
    top: int = 0  # records of sites, as far as is known
    staying: frozenset[int] | None = None  # bases of `modules` that cannot go; None: not known
    unsure: set[int] = field(default_factory=set)  # links that may be there: a keeper has died
    refused: list[str] = field(default_factory=list)
    # by module: system calls that are met, and how many of them on one side only
    calls: dict[str, tuple[int, int]] = field(default_factory=dict)
    meets: bool = False  # they are asked for, in the conversation under way
    met: list[list[Row]] | None = None  # their windows, as far as it has looked (met.py)
    claims: list[tuple[int, int]] | None = None  # the same of sites
    modules: list[LoadedModule] = field(default_factory=list)  # in the conversation under way
    before: list[LoadedModule] | None = None  # in the one before (loaded.py); None: none was
    # bases of those that have gone and come again since (inherited.reloaded)
    reloaded: set[int] = field(default_factory=set)
    near: Near = field(init=False)
    walks_stacks: bool = False  # some program there does
    keyed: bool = False  # the session's memory there is under a protection key (keys.py)
    reads: bool = False  # memory that may not be there: some program does
    quick: bool = False  # its reads may come to fault (quick.py)
    unwound: Sequence[object] = ()  # what its walker was told of modules (unwinding.Row)
    told: list[LoadedModule] | None = None  # the modules that these were found among
    _tables: int = 0  # where the file of unwind tables is mapped
    _shared: list[tuple[int, int]] = field(default_factory=list)  # mappings of maps: start, size
    _text: Pool = field(init=False)
    _data: Pool = field(init=False)
    _waits: dict[int, int] = field(default_factory=dict)  # object key: its grace period's number
    _unfilled: list[MapRef] = field(default_factory=list)  # maps whose values are not all there

    def __post_init__(self) -> None:
        self.near = Near(self.pid)
        self._text, self._data = Pool(_READ | _EXEC), Pool(_READ | _WRITE)

    def read_root(self, talk: Conversation, perf_size: int) -> Root:
        """Where the session's control page and perf area lie there, and what else there is: asked
        at once, since a process that begins waits for each answer."""
        from libbpf_shim._native import ffi

        offset = ffi.offsetof("struct shim_agent", "sessions")
        size = ffi.sizeof("struct shim_session")
        mine = self.root + offset + self.session * size
        talk.foresee(self.root, offset)
        talk.foresee(mine, size)
        talk.foresee(*keys.word(self.root))
        head, record = ffi.new("struct shim_agent *"), ffi.new("struct shim_session *")
        ffi.memmove(head, talk.read(self.root, offset), offset)
        talk.sites = int(head.sites)
        ffi.memmove(record, talk.read(mine, size), size)
        self.ctl, self.perf = int(record.ctl), int(record.perf) if perf_size else 0
        self.keyed = keys.inherited(talk, self.root, self.session)
        return Root(int(head.nr_sites), int(head.links), int(record.objects))

    def read_objects(self, talk: Conversation, table: int) -> None:
        """Maps and images that a fork child has inherited."""
        from libbpf_shim._native import ffi

        if not table:
            return
        head = ffi.new("struct shim_objects *")
        ffi.memmove(head, talk.read(table, ffi.sizeof(head[0])), ffi.sizeof(head[0]))
        rows = talk.read(table + ffi.sizeof(head[0]), head.nr * ffi.sizeof("struct shim_object"))
        desc = ffi.new("struct shim_map_desc *")
        for key, at in struct.iter_unpack("<QQ", rows):
            if key >> 32 == MAP:
                ffi.memmove(desc, talk.read(at, ffi.sizeof(desc[0])), ffi.sizeof(desc[0]))
                self.maps[key & 0xFFFFFFFF] = (int(desc.base), at)
                self._shared.append((int(desc.base), int(desc.file_size)))
            elif key >> 32 == PROG:
                self.images[key & 0xFFFFFFFF] = at
            elif key >> 32 == WINDOW:
                self._window(key & 0xFFFFFFFF, Window(at)).read(talk, partial(self._where, talk))
            elif key >> 32 == UNWIND:
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
        if key >> 32 == PROG:
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

    @property
    def filled(self) -> bool:
        """Nothing is missing in its maps."""
        return not self._unfilled

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
        if key >> 32 == PROG:
            if number in self.runnables:
                talk.runnable(prog_id=number, session=self.session, flags=0, image=0, cookie=0)
                self.runnables.discard(number)
            talk.drop_object(key, self.session)
            self._text.give_back(self.images.pop(number))
            self.placed.pop(number, None)
            return
        for window in self.windows.values():
            if number in window.maps:
                self._data.give_back(window.drop(talk, number))
        if number not in self.maps:
            return
        base, at = self.maps[number]
        size = next((size for start, size in self._shared if start == base), 0)
        talk.drop_object(key, self.session, base, size)
        if size:
            self._shared.remove((base, size))
        del self.maps[number]
        self._data.give_back(at)

    def unlinked(self, link_id: int) -> None:
        """A link (0: every one) is not in its table any more."""
        self.linked = {(i, a) for i, a in self.linked if link_id and i != link_id}
        used = {a for _, a in self.linked}
        self.sites = {n: s for n, s in self.sites.items() if s.addr in used}

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
        self._text.unmap(talk)
        self._data.unmap(talk)

    def trap_links(self) -> set[int]:
        """Ids of links at sites of int3."""
        traps = {s.addr for s in self.sites.values() if s.tactic == TRAP}
        return {link_id for link_id, addr in self.linked if addr in traps}

    def forget_tramps(self, indices: Collection[int]) -> None:
        """They may not hold what they should: the sites of those indices get others."""
        self.tramps = {k: t for k, t in self.tramps.items() if t.record not in indices}

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
        for region in self._data.regions:
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
        at = self._data.take(talk, ffi.sizeof(desc[0]), partial(self._protect, talk))
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
            talk.set_object(WINDOW << 32 | number, base, self.session)
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
        at = self._text.take(talk, len(prog.image.text))
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
            talk.set_object(UNWIND << 32 | size, self._tables, self.session)
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
