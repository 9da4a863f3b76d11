"""PROG_LOAD: from an attr to a verified, compiled program.

Source: kernel/bpf/syscall.c, bpf_prog_load() (order of checks); kernel/bpf/core.c,
bpf_prog_calc_tag(); kernel/bpf/log.c (what reaches log_buf).
"""

from __future__ import annotations

import errno
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from libbpf_shim.errors import ShimError
from libbpf_shim.jit import kfuncs
from libbpf_shim.jit.build import Built
from libbpf_shim.jit.image import Image
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.btf import MACHINE, BtfObject
from libbpf_shim.object.control import Control
from libbpf_shim.object.file import MemFile
from libbpf_shim.object.map import MapObject, object_name
from libbpf_shim.object.store import Object
from libbpf_shim.uapi import bpf, machine
from libbpf_shim.verifier.facts import Facts, Verdict
from libbpf_shim.verifier.program import Program

if TYPE_CHECKING:
    from libbpf_shim.eim.entries import Entries

_MAX_MAPS = 64  # MAX_USED_MAPS
_LD_IMM64 = 0x18
_MAP_FD, _MAP_VALUE, _MAP_IDX, _MAP_IDX_VALUE = 1, 2, 5, 6  # BPF_PSEUDO_MAP_*
_LOG_STATS, _LOG_FIXED = 4, 8  # BPF_LOG_*
_LOG_MASK = 15
OVERRIDE = 58  # BPF_FUNC_override_return


class ProgObject(Object):
    """A loaded program. maps: in the order that image symbols count them."""

    kind = 2

    def __init__(
        self, number: int, program: Program, image: Image, facts: Facts,
        maps: Sequence[MapObject], verified: int,
    ) -> None:
        self.mem = MemFile("bpf-prog", len(program.insns))
        os.pwrite(self.mem.fd, program.insns, 0)
        super().__init__(number, self.mem)
        self.program, self.image, self.facts, self.maps = program, image, facts, maps
        self.verified_insns = verified
        self.load_time = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        self.tag = tag(program.insns)
        self.btf: BtfObject | None = None
        self.bound: list[MapObject] = []
        self.entries: Entries | None = None  # where its class lets it run; None: anywhere
        self.contained = False  # isolated, and would have left its window: it runs no more
        self._control: Control | None = None
        self.at_end: dict[int, Callable[[], None]] = {}  # by process that ran it
        for used in maps:
            self.hold(used)

    @property
    def name(self) -> str:
        return self.program.name

    def bind(self, used: MapObject) -> None:
        """PROG_BIND_MAP: the map is the program's too, without being named in it."""
        if used not in self.maps and used not in self.bound:
            self.bound.append(used)
            self.hold(used)

    def count_in(self, control: Control) -> None:
        """Its runs are counted there while somebody asks for it (ENABLE_STATS)."""
        self._control = control
        control.take_stat(self.id)

    def require_runnable(self) -> None:
        """Before it runs anywhere: what the kernel has and userspace does not is verified, but
        not there. EOPNOTSUPP, with its name. EPERM: it has left its window.
        EOPNOTSUPP too: its class wants protection keys, and this machine has none."""
        from libbpf_shim._native import lib

        absent = [number for number in sorted(self.facts.helpers) if not lib.shim_helper(number)]
        why = self.image.missing
        if absent:
            from libbpf_shim.verifier.call.helpers import name

            why = f"{', '.join(map(name, absent))}: not there in userspace"
        if why:
            text = f"program {self.name or self.id}: {why}"
            raise ShimError("OB0025", errno.EOPNOTSUPP, text)
        if self.image.keyed and not machine.has_keys():
            text = f"program {self.name or self.id}: isolation: mpk: this machine has no " \
                   "protection keys (sfi needs none)"
            raise ShimError("OB0029", errno.EOPNOTSUPP, text)
        if self.contained:
            text = f"program {self.name or self.id}: it has left its window before"
            raise ShimError("OB0028", errno.EPERM, text)

    def slot_at(self, offset: int) -> int:
        """The instruction whose code ends at that offset of the image, or later; -1: none."""
        places = enumerate(self.image.insn_offsets)
        return max(((at, slot) for slot, at in places if 0 <= at < offset), default=(0, -1))[1]

    @property
    def overrides(self) -> bool:
        """It may skip what it is attached to (bpf_prog.kprobe_override)."""
        return OVERRIDE in self.facts.helpers

    def require_no_override(self) -> None:
        """Before it is attached to what cannot be skipped (perf_event_set_bpf_prog()). EINVAL."""
        if self.overrides:
            text = f"program {self.name or self.id}: bpf_override_return is of kprobes alone"
            raise ShimError("OB0027", errno.EINVAL, text)

    @property
    def ended(self) -> int:
        """Runs that had used up the instructions that its class grants (budget: counter)."""
        return self._control.ended(self.id) if self._control else 0

    @property
    def runs(self) -> tuple[int, int]:
        """Counted runs, and nanoseconds that they took."""
        return self._control.runs(self.id) if self._control else (0, 0)

    def end(self) -> None:
        if self._control:
            self._control.put_stat(self.id)
        for leave in self.at_end.values():
            leave()


def sha256(insns: bytes) -> bytes:
    """Over the instructions, what maps they name left out (bpf_prog_calc_tag)."""
    plain = bytearray(insns)
    for at in range(0, len(plain) - 8, 8):
        if plain[at] == _LD_IMM64 and plain[at + 1] >> 4 in (_MAP_FD, _MAP_VALUE):
            plain[at + 4 : at + 8] = plain[at + 12 : at + 16] = bytes(4)
    return hashlib.sha256(plain, usedforsecurity=False).digest()


def tag(insns: bytes) -> bytes:
    """What a program is known by: 8 bytes of that."""
    return sha256(insns)[:8]


@dataclass(slots=True)
class Loaded:
    """What a PROG_LOAD came to. error: None if prog is there. log: the verifier's text."""

    log: str
    error: ShimError | None
    program: Program | None = None
    image: Image | None = None
    verdict: Verdict | None = None
    maps: tuple[MapObject, ...] = ()


def check_log(level: int, size: int, buffer: int) -> None:
    """bpf_verifier_log_attr_valid(): EINVAL."""
    if bool(buffer) != bool(size) or (buffer and not level):
        raise ShimError("OB0020", errno.EINVAL, "log: level, size and buffer do not fit together")
    if level & ~_LOG_MASK or size > 0xFFFFFFFF >> 2:
        raise ShimError("OB0020", errno.EINVAL, f"log: level {level}, {size} bytes")


def log_size(text: str) -> int:
    """Bytes of the whole log, NUL included; it may be of many MB."""
    return (len(text) if text.isascii() else len(text.encode())) + 1


def cut_log(text: str, size: int, level: int) -> tuple[bytes, bool]:
    """What a buffer of `size` bytes gets, NUL included, and whether all of it fits. Without
    BPF_LOG_FIXED the end is kept."""
    if log_size(text) <= size:
        return text.encode() + b"\0", True
    if level & _LOG_FIXED:
        return text[: size - 1].encode()[: size - 1] + b"\0", False
    return (text[-size:].encode() + b"\0")[-size:], False


def early_log(text: str, level: int) -> str:
    """The log of a program that is refused before its instructions are looked at."""
    closing = ("processed 0 insns (limit 1000000) max_states_per_insn 0 total_states 0 "
               "peak_states 0 mark_read 0\n")
    lines = f"{text}\n" if text else ""
    if level & _LOG_STATS:
        lines += "stack depth \n"
    return timed(lines + closing, 0) if level else ""


def timed(log: str, spent: int) -> str:
    """The log with the time that verification took, ns, where it tells of the stack
    (BPF_LOG_STATS)."""
    before, depth, after = log.rpartition("stack depth ")
    return f"{before}verification time {spent // 1000} usec\n{depth}{after}" if depth else log


class MapFinder:
    """Turns the map descriptors in instructions into indices of the program's maps. bad: by slot,
    the errno and the kernel's line where one leads to no map; the verifier comes to them."""

    def __init__(
        self, by_fd: Callable[[int], MapObject], by_index: Callable[[int], int]
    ) -> None:
        self._by_fd, self._by_index = by_fd, by_index
        self.maps: list[MapObject] = []
        self.bad: dict[int, tuple[int, str]] = {}

    def use(self, found: MapObject, digest: bytes) -> int:
        """The index of a map that the program of that SHA-256 uses. E2BIG, EACCES."""
        if found not in self.maps:
            if found.exclusive and found.exclusive != digest:
                raise ShimError("OB0023", errno.EACCES,
                                "program's hash doesn't match map's excl_prog_hash")
            if len(self.maps) == _MAX_MAPS:
                raise ShimError("OB0023", errno.E2BIG, "The total number of maps per program has "
                                                       f"reached the limit of {_MAX_MAPS}")
            self.maps.append(found)
        return self.maps.index(found)

    def resolve(self, insns: bytes) -> bytes:
        """The instructions with indices in place of descriptors."""
        out, digest = bytearray(insns), sha256(insns)
        at = 0
        while at + 16 <= len(out):
            if out[at] != _LD_IMM64:
                at += 8
                continue
            if (src := out[at + 1] >> 4) in (_MAP_FD, _MAP_VALUE, _MAP_IDX, _MAP_IDX_VALUE):
                number = int.from_bytes(out[at + 4 : at + 8], "little", signed=True)
                index = self._place(at // 8, src, number, digest)
                out[at + 4 : at + 8] = index.to_bytes(4, "little")
            at += 16
        return bytes(out)

    def _place(self, slot: int, src: int, number: int, digest: bytes) -> int:
        try:
            fd = number if src in (_MAP_FD, _MAP_VALUE) else self._by_index(number)
        except ShimError as error:
            text = "fd_idx without fd_array is invalid" if error.errno == errno.EPROTO else ""
            self.bad[slot] = (error.errno, text)
            return 0
        try:
            found = self._by_fd(fd)
        except ShimError as error:
            self.bad[slot] = (error.errno, f"fd {fd} is not pointing to valid bpf_map")
            return 0
        try:
            return self.use(found, digest)
        except ShimError as error:
            self.bad[slot] = (error.errno, error.message)
            return 0


@dataclass(frozen=True, slots=True)
class Records:
    """func_info or line_info as given. fault: the errno of what could not be read."""

    data: bytes
    size: int
    count: int
    fault: int = 0


def describe(
    attr: Attr, insns: bytes, license_: str, finder: MapFinder, btf: BtfObject | None,
    func_info: Records, line_info: Records, cpus: int, to: Program | None = None,
) -> Program:
    """What is to be judged. cpus: a program sees numbers less than that. to: the program that this
    one is attached to."""
    resolved = finder.resolve(insns)  # first: it finds the maps
    return Program(
        insns=resolved, prog_type=attr["prog_type"],
        expected_attach_type=attr["expected_attach_type"], prog_flags=attr["prog_flags"],
        license=license_, name=object_name(attr.raw("prog_name")),
        maps=tuple(m.describe() for m in finder.maps), log_level=attr["log_level"],
        btf=btf.blob if btf else None,
        func_info=func_info.data, func_info_rec_size=func_info.size,
        func_info_cnt=func_info.count, func_info_fault=func_info.fault,
        line_info=line_info.data, line_info_rec_size=line_info.size,
        line_info_cnt=line_info.count, line_info_fault=line_info.fault,
        attach_btf_id=attr["attach_btf_id"], kern_version=attr["kern_version"],
        bad_maps=finder.bad, kernel_btf=MACHINE, attach_prog=to, cpus=cpus,
        locked_down=False, kfuncs=kfuncs.THERE,
    )  # fmt: skip


def judged(program: Program, built: Built, maps: Sequence[MapObject]) -> Loaded:
    """What comes of it."""
    verdict = built.verdict
    log = timed(verdict.log, built.spent)
    if built.image is None:
        name = program.name or "program"
        return Loaded(log, ShimError("OB0024", verdict.errno, f"{name}: not verified"))
    return Loaded(log, None, program, built.image, verdict, tuple(maps))


def type_name(prog_type: int) -> str:
    """bpftool's word for a program type."""
    try:
        return bpf.bpf_prog_type(prog_type).name.removeprefix("BPF_PROG_TYPE_").lower()
    except ValueError:
        return str(prog_type)
