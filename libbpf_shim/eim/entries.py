"""Where programs of a class may be attached: the entries that it names, and nowhere else."""

from __future__ import annotations

import contextlib
import errno
import os

from libbpf_shim.eim import builds, sites
from libbpf_shim.eim.grants import Grants
from libbpf_shim.eim.interface import Entry
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError

Key = tuple[int, int]  # device and inode of a file


class Entries:
    """Of one program. name: of its class, "": it has none, and may run nowhere."""

    def __init__(self, grants: Grants, program: str, name: str) -> None:
        self._grants, self._program, self._name = grants, program, name
        self.class_ = name
        rows = grants.classes[name].entries if name else ()
        self._entries = [grants.interface.entries[row] for row in rows]

    def unbound(self, what: str, code: int = errno.EPERM) -> ShimError:
        """To be raised, of a program without a class."""
        return ShimError("EP0005", code, f"program {self._program or '(unnamed)'}: {what}: bound "
                         f"to no class in {self._grants.document.path}",
                         f"add to its bindings: - {{class: NAME, name: {self._program}}}")

    def _refused(self, what: str) -> ShimError:
        if not self._name:
            return self.unbound(what)
        has = ", ".join(entry.name for entry in self._entries)
        return self._denied(f"{what}: not an entry of the class (it has {has})")

    def _denied(self, why: str) -> ShimError:
        who = f"program {self._program or '(unnamed)'} of class {self._name}"
        return ShimError("EP0005", errno.EPERM, f"{who}: {why}")

    def refuse(self, what: str) -> None:
        """Something that is no function of an application's. EPERM."""
        raise self._refused(what)

    def require(self, path: str, key: Key, offset: int, ret: bool, skips: bool) -> None:
        """The place is one of the entries: offset in bytes of the file; ret: where the function
        returns; skips: the program may leave it out (bpf_override_return). EPERM."""
        where = f"{path}+{offset:#x}{' (return)' if ret else ''}"
        if not self._is_binary(key):
            raise self._refused(where)
        for entry in self._entries:
            if skips and entry.override is None:
                continue
            if entry.usdt:
                if ret or not self._is_place(path, entry, offset):
                    continue
            elif (entry.where == "after") != ret or self._offset(path, entry.function) != offset:
                continue
            for wanted in (self._grants.interface.build_ids, self._grants.build_ids):
                if why := builds.wrong(path, wanted, key):
                    raise self._denied(f"{where}: {why}")
            return
        raise self._refused(where)

    def _is_place(self, path: str, entry: Entry, offset: int) -> bool:
        """It is one of the probe's. EPERM: the binary is another one than when the policy was
        read, and may pass its arguments elsewhere."""
        if offset not in [site.offset for site in entry.sites]:
            return False
        if sites.now(path, entry.usdt, entry.proto.params) != entry.sites:
            raise self._denied(f"{path}: the places of {entry.usdt} are others than when the "
                               "policy was read")
        return True

    def _is_binary(self, key: Key) -> bool:
        """The file is the one that the interface is of, if it says which."""
        binary = self._grants.interface.binary
        if not binary:
            return True
        with contextlib.suppress(OSError):
            found = os.stat(binary)
            return (found.st_dev, found.st_ino) == key
        return False

    @staticmethod
    def _offset(path: str, function: str) -> int:
        """Where the function begins in the file; -1: it is not there."""
        try:
            module = Module(path)
            symbol = module.find(function)
            return module.vaddr_to_offset(symbol.vaddr) if symbol else -1
        except (ShimError, OSError):
            return -1
