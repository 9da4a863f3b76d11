"""What a session of the daemon's lets the loaders of another user do: bpf-shim serve --policy.

Every user has a session of his own, in a process of its own (backend/guests.py), so objects of one
are nothing to another. Loaders submit programs; where these run is for the policy to say
(backend/classes.py). What a loader has of the session's shared memory it can write: so commands
and maps that would have anybody believe what stands there are refused, and every number that
counts is kept here.

Each verdict is a line of the audit log.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Final

from libbpf_shim.backend.audit import Audit, comm
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_map_type

_C, _T = bpf_cmd, bpf_map_type
# Not among them: pins are files, test runs and timers would have a loader run the daemon's code,
# iterators and attach points without links are the kernel's.
COMMANDS: Final = frozenset((
    _C.BPF_MAP_CREATE, _C.BPF_MAP_LOOKUP_ELEM, _C.BPF_MAP_UPDATE_ELEM, _C.BPF_MAP_DELETE_ELEM,
    _C.BPF_MAP_GET_NEXT_KEY, _C.BPF_MAP_LOOKUP_AND_DELETE_ELEM, _C.BPF_MAP_FREEZE,
    _C.BPF_MAP_LOOKUP_BATCH, _C.BPF_MAP_LOOKUP_AND_DELETE_BATCH, _C.BPF_MAP_UPDATE_BATCH,
    _C.BPF_MAP_DELETE_BATCH, _C.BPF_PROG_LOAD, _C.BPF_PROG_BIND_MAP, _C.BPF_BTF_LOAD,
    _C.BPF_PROG_GET_NEXT_ID, _C.BPF_MAP_GET_NEXT_ID, _C.BPF_BTF_GET_NEXT_ID,
    _C.BPF_LINK_GET_NEXT_ID, _C.BPF_PROG_GET_FD_BY_ID, _C.BPF_MAP_GET_FD_BY_ID,
    _C.BPF_BTF_GET_FD_BY_ID, _C.BPF_LINK_GET_FD_BY_ID, _C.BPF_OBJ_GET_INFO_BY_FD,
    _C.BPF_LINK_CREATE, _C.BPF_LINK_DETACH, _C.BPF_ENABLE_STATS, _C.BPF_TOKEN_CREATE,
    _C.BPF_PROG_STREAM_READ_BY_FD,
))
# Values of these are bytes. Of others they are objects, by numbers that a loader could put there
# itself, or memory at an address of the loader's.
MAPS: Final = frozenset((
    _T.BPF_MAP_TYPE_HASH, _T.BPF_MAP_TYPE_ARRAY, _T.BPF_MAP_TYPE_PERCPU_HASH,
    _T.BPF_MAP_TYPE_PERCPU_ARRAY, _T.BPF_MAP_TYPE_LRU_HASH, _T.BPF_MAP_TYPE_LRU_PERCPU_HASH,
    _T.BPF_MAP_TYPE_LPM_TRIE, _T.BPF_MAP_TYPE_QUEUE, _T.BPF_MAP_TYPE_STACK,
    _T.BPF_MAP_TYPE_RINGBUF, _T.BPF_MAP_TYPE_BLOOM_FILTER, _T.BPF_MAP_TYPE_PERF_EVENT_ARRAY,
    _T.BPF_MAP_TYPE_STACK_TRACE,
))
FIELDS: Final = frozenset(("bpf_spin_lock",))  # of values; a holder is waited for so long only


@dataclass(frozen=True, slots=True)
class Limits:
    """What one user may have at a time. map_bytes: of all maps, as they may become; btf_bytes: of
    all BTF; events: perf events and links each; loads: that wait for their verdicts."""

    programs: int = 64
    maps: int = 128
    map_bytes: int = 64 << 20
    btf_bytes: int = 8 << 20
    events: int = 512
    loaders: int = 32
    loads: int = 4

    @classmethod
    def of(cls, row: dict[str, Any]) -> Limits:
        """Of the values that it has."""
        return cls(**{f.name: int(row[f.name]) for f in fields(cls) if row.get(f.name)})


def refused(what: str, code: int = errno.EPERM) -> ShimError:
    """To be raised."""
    return ShimError("SV0001", code, f"serve: {what}")


class Served:
    """Of one user. folder: where his loaders find the daemon."""

    def __init__(self, uid: int, folder: Path, limits: Limits, audit: Audit) -> None:
        self.uid, self.folder, self.limits = uid, folder, limits
        self._audit = audit
        self.note: dict[str, Any] = {}  # what the request that is being answered turns out to be
        self.loads: Callable[[], int] = lambda: 0  # that wait
        self.binaries: Callable[[], Iterable[str]] = tuple  # of the policy's interfaces

    # what is asked for

    def command(self, number: int) -> None:
        """EPERM: it is not there for other users."""
        if number not in COMMANDS:
            known = number in bpf_cmd.__members__.values()
            name = bpf_cmd(number).name.removeprefix("BPF_") if known else str(number)
            raise refused(f"{name}: not for other users' loaders")

    def program(self, have: int) -> None:
        """One more is to be loaded. EMFILE: he has as many; EAGAIN: as many wait."""
        self._room("programs", have)
        if self.loads() >= self.limits.loads:
            raise refused(f"{self.limits.loads} programs wait to be verified", errno.EAGAIN)

    def map(self, kind: int, size: int, have: Iterable[int], special: Iterable[str]) -> None:
        """A map of so many bytes, with such fields in its values, beside those of `have` bytes.
        EPERM, EMFILE, ENOMEM."""
        if kind not in MAPS:
            known = kind in bpf_map_type.__members__.values()
            name = bpf_map_type(kind).name[13:].lower() if known else str(kind)
            raise refused(f"maps of type {name}: not for other users' loaders")
        if wrong := [name for name in special if name not in FIELDS]:
            raise refused(f"{wrong[0]} in a map's value: not for other users' loaders")
        sizes = list(have)
        self._room("maps", len(sizes))
        if sum(sizes) + size > self.limits.map_bytes:
            raise refused(f"maps of {sum(sizes) + size} bytes, {self.limits.map_bytes} at most",
                          errno.ENOMEM)

    def btf(self, size: int, have: Iterable[int]) -> None:
        """ENOMEM."""
        if (total := sum(have) + size) > self.limits.btf_bytes:
            raise refused(f"BTF of {total} bytes, {self.limits.btf_bytes} at most", errno.ENOMEM)

    def event(self, have: int) -> None:
        """One more event or link. EMFILE."""
        self._room("events", have)

    def place(self, name: bytes) -> None:
        """Where a uprobe is to be: EPERM, whatever stands there, if it is none of the policy's
        binaries."""
        path = os.fsdecode(name)
        if path.startswith("/"):
            wanted = {_identity(binary) for binary in self.binaries()} - {None}
            if _identity(path) in wanted:
                return
        raise refused(f"{path}: not a binary that the policy is for")

    def _room(self, what: str, have: int) -> None:
        most = int(getattr(self.limits, what))
        if have >= most:
            raise refused(f"{most} {what}, and no more", errno.EMFILE)

    # what is written down

    def ready(self) -> None:
        """A line can be written. ShimError EIO: it cannot, and nothing may be granted."""
        self._audit.check()

    def line(self, verdict: str, pid: int, op: str, **said: Any) -> None:
        """One line of the log; ShimError EIO."""
        row = {"what": "", "tag": "", "class": "", "missing": ""} | said
        self._audit.write(verdict, uid=self.uid, pid=pid, comm=comm(pid), op=op, **row)


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
