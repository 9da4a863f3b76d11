"""BTF objects of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from libbpf_shim.client import handle
from libbpf_shim.client.session import Command, Session, closing_fds
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_cmd

_NAME: Final = 64  # bytes
_ROOM: Final = {"btf": "btf_size", "name": "name_len"}


def load(session: Session, blob: bytes) -> int:
    """BPF_BTF_LOAD; the caller's descriptor. EINVAL, E2BIG ..: the kernel's verdict on it."""
    command = Command(bpf_cmd.BPF_BTF_LOAD, "btf_load", btf_size=len(blob))
    command.give("btf", blob)
    return session.must(command, "BTF: not loaded").fd


@dataclass(frozen=True, slots=True)
class About:
    """name: of a module, or vmlinux; kernel: it is of the kernel's, not a program's; size: of its
    blob, in bytes."""

    name: str
    kernel: bool
    size: int


def blob_of(session: Session, number: int) -> bytes:
    """The bytes behind an id. ENOENT."""
    fd = handle.from_id(session, bpf_cmd.BPF_BTF_GET_FD_BY_ID, number)
    with closing_fds([fd]):
        return bytes_of(session, fd, about(session, fd).size)


def about(session: Session, fd: int) -> About:
    """What a BTF object is."""
    data, name = _info(session, fd, "name", _NAME)

    def field(what: str) -> int:
        at, size = structs.BPF_BTF_INFO[what]
        return int.from_bytes(data[at : at + size], "little")

    return About(name.split(b"\0")[0].decode(errors="replace"), bool(field("kernel_btf")),
                 field("btf_size"))


def bytes_of(session: Session, fd: int, size: int) -> bytes:
    """Its blob."""
    return _info(session, fd, "btf", size)[1]


def _info(session: Session, fd: int, what: str, room: int) -> tuple[bytes, bytes]:
    """struct bpf_btf_info, and what came through its pointer of that name."""
    at, _ = structs.BPF_BTF_INFO[what]
    size_at, _ = structs.BPF_BTF_INFO[_ROOM[what]]
    given = bytearray(structs.BPF_BTF_INFO_SIZE)
    given[at : at + 8] = (0x1000).to_bytes(8, "little")
    given[size_at : size_at + 4] = room.to_bytes(4, "little")
    command = Command(bpf_cmd.BPF_OBJ_GET_INFO_BY_FD, "info")
    command.fd("bpf_fd", fd)
    command.info(bytes(given), [(at, room)])
    reply = session.must(command, "BTF: no information")
    place = command.segments[0]["attr_off"]
    return reply.out.get(place, b""), reply.out.get(at | 0x10000, b"")
