"""Placing: attachments into one process and out of it, through an open conversation."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from libbpf_shim.attach import like, unwinders
from libbpf_shim.attach.agent import Conversation, link_record
from libbpf_shim.attach.attachment import Attachment, Code, Event, Tick
from libbpf_shim.attach.clock import beginning
from libbpf_shim.attach.hostaddr import Home
from libbpf_shim.attach.keeper import Window
from libbpf_shim.attach.loaded import is_new
from libbpf_shim.attach.many import Many
from libbpf_shim.attach.met import barred, traps
from libbpf_shim.attach.objects import flags_of, skips
from libbpf_shim.attach.partly import Partly
from libbpf_shim.attach.plans import Plans, may_come
from libbpf_shim.attach.process import DL_LINK, Process
from libbpf_shim.attach.quick import Quick, is_quick, reads
from libbpf_shim.attach.sites import Sites
from libbpf_shim.attach.staying import Staying
from libbpf_shim.attach.syscalls import CallPlaces, is_call
from libbpf_shim.attach.target import reach
from libbpf_shim.attach.unwinders import Addresses
from libbpf_shim.attach.unwinding import Unwinding
from libbpf_shim.elf.golang import is_go
from libbpf_shim.elf.module import Module
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.plan import SitePlan

if TYPE_CHECKING:
    from libbpf_shim.rewrite.returns import Returns

_KEEPER, DLOPEN, _MAP = 2, 4, 8  # SHIM_SYNC_*
_ENTRY = 0  # SHIM_LINK_ENTRY
_RESTORE = 4  # SHIM_CALLS_RESTORE
_ANYWHERE = Tick(0, -1)
_THREAD_LINK = (1 << 62) + 1  # of a watch on threads that begin
_BROKEN = (errno.EPROTO, errno.ETIMEDOUT)  # what ends a conversation
_WHOLE = (errno.EBUSY, errno.EAGAIN, errno.ENOSPC)  # of a link: others do better, or no room
_TRIES = 8  # without places of a link that cannot be


class Placing:
    """For all processes of a session."""

    def __init__(self, plans: Plans, unwinding: Unwinding, cache: Path) -> None:
        self._plans, self._unwinding, self._cache = plans, unwinding, cache
        self._calls = CallPlaces(plans, cache)
        self._many = Many(plans, _fresh, _record)
        self.quick = Quick(plans)

    def links(
        self, talk: Conversation, process: Process, wanted: list[Attachment],
        windows: dict[int, Window], partly: Partly | None = None,
    ) -> None:  # fmt: skip
        """Sites and links for the attachments; adds the windows that are to be written, by the
        site's index, those of system calls by numbers below 0."""
        process.meets, process.met, process.claims = bool(of_calls(wanted)), None, None
        process.trapped = process.trapped and traps(talk, process)
        if process.meets:
            self._calls.clear(talk, process)
        self._place(talk, process, wanted, windows, partly)
        self._calls.under(talk, process, windows)
        if of_calls(wanted) or process.trapped:
            self._calls.place(talk, process, windows)

    def _place(
        self, talk: Conversation, process: Process, wanted: list[Attachment],
        windows: dict[int, Window], partly: Partly | None = None,
    ) -> None:
        """All or, if an error is raised, nothing of it: it may be asked for again."""
        before, had = set(windows), set(process.linked)
        try:
            self._put(talk, process, wanted, windows, partly)
            talk.settle()
        except ShimError as error:
            gone = windows.keys() - before
            for index in gone:
                del windows[index]
            process.forget_tramps(gone)
            if error.errno not in _BROKEN:
                for link_id in {link for link, _ in process.linked - had}:
                    self._undo(talk, process, link_id, had)
            raise

    def _put(
        self, talk: Conversation, process: Process, wanted: list[Attachment],
        windows: dict[int, Window], partly: Partly | None,
    ) -> None:  # fmt: skip
        absent, kept = False, Staying(process, self._plans)
        talk.foresee_sites()
        done = set(self._many.put(talk, process, wanted, windows))
        rest = [att for att in wanted if att not in done]
        for att in self._plans.alike(done):
            here = self._plans.mapped(att, process.modules)
            assert isinstance(att.place, Code)
            absent = absent or (may_come(att.place) and not kept.has(here))
        ahead = self._foresee(talk, process, rest, windows)
        try:
            for att in rest:
                if isinstance(att.place, Event):
                    self._event(talk, process, att, att.place)
                elif isinstance(att.place, Tick):
                    self._watch_threads(talk, process, windows)
                    self._tick(talk, process, att, att.place)
                else:
                    linked = len(process.linked)
                    try:
                        here = self._code(talk, process, att, att.place, windows)
                    except ShimError as error:
                        if (partly is None or len(process.linked) > linked
                                or not partly.leaves_out(att, error)):
                            raise
                        continue
                    absent = absent or (may_come(att.place) and not kept.has(here))
        except ShimError:
            process.failing = att
            raise
        finally:
            ahead.forgo()
        programs = {id(a.prog): a.prog for a in wanted if isinstance(a.place, Code)}
        if not process.reads and any(map(reads, programs.values())):
            process.reads = True
            self.quick.attached()
        if quick := is_quick(process):
            self.quick.watch(talk, process, windows, self._calls.met(talk, process))
        if absent or process.walks_stacks or quick:
            self._watch_dlopen(talk, process, windows)
        self._unwinding.into(talk, process)

    def _spots(self, process: Process, att: Attachment) -> Iterator[_Spot]:
        """Wherever its file is mapped and it is not linked yet."""
        for module in self._plans.mapped(att, process.modules):
            file, plan = self._plans.file(att), self._plans.plan(att)
            bias = module.bias(file)
            if (att.link_id, plan.vaddr + bias) not in process.linked:
                yield _Spot(module, file, plan, bias)

    def _foresee(
        self, talk: Conversation, process: Process, wanted: list[Attachment],
        windows: dict[int, Window],
    ) -> Sites:  # fmt: skip
        """Asks for the sites of all that is wanted before the first is answered."""
        sites = self._ordinary(talk, process, windows)
        for att in wanted:
            for spot in self._spots(process, att) if isinstance(att.place, Code) else ():
                if not is_go(spot.file):
                    sites.foresee(spot.plan, spot.bias, _fresh(talk, process, spot.module))
        return sites

    def _ordinary(
        self, talk: Conversation, process: Process, windows: dict[int, Window]
    ) -> Sites:
        """Of programs, on the application's stack."""
        from libbpf_shim._native import lib

        return Sites(talk, process, talk.hello.syms[lib.SHIM_SYM_ENTER], windows,
                     lean=talk.hello.syms[lib.SHIM_SYM_ENTER_LEAN],
                     watchable=self._calls.watchable,
                     barred=partial(barred, talk, process))

    def _code(
        self, talk: Conversation, process: Process, att: Attachment, place: Code,
        windows: dict[int, Window],
    ) -> list[LoadedModule]:  # fmt: skip
        """Wherever its file is mapped."""
        for module, file, plan, bias in self._spots(process, att):
            image = process.image(talk, att.prog, Home(file, self._plans.module))
            if is_go(file):
                self._go(talk, process, att, plan, bias, image, windows)
                continue
            sites = self._ordinary(talk, process, windows)
            put = partial(sites.put, bias=bias, where=str(place),
                          planner=partial(self._plans.at, file),
                          fresh=_fresh(talk, process, module))
            counter = module.writable(place.ref) if place.ref else 0
            for key, cookie in enumerate((att.cookie, *att.more), plan.vaddr + bias):
                kind = self._returns(talk, process, att, image, put, cookie, key)
                index = put(plan)
                if skips(att.prog):
                    _may_be_left_out(talk, process, index, str(place))
                self._link(talk, process, att, index, image, kind, counter=counter,
                           cookie=cookie, key=key)
                like.note(talk, process, att, index, kind)
            process.linked.add((att.link_id, plan.vaddr + bias))
        return self._plans.mapped(att, process.modules)

    def _go(
        self, talk: Conversation, process: Process, att: Attachment, plan: SitePlan, bias: int,
        image: int, windows: dict[int, Window],
    ) -> None:  # fmt: skip
        """On a stack of the agent's, and at each `ret` in place of the return address."""
        from libbpf_shim._native import lib

        place, file = att.place, self._plans.file(att)
        assert isinstance(place, Code)
        if skips(att.prog):
            raise ShimError("AP0008", errno.EOPNOTSUPP, f"process {process.pid}: {place}: what "
                            "Go calls is not skipped: it returns in registers of its own")
        planner = partial(self._plans.at, file)
        sites = Sites(talk, process, talk.hello.syms[lib.SHIM_SYM_ENTER_OWN], windows, own=True)
        leaves = self._plans.returns(att).leaves
        places = [(planner(leave), f"{place} at +{leave - plan.vaddr:#x}") for leave in leaves]
        for where, name in places or [(plan, str(place))]:
            index = sites.put(where, bias, name, planner)
            if leaves:
                sites.leaves(index, plan.vaddr + bias)
            for cookie in (att.cookie, *att.more):
                self._link(talk, process, att, index, image,
                           lib.SHIM_LINK_AT_RET if leaves else _ENTRY, cookie=cookie)
            process.linked.add((att.link_id, where.vaddr + bias))
        process.linked.add((att.link_id, plan.vaddr + bias))

    def _returns(
        self, talk: Conversation, process: Process, att: Attachment, image: int,
        put: Callable[[SitePlan], int], cookie: int, key: int,
    ) -> int:  # fmt: skip
        """The kind of the link at the entry; before that, links at what leaves the function, if
        its return address must stay as it is. A site without links could be taken for another.
        key: of these links."""
        from libbpf_shim._native import lib

        assert isinstance(att.place, Code)
        if not att.place.ret and not att.place.both:
            return int(lib.SHIM_LINK_ENTRY)
        returns = self._how(att, process)
        for leave in returns.leaves:
            self._link(talk, process, att, put(self._plans.at(self._plans.file(att), leave)),
                       image, lib.SHIM_LINK_LEAVE, lib.SHIM_PROG_AGAIN * returns.again,
                       cookie=cookie, key=key)
        if returns.kept:
            return int(lib.SHIM_LINK_MARK)
        if att.place.both:
            return int(lib.SHIM_LINK_BOTH)
        return int(lib.SHIM_LINK_RET)

    def _how(self, att: Attachment, process: Process) -> Returns:
        """How a return is seen there. EOPNOTSUPP: it cannot be."""
        stay = unwinders.of(process)
        try:
            return self._plans.returns(att, stay is not Addresses.FREE)
        except ShimError:
            if stay is not Addresses.RATHER_STAY:
                raise
            return self._plans.returns(att)

    def _event(
        self, talk: Conversation, process: Process, att: Attachment, event: Event
    ) -> None:
        from libbpf_shim._native import lib

        addr = (1 << lib.SHIM_EVENT_SHIFT) + event.number
        if (att.link_id, addr) in process.linked:
            return
        image = process.image(talk, att.prog)
        index, _ = talk.site(
            addr=addr, window=0, orig=b"", patch=b"", tramp=0, tramp_len=0, func=event.type,
            flags=0)
        self._link(talk, process, att, index, image, lib.SHIM_LINK_RET if event.ret else _ENTRY)
        process.linked.add((att.link_id, addr))

    def _tick(self, talk: Conversation, process: Process, att: Attachment, tick: Tick) -> None:
        """A clock of that period, and a link that it runs; only then are there timers."""
        from libbpf_shim._native import lib

        signo, flags = self._signal(process)
        clock = talk.clock(
            period=tick.period, index=0, arm=False, signo=signo, flags=flags, kind=tick.kind)
        self._event(talk, process, att, Event(lib.SHIM_EVENT_CLOCK + clock, str(tick)))
        talk.clock(
            period=tick.period, index=clock, arm=True, signo=signo, flags=flags,
            kind=tick.kind)

    def _signal(self, process: Process) -> tuple[int, int]:
        """The signal that its C library keeps for pthread_cancel(), and SHIM_CLOCK_*: Go runs
        handlers on stacks of their own."""
        from libbpf_shim._native import lib

        musl = any(os.path.basename(m.path).startswith("ld-musl-") for m in process.modules)
        flags = 0
        with contextlib.suppress(ShimError, OSError):
            executable = os.readlink(f"/proc/{process.pid}/exe")
            if is_go(self._plans.module(reach(process.pid, executable))):
                flags = int(lib.SHIM_CLOCK_ONSTACK)
        return 33 if musl else 32, flags

    def _link(
        self, talk: Conversation, process: Process, att: Attachment, site: int, image: int,
        kind: int, flags: int = 0, counter: int = 0, cookie: int | None = None, key: int = 0,
    ) -> None:  # fmt: skip
        cookie = att.cookie if cookie is None else cookie
        tick = att.place if isinstance(att.place, Tick) else _ANYWHERE
        talk.link(
            site, session=process.session, link=att.link, kind=kind,
            flags=flags_of(att.prog) | flags, prog_id=att.prog.id, tgid=att.pid,
            image=image, cookie=cookie, link_id=att.link_id, cpu=tick.cpu + 1, tid=tick.tid,
            counter=counter, key=key & 0xFFFFFFFF)

    def _watch_dlopen(
        self, talk: Conversation, process: Process, windows: dict[int, Window]
    ) -> None:
        """A site where the dynamic linker says that its list of modules has changed."""
        from libbpf_shim._native import lib

        if any(link == DL_LINK for link, _ in process.linked):
            return
        linker = next(
            (m for m in process.modules if os.path.basename(m.path).startswith("ld-")), None)
        if linker is None:
            return
        module = self._plans.module(linker.path)
        hook, debug = module.find("_dl_debug_state"), module.find_object("_r_debug")
        if hook is None or debug is None:
            return
        bias = linker.bias(module)
        plan = self._plans.at(module, hook.vaddr)
        index = Sites(talk, process, talk.hello.syms[lib.SHIM_SYM_DL_CHANGE], windows).put(
            plan, bias, "dlopen", partial(self._plans.at, module))
        # no image of a program: the trampoline calls DL_CHANGE, which looks at the cookies
        talk.link(
            index, session=process.session, link=0, kind=_ENTRY, flags=0, prog_id=0, tgid=0,
            image=talk.hello.syms[lib.SHIM_SYM_DL_CHANGE], cookie=debug.vaddr + bias,
            link_id=DL_LINK)
        process.linked.add((DL_LINK, plan.vaddr + bias))

    def _watch_threads(
        self, talk: Conversation, process: Process, windows: dict[int, Window]
    ) -> None:
        """A site where threads begin, if there is a function for that: else those that are there
        find others by their ticks. No reason to refuse anything."""
        from libbpf_shim._native import lib

        if any(link == _THREAD_LINK for link, _ in process.linked):
            return
        for loaded in process.modules:
            with contextlib.suppress(ShimError, OSError):
                module = self._plans.module(loaded.path)
                if module.ino != loaded.ino or not (hook := beginning(module)):
                    continue
                plan, bias = self._plans.at(module, hook), loaded.bias(module)
                if not plan.single:  # else others may stand inside of it
                    continue
                enter = talk.hello.syms[lib.SHIM_SYM_THREAD]
                index = Sites(talk, process, enter, windows).put(
                    plan, bias, "threads", partial(self._plans.at, module))
                talk.link(
                    index, session=process.session, link=0, kind=_ENTRY, flags=0, prog_id=0,
                    tgid=0, image=enter, cookie=0, link_id=_THREAD_LINK)
                process.linked.add((_THREAD_LINK, plan.vaddr + bias))
                return

    def by_itself(
        self, talk: Conversation, process: Process, wanted: list[Attachment], last: bool = False
    ) -> list[tuple[Attachment, ShimError]]:
        """The process writes its windows; what it may not write is answered and taken back. All
        at once, and if that fails link by link, to know which it is. last: nobody does better."""
        refused: list[tuple[Attachment, ShimError]] = []
        process.met = process.claims = None
        process.trapped = process.trapped and (
            talk.hello.reason == _MAP or traps(talk, process))
        links: dict[int, list[Attachment]] = {}
        for att in wanted:
            links.setdefault(att.link_id, []).append(att)
        together, had = len(links) != 1, set(process.linked)
        if not together or self._itself(talk, process, wanted):
            for link_id in links if together else ():
                self._undo(talk, process, link_id, had)
            for atts in links.values():
                refused += self._link_itself(talk, process, atts, had, last)
        calls = [a for a in of_calls(wanted) if a not in [r for r, _ in refused]]
        if calls or process.trapped:
            try:
                self._calls.place(talk, process, {})
            except ShimError as error:
                if error.errno in _BROKEN:
                    raise
                at_traps = process.trap_links()
                calls += [a for a in wanted if a.link_id in at_traps and a not in calls]
                for link_id in at_traps:
                    self.take_back(talk, process, link_id)
                refused += [(att, error) for att in calls]
        return refused

    def _link_itself(
        self, talk: Conversation, process: Process, atts: list[Attachment],
        had: set[tuple[int, int]], last: bool,
    ) -> list[tuple[Attachment, ShimError]]:  # fmt: skip
        """One link, without those of its places that cannot be, which are answered; nothing of it
        where others may do better, there is no room for all, or it is not known which cannot."""
        refused: list[tuple[Attachment, ShimError]] = []
        for _ in range(_TRIES):
            if not (failing := self._itself(talk, process, atts)):
                break
            self._undo(talk, process, atts[0].link_id, had)
            cannot = [(a, why) for a, why in failing if a and (
                why.errno not in _WHOLE or (last and why.errno == errno.EBUSY))]
            known = len(cannot) == len(failing)
            refused += cannot if known else [(atts[0], failing[0][1])]
            atts = [a for a in atts if all(a is not c for c, _ in cannot)] if known else []
            if not atts:
                break
        else:
            refused += [(a, failing[0][1]) for a in atts]
        return refused

    def _itself(
        self, talk: Conversation, process: Process, wanted: list[Attachment]
    ) -> list[tuple[Attachment | None, ShimError]]:
        """What stood in the way, and of which; none: they are there."""
        windows: dict[int, Window] = {}
        failing: list[tuple[Attachment | None, ShimError]] = []
        process.failing = None
        try:
            self._place(talk, process, wanted, windows)
        except ShimError as error:
            failing = [(next((a for a in wanted if a is process.failing), None), error)]
        else:
            places = {str(a.place): a for a in reversed(wanted)}
            wheres = {index: str(site.where) for index, site in process.sites.items()}
            failing = [(places.get(wheres.get(index, "")), why)
                       for index, why in talk.patch_all(windows)]
        for _, why in failing:
            if why.errno in _BROKEN:
                raise why
        return failing

    def _undo(
        self, talk: Conversation, process: Process, link_id: int, had: set[tuple[int, int]]
    ) -> None:
        """A link, but for modules that it was in before (had): where one comes once more, those
        that are met are not to be missed."""
        before = [addr for link, addr in had if link == link_id]
        if not before:
            self.take_back(talk, process, link_id)
            return
        kept = [m for m in process.modules if any(map(m.holds, before))]
        new = {addr for link, addr in process.linked - had if link == link_id}
        for site in list(process.sites.values()):
            if site.addr in new or not any(m.holds(site.addr) for m in kept):
                self._silence(talk, talk.unlink(link_id, process.session, site.index))
        process.linked -= {(link_id, addr) for addr in new}

    @staticmethod
    def _silence(talk: Conversation, indices: list[int]) -> None:
        """Sites without a link; several instructions beside other threads stay."""
        for index in indices:
            with contextlib.suppress(ShimError):
                talk.patch(index, False)

    def take_back(self, talk: Conversation, process: Process, link_id: int) -> None:
        """A link (0: all), out of the process that speaks."""
        self._silence(talk, talk.unlink(link_id, process.session))
        if talk.hello.reason != _KEEPER:
            with contextlib.suppress(ShimError):  # EBUSY: some call is attached to
                talk.calls(0, _RESTORE)
        process.unlinked(link_id)


def _record(process: Process, att: Attachment, image: int, kind: int) -> bytes:
    """The same for many places, but for cookies and counters."""
    return link_record(
        session=process.session, link=att.link, kind=kind, flags=flags_of(att.prog),
        prog_id=att.prog.id, tgid=att.pid, image=image, link_id=att.link_id)


def _may_be_left_out(talk: Conversation, process: Process, index: int, where: str) -> None:
    """The site's trampoline can skip the function. EOPNOTSUPP: it is the beginning of none."""
    from libbpf_shim._native import lib

    if not talk.site_record(index).flags & lib.SHIM_SITE_SKIPS:
        raise ShimError("AP0008", errno.EOPNOTSUPP, f"process {process.pid}: {where}: cannot be "
                        "skipped: no function begins there")


class _Spot(NamedTuple):
    """A place of an attachment in a process."""

    module: LoadedModule
    file: Module
    plan: SitePlan
    bias: int


def _fresh(talk: Conversation, process: Process, module: LoadedModule) -> bool:
    """It was loaded just now."""
    return talk.hello.reason == DLOPEN and is_new(process, module)


def of_calls(wanted: list[Attachment]) -> list[Attachment]:
    """Those of system calls."""
    return [a for a in wanted if isinstance(a.place, Event) and is_call(a.place.number)]
