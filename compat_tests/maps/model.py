"""What must hold where the kernel does not say which: maps that evict, filters that err.

A check looks at one side's answers alone and gives (number of the op, what is wrong with its
answer), or None.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable, Iterator

from compat_tests.maps.drive import PERCPU, Answer, Cmd, Op, Sequence

NO_COMMON_LRU = 1 << 1
Check = Callable[[Sequence, list[Answer]], tuple[int, str] | None]
# Results that depend on which elements are there; any other errno is of the arguments.
OF_ELEMENTS = {0, -errno.ENOENT, -errno.EEXIST}
_U64 = (1 << 64) - 1


def _bytes(size: int, seed: int) -> bytes:
    """make_one() of driver.c."""
    word, out = (seed * 0x9E3779B97F4A7C15 + 1) & _U64, bytearray()
    for _ in range(size):
        out.append(word >> 56 if seed else 0)
        word = (word * 6364136223846793005 + 1442695040888963407) & _U64
    return bytes(out)


@functools.cache
def value(style: int, size: int, seed: int) -> bytes:
    """What the driver shows of a value that it wrote with SEED."""
    if not style & PERCPU:
        return _bytes(size, seed)
    each = (size + 7) // 8 * 8
    return b"".join(_bytes(each, seed * 2 + cpu) for cpu in range(2))


def delivered(answer: Answer) -> int:
    """Elements that a batch wrote; one that was refused as a whole leaves count as it was."""
    begun = answer.ret in OF_ELEMENTS or answer.ret in (-errno.EFAULT, -errno.E2BIG)
    return int.from_bytes(answer.data, "little") if begun else 0


class Lru:
    """What a map may hold: the last value of each key, as far as it is not known to be gone."""

    def __init__(self, found: Sequence) -> None:
        self.found, self.create = found, found.create
        self.may: dict[bytes, int] = {}
        self.fresh: bytes | None = None  # written by the op before: it must be there

    def pairs(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        size = self.create.key_size
        step = size + len(value(self.create.style, self.create.value_size, 0))
        for at in range(0, len(data), step):
            yield data[at : at + size], data[at + size : at + step]

    def wrong(self, key: bytes, seen: bytes) -> str:
        if key not in self.may:
            return f"key {key.hex()} was not written, or has been found gone"
        want = value(self.create.style, self.create.value_size, self.may[key])
        return "" if want == seen else f"key {key.hex()}: {seen.hex()}, expected {want.hex()}"

    def walked(self, data: bytes, whole: bool) -> str:
        """All pairs that a walk delivered; WHOLE: what it did not deliver is gone."""
        seen = dict(self.pairs(data))
        for key, shown in seen.items():
            if wrong := self.wrong(key, shown):
                return wrong
        # with a list for each CPU the kernel rounds max_entries up to the number of CPUs
        if len(seen) > self.create.max_entries and not self.create.flags & NO_COMMON_LRU:
            return f"{len(seen)} elements of {self.create.max_entries}"
        if self.fresh is not None and whole and self.fresh not in seen:
            return f"key {self.fresh.hex()} was written last and is not there"
        if whole:
            self.may = {key: seed for key, seed in self.may.items() if key in seen}
        return ""

    def wrote(self, op: Op, answer: Answer) -> None:
        done = delivered(answer) if op.cmd is Cmd.UPDATE_BATCH else 1
        for n in range(done):
            key = self.found.key(op.key + n * op.stride)
            self.may[key] = op.value + n
            self.fresh = key

    def step(self, op: Op, answer: Answer) -> str:
        """One answer."""
        key, ok, fresh = self.found.key(op.key), answer.ret == 0, self.fresh
        gone = answer.ret == -errno.ENOENT
        if op.cmd is Cmd.UPDATE and ok or op.cmd is Cmd.UPDATE_BATCH:
            if ok and op.cmd is Cmd.UPDATE and op.flags & 3 == 2 and key not in self.may:
                return "EXIST of a key that is not there"
            self.wrote(op, answer)
        elif op.cmd in (Cmd.LOOKUP, Cmd.TAKE) and (ok or gone):
            if gone and key == fresh:
                return "it was written last and is not there"
            wrong = self.wrong(key, answer.data) if ok else ""
            if wrong:
                return wrong
            if gone or op.cmd is Cmd.TAKE:
                self.may.pop(key, None)
        elif op.cmd is Cmd.DELETE and (ok or gone):
            if ok and key not in self.may:
                return "deleted, and was not there"
            self.may.pop(key, None)
        elif op.cmd in (Cmd.WALK, Cmd.BATCH_WALK, Cmd.DRAIN) and gone:
            wrong = self.walked(answer.data, True)
            self.may = {} if op.cmd is Cmd.DRAIN else self.may
            return wrong
        elif op.cmd in (Cmd.READ_BATCH, Cmd.TAKE_BATCH) and (ok or gone):
            return self._batch(op, answer)
        elif op.cmd is Cmd.DELETE_BATCH:
            for n in range(delivered(answer)):
                self.may.pop(self.found.key(op.key + n * op.stride), None)
        elif op.cmd is Cmd.NEXT and ok and answer.data != b"\1":
            return "the next key is none of the map's"
        return ""

    def _batch(self, op: Op, answer: Answer) -> str:
        data = answer.data[4:]
        if wrong := self.walked(data, False):
            return wrong
        if op.cmd is Cmd.TAKE_BATCH:
            for key, _ in self.pairs(data):
                del self.may[key]
        return ""


def lru(found: Sequence, answers: list[Answer]) -> tuple[int, str] | None:
    """A value is the last one written to its key, a key written by the op before is there, no
    walk finds more than max_entries."""
    model = Lru(found)
    for number, (op, answer) in enumerate(zip(found.ops, answers, strict=True)):
        before = model.fresh
        if wrong := model.step(op, answer):
            return number, wrong
        if model.fresh is before and op.cmd not in (Cmd.INFO, Cmd.FREEZE):
            model.fresh = None
    return None


def bloom(found: Sequence, answers: list[Answer]) -> tuple[int, str] | None:
    """What was put in is found."""
    known: set[int] = set()
    for number, (op, answer) in enumerate(zip(found.ops, answers, strict=True)):
        if op.cmd is Cmd.UPDATE and answer.ret == 0:
            known.add(op.value)
        if op.cmd is Cmd.LOOKUP and answer.ret == -errno.ENOENT and op.value in known:
            return number, "it was put in"
    return None

