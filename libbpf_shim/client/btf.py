"""BTF objects of a session."""

from __future__ import annotations

from libbpf_shim.client import handle
from libbpf_shim.client.session import Command, Session, closing_fds
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_cmd


def load(session: Session, blob: bytes) -> int:
    """BPF_BTF_LOAD; the caller's descriptor. EINVAL, E2BIG ..: the kernel's verdict on it."""
    command = Command(bpf_cmd.BPF_BTF_LOAD, "btf_load", btf_size=len(blob))
    command.give("btf", blob)
    return session.must(command, "BTF: not loaded").fd


def blob_of(session: Session, number: int) -> bytes:
    """The bytes behind an id. ENOENT."""
    fd = handle.from_id(session, bpf_cmd.BPF_BTF_GET_FD_BY_ID, number)
    with closing_fds([fd]):
        size = int.from_bytes(_info(session, fd, 0)[0][8:12], "little")
        return _info(session, fd, size)[1]


def _info(session: Session, fd: int, room: int) -> tuple[bytes, bytes]:
    """struct bpf_btf_info, and what came through its pointer `btf`."""
    at, _ = structs.BPF_BTF_INFO["btf"]
    size_at, _ = structs.BPF_BTF_INFO["btf_size"]
    given = bytearray(structs.BPF_BTF_INFO_SIZE)
    if room:
        given[at : at + 8] = (0x1000).to_bytes(8, "little")
        given[size_at : size_at + 4] = room.to_bytes(4, "little")
    command = Command(bpf_cmd.BPF_OBJ_GET_INFO_BY_FD, "info")
    command.fd("bpf_fd", fd)
    command.info(bytes(given), [(at, room)] if room else [])
    reply = session.must(command, "BTF: no information")
    place = command.segments[0]["attr_off"]
    return reply.out.get(place, b""), reply.out.get(at | 0x10000, b"")
