"""Visits: attachments into a process that runs, while it is stopped or by its mailbox."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

from libbpf_shim.attach import unwinders
from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.attachment import Attachment, Code
from libbpf_shim.attach.inject import Agents, refusal
from libbpf_shim.attach.keeper import MOST, NOT_BEGUN, Keeper, Window
from libbpf_shim.attach.like import Like
from libbpf_shim.attach.met import foresee
from libbpf_shim.attach.objects import walks_stacks
from libbpf_shim.attach.partly import Partly
from libbpf_shim.attach.plans import Plans
from libbpf_shim.attach.removal import Removal
from libbpf_shim.attach.syscalls import MASKED
from libbpf_shim.attach.talks import AGAIN, Talks, pauses, refused
from libbpf_shim.attach.target import Target, look_by_name, shares_memory
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:
    from libbpf_shim.attach.placing import Placing
    from libbpf_shim.attach.unwinding import Unwinding

_AT_ONCE = 1024  # places that a process stands still for
_TAKEN = (errno.EFAULT, errno.ENOENT)  # another session has taken its agent out meanwhile


class Visits:
    """attachments: all of the session."""

    def __init__(
        self, talks: Talks, agents: Agents, removal: Removal, plans: Plans,
        attachments: Callable[[], list[Attachment]], placing: Callable[[], Placing],
        unwinding: Callable[[], Unwinding], notice: Callable[[str], None],
    ) -> None:
        self._talks, self._agents, self._removal, self._plans = talks, agents, removal, plans
        self._attachments, self._placing, self._unwinding = attachments, placing, unwinding
        self._like, self._notice = Like(plans, talks.session.id), notice

    def visit(self, target: Target, wanted: list[Attachment]) -> None:
        """Brings the attachments into a running process. ShimError: why not."""
        last: ShimError | None = None
        stale = asked = False
        had = self._links(target.pid)
        if target.root and shares_memory(target.pid):
            return  # its parent is visited
        self._talks.left.discard(target.pid)
        if any(map(walks_stacks, {id(a.prog): a.prog for a in wanted}.values())):
            self._unwinding().prepare(target.modules)
        self._plan_returns(target, wanted)
        partly = Partly()
        for _ in pauses():
            if not wanted:  # the process has put them there by itself
                return
            try:
                if not target.root:
                    target = self._agents.give(target)
                    self._talks.processes.pop(target.pid, None)
                    # events that were attached to before it had one
                    wanted = [a for a in self._attachments() if a.pid in (0, target.pid)
                              and self._plans.concerns(target, a)]
                if target.pid in self._talks.no_ptrace:
                    self._mailbox(target, wanted, partly)
                else:
                    for at in range(0, len(wanted), _AT_ONCE):
                        self.transaction(target, wanted[at : at + _AT_ONCE], partly)
                process = self._talks.processes.get(target.pid)
                if gone := partly.nothing(process):
                    wanted = [a for a in wanted if a.link_id in gone]
                    raise next(iter(gone.values()))
                partly.tell(process, self._notice)
                return
            except ShimError as error:
                last = error
                if not target.root:
                    if error.errno in AGAIN:
                        continue
                    break
                if target.injected and error.errno in _TAKEN:
                    target = named(target.pid)
                    continue
                if error.code == NOT_BEGUN:  # it comes by itself then
                    return
                if refused(error) and target.pid not in self._talks.no_ptrace:
                    self._talks.ask(target, again=asked)
                    asked = True
                elif error.code == MASKED:
                    self._removal.masks(target)
                elif error.errno == errno.ESTALE and not stale:
                    stale = True  # another session may have written the same window first
                elif error.errno == errno.ESTALE and (
                        rest := self._without_others(target, wanted, had, partly, error)):
                    self._forget(target, [a for a in wanted if a.link_id not in had])
                    wanted = rest
                elif error.errno not in AGAIN:
                    break
            finally:
                wanted = self._without_its_own(target.pid, wanted)
        assert last
        if wanted:
            self._forget(target, [a for a in wanted if a.link_id not in had])
            raise last

    def _links(self, pid: int) -> set[int]:
        """Links that the process is known to have."""
        process = self._talks.processes.get(pid)
        return {link for link, _ in process.linked} if process else set()

    def _plan_returns(self, target: Target, wanted: list[Attachment]) -> None:
        """How they are seen there, found before the process stands still."""
        at = [a for a in wanted if isinstance(a.place, Code) and (a.place.ret or a.place.both)]
        kept = bool(at) and unwinders.of(target) is not unwinders.Addresses.FREE
        for att in at:
            with contextlib.suppress(ShimError):
                self._plans.returns(att, kept)

    def _without_its_own(self, pid: int, wanted: list[Attachment]) -> list[Attachment]:
        """Serves who has come by himself meanwhile. What that process has put there then is its
        own, and no visit's to finish or to take back."""
        before = self._talks.processes.get(pid)
        had = set(before.linked) if before else set()
        self._talks.serve_late()
        now = self._talks.processes.get(pid)
        if now is None or (now is before and now.linked == had):
            return wanted
        own = {link for link, _ in (now.linked - had if now is before else now.linked)}
        return [a for a in wanted if a.link_id not in own]

    def _without_others(
        self, target: Target, wanted: list[Attachment], had: set[int], partly: Partly,
        error: ShimError,
    ) -> list[Attachment]:  # fmt: skip
        """Without places where neither the file's bytes stand nor ours: a debugger's breakpoint,
        a probe of the kernel's. Empty: that is not it, or not to be left out."""
        windows = self._talks.unwritten.get(target.pid, {})
        if not (process := self._talks.processes.get(target.pid)):
            return []
        others = set()
        with contextlib.suppress(OSError), open(f"/proc/{target.pid}/mem", "rb", 0) as memory:
            for index, window in windows.items():
                now = os.pread(memory.fileno(), len(window.expect), window.addr)
                if index >= 0 and now not in (window.expect, window.new):
                    site = process.sites.get(index)
                    others.add(str(site.where) if site else "")
        left = [a for a in wanted if str(a.place) in others]
        if {str(a.place) for a in left} != others or any(a.link_id in had for a in left):
            return []
        if not left or not partly.leaves_to_others(left, error):
            return []
        return [a for a in wanted if str(a.place) not in others]

    def _forget(self, target: Target, wanted: list[Attachment]) -> None:
        """What a visit that failed left behind."""
        if target.pid not in self._talks.processes:
            return
        for link_id in {att.link_id for att in wanted}:
            with contextlib.suppress(ShimError):
                self._removal.remove_from(target, link_id)

    def transaction(
        self, target: Target, wanted: list[Attachment], partly: Partly | None = None
    ) -> None:
        """Stop, converse, write, let go. Another try converses again: the process has run since,
        and may have loaded something."""
        keeper = self._talks.keeper()
        process = self._talks.processes.get(target.pid)
        if len(wanted) == 1 and process and not self._talks.unwritten.get(target.pid) and (
                self._like.put(keeper, target, process, wanted[0])):
            return
        with keeper.letting_go(target.pid):
            self._converse(keeper, target, wanted, partly)
            _finish(keeper, target.pid, self._talks.unwritten.get(target.pid, {}))
        self._talks.unwritten.pop(target.pid, None)

    def _converse(
        self, keeper: Keeper, target: Target, wanted: list[Attachment], partly: Partly | None
    ) -> None:
        """Sites and links; what is to be written is in Talks.unwritten, whatever happens next."""

        def links(talk: Conversation) -> None:
            if any(isinstance(att.place, Code) for att in wanted):
                foresee(talk)
            windows = self._talks.unwritten.setdefault(target.pid, {})
            before = [i for i, w in windows.items() if i >= 0 and not w.becomes]
            self._placing().links(talk, self._talks.process(talk), wanted, windows, partly)
            for index in talk.patched([index for index in before if index in windows]):
                del windows[index]  # by another session, since

        self._talks.calls.call(keeper, target, links)

    def _mailbox(self, target: Target, wanted: list[Attachment], partly: Partly) -> None:
        """Where ptrace is refused: the agent's own thread; windows of one instruction."""
        with self._talks.calls.mailbox(target) as talk:
            refused = self._placing().by_itself(
                talk, self._talks.process(talk), wanted, last=True)
        for att, why in refused:
            error = too_many_threads(target.pid, why)
            if not partly.leaves_out(att, error):
                self._talks.processes[target.pid].refused.append(error.message)
                raise error


def named(pid: int) -> Target:
    """The process that was named, with an agent or (root 0) without."""
    if target := look_by_name(pid):
        return target
    raise refusal(pid, ShimError("AD0002", errno.EPERM, f"process {pid}: cannot be read"))


def _finish(keeper: Keeper, pid: int, windows: dict[int, Window]) -> None:
    """Writes all of them, and lets the process go; of those of system calls (below 0) each that
    can be: where a thread stands in the way of one, the others are written, and that call's event
    is not seen. An int3 needs all of those, before it."""
    code = [w for index, w in windows.items() if index >= 0]
    calls = [w for index, w in windows.items() if index < 0]
    if not calls and len(code) <= MOST:
        keeper.finish(pid, code)
        return
    keeper.finish(pid, (), stay=True)
    _write(keeper, pid, windows, code, calls)
    keeper.release(pid)


def _write(
    keeper: Keeper, pid: int, windows: dict[int, Window], code: list[Window],
    calls: list[Window],
) -> None:  # fmt: skip
    if any(w.trap for w in code):
        keeper.patch(pid, calls)
        for index in [i for i in windows if i < 0]:
            del windows[index]
        calls = []
    keeper.patch(pid, [*code, *(w for w in calls if not w.fixups)])
    several = [w for w in calls if w.fixups]
    try:
        keeper.patch(pid, several)
    except ShimError as error:
        if error.errno != errno.EAGAIN:
            raise
        for window in several:
            with contextlib.suppress(ShimError):
                keeper.patch(pid, [window])


def too_many_threads(pid: int, error: ShimError) -> ShimError:
    """What an agent's EBUSY means to a person; other errors as they are."""
    if error.errno != errno.EBUSY:
        return error
    return ShimError(
        "AD0003",
        errno.EOPNOTSUPP,
        f"process {pid}: several instructions to be replaced, other threads, and ptrace is "
        "refused",
    )
