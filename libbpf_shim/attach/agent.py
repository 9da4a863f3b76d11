"""The backend's side of a conversation with the agent in a target (AGENT_* of shim_wire.h).

A conversation changes one process: it maps a session's control page, memory and descriptors of
maps, writes images and trampolines, adds sites and links, and patches where the process may do
that by itself. The agent holds its process's table lock from the hello to `done()`, so one is open
at a time in a process and other backends wait for a bounded time: keep it short.

A trampoline holds the address of its site's record, so the order is: `mmap` a near region,
`site` (patch bytes need only the trampoline's address), `site_address`, `write` the trampoline,
`link`, then `patch` or the keeper.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from errno import EPROTO, ETIMEDOUT, EXDEV
from typing import Any

from libbpf_shim.attach import names
from libbpf_shim.attach.exchange import Exchange, Pending, native
from libbpf_shim.errors import ShimError

_WRITE_CHUNK = 1 << 24  # bytes of one AGENT_WRITE
_READ_CHUNK = 8192
_SITES, _PLACES = 60, 300  # in one message of 8 KiB


@dataclass(frozen=True, slots=True)
class Grace:
    """Grace periods of a process, by number: the one that was begun last (fresh: just now), and
    the last that is over. Every run that was in progress when one began has then ended."""

    begun: int
    over: int
    fresh: bool


def link_record(**fields: int) -> bytes:
    """struct shim_site_link, as `Conversation.link` takes its fields."""
    ffi, _ = native()
    return bytes(ffi.buffer(ffi.new("struct shim_site_link *", fields)))


class Conversation(Exchange):
    """What is said to one agent, from its hello to `done()`; use it as a context manager.

    Every method raises ShimError: with the agent's errno where it refused, with ETIMEDOUT
    when no answer came within ``timeout`` seconds, with EPROTO when the stream broke. After the
    last two the conversation is over.

    Nobody waits for the answers to `link`, `set_object` and a `write` ahead: `settle` raises the
    first refusal among them, and so does the end of the `with` statement.
    """

    def __init__(
        self, sock: socket.socket, timeout: float = 10.0, received: bytes | None = None
    ) -> None:
        super().__init__(sock, timeout, received)
        self.sites = 0  # where the table of sites is, once that is known
        self._foreseen: dict[tuple[int, int], Pending] = {}  # what is read, ahead

    def session(self, session_id: int, ctl_fd: int, perf_fd: int, ctl_size: int, perf_size: int,
                ctl_ino: int) -> int:
        """Maps the control page and the perf area; sizes in bytes. Index into sessions[], the
        same one if the process has met the session before. EXDEV: a session is there that knows
        processes by other numbers."""
        msg = self._struct("struct shim_agent_session", id=session_id, ctl_size=ctl_size,
                           perf_size=perf_size, ctl_ino=ctl_ino, view=names.view(),
                           pid=self.hello.pid if self.hello.foreign else 0,
                           start_time=self.hello.start_time)
        fds = [ctl_fd, perf_fd] if perf_size else [ctl_fd]
        try:
            return self._index(self._call("SESSION", msg, fds))
        except ShimError as error:
            if error.errno != EXDEV:
                raise
            raise ShimError("BA0004", EXDEV, f"process {self.hello.pid}: a tool of another "
                            "namespace of process numbers is in it") from error

    def mmap(self, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0,
             address: int = 0) -> int:
        """mmap(2) there; its address. address 0: anywhere, else MAP_FIXED_NOREPLACE (EEXIST).
        EACCES: writable and executable at once."""
        return self.mapped(self.begin_mmap(length, prot, flags, fd, offset, address))

    def begin_mmap(self, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0,
                   address: int = 0) -> Pending:
        """The same; `mapped` has the answer."""
        msg = self._struct("struct shim_agent_mmap", addr=address, len=length, off=offset,
                           prot=prot, flags=flags)
        return self._ask("MMAP", msg, [fd] if fd >= 0 else [], asked=True)

    def mapped(self, pending: Pending) -> int:
        """What `mmap` answers, of one that was begun in this conversation."""
        (at,) = struct.unpack("<Q", self._answer(pending)[1])
        return int(at)

    def under_key(self, session: int, address: int = 0, length: int = 0, prot: int = 0) -> None:
        """Memory of the session's there goes under the process's protection key: its control page
        and perf area, or (length) a range that was mapped in a conversation. EOPNOTSUPP: the
        machine has no such keys; ENOSPC: the process has none left; EBUSY: a program runs."""
        self._call("KEYS", self._struct(
            "struct shim_agent_keys", addr=address, len=length, session=session, prot=prot))

    def munmap(self, address: int, length: int) -> None:
        """munmap(2) there, once no run is in progress that may use it; EBUSY else."""
        self._call("MUNMAP", struct.pack("<QQ", address, length))

    def write(self, address: int, data: bytes, ahead: bool = False) -> None:
        """Into memory that nobody executes yet, whatever its protection. ahead: nobody relies
        on it before `settle`."""
        for at in range(0, len(data), _WRITE_CHUNK):
            part = data[at : at + _WRITE_CHUNK]
            say = self._ask if ahead else self._call
            say("WRITE", struct.pack("<QQ", address + at, len(part)) + part)

    def read(self, address: int, length: int) -> bytes:
        """Bytes of the process; EFAULT or EIO where there are none."""
        if foreseen := self._foreseen.pop((address, length), None):
            return self._answer(foreseen)[1]
        out = bytearray()
        while len(out) < length:
            part = min(_READ_CHUNK, length - len(out))
            out += self._call("READ", struct.pack("<QQ", address + len(out), part))
        return bytes(out)

    def foresee(self, address: int, length: int) -> None:
        """Asks ahead for what `read` will be asked for, at most 8 KiB; nothing said meanwhile
        changes it."""
        self._foreseen[address, length] = self._ask(
            "READ", struct.pack("<QQ", address, length), asked=True)

    def site(self, *, addr: int, window: int, orig: bytes, patch: bytes, tramp: int,
             tramp_len: int, func: int, flags: int = 0, host: int = 0) -> tuple[int, int]:
        """Adds a site: index, and 0. 1: it existed (then it is as whoever made it said, and may
        be patched already). 2: it was not added, since the window of the site of that index is in
        the way. flags: SHIM_SITE_*. orig and patch: bytes of the window. host: index + 1 of the
        site that must be patched for this one, 0: none."""
        return self.added(self.begin_site(
            addr=addr, window=window, orig=orig, patch=patch, tramp=tramp, tramp_len=tramp_len,
            func=func, flags=flags, host=host))

    def begin_site(self, *, addr: int, window: int, orig: bytes, patch: bytes, tramp: int,
                   tramp_len: int, func: int, flags: int = 0, host: int = 0) -> Pending:
        """The same; `added` has the answer, so that many are on their way at once."""
        if len(orig) != len(patch):
            raise ShimError("BA0002", EPROTO, f"site {addr:#x}: window of {len(orig)} bytes, "
                            f"patch of {len(patch)}")
        return self._ask("SITE", self._struct(
            "struct shim_site", addr=addr, window=window, tramp=tramp, window_len=len(orig),
            flags=flags, tramp_len=tramp_len, orig=orig.ljust(32, b"\0"),
            patch=patch.ljust(32, b"\0"), func=func, host=host), asked=True)

    def added(self, pending: Pending) -> tuple[int, int]:
        """What `site` answers, of one that was begun in this conversation."""
        ret, data = self._answer(pending)
        return self._index(data), ret

    def site_record(self, index: int) -> Any:
        """struct shim_site of that index, as it is now (cffi)."""
        ffi, _ = native()
        size = ffi.sizeof("struct shim_site")
        data = self.read(self.site_address(index), size)
        record = ffi.new("struct shim_site *")
        ffi.memmove(record, data, size)
        return record

    def site_address(self, index: int) -> int:
        """Address of a site's record: what its trampoline passes to SHIM_SYM_ENTER."""
        start, size = self.site_records()
        return start + index * size

    def site_records(self) -> tuple[int, int]:
        """Address of the first site's record, and bytes of each."""
        ffi, _ = native()
        if not self.sites:
            (self.sites,) = struct.unpack("<Q", self.read(self._table_word(), 8))
        return self.sites, int(ffi.sizeof("struct shim_site"))

    def foresee_sites(self) -> None:
        """`site_records` will be asked for."""
        if not self.sites:
            self.foresee(self._table_word(), 8)

    def _table_word(self) -> int:
        return self.hello.root + int(native()[0].offsetof("struct shim_agent", "sites"))

    def patched(self, indices: Sequence[int]) -> set[int]:
        """Those of the sites whose windows are written. All records between the first and the
        last are read."""
        if not indices:
            return set()
        ffi, _ = native()
        low, size = min(indices), ffi.sizeof("struct shim_site")
        data = self.read(self.site_address(low), (max(indices) + 1 - low) * size)
        records = ffi.new("struct shim_site[]", len(data) // size)
        ffi.memmove(records, data, len(data))
        return {index for index in indices if self.written(records[index - low])}

    def written(self, record: Any) -> bool:
        """The window of a struct shim_site is not the original: a keeper that dies may have set
        the flag, and no more."""
        size = int(record.window_len)
        return bool(record.patched) and (
            self.read(int(record.window), size) != bytes(record.orig)[:size])

    def link(self, site: int, *, session: int, link: int, kind: int, flags: int, prog_id: int,
             tgid: int, image: int, cookie: int, link_id: int, cpu: int = 0, tid: int = 0,
             counter: int = 0, key: int = 0) -> None:
        """Appends a link to a site's list, live at once. session: as answered by
        `session()`; link: index into shim_ctl.link[]; kind, flags: SHIM_LINK_*, SHIM_PROG_*. cpu:
        the only CPU of the machine, + 1; tid: the only thread; counter: address of a reference
        counter there, 0: none; key: as struct shim_site_link has it."""
        self._ask("LINK", struct.pack("<I", site) + link_record(
            session=session, link=link, kind=kind, flags=flags, prog_id=prog_id, tgid=tgid,
            image=image, cookie=cookie, link_id=link_id, cpu=cpu, tid=tid, counter=counter,
            key=key))

    def add_sites(self, records: Sequence[bytes]) -> list[tuple[int, int]]:
        """`site` for each struct shim_site: its index (or, below 0, the agent's errno) and what it
        found. No int3."""
        asked = [self._ask("SITES", b"".join(records[at : at + _SITES]), asked=True)
                 for at in range(0, len(records), _SITES)]
        return [row for pending in asked
                for row in struct.iter_unpack("<iI", self._answer(pending)[1])]

    def add_links(self, link: bytes, places: Sequence[bytes]) -> None:
        """A `link` at each struct shim_agent_place; those behind one that is refused are not
        there."""
        for at in range(0, len(places), _PLACES):
            self._ask("LINKS", link + b"".join(places[at : at + _PLACES]))

    def unlink(self, link_id: int, session: int, site: int = -1) -> list[int]:
        """Removes the session's links of that id (0: all of them), or those at the site of that
        index alone. Indices of sites that have no link left."""
        payload = self._call("UNLINK", struct.pack("<QHH", link_id, session, site + 1))
        (count,) = struct.unpack_from("<I", payload)
        return list(struct.unpack_from(f"<{count}I", payload, 4))

    def patch(self, site: int, on: bool) -> None:
        """The process writes (or restores) the window itself. EBUSY: other threads run and the
        window is not SHIM_SITE_SINGLE, or the keeper has stopped the process and is to write.
        ESTALE: the bytes there are not those expected."""
        self._call("PATCH", struct.pack("<II", site, on))

    def patch_all(self, sites: Iterable[int]) -> list[tuple[int, ShimError]]:
        """`patch` on, of all of them in that order; those that were refused, and why."""
        refused = []
        for pending, site in [
            (self._ask("PATCH", struct.pack("<II", site, True), asked=True), site)
            for site in sites
        ]:
            try:
                self._answer(pending)
            except ShimError as error:
                if error.errno in (ETIMEDOUT, EPROTO):
                    raise
                refused.append((site, error))
        return refused

    def runnable(self, *, prog_id: int, session: int, flags: int, image: int, cookie: int) -> int:
        """A program that the process runs itself; image 0 removes it. Its index."""
        msg = self._struct("struct shim_runnable", prog_id=prog_id, session=session, flags=flags,
                           image=image, cookie=cookie)
        return self._index(self._call("RUNNABLE", msg))

    def swap(self, *, prog_id: int, session: int, image: int) -> int:
        """Runs of the program that begin from now on are of that image; how many links and
        runnables changed."""
        return self._index(self._call("SWAP", self._struct(
            "struct shim_runnable", prog_id=prog_id, session=session, image=image)))

    def begun(self) -> None:
        """The process stands at the beginning of a new image: programs are told of its exec."""
        self._call("BEGUN", b"")

    def ended(self, msg: Any) -> None:
        """Programs run for a process that could not tell of its end (struct shim_agent_ended).
        EBUSY: the thread is in the middle of a run. EOPNOTSUPP: not in a mailbox's thread."""
        ffi, _ = native()
        self._call("ENDED", bytes(ffi.buffer(msg)))

    def set_object(self, key: int, address: int, session: int) -> None:
        """What a map's value stands for there (struct shim_objects): SHIM_OBJECT_* << 32 | id."""
        self._ask("OBJECT", self._struct(
            "struct shim_agent_object", key=key, addr=address, session=session))

    def drop_object(self, key: int, session: int, base: int = 0, length: int = 0) -> None:
        """Nothing any more, and a mapping goes with it. Only after a grace period that began when
        no value had its id."""
        self._call("OBJECT", self._struct(
            "struct shim_agent_object", key=key, session=session, base=base, len=length))

    def grace(self) -> Grace:
        """Asks after the grace period, and begins one if there is none."""
        payload = self._call("GRACE", b"")
        begun, over, fresh, _ = struct.unpack("<4I", payload)
        return Grace(begun, over, bool(fresh))

    def unwind(self, message: bytes) -> None:
        """struct shim_agent_unwind: some of its modules, and where their tables lie there."""
        self._call("UNWIND", message)

    def clock(self, *, period: int, index: int, arm: bool, signo: int, flags: int,
              kind: int) -> int:
        """The number of a clock of that kind and period there; arm: it ticks from now on, in every
        thread. EBUSY: another thread is at it, EAGAIN: the kernel gives no timer, ENOSPC."""
        return self._index(self._call("CLOCK", self._struct(
            "struct shim_agent_clock", period=period, index=index, arm=int(arm),
            signo=signo, flags=flags, kind=kind)))

    def calls(self, at: int, what: int) -> int:
        """Windows of the region of system calls at `at`: SHIM_CALLS_*; how many were written.
        EBUSY: other threads run (WRITE), or some call is attached to (RESTORE)."""
        return self._index(self._call("CALLS", self._calls(at, what)))

    def calls_all(self, rows: Sequence[tuple[int, int]]) -> None:
        """`calls` of each (at, what), whatever the others answer; the first refusal is raised."""
        for row in rows:
            self._ask("CALLS", self._calls(*row))
        self.settle()

    def _calls(self, at: int, what: int) -> bytes:
        return self._struct("struct shim_agent_calls", at=at, what=what)

    def end(self, session: int) -> None:
        """The process forgets the session. EBUSY: links are left, or a run does not end."""
        self._call("END", struct.pack("<I", session))
