"""A session with a policy: every program has the class that it is bound to, or none, and then it
may be loaded, as loaders try what there is, and runs nowhere.

The policy is one file of grants, or a folder of them, and then a program may be bound by any, and
to one class among all. It is read when the session begins, and again when a program is loaded
after the grants or an interface have changed; programs that are loaded keep the classes that they
have. Loaders with another policy meet in another session (share.py).
"""

from __future__ import annotations

import errno
import os

from libbpf_shim.eim import bind, check, document
from libbpf_shim.eim.entries import Entries
from libbpf_shim.eim.grants import Grants
from libbpf_shim.eim.interface import Interface
from libbpf_shim.errors import ShimError
from libbpf_shim.uapi.bpf import bpf_prog_type
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import Program

POLICY = "LIBBPF_SHIM_POLICY"
Bound = tuple[tuple[Grants, str], ...]  # classes, with the grants that they are of


class Classes:
    """Those of one session. uid: whose programs they are. Raises ShimError EKEYREJECTED (the
    loader sees EPERM): the policy cannot be held, and nobody is served."""

    def __init__(self, path: str, uid: int | None = None) -> None:
        self._path, self._uid = path, os.getuid() if uid is None else uid
        self._grants, self._stamp = self._read(errno.EKEYREJECTED)

    def _read(self, code: int) -> tuple[list[Grants], object]:
        if not os.path.isabs(self._path):
            raise ShimError("EP0006", code, f"policy: {self._path}: not an absolute path")
        found = []
        stamp = _stamps([self._path])  # before: what changes meanwhile is read again
        try:
            paths = files(self._path)
        except (OSError, document.PolicyError) as error:
            raise ShimError("EP0006", code, f"policy: {error}") from error
        for path in paths:
            stamp += _stamps([path])
            one, wrong = check.grants(path)
            if one is None or wrong:
                raise ShimError("EP0006", code, f"policy: {wrong[0].message}")
            found.append(one)
        if not found:
            raise ShimError("EP0006", code, f"policy: {self._path}: no grants are there")
        return found, stamp + _stamps(_interfaces(found))

    def now(self) -> list[Grants]:
        """The grants as they are. EPERM: they are wrong now."""
        paths = [self._path, *(one.document.path for one in self._grants)]
        if self._stamp != _stamps([*paths, *_interfaces(self._grants)]):
            self._grants, self._stamp = self._read(errno.EPERM)
        return self._grants

    def interfaces(self, tokens: bool) -> list[Interface]:
        """Of the grants as they are that may give this user's programs a class. tokens: theirs may
        name any. EPERM: the grants are wrong now."""
        found = [one.interface for one in self.now() if tokens or not one.bindings or any(
            not row.users or self._uid in row.users for row in one.bindings)]
        return list({one.document.path: one for one in found}.values())

    def of(
        self, program: Program, digest: bytes, minted: tuple[str, ...] | None = None
    ) -> tuple[Policy | None, Entries]:
        """A program's class, and where it may run. digest: SHA-256 of its instructions, without
        what maps they name. minted: the classes that its loader's token was minted with, if it
        names any. EPERM: it is bound to several."""
        every, name = self.now(), program.name
        # with neither, it is one that a loader tries first, to see what there is
        bound = every if name or _held(program) else []
        found = chosen(every, program, tuple(
            (grants, of) for grants in bound
            for of in grants.bound(name, digest, self._uid)), minted)
        if not found:
            return None, Entries(every[0], name, "")
        if len(found) > 1:
            raise bind.several(name, [(grants.document.path, of) for grants, of in found])
        grants, of = found[0]
        return bind.policy(grants, of), Entries(grants, name, of)


def chosen(
    every: list[Grants], program: Program, found: Bound, minted: tuple[str, ...] | None
) -> Bound:
    """Of the classes that bindings give a program, those that its loader's token was minted with
    (None: it names none); where it is bound to none, the token's, if that is one.

    What later steps of a token say has no part in it: a program has the same class under a token
    and under all that comes of it, or they would let it do what the first one refuses. If it
    is of a class that a step does not name, the gate refuses it."""
    if minted is None:
        return found
    return tuple(one for one in found if one[1] in minted) or found or \
        _own(every, program, minted)


def files(path: str) -> list[str]:
    """The files of grants of a policy: itself, or those of a folder. What is not YAML, or is an
    interface, is none."""
    if not os.path.isdir(path):
        return [path]
    found = []
    for one in document.within(path):
        value = document.read(one).value
        if not (isinstance(value, dict) and "interface" in value and "grants" not in value):
            found.append(one)
    return found


def _interfaces(every: list[Grants]) -> list[str]:
    """And the binaries that they read something of."""
    found = [one.interface.document.path for one in every]
    return found + [one.interface.binary for one in every
                    if any(entry.usdt for entry in one.interface.entries.values())]


def _own(every: list[Grants], program: Program, minted: tuple[str, ...]) -> Bound:
    """The class of a program that bindings do not name: its loader's token's, if that is one. Of
    programs that a class can hold: a loader tries others first, to see what there is."""
    if not _held(program) or len(minted) != 1:
        return ()
    return tuple((grants, minted[0]) for grants in every if minted[0] in grants.classes)


def _stamps(paths: list[str]) -> tuple[object, ...]:
    return tuple(_stamp(path) for path in paths)


def _stamp(path: str) -> object:
    """Which file it is, and since when it is as it is."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def of_environment(uid: int | None = None) -> Classes | None:
    """As the variable says; None: there is no policy."""
    path = os.environ.get(POLICY, "")
    return Classes(path, uid) if path else None


def _held(program: Program) -> bool:
    """A class can hold a program of its type."""
    return program.prog_type == bpf_prog_type.BPF_PROG_TYPE_KPROBE
