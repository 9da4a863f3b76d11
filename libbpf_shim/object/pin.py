"""Pins: files of a directory tree that keep objects alive, as bpffs does. Removing the file ends
the pin; the tree is one session's, and its pins go with the session.

Source: kernel/bpf/inode.c (bpf_obj_pin_user, bpf_obj_get_user, bpf_lookup).
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

from libbpf_shim.errors import ShimError
from libbpf_shim.object.store import Object, Store

BPFFS = "/sys/fs/bpf"  # where loaders see the tree
_MODE = 0o600


def _refused(path: str, code: int) -> ShimError:
    return ShimError("OP0001", code, f"{path}: {os.strerror(code)}")


class Pins:
    """The pins below `root`. added, removed: told of a descriptor of each pin's file (O_PATH)."""

    def __init__(self, root: Path, store: Store) -> None:
        self.root, self._store = str(root), store
        self._pins: dict[tuple[int, int], tuple[Object, int]] = {}
        self.added: Callable[[int], None] = lambda fd: None
        self.removed: Callable[[int], None] = lambda fd: None

    def __len__(self) -> int:
        return len(self._pins)

    def _inside(self, path: str) -> str | None:
        """Where a loader's absolute path lies in the tree; None: outside."""
        path = os.path.normpath(path)
        for top in (BPFFS, self.root):
            if path == top or path.startswith(top + "/"):
                return self.root + path[len(top):]
        return None

    def pin(self, obj: Object, path: str) -> None:
        """BPF_OBJ_PIN. ENOENT, EEXIST; EPERM: outside the tree, or a name with a dot."""
        place = self._inside(path)
        if place is None:
            there = os.path.exists(os.path.dirname(path))
            code = errno.EEXIST if os.path.exists(path) else errno.EPERM
            raise _refused(path, code if there else errno.ENOENT)
        if path.endswith("/"):
            raise _refused(path, errno.ENOENT)
        try:
            if "." in os.path.basename(place) and os.path.isdir(os.path.dirname(place)):
                raise _refused(path, errno.EPERM)
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE))
            fd = os.open(place, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as err:
            raise _refused(path, err.errno or errno.EIO) from err
        stat = os.fstat(fd)
        self._pins[stat.st_dev, stat.st_ino] = obj, fd
        obj.refs += 1
        obj.pins += 1
        self.added(fd)

    def get(self, path: str, read: bool, write: bool) -> Object:
        """BPF_OBJ_GET. ENOENT; EACCES: a directory, no pin, or not for this user."""
        place = self._inside(path)
        try:
            stat = os.stat(place if place is not None else path)
        except OSError as err:
            raise _refused(path, err.errno or errno.EIO) from err
        pin = self._pins.get((stat.st_dev, stat.st_ino))
        wanted = os.R_OK * read | os.W_OK * write
        if pin is None or place is None or not os.access(place, wanted):
            raise _refused(path, errno.EACCES)
        return pin[0]

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

    def close(self) -> None:
        """All of them, files included: the session ends."""
        for _, fd in self._pins.values():
            path = os.readlink(f"/proc/self/fd/{fd}")
            if path.startswith(self.root + "/"):
                os.unlink(path)
        self.look()
