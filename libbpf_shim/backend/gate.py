"""What a session that holds a key of tokens admits: what a token that the loader brought permits.

A loader sends its token with its hello (csrc/surface/token.c). It is looked at again at each
request, since it may expire or be revoked meanwhile: who has objects then keeps them, and gets no
more.
Loading, maps, attachments and test runs are judged by what the token says of them
(token/judge.py); reading and writing what one has is not. What the gate does not know it refuses:
a command, a type of link. Every verdict is a line of the audit log.

A session without a key has no gate.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from libbpf_shim.attach.clock import Clock, Timer
from libbpf_shim.attach.event import Tracepoint, Uprobe
from libbpf_shim.attach.function import Function
from libbpf_shim.attach.multi import RETURN, Uprobes
from libbpf_shim.backend.audit import Audit, comm
from libbpf_shim.eim import builds
from libbpf_shim.errors import ShimError
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject, tag
from libbpf_shim.object.store import Store
from libbpf_shim.token import chain, judge, keys
from libbpf_shim.token.chain import Grant
from libbpf_shim.token.claims import Attach
from libbpf_shim.token.error import refused
from libbpf_shim.token.program import Programs
from libbpf_shim.token.request import Op, Request
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd
from libbpf_shim.verifier.program import Program

KEY, AUDIT = "LIBBPF_SHIM_TOKEN_KEY", "LIBBPF_SHIM_AUDIT"
_C, _A = bpf_cmd, bpf_attach_type
# Commands that a loader with a token may use. Objects of others are not to be had by their ids,
# as by one without CAP_SYS_ADMIN on the kernel; what attaches without a link is not known here.
COMMANDS: Final = frozenset((
    _C.BPF_MAP_CREATE, _C.BPF_MAP_LOOKUP_ELEM, _C.BPF_MAP_UPDATE_ELEM, _C.BPF_MAP_DELETE_ELEM,
    _C.BPF_MAP_GET_NEXT_KEY, _C.BPF_PROG_LOAD, _C.BPF_OBJ_PIN, _C.BPF_OBJ_GET,
    _C.BPF_PROG_TEST_RUN, _C.BPF_PROG_GET_NEXT_ID, _C.BPF_MAP_GET_NEXT_ID,
    _C.BPF_OBJ_GET_INFO_BY_FD, _C.BPF_PROG_QUERY, _C.BPF_RAW_TRACEPOINT_OPEN, _C.BPF_BTF_LOAD,
    _C.BPF_BTF_GET_FD_BY_ID, _C.BPF_TASK_FD_QUERY, _C.BPF_MAP_LOOKUP_AND_DELETE_ELEM,
    _C.BPF_MAP_FREEZE, _C.BPF_BTF_GET_NEXT_ID, _C.BPF_MAP_LOOKUP_BATCH,
    _C.BPF_MAP_LOOKUP_AND_DELETE_BATCH, _C.BPF_MAP_UPDATE_BATCH, _C.BPF_MAP_DELETE_BATCH,
    _C.BPF_LINK_CREATE, _C.BPF_LINK_UPDATE, _C.BPF_LINK_GET_NEXT_ID, _C.BPF_ENABLE_STATS,
    _C.BPF_ITER_CREATE, _C.BPF_LINK_DETACH, _C.BPF_PROG_BIND_MAP, _C.BPF_TOKEN_CREATE,
    _C.BPF_PROG_STREAM_READ_BY_FD,
))
LINKS: Final = frozenset((_A.BPF_PERF_EVENT, _A.BPF_TRACE_UPROBE_MULTI,
                          _A.BPF_TRACE_UPROBE_SESSION, _A.BPF_TRACE_RAW_TP))
_UNKNOWN = "no token grants it"
Spec = Uprobe | Timer | Clock | Tracepoint | Function


@dataclass(frozen=True, slots=True)
class Permit:
    """A loader that was let in. uid, pid: of its connection, as the kernel says."""

    uid: int
    pid: int
    grant: Grant


class Gate:
    """The gate of one session. now: whose request is being answered."""

    def __init__(self, key: Path, audit: Path) -> None:
        for path in (key, audit):
            if not path.is_absolute():
                raise ShimError("TK0003", errno.EINVAL, f"{path}: not an absolute path")
        self._key, self._revoked = keys.read(key), keys.Revoked(key)
        self._revoked.now()
        self._audit = Audit(audit)
        self._programs = Programs()
        self._made: dict[int, tuple[int, tuple[bytes, ...]]] = {}  # maps: bytes, names
        self.now: Permit | None = None

    @classmethod
    def of_environment(cls) -> Gate | None:
        """As the variables say; None: no key is named. ShimError: it cannot be used, and nobody
        may be served."""
        key = os.environ.get(KEY, "")
        try:
            return cls(Path(key), Path(os.environ.get(AUDIT) or f"{key}.audit")) if key else None
        except ShimError as error:
            raise ShimError(error.code, errno.EKEYREJECTED, error.message, error.hint) from error

    # who comes

    def admit(self, text: bytes, uid: int, pid: int) -> Permit:
        """A loader and the token that it brought. ShimError EKEYREJECTED, which it sees as
        EPERM."""
        permit = None
        try:
            if not text:
                raise refused("this session needs one: LIBBPF_BPF_TOKEN_PATH names none")
            permit = Permit(uid, pid, chain.genuine(self._key, chain.from_text(text)))
            chain.still(permit.grant, self._revoked.now())
            self._may_use(permit)
        except ShimError as error:
            self._line("refused", uid, pid, permit, "hello", error.message.removeprefix("token: "))
            raise ShimError(error.code, errno.EKEYREJECTED, error.message, error.hint) from error
        self._line("admitted", uid, pid, permit, "hello")
        return permit

    def enter(self, permit: Permit | None) -> None:
        """A request of that loader's begins. ShimError EPERM: its token is no good any more."""
        self.now = permit
        if permit is None:
            raise refused("none was shown")
        try:
            chain.still(permit.grant, self._revoked.now())
        except ShimError as error:
            self._line("refused", permit.uid, permit.pid, permit, "request",
                       error.message.removeprefix("token: "))
            raise

    @staticmethod
    def _may_use(permit: Permit) -> None:
        uids = permit.grant.claims.uids
        if uids is not None and permit.uid not in uids:
            raise refused(f"uid {permit.uid}: not one of its users")

    def leave(self, target: int, uid: int, pid: int) -> None:
        """Somebody, who needs no token, wants the session out of a process: who may have it is the
        process's user and root. ShimError EPERM."""
        try:
            owner = os.stat(f"/proc/{target}").st_uid
        except OSError:
            owner = 0  # there is nothing to be left
        lacks = "" if uid in (0, owner) else f"uid {owner}"
        self._line("refused" if lacks else "admitted", uid, pid, None, "leave", lacks,
                   f"process {target}")
        if lacks:
            raise refused(f"leave: process {target} is not of user {uid}")

    # what is asked for

    def command(self, number: int) -> None:
        """ShimError EPERM: not for loaders with tokens."""
        if number not in COMMANDS:
            name = bpf_cmd(number).name if number in bpf_cmd.__members__.values() else str(number)
            self._refuse(name.removeprefix("BPF_").lower(), _UNKNOWN)

    def link(self, kind: int) -> None:
        """A type of link; ShimError EPERM: one that is not judged here. Loaders probe for those;
        they are told nothing."""
        if kind not in LINKS:
            self._said("attach", "refused", f"link of type {kind}", "", _UNKNOWN)
            raise ShimError("GT0001", errno.EPERM, f"link of type {kind}: {_UNKNOWN}")

    @property
    def minted(self) -> tuple[str, ...] | None:
        """Classes that the token was minted with; None: nothing was said of them. What later steps
        say takes some away, and gives no program another class."""
        assert self.now
        return self.now.grant.steps[0].classes

    def load(self, program: Program, of: str, held: bool) -> None:
        """PROG_LOAD of a program of that class, "": of none. held: those of none run nowhere, and
        are judged by all but their class."""
        self._judge("load", Request(
            Op.LOAD, 0, prog_type=program.prog_type, insn_cnt=len(program.insns) // 8,
            expected_attach_type=program.expected_attach_type, name=program.name,
            class_=of or (None if held else "")), tag(program.insns).hex())

    def map(self, kind: int, size: int, name: bytes, store: Store) -> None:
        """MAP_CREATE of a map of so many bytes."""
        living = store.of_kind(MapObject)
        self._made = {number: row for number, row in self._made.items() if number in living}
        self._judge("map", Request(Op.MAP, 0, map_type=kind, map_bytes=size,
                                   name=name.split(b"\0")[0].decode()))

    def made(self, number: int, size: int) -> None:
        """The map that was judged has this id."""
        assert self.now
        self._made[number] = size, self.now.grant.ids

    def run(self, prog: ProgObject) -> None:
        """PROG_TEST_RUN."""
        self._judge("run", replace(self._of(prog, Op.RUN), attach=Attach.TEST_RUN),
                    prog.tag.hex())

    def event(self, spec: Spec, prog: ProgObject | None = None) -> None:
        """A program comes to an event; without one: the event is made, which says nothing if it is
        granted."""
        asked = self._of(prog, Op.ATTACH) if prog else Request(Op.ATTACH, 0)
        if isinstance(spec, Uprobe):
            asked = replace(
                asked, attach=Attach.URETPROBE if spec.ret else Attach.UPROBE, offset=spec.offset,
                target_pid=spec.pid, build_id=builds.of(spec.path, spec.key))
            what = f"{spec.path}+{spec.offset:#x}"
        elif isinstance(spec, Tracepoint):
            kind = Attach.RAW_TRACEPOINT if spec.raw else Attach.TRACEPOINT
            asked, what = replace(asked, attach=kind), spec.name
        elif isinstance(spec, Function):
            kind = Attach.KRETPROBE if spec.ret else Attach.KPROBE
            asked, what = replace(asked, attach=kind), spec.name
        else:
            pid = spec.pid if isinstance(spec, Clock) else 0
            asked, what = replace(asked, attach=Attach.PERF_EVENT, target_pid=pid), "clock"
        self._judge("attach", asked, prog.tag.hex() if prog else "", what, quiet=prog is None)

    def uprobes(self, spec: Uprobes, prog: ProgObject) -> None:
        """A link of many uprobes."""
        session = prog.program.expected_attach_type == _A.BPF_TRACE_UPROBE_SESSION
        ret = bool(spec.flags & RETURN)
        wanted = (Attach.UPROBE, Attach.URETPROBE) if session else (
            (Attach.URETPROBE if ret else Attach.UPROBE),)
        build_id = builds.of(spec.file.path, spec.file.key)
        for kind in wanted:
            for place in spec.places:
                self._judge("attach", replace(
                    self._of(prog, Op.ATTACH), attach=kind, offset=place.offset,
                    target_pid=spec.pid, build_id=build_id), prog.tag.hex(),
                    f"{spec.file.path}+{place.offset:#x}", quiet=True)
        self._said("attach", "admitted", f"{spec.file.path}: {len(spec.places)} places",
                   prog.tag.hex())

    @staticmethod
    def _of(prog: ProgObject, op: Op) -> Request:
        program = prog.program
        return Request(op, 0, prog_type=program.prog_type, insn_cnt=len(program.insns) // 8,
                       expected_attach_type=program.expected_attach_type, name=prog.name)

    def _judge(
        self, op: str, asked: Request, mark: str = "", what: str = "", quiet: bool = False
    ) -> None:
        permit = self.now
        assert permit  # enter() was before
        used: dict[bytes, int] = {}
        for size, names in self._made.values():
            for one in names:
                used[one] = used.get(one, 0) + size
        asked = replace(asked, uid=permit.uid, pid=permit.pid, now=int(time.time()))
        try:
            lacks = judge.missing(permit.grant, asked, used, self._programs)
        except ShimError as error:
            lacks = error.message.removeprefix("token: ")
        what = what or asked.name
        if lacks:
            self._refuse(op, lacks, what, mark)
        if not quiet:
            self._said(op, "admitted", what, mark)

    def _refuse(self, op: str, lacks: str, what: str = "", mark: str = "") -> None:
        self._said(op, "refused", what, mark, lacks)
        raise refused(f"{op}{f' {what}' if what else ''}: not granted: {lacks}")

    def _said(self, op: str, verdict: str, what: str, mark: str, lacks: str = "") -> None:
        permit = self.now
        assert permit
        self._line(verdict, permit.uid, permit.pid, permit, op, lacks, what, mark)

    def contained(self, pid: int, prog: ProgObject, why: str) -> None:
        """An isolated program was ended in a process: a line of the log."""
        with contextlib.suppress(ShimError):  # nothing is granted by it
            self._line("contained", os.getuid(), pid, None, "PROG_LOAD", "", why,
                       prog.tag.hex())

    def _line(
        self, verdict: str, uid: int, pid: int, permit: Permit | None, op: str, lacks: str = "",
        what: str = "", mark: str = "",
    ) -> None:
        self._audit.write(
            verdict, uid=uid, pid=pid, comm=comm(pid),
            token=permit.grant.id.hex() if permit else None, op=op, what=what, tag=mark,
            missing=lacks)
