"""Pins: files of a directory tree that keep objects alive, as bpffs does. Removing the file ends
the pin; the tree is one session's, and its pins go with the session.

Source: kernel/bpf/inode.c (bpf_obj_pin_user, bpf_obj_get_user, bpf_lookup).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from libbpf_shim.errors import ShimError
from libbpf_shim.object.store import Object, Store

BPFFS = "/sys/fs/bpf"  # where loaders see the tree
_MODE = 0o600
_MAX_LINKS = 40  # MAXSYMLINKS


def _refused(path: str, code: int) -> ShimError:
    return ShimError("OP0001", code, f"{path}: {os.strerror(code)}")


class Pins:
    """The pins below `root`. added, removed: told of a descriptor of each pin's file."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root, self._store = os.path.realpath(root), store
        self._pins: dict[tuple[int, int], tuple[Object, int]] = {}
        self.added: Callable[[int], None] = lambda fd: None
        self.removed: Callable[[int], None] = lambda fd: None

    def __len__(self) -> int:
        return len(self._pins)

    def _place(self, path: str) -> tuple[str, bool]:
        """Where a loader's absolute path leads, no symlink left but perhaps the last, and whether
        that is in the tree. ELOOP."""
        head, tail = os.path.split(os.path.normpath(path))
        for _ in range(_MAX_LINKS):
            inside = self._map(head)
            if inside is None:
                return os.path.join(head, tail), False
            head = os.path.realpath(inside)
            if self._map(head) == head:
                return os.path.join(head, tail), True
            # else a link whose text is an absolute path, as loaders see the tree
        raise _refused(path, errno.ELOOP)

    def _map(self, path: str) -> str | None:
        for top in (BPFFS, self.root):
            if path == top or path.startswith(top + "/"):
                return self.root + path[len(top):]
        return None

    def inside(self, path: str) -> str:
        """Where a loader's absolute path leads in the tree, "": not there."""
        return (self._map(os.path.normpath(path)) or self.root)[len(self.root) + 1:]

    def pin(self, obj: Object, path: str) -> None:
        """BPF_OBJ_PIN. ENOENT, EEXIST; EPERM: outside the tree, or a name with a dot."""
        if os.path.normpath(path) in (BPFFS, self.root):
            raise _refused(path, errno.EEXIST)
        place, inside = self._place(path)
        if not inside:
            there = os.path.exists(os.path.dirname(place))
            code = errno.EEXIST if os.path.exists(place) else errno.EPERM
            raise _refused(path, code if there else errno.ENOENT)
        if path.endswith("/"):
            raise _refused(path, errno.ENOENT)
        try:
            if self._dotted(place):
                raise _refused(path, errno.EPERM)
            fd = os.open(place, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        except OSError as err:
            raise _refused(path, err.errno or errno.EIO) from err
        stat = os.fstat(fd)
        self._pins[stat.st_dev, stat.st_ino] = obj, fd
        obj.refs += 1
        obj.pins += 1
        self.added(fd)

    def get(self, path: str, read: bool, write: bool) -> Object:
        """BPF_OBJ_GET. ENOENT; EPERM: no such name, and one with a dot; EACCES: a directory, no
        pin, or not for this user."""
        place, inside = self._behind_links(path)
        try:
            stat = os.stat(place)
        except OSError as err:
            code = err.errno or errno.EIO
            if inside and code == errno.ENOENT and self._dotted(place):
                code = errno.EPERM
            raise _refused(path, code) from err
        pin = self._pins.get((stat.st_dev, stat.st_ino))
        wanted = os.R_OK * read | os.W_OK * write
        if pin is None or not inside or not os.access(place, wanted):
            raise _refused(path, errno.EACCES)
        return pin[0]

    def _behind_links(self, path: str) -> tuple[str, bool]:
        """As `_place`, and no link at the end either."""
        for _ in range(_MAX_LINKS):
            place, inside = self._place(path)
            if not inside or not os.path.islink(place):
                return place, inside
            path = os.path.join(os.path.dirname(place), os.readlink(place))
        raise _refused(path, errno.ELOOP)

    @staticmethod
    def _dotted(place: str) -> bool:
        """bpf_lookup(): names with a dot are nobody's."""
        return "." in os.path.basename(place) and os.path.isdir(os.path.dirname(place))

    def look(self) -> None:
        """Ends the pins whose files are gone."""
        for key, (obj, fd) in list(self._pins.items()):
            if os.fstat(fd).st_nlink:
                continue
            del self._pins[key]
            self.removed(fd)
            os.close(fd)
            obj.refs -= 1
            obj.pins -= 1
            self._store.collect(obj)

    def paths(self) -> Iterator[tuple[Object, str]]:
        """Each pin, and its name as loaders see it."""
        for obj, fd in self._pins.values():
            path = os.readlink(f"/proc/self/fd/{fd}")
            if path.startswith(self.root + "/") and os.path.lexists(path):
                yield obj, BPFFS + path[len(self.root):]

    def close(self) -> None:
        """All of them, files included: the session ends."""
        for _, fd in self._pins.values():
            path = os.readlink(f"/proc/self/fd/{fd}")
            if path.startswith(self.root + "/"):
                os.unlink(path)
        self.look()
