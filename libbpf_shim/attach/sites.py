"""Sites of a process: which plan of the ladder is used there, its trampoline, and the windows that
are to be written.

A probe of an instruction that lies in another site's window is that one's guest: the other site's
trampoline has a slot before each copy (rewrite/render.py), and a jump in the slot leads to the
guest's. Slots are taken and left one by one, so guests come and go in any order, and the window
stays until the last of them has gone (csrc/include/shim_agent.h: host).

A punned jump needs bytes behind its window. Where another site is to stand on those, it becomes
an int3 with the same trampoline. Where bytes behind the end of a block are a window's, nobody
comes to what stood there: a site of such an instruction has no window.
"""

from __future__ import annotations

import contextlib
import errno
import struct
from collections.abc import Callable, Iterable
from functools import partial
from itertools import pairwise
from typing import Any

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment
from libbpf_shim.attach.exchange import Pending
from libbpf_shim.attach.keeper import TRAP_NOW, Window
from libbpf_shim.attach.process import Foreseen, Process, Site, Tramp
from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.plan import DEAD, JUMP, TRAP, SitePatch, SitePlan
from libbpf_shim.rewrite.render import (
    GUEST_SIZE,
    SLOT,
    hole_bytes,
    reachable,
    render,
    render_guest,
    trampoline_size,
    window_bytes,
)

_ELSEWHERE = (errno.ERANGE, errno.ENOMEM, errno.EBUSY, errno.ESTALE)  # another plan may do
_ALONE = (1, 2)  # SHIM_SYNC_START, SHIM_SYNC_KEEPER
_KEEPER = 2
_IN_USE = "AP0005"  # the code of an error: other sites are there
_CARRIER = 1 << 62  # of a record's addr: a window without a probe
_NEW, _EXISTED, _IN_THE_WAY = 0, 1, 2
_INT3 = b"\xcc"


def tactics(
    attachments: Iterable[Attachment], processes: Iterable[Process]
) -> dict[int, list[str]]:
    """By program id: `PLACE TACTIC` of each of its sites, the rung of the ladder that they got."""
    found: dict[int, set[str]] = {}
    known = list(processes)
    for att in attachments:
        for process in known:
            at = {addr for link, addr in process.linked if link == att.link_id}
            found.setdefault(att.prog.id, set()).update(
                f"{s.where} {s.tactic}" for s in process.sites.values() if s.addr in at)
    return {number: sorted(rows) for number, rows in found.items()}


def _behind(record: Any, addr: int) -> bool:
    """Among the bytes behind its window that its jump ends with."""
    end = int(record.window + record.window_len)
    return end <= addr < int(record.window) + JUMP


Planner = Callable[..., SitePlan]  # (virtual address[, bytes of a window without a probe])


class Sites:
    """Puts sites into one process during one conversation. enter: address of SHIM_SYM_ENTER or
    another function that the trampolines call; own: it leaves the application's stack; lean: what
    they call at the entry of a function in its place, or 0. windows: what is to be written, by the
    index of the site; added to. watchable: raises ShimError where signal calls cannot be watched,
    which sites of int3 need; None: there are to be none. barred: why a plan cannot be where calls
    are met, or ""."""

    def __init__(
        self, talk: Conversation, process: Process, enter: int, windows: dict[int, Window],
        own: bool = False, lean: int = 0,
        watchable: Callable[[Process, int], None] | None = None,
        barred: Callable[[SitePlan, int], str] | None = None,
    ) -> None:  # fmt: skip
        self.talk, self.process, self.enter, self.windows = talk, process, enter, windows
        self.own, self.lean, self._watchable, self._barred = own, lean, watchable, barred
        self.made: set[int] = set()  # indices of records that were not there before
        self._rungs: dict[int, str] = {}  # of sites that are not of the plan that was asked for

    def put(
        self, plan: SitePlan, bias: int, where: str, planner: Planner,
        fresh: bool = False,
    ) -> int:  # fmt: skip
        """A site for the plan, or for another of the ladder that can be here; its index.
        planner: Plans.at of the same module. ShimError EOPNOTSUPP: none can be,
        and why not."""
        from libbpf_shim._native import lib

        self.flags = int(lib.SHIM_SITE_FRESH) * fresh
        last: ShimError | None = None
        for candidate in self._order(plan):
            try:
                self._may_be(candidate, bias)
                index = self._try(candidate, bias, planner)
            except ShimError as error:
                if error.errno not in _ELSEWHERE or (
                        candidate.tactic == TRAP and error.code != _IN_USE):
                    raise
                last = last or error
                continue
            tactic = self._rungs.pop(index, candidate.tactic)
            self.process.trapped = self.process.trapped or tactic == TRAP
            self.process.sites[index] = Site(index, plan.vaddr + bias, where, tactic)
            return index
        assert last
        raise ShimError(
            "AP0003", errno.EOPNOTSUPP,
            f"process {self.process.pid}: {where}: cannot be patched: {last.message}") from last

    def foresee(self, plan: SitePlan, bias: int, fresh: bool = False) -> None:
        """Asks for a site that `put` is going to be called for, in the same order: so many are
        on their way at once. Those with a window of their own; the others wait for each other."""
        from libbpf_shim._native import lib

        addr = plan.vaddr + bias
        first = self._order(plan)[0]
        process = self.process
        if first.tactic == TRAP or first.hole or first.fixed:
            return
        if self._barred and self._barred(first, bias):
            return
        if addr in process.foreseen or (addr, 0) in process.tramps:
            return
        self.flags = int(lib.SHIM_SITE_FRESH) * fresh
        size = trampoline_size(first)
        try:
            tramp = process.near.take(self.talk, first.window + bias, size)
        except ShimError:
            return  # put() finds another plan, or says why not
        process.foreseen[addr] = Foreseen(
            first, tramp, size, self._begin(first, bias, tramp, size, 0, lib.SHIM_SITE_HELD),
            partial(self._make, first, bias, tramp, size))

    def forgo(self) -> None:
        """What was foreseen and has not been put, if the conversation goes on."""
        with contextlib.suppress(ShimError):
            for addr in list(self.process.foreseen):
                self._make_foreseen(addr)
        self.process.foreseen.clear()

    def _make_foreseen(self, addr: int) -> None:
        """The record is there and may be found by others: it gets its trampoline."""
        f = self.process.foreseen.pop(addr)
        index, state = self.talk.added(f.pending)
        if state == _NEW:
            f.make(index)
        else:
            self.process.near.put_back(f.at, f.size)

    def leaves(self, index: int, func: int) -> None:
        """The site is a `ret` of the function at func."""
        from libbpf_shim._native import ffi

        at = self.talk.site_address(index) + ffi.offsetof("struct shim_site", "func")
        self.talk.write(at, struct.pack("<Q", func))

    def _order(self, plan: SitePlan) -> list[SitePlan]:
        """Where ptrace is refused, windows of one instruction first."""
        found = [p for p in (plan, *plan.others) if p.tactic != TRAP or self._watchable]
        if not self.talk.hello.ptrace:
            return found or [plan]
        return sorted(found, key=lambda p: (p.tactic == TRAP, not p.single)) or [plan]

    def _may_be(self, plan: SitePlan, bias: int) -> None:
        if self._barred and (why := self._barred(plan, bias)):
            code = errno.EOPNOTSUPP if plan.tactic == TRAP else errno.EBUSY
            raise ShimError("AY0003", code, why)

    def _try(
        self, plan: SitePlan, bias: int, planner: Planner, behind: int = 0
    ) -> int:  # fmt: skip
        """behind: index + 1 of a site that has to make room for this one first."""
        addr = plan.vaddr + bias
        if plan.tactic == TRAP:
            self._may_trap(addr)
        known = self.process.tramps.get((addr, 0))
        foreseen = self.process.foreseen.pop(addr, None)
        assert foreseen is None or foreseen.plan == plan
        if known and known.of == plan:
            tramp, size = known.at, known.size
        elif foreseen:
            tramp, size = foreseen.at, foreseen.size
        else:
            known, size = None, trampoline_size(plan)
            tramp = self._room(plan, bias, size)
        host, below = behind, None
        if plan.hole:
            make = self._carrier if plan.carrier else self._hole
            host, below = make(plan, bias, tramp, size)
        pending = foreseen.pending if foreseen else self._begin(plan, bias, tramp, size, host)
        index, state = self._added(pending, plan, bias)
        if state != _NEW and not known and not plan.hole:  # else more was taken behind it
            self.process.near.put_back(tramp, size)
        if state == _IN_THE_WAY:
            return self._guest(plan, bias, index, planner)
        if state == _EXISTED:
            self._rewrite(index, plan, bias)
            return index
        if known and known.record != index:
            # the record is another one: threads may still run what names the old
            del self.process.tramps[addr, 0]
            return self._try(plan, bias, planner, behind)
        self.made.add(index)
        rendered = self._make(plan, bias, tramp, size, index)
        if below:  # not before: another rung may have to do
            self._window(host - 1, below)
        self._window(index, Window.patch(plan, rendered, bias, self.talk.site_address(index)))
        return index

    def _added(self, pending: Pending, plan: SitePlan, bias: int) -> tuple[int, int]:
        try:
            return self.talk.added(pending)
        except ShimError as error:
            if plan.tactic == TRAP and error.errno == errno.EBUSY:
                raise ShimError(
                    "AP0007", errno.EBUSY, f"{plan.vaddr + bias:#x}: no jump fits, and a thread "
                    "blocks SIGTRAP: int3 would end it") from error
            raise

    def _make(self, plan: SitePlan, bias: int, tramp: int, size: int, index: int) -> SitePatch:
        """The trampoline of a new record, written if it is not there from earlier."""
        addr = plan.vaddr + bias
        rendered = self._render(plan, bias, tramp, self.talk.site_address(index))
        known = self.process.tramps.get((addr, 0))
        if not known or known.at != tramp:
            self.talk.write(tramp, rendered.tramp, ahead=True)
            self.process.tramps[addr, 0] = Tramp(index, tramp, size, plan)
        return rendered

    def _render(self, plan: SitePlan, bias: int, tramp: int, site: int) -> SitePatch:
        return render(plan, bias, tramp, site, self.enter, self.own, self.lean)

    def _may_trap(self, addr: int) -> None:
        """ShimError: SIGTRAP could end the process."""
        if self._watchable is None:
            raise ShimError("AP0007", errno.EOPNOTSUPP, "no jump fits")
        self._watchable(self.process, addr)
        if self.talk.hello.reason not in _ALONE:
            raise ShimError("AP0007", errno.EBUSY, "int3 is put while all threads stand still")

    def _window(self, index: int, window: Window) -> None:
        """The latest is put last: what it depends on is written before it."""
        self.windows.pop(index, None)
        self.windows[index] = window

    def _room(self, plan: SitePlan, bias: int, size: int) -> int:
        window = plan.window + bias
        if between := reachable(plan, bias):
            # before them there may be another session's jump: then the site is there already
            after = window + len(plan.orig)
            if self.talk.read(after, len(plan.fixed)) != plan.fixed:
                raise ShimError("AP0004", errno.ESTALE, f"{window:#x}: not the file's bytes")
            return self.process.near.take_between(self.talk, *between, size)
        return self.process.near.take(self.talk, window, size)

    def _begin(
        self, plan: SitePlan, bias: int, tramp: int, size: int, host: int, flags: int = 0
    ) -> Pending:  # fmt: skip
        from libbpf_shim._native import lib

        flags |= self.flags | lib.SHIM_SITE_SINGLE * plan.single
        flags |= lib.SHIM_SITE_SKIPS * bool(self._leanly(plan))
        flags |= lib.SHIM_SITE_PUN * bool(plan.fixed) | lib.SHIM_SITE_TRAP * (plan.tactic == TRAP)
        return self.talk.begin_site(
            addr=plan.vaddr + bias, window=plan.window + bias, orig=plan.orig,
            patch=window_bytes(plan, bias, tramp), tramp=tramp, tramp_len=size,
            func=plan.vaddr + bias, flags=flags, host=host)

    def _hole(
        self, plan: SitePlan, bias: int, tramp: int, size: int
    ) -> tuple[int, Window | None]:  # fmt: skip
        """The record of the dead bytes that a short jump leads to, index + 1; what is to be
        written there, if it is not. EBUSY: in use."""
        from libbpf_shim._native import lib

        assert plan.hole
        at = plan.hole.vaddr + bias
        index, state = self.talk.site(
            addr=at, window=at, orig=plan.hole.orig, patch=hole_bytes(plan, bias, tramp),
            tramp=tramp, tramp_len=size, func=0,
            flags=self.flags | lib.SHIM_SITE_SINGLE | lib.SHIM_SITE_HOLE)
        record = self.talk.site_record(index) if state == _EXISTED else None
        if state == _IN_THE_WAY or record is not None and record.tramp != tramp:
            raise ShimError(_IN_USE, errno.EBUSY, f"{at:#x}: the dead bytes are in use")
        if record is not None and record.patched:
            return index + 1, None
        return index + 1, Window(at, plan.hole.orig, hole_bytes(plan, bias, tramp),
                                 site=self.talk.site_address(index))  # fmt: skip

    def _carrier(
        self, plan: SitePlan, bias: int, tramp: int, size: int
    ) -> tuple[int, Window | None]:  # fmt: skip
        """The same of a window that another's short jump leads into. Its address is none that
        could be probed."""
        from libbpf_shim._native import lib

        assert plan.carrier and plan.hole
        theirs, window = plan.carrier, plan.carrier.window + bias
        known = self.process.tramps.get((window | _CARRIER, 0))
        if known and known.of == theirs:
            own = known.at
        else:
            known, own = None, self.process.near.take(self.talk, window, trampoline_size(theirs))
        made = self._render(theirs, bias, own, 0)
        at = plan.hole.vaddr - theirs.window
        patch = made.window[:at] + hole_bytes(plan, bias, tramp) + made.window[at + 5 :]
        index, state = self.talk.site(
            addr=window | _CARRIER, window=window, orig=theirs.orig, patch=patch, tramp=tramp,
            tramp_len=size, func=plan.hole.vaddr + bias, flags=self.flags | lib.SHIM_SITE_HOLE)
        if state != _NEW:
            raise ShimError(_IN_USE, errno.EBUSY, f"{window:#x}: the window is in use")
        if known is None:
            self.talk.write(own, made.tramp, ahead=True)
            self.process.tramps[window | _CARRIER, 0] = Tramp(index, own, 0, theirs)
        lo, hi = theirs.scan
        return index + 1, Window(window, theirs.orig, patch, made.fixups,
                                 (lo + bias, hi + bias) if hi else (0, 0),
                                 self.talk.site_address(index))  # fmt: skip

    def _rewrite(self, index: int, plan: SitePlan, bias: int) -> None:
        """A site that has links, of this session or another: its window, and its host's, if they
        are not written yet."""
        chain = [(index, self.talk.site_record(index))]
        while host := chain[0][1].host:  # at most two: a slot's, and of that one the hole
            chain.insert(0, (host - 1, self.talk.site_record(host - 1)))
        from libbpf_shim._native import lib

        for (at, site), (_, of) in pairwise(chain):
            if site.patched and site.flags & lib.SHIM_SITE_PUN and at not in self.windows and (
                    not of.patched and _behind(site, of.window)):
                raise ShimError(_IN_USE, errno.EBUSY, f"{of.window:#x}: its neighbour stands")
        for at, site in chain:
            if not site.window_len:
                continue
            if at not in self.windows and not self.talk.written(site):
                self._window(at, self._of_record(at, site, (plan, *plan.others), bias))
        if chain[-1][1].flags & lib.SHIM_SITE_TRAP:
            self._rungs[index] = TRAP  # whoever made it

    def _of_record(self, index: int, record: Any, plans: Iterable[SitePlan], bias: int) -> Window:
        """The window of a record that another session made, or an earlier try."""
        from libbpf_shim._native import lib

        size = int(record.window_len)
        orig, patch = bytes(record.orig)[:size], bytes(record.patch)[:size]
        where = self.talk.site_address(index)
        if record.flags & (lib.SHIM_SITE_SINGLE | lib.SHIM_SITE_TRAP):
            return Window(int(record.window), orig, patch, site=where)
        for plan in plans:
            if plan.window + bias == record.window and plan.orig == orig:
                rendered = self._rendered(plan, bias, index, record)
                return Window.patch(plan, rendered, bias, where)
        raise ShimError("AP0006", errno.EBUSY, f"{record.addr:#x}: patched by another version")

    def _rendered(self, plan: SitePlan, bias: int, index: int, record: Any) -> SitePatch:
        """The trampoline of a record, as it is there. EBUSY: it is not this plan's."""
        tramp, site = int(record.tramp), self.talk.site_address(index)
        if record.addr & _CARRIER:  # its own is where the first of its two jumps leads
            tramp, site = record.window + 5 + struct.unpack("<i", bytes(record.patch)[1:5])[0], 0
        made = self._render(plan, bias, tramp, site)
        there = bytearray(self.talk.read(tramp, len(made.tramp)))
        for _, slot in made.slots:
            at = slot - tramp
            there[at : at + len(SLOT)] = SLOT
        if there != made.tramp:
            raise ShimError("AP0006", errno.EBUSY, f"{record.addr:#x}: patched by another version")
        return made

    def _guest(self, guest: SitePlan, bias: int, index: int, planner: Planner) -> int:
        """The instruction lies in the window of the site of that index, or beside it. EBUSY: in
        some other manner."""
        from libbpf_shim._native import lib

        vaddr = guest.vaddr
        record = self.talk.site_record(index)
        size = next(len(d.code) for d in guest.displaced if d.vaddr == vaddr)
        inside = record.window - size < vaddr + bias < record.window + record.window_len
        if inside and record.flags & lib.SHIM_SITE_HOLE and not record.addr & _CARRIER:
            return self._dead(vaddr + bias)
        if record.addr in self.process.foreseen:
            self._make_foreseen(record.addr)
        try:
            if record.addr & _CARRIER:
                theirs = planner(int(record.window) - bias, int(record.window_len))
            else:
                theirs = planner(int(record.addr) - bias)
        except ShimError as error:
            raise ShimError(_IN_USE, errno.EBUSY, f"{record.addr:#x} is in the way") from error
        for plan in (theirs, *theirs.others):
            size = int(record.window_len)
            same = plan.window + bias == record.window and plan.orig == bytes(record.orig)[:size]
            if same and plan.serves(vaddr):
                made = self._rendered(plan, bias, index, record)
                self._rewrite(index, plan, bias)
                slot = dict(made.slots)[vaddr + bias]
                return self._in_slot(vaddr + bias, slot, index, self._leanly(guest))
            if same and inside and vaddr >= plan.dead:
                return self._dead(vaddr + bias)
        if record.flags & lib.SHIM_SITE_PUN and _behind(record, vaddr + bias) and not guest.hole:
            return self._instead(guest, bias, index, planner, theirs)
        raise ShimError(_IN_USE, errno.EBUSY, f"{vaddr + bias:#x}: the window at "
                        f"{record.window:#x} is in the way")

    def _dead(self, addr: int) -> int:
        """An instruction that nobody executes, in bytes that another site uses."""
        index, state = self.talk.site(addr=addr, window=0, orig=b"", patch=b"", tramp=0,
                                      tramp_len=0, func=addr, flags=self.flags)
        if state == _NEW:
            self.made.add(index)
        self._rungs[index] = DEAD
        return index

    def _instead(
        self, plan: SitePlan, bias: int, index: int, planner: Planner, theirs: SitePlan
    ) -> int:  # fmt: skip
        """A site for the plan behind a punned jump, which becomes an int3: with this one where it
        stands already. EBUSY: it cannot."""
        from libbpf_shim._native import ffi, lib

        record = self.talk.site_record(index)
        size, where = int(record.window_len), self.talk.site_address(index)
        orig, jump = bytes(record.orig)[:size], bytes(record.patch)[:size]
        trap = next((p for p in (theirs, *theirs.others) if p.tactic == TRAP), None)
        alone = self.talk.hello.reason == _KEEPER or not record.patched
        if not trap or not alone or not self._ours(record):
            raise ShimError(_IN_USE, errno.EBUSY, f"{record.addr:#x} is in the way")
        if index not in self.windows or not self.windows[index].becomes:
            self._may_trap(record.addr)
            # it is there: what is asked for is the handler
            self._added(self._begin(trap, bias, record.tramp, record.tramp_len, 0), trap, bias)
            made = Window(record.window, jump, _INT3 + orig[1:], site=where, becomes=TRAP_NOW)
            if not record.patched:
                flags = record.flags & ~lib.SHIM_SITE_PUN | lib.SHIM_SITE_TRAP
                for field, value in (("patch", made.new), ("flags", struct.pack("<I", flags))):
                    self.talk.write(where + ffi.offsetof("struct shim_site", field), value)
                made = Window(record.window, orig, made.new, site=where)
            self._window(index, made)
            self.process.trapped = True
            if index in self.process.sites:
                self.process.sites[index].tactic = TRAP
        return self._try(plan, bias, planner, index + 1 if record.patched else 0)

    def _ours(self, record: Any) -> bool:
        """No other session has links there, which would not know what int3 needs."""
        from libbpf_shim._native import ffi

        at, size = int(record.first), ffi.sizeof("struct shim_site_link")
        start = struct.unpack("<Q", self.talk.read(
            self.process.root + int(ffi.offsetof("struct shim_agent", "links")), 8))[0]
        link = ffi.new("struct shim_site_link *")
        while at:
            ffi.memmove(link, self.talk.read(start + (at - 1) * size, size), size)
            if link.session != self.process.session:
                return False
            at = int(link.next)
        return True

    def _leanly(self, plan: SitePlan) -> int:
        """What its trampoline calls where a function begins, which can then be left out; or 0."""
        return self.lean if plan.at_entry and not self.own else 0

    def _in_slot(self, addr: int, slot: int, host: int, lean: int) -> int:
        from libbpf_shim._native import lib

        flags = self.flags | lib.SHIM_SITE_SINGLE | lib.SHIM_SITE_SKIPS * bool(lean)
        known = self.process.tramps.get((addr, slot))
        if known is None:
            tramp = self.process.near.take(self.talk, slot, GUEST_SIZE)
        else:
            tramp = known.at
        patch = render_guest(addr, slot, tramp, 0, self.enter, self.own, lean).window
        index, state = self.talk.site(
            addr=addr, window=slot, orig=SLOT, patch=patch, tramp=tramp, tramp_len=GUEST_SIZE,
            func=addr, flags=flags, host=host + 1)
        if state != _NEW:
            raise ShimError(_IN_USE, errno.EBUSY, f"{addr:#x}: its slot is in use")
        site = self.talk.site_address(index)
        self.made.add(index)
        if known is None or known.record != index:
            if known:
                del self.process.tramps[addr, slot]
                return self._in_slot(addr, slot, host, lean)
            made = render_guest(addr, slot, tramp, site, self.enter, self.own, lean)
            self.talk.write(tramp, made.tramp, ahead=True)
            self.process.tramps[addr, slot] = Tramp(index, tramp, GUEST_SIZE, slot)
        self._window(index, Window(slot, SLOT, patch, site=site))
        return index
