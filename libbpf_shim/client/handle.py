"""What maps, programs and links have in common: a descriptor that keeps the object alive."""

from __future__ import annotations

import contextlib
import errno
import os
from types import TracebackType
from typing import ClassVar, TypeVar

from libbpf_shim.client.session import Command, Session, failed
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_cmd

H = TypeVar("H", bound="Handle")
BPFFS = "/sys/fs/bpf"


class Handle:
    """An object of a session. fd: owned, closed by `close`, at the end of a `with`, or with the
    last reference to this."""

    INFO: ClassVar[structs.Fields] = {}
    INFO_SIZE: ClassVar[int] = 0
    GET_BY_ID: ClassVar[int] = -1

    def __init__(self, session: Session | None, fd: int, name: str = "") -> None:
        self._session, self.fd, self.name = session, fd, name

    @property
    def session(self) -> Session:
        """Where it lives. ShimError EBADF: nowhere yet."""
        if self._session is None:
            raise failed(f"{self.name}: in no session", -errno.EBADF, "it is not loaded")
        return self._session

    @property
    def closed(self) -> bool:
        return self.fd < 0

    def close(self) -> None:
        """Gives the descriptor back; what else refers to the object keeps it."""
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self: H) -> H:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 where: TracebackType | None) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"fd={self.fd}"
        return f"<{type(self).__name__} {self.name or '?'} {state}>"

    def need_fd(self) -> int:
        """The descriptor. ShimError EBADF: closed, or not loaded yet."""
        if self.fd < 0:
            raise failed(f"{type(self).__name__.lower()} {self.name}: no descriptor", -errno.EBADF,
                         "it is not loaded, or closed")
        return self.fd

    def info(self) -> dict[str, int | bytes]:
        """struct bpf_*_info as far as it has no pointers: integers, names as bytes without NUL."""
        command = Command(bpf_cmd.BPF_OBJ_GET_INFO_BY_FD, "info")
        command.fd("bpf_fd", self.need_fd())
        command.info(bytes(self.INFO_SIZE))
        reply = self.session.must(command, f"{self.name}: no information")
        data = next(iter(reply.out.values()), b"").ljust(self.INFO_SIZE, b"\0")
        found: dict[str, int | bytes] = {}
        for name, (at, size) in self.INFO.items():
            piece = data[at : at + size]
            number = size <= 8 and name not in ("tag", "name")
            found[name] = int.from_bytes(piece, "little") if number else (
                piece if name == "tag" else piece.rstrip(b"\0"))
        return found

    @property
    def id(self) -> int:
        """The number that `*_GET_FD_BY_ID` takes."""
        return int(self.info()["id"])

    def pin(self, path: str) -> None:
        """Keeps the object alive by a name below /sys/fs/bpf, which is the session's. Folders on
        the way are made. EEXIST, EPERM (a dot in the name), ENOENT."""
        make_folders(self.session, os.path.dirname(path))
        command = Command(bpf_cmd.BPF_OBJ_PIN, "obj")
        command.fd("bpf_fd", self.need_fd())
        command.give("pathname", os.fsencode(path) + b"\0")
        self.session.must(command, f"{path}: {self.name or 'object'} not pinned")


def bpffs(session: Session, path: str) -> str:
    """Where a path below /sys/fs/bpf really lies."""
    from libbpf_shim._native import lib
    from libbpf_shim.client import meeting

    if path != BPFFS and not path.startswith(BPFFS + "/"):
        return path
    place = meeting.share(lib.SHIM_WIRE_VERSION)
    shared = place and os.path.realpath(place / "session") == os.path.realpath(session.folder)
    root = f"{place}/bpffs" if shared else f"{session.folder}/bpffs"
    return root + path[len(BPFFS) :]


def make_folders(session: Session, path: str) -> None:
    """Those of a pin's path that are not there."""
    if path.startswith(BPFFS + "/"):
        with contextlib.suppress(OSError):
            os.makedirs(bpffs(session, path), mode=0o700, exist_ok=True)


def unpin(path: str, session: Session | None = None) -> None:
    """Removes a pin: the object goes when nothing else refers to it. OSError: ENOENT."""
    os.unlink(bpffs(session or Session.default(), path))


def from_pin(session: Session, path: str, flags: int = 0) -> int:
    """A descriptor of what is pinned there. ENOENT."""
    command = Command(bpf_cmd.BPF_OBJ_GET, "obj", file_flags=flags)
    command.give("pathname", os.fsencode(path) + b"\0")
    return session.must(command, f"{path}: nothing is pinned there").fd


def from_id(session: Session, command: int, number: int) -> int:
    """A descriptor by id. ENOENT."""
    asked = Command(command, "by_id", start_id=number)
    return session.must(asked, f"id {number}: no such object").fd

