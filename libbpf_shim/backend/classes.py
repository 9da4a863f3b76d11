"""A session with a policy: every program has the class that it is bound to, or none, and then it
may be loaded, as loaders try what there is, and runs nowhere.

The policy is read when the session begins, and again when a program is loaded after the grants or
the interface have changed; programs that are loaded keep the classes that they have. Loaders with
another policy meet in another session (share.py).
"""

from __future__ import annotations

import errno
import os

from libbpf_shim.eim import bind, check
from libbpf_shim.eim.entries import Entries
from libbpf_shim.eim.grants import Grants
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import bpf_prog_type
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import Program

POLICY = "LIBBPF_SHIM_POLICY"


class Classes:
    """Those of one session. Raises ShimError EKEYREJECTED (the loader sees EPERM): the policy
    cannot be held, and nobody is served."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._grants, self._stamp = self._read(errno.EKEYREJECTED)

    def _read(self, code: int) -> tuple[Grants, tuple[object, ...]]:
        if not os.path.isabs(self._path):
            raise ShimError("EP0006", code, f"policy: {self._path}: not an absolute path")
        stamp = _stamp(self._path)  # before: what changes meanwhile is read again
        found, wrong = check.grants(self._path)
        if found is None or wrong:
            raise ShimError("EP0006", code, f"policy: {wrong[0].message}")
        return found, (stamp, _stamp(found.interface.document.path))

    def _now(self) -> Grants:
        """The grants as they are. EPERM: they are wrong now."""
        if self._stamp != (_stamp(self._path), _stamp(self._grants.interface.document.path)):
            self._grants, self._stamp = self._read(errno.EPERM)
        return self._grants

    def of(
        self, program: Program, digest: bytes, granted: tuple[str, ...] | None = None
    ) -> tuple[Policy | None, Entries]:
        """A program's class, and where it may run. digest: SHA-256 of its instructions, without
        what maps they name. granted: the classes that its loader's token names, if it does. EPERM:
        it is bound to several."""
        grants, name = self._now(), program.name
        found = grants.bound(name, digest, os.getuid())
        if granted is not None:
            # bound to none that is granted: the gate refuses it
            found = tuple(one for one in found if one in granted) or found or \
                _own(grants, program, granted)
        if not found:
            return None, Entries(grants, name, "")
        of = found[0] if len(found) == 1 else bind.one(grants, name, digest, os.getuid())
        return bind.policy(grants, of), Entries(grants, name, of)


def _own(grants: Grants, program: Program, granted: tuple[str, ...]) -> tuple[str, ...]:
    """The class of a program that bindings do not name: its loader's token's, if that is one. Of
    programs that a class can hold: a loader tries others first, to see what there is."""
    if program.prog_type != bpf_prog_type.BPF_PROG_TYPE_KPROBE or len(granted) != 1:
        return ()
    return granted if granted[0] in grants.classes else ()


def _stamp(path: str) -> object:
    """Which file it is, and since when it is as it is."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def of_environment() -> Classes | None:
    """As the variable says; None: there is no policy."""
    path = os.environ.get(POLICY, "")
    return Classes(path) if path else None
