"""What one step of a token grants: claims, in one encoding.

A claim that is absent grants everything. The encoding of a step is its claims in ascending order
of their numbers, each at most once: u8 number, u16 bytes, the value. Integers are little endian
and of one size, sets strictly ascending; so every content has exactly one encoding, and `decode`
refuses all others.
"""

from __future__ import annotations

import enum
import operator
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from libbpf_shim.token.error import invalid

MAX_STEP: Final = 8192  # bytes of a step
MAX_SET: Final = 32  # members of a set
MAX_INSNS: Final = 512  # 8-byte slots of a program
_HEAD = struct.Struct("<BH")
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_TOP: Final = 2**63 - 1  # of an integer of 64 bits
_BUILD_IDS = range(4, 33)  # bytes of a build-id
_CLASS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}\Z")


class Attach(enum.IntFlag):
    """What a program may be attached to, or run by."""

    UPROBE = 1
    URETPROBE = 2
    TRACEPOINT = 4
    RAW_TRACEPOINT = 8
    KPROBE = 16
    KRETPROBE = 32
    PERF_EVENT = 64  # clocks and counted software events
    TEST_RUN = 128  # PROG_TEST_RUN, in the loader itself


EVERYWHERE: Final = Attach(255)
_ATTACH: Final[tuple[Attach, ...]] = tuple(map(Attach, range(EVERYWHERE + 1)))


@dataclass(frozen=True, slots=True)
class Claims:
    """One step. None: nothing is said about it.

    expires: seconds since 1970, from which on nothing is granted. uids: users whose processes
    may use the token. build_ids: files that may be attached to. classes: extension classes that a
    program may be of. attach: kinds of attachment. map_bytes: that all living maps made by the
    token, and by all that come of it, may have together. program: eBPF instructions (program.py)
    that answer whether a request is granted.
    """

    expires: int | None = None
    uids: tuple[int, ...] | None = None
    build_ids: tuple[bytes, ...] | None = None
    classes: tuple[str, ...] | None = None
    attach: Attach | None = None
    map_bytes: int | None = None
    program: bytes | None = None

    def widens(self, before: Claims) -> str:
        """The claim that grants something which `before` does not; "": none. A program only takes
        away, whatever it says."""
        if self.expires is not None and not 0 <= self.expires <= _known(before.expires):
            return "expires"
        if _more(self.uids, before.uids):
            return "uids"
        if _more(self.build_ids, before.build_ids):
            return "build_ids"
        if _more(self.classes, before.classes):
            return "classes"
        if self.attach is not None and before.attach is not None and self.attach & ~before.attach:
            return "attach"
        if self.map_bytes is not None and not 0 <= self.map_bytes <= _known(before.map_bytes):
            return "map_bytes"
        return ""

    def after(self, before: Claims) -> Claims:
        """Both together, if this step does not widen. The program is the last one alone."""
        return Claims(
            before.expires if self.expires is None else self.expires,
            self.uids or before.uids, self.build_ids or before.build_ids,
            self.classes or before.classes,
            before.attach if self.attach is None else self.attach,
            before.map_bytes if self.map_bytes is None else self.map_bytes,
            self.program or before.program)


def _more(now: tuple[Any, ...] | None, then: tuple[Any, ...] | None) -> bool:
    return bool(now and then and not set(now) <= set(then))


def _known(limit: int | None) -> int:
    return _TOP if limit is None else limit


def _packed(number: struct.Struct, top: int) -> Callable[[Any], bytes]:
    def pack(value: Any) -> bytes:
        if not isinstance(value, int) or not 0 <= value <= top:
            raise invalid()
        return number.pack(value)
    return pack


def _unpacked(number: struct.Struct) -> Callable[[bytes], int]:
    def unpack(data: bytes) -> int:
        if len(data) != number.size:
            raise invalid()
        value = int(number.unpack(data)[0])
        if value > _TOP:
            raise invalid()
        return value
    return unpack


def _ascending(members: list[Any]) -> tuple[Any, ...]:
    """Strictly so, and not empty."""
    if not 0 < len(members) <= MAX_SET:
        raise invalid()
    if len(members) > 1 and any(map(operator.ge, members, members[1:])):
        raise invalid()
    return tuple(members)


def _pack_uids(uids: tuple[int, ...]) -> bytes:
    return b"".join(_packed(_U32, 2**32 - 1)(uid) for uid in _ascending(list(uids)))


def _uids(data: bytes) -> tuple[int, ...]:
    if len(data) % 4 or len(data) > 4 * MAX_SET:
        raise invalid()
    return _ascending([found[0] for found in _U32.iter_unpack(data)])


def _pack_strings(members: tuple[bytes, ...]) -> bytes:
    return b"".join(bytes([len(one)]) + one for one in _ascending(list(members)))


def _strings(data: bytes) -> tuple[bytes, ...]:
    members: list[bytes] = []
    at = 0
    while at < len(data) and len(members) <= MAX_SET:
        end = at + 1 + data[at]
        if end > len(data):
            raise invalid()
        members.append(data[at + 1 : end])
        at = end
    return _ascending(members)


def _build_ids(data: bytes) -> tuple[bytes, ...]:
    found = _strings(data)
    if any(len(one) not in _BUILD_IDS for one in found):
        raise invalid()
    return found


def _pack_build_ids(members: tuple[bytes, ...]) -> bytes:
    if any(len(one) not in _BUILD_IDS for one in members):
        raise invalid()
    return _pack_strings(members)


def _classes(data: bytes) -> tuple[str, ...]:
    try:
        found = tuple(one.decode("ascii") for one in _strings(data))
    except UnicodeDecodeError:
        raise invalid() from None
    if any(not _CLASS.match(one) for one in found):
        raise invalid()
    return found


def _pack_classes(members: tuple[str, ...]) -> bytes:
    if any(not _CLASS.match(one) for one in members):
        raise invalid()
    return _pack_strings(tuple(one.encode() for one in members))


def _attach(data: bytes) -> Attach:
    if len(data) != 4 or (value := int(_U32.unpack(data)[0])) > EVERYWHERE:
        raise invalid()
    return _ATTACH[value]


def _program(data: bytes) -> bytes:
    if not data or len(data) % 8 or len(data) > 8 * MAX_INSNS:
        raise invalid()
    return data


# Number of a claim: its name, how it is written and read.
_ROWS: Final[tuple[tuple[int, str, Callable[[Any], bytes], Callable[[bytes], Any]], ...]] = (
    (1, "expires", _packed(_U64, _TOP), _unpacked(_U64)),
    (2, "uids", _pack_uids, _uids),
    (3, "build_ids", _pack_build_ids, _build_ids),
    (4, "classes", _pack_classes, _classes),
    (5, "attach", _packed(_U32, EVERYWHERE), _attach),
    (6, "map_bytes", _packed(_U64, _TOP), _unpacked(_U64)),
    (7, "program", _program, _program),
)
_BY_NUMBER: Final = {number: (name, read) for number, name, _, read in _ROWS}


def encode(claims: Claims) -> bytes:
    """The encoding; ShimError EINVAL for what has none (a set that is empty or not ascending, a
    step that says nothing)."""
    out = b""
    for number, name, write, _ in _ROWS:
        if (value := getattr(claims, name)) is not None:
            data = write(value)
            out += _HEAD.pack(number, len(data)) + data
    if not 0 < len(out) <= MAX_STEP:
        raise invalid()
    return out


def decode(data: bytes) -> Claims:
    """The claims of a step; ShimError EPERM for anything but their one encoding."""
    if not 0 < len(data) <= MAX_STEP:
        raise invalid()
    said: dict[str, Any] = {}
    at, last = 0, 0
    while at < len(data):
        if at + 3 > len(data):
            raise invalid()
        number, size = _HEAD.unpack_from(data, at)
        row = _BY_NUMBER.get(number)
        end = at + 3 + size
        if row is None or number <= last or end > len(data):
            raise invalid()
        said[row[0]] = row[1](data[at + 3 : end])
        at, last = end, number
    return Claims(**said)
