"""The live sessions of this user, asked over their sockets.

A session is a folder $RUN/sessions/ID with a socket `sock`; SHIM_OP_STATUS (shim_wire.h)
needs no greeting and is answered with one JSON object.
"""

from __future__ import annotations

import errno
import json
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libbpf_shim.backend.rundir import locate
from libbpf_shim.errors import ShimError

LIMIT = 2.0  # seconds for one session to answer
MAX_REPLY = 64 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Session:
    """One folder of a session: what it said, or why it said nothing."""

    name: str
    folder: Path
    status: dict[str, Any] | None
    why: str = ""


def receive(connection: socket.socket, size: int) -> bytes:
    """Exactly SIZE bytes; ConnectionError at an early end."""
    data = bytearray()
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise ConnectionError(errno.ECONNRESET, "the backend closed the connection")
        data += piece
    return bytes(data)


def _request(path: Path, op: int, payload: bytes, limit: float) -> bytes:
    """One request that needs no greeting; its answer's payload."""
    from libbpf_shim._native import ffi, lib

    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(limit)
        connection.connect(str(path))
        question = ffi.new("struct shim_msg *")
        question.magic = lib.SHIM_WIRE_MAGIC
        question.op, question.seq, question.len = op, 1, len(payload)
        connection.sendall(bytes(ffi.buffer(question)) + payload)
        header = ffi.new("struct shim_msg *")
        while True:
            ffi.buffer(header)[:] = receive(connection, ffi.sizeof("struct shim_msg"))
            if header.magic != lib.SHIM_WIRE_MAGIC or header.len > MAX_REPLY:
                raise ValueError("not a reply of a libbpf_shim backend")
            text = receive(connection, header.len)
            if header.op == op:
                break
        if header.ret < 0:
            raise OSError(-header.ret, os.strerror(-header.ret))
    return text


def ask(path: Path, prog: int = 0) -> dict[str, Any]:
    """One SHIM_OP_STATUS on the socket PATH, of the session or of one program's code; OSError or
    ValueError if it goes wrong."""
    from libbpf_shim._native import lib

    payload = prog.to_bytes(4, "little") if prog else b""
    answer = json.loads(_request(path, lib.SHIM_OP_STATUS, payload, LIMIT))
    if not isinstance(answer, dict):
        raise ValueError("a status that is not a JSON object")
    return answer


def leave(folder: Path, pid: int) -> None:
    """The session of that folder leaves a process (SHIM_OP_LEAVE). ShimError: it could not."""
    from libbpf_shim._native import lib

    _tell(folder, lib.SHIM_OP_LEAVE, pid, "SE0001", "has not left")


def look(folder: Path, pid: int) -> None:
    """The session of that folder puts into a process with an agent what it has for it
    (SHIM_OP_LOOK). ShimError: it could not."""
    from libbpf_shim._native import lib

    _tell(folder, lib.SHIM_OP_LOOK, pid, "SE0002", "is not in")


def _tell(folder: Path, op: int, pid: int, code: str, failed: str) -> None:
    try:
        _request(folder / "sock", op, pid.to_bytes(4, "little"), 20.0)
    except (OSError, ValueError) as error:
        raise ShimError(code, getattr(error, "errno", None) or errno.EIO,
                        f"session {folder.name}: {failed} process {pid}: {error}") from error


def folders() -> list[Path]:
    """Of every session, in the order of their names."""
    try:
        return sorted((locate() / "sessions").iterdir())
    except FileNotFoundError:
        return []


def all_sessions() -> list[Session]:
    """Every session, answering or not, in the order of their names."""
    found = []
    for folder in folders():
        try:
            found.append(Session(folder.name, folder, ask(folder / "sock")))
        except (OSError, ValueError) as error:
            found.append(Session(folder.name, folder, None, str(error)))
    return found
