"""Every object of a session: found by id or by the file behind a descriptor, gone with its last
reference.

An object is alive while a client holds a descriptor of it (its file says so) or another object
refers to it. What it refers to itself is let go when it dies.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from typing import ClassVar, TypeVar

from libbpf_shim.errors import ShimError
from libbpf_shim.object.file import MemFile, SocketFile


class Object:
    """One object. kind: SHIM_FD_* of shim_wire.h. id: 0 for kinds without ids. holds: the
    objects it refers to."""

    kind: ClassVar[int] = 0

    def __init__(self, number: int, file: MemFile | SocketFile | None) -> None:
        self.id = number
        self.file = file
        self.open = False  # handed out, and not seen closed
        self.refs = 0
        self.pins = 0  # of refs, those that pins have
        self.holds: list[Object] = []

    def hold(self, other: Object) -> None:
        """Keeps `other` alive as long as this one lives."""
        other.refs += 1
        self.holds.append(other)

    def let_go(self, other: Object) -> None:
        """Ends one `hold`; the store's `collect` does the rest."""
        self.holds.remove(other)
        other.refs -= 1

    def placed(self, where: Object, key: bytes) -> None:
        """It is an element of the map `where` now."""

    def taken(self, where: Object, key: bytes) -> None:
        """It is not any more."""

    def closed(self) -> list[Object]:
        """Some descriptor of it may have been closed: what it lets go, to be collected."""
        return []

    def unused(self) -> list[Object]:
        """Neither a descriptor nor a pin is left; other objects may refer to it still."""
        return []

    def end(self) -> None:
        """Called once, when the last reference has gone: what is attached is detached."""


T = TypeVar("T", bound=Object)


class Store:
    """The objects, by (dev, ino) of their file and by kind and id."""

    def __init__(self) -> None:
        self.by_file: dict[tuple[int, int], Object] = {}
        self.by_id: dict[int, dict[int, Object]] = {}
        self.added: Callable[[Object], None] = lambda obj: None
        self.removed: Callable[[Object], None] = lambda obj: None

    def add(self, obj: Object) -> None:
        if obj.file:
            self.by_file[obj.file.key] = obj
        self.by_id.setdefault(obj.kind, {})[obj.id] = obj
        self.added(obj)

    def of_kind(self, cls: type[T]) -> dict[int, T]:
        """Id to object, ascending."""
        found = self.by_id.get(cls.kind, {})
        return {n: o for n, o in sorted(found.items()) if isinstance(o, cls)}

    def at(self, key: tuple[int, int], cls: type[T], wrong: int = errno.EINVAL) -> T:
        """The object behind a descriptor: EBADF if nothing is open there (inode 0), `wrong` if
        it is something else."""
        if key == (0, 0):
            raise ShimError("OB0002", errno.EBADF, "descriptor: not open")
        obj = self.by_file.get(key)
        if not isinstance(obj, cls):
            raise ShimError("OB0003", wrong, f"descriptor: not a {cls.__name__}")
        return obj

    def with_id(self, number: int, cls: type[T]) -> T:
        """The object of an id; ENOENT."""
        obj = self.by_id.get(cls.kind, {}).get(number)
        if not isinstance(obj, cls):
            raise ShimError("OB0004", errno.ENOENT, f"{cls.__name__} {number}: none")
        return obj

    def next_id(self, after: int, cls: type[Object]) -> int:
        """The lowest id above `after`; ENOENT."""
        above = [n for n in self.by_id.get(cls.kind, {}) if n > after]
        if not above:
            raise ShimError("OB0004", errno.ENOENT, f"{cls.__name__}: no id above {after}")
        return min(above)

    def __iter__(self) -> Iterator[Object]:
        return (o for objects in self.by_id.values() for o in objects.values())

    def collect(self, obj: Object) -> None:
        """Ends obj if nothing holds it, then what only it held."""
        if obj.id not in self.by_id.get(obj.kind, {}):
            return
        if obj.open and obj.file and not obj.file.held():
            obj.open = False
        freed = obj.closed()
        if not obj.open and not obj.pins:
            freed += obj.unused()
        for other in freed:
            self.collect(other)
        if obj.open or obj.refs or obj.id not in self.by_id.get(obj.kind, {}):
            return
        del self.by_id[obj.kind][obj.id]
        if obj.file:
            self.by_file.pop(obj.file.key, None)
        obj.end()
        self.removed(obj)
        if obj.file:
            obj.file.close()
        for other in list(obj.holds):
            obj.let_go(other)
            self.collect(other)
