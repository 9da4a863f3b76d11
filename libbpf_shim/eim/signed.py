"""Programs that somebody has signed: a binding may name a public key instead of a program.

A signature is Ed25519's (RFC 8032), of PREFIX and the SHA-256 of the program's instructions as
bindings by `sha256` have it. It lies in a folder that the grants name, in a file of the digest's
name, so that no loader needs to know of it; who may write there can take signatures away, and
make none.
"""

from __future__ import annotations

import functools
import os
import stat
from pathlib import Path
from typing import Final

from libbpf_shim.eim import ed25519

PREFIX: Final = b"libbpf_shim program\0"
FOLDER: Final = "signatures"  # beside the grants, if they name none
_MOST = 4096  # bytes of a file
_LINES = 16
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def file(folder: Path, digest: bytes) -> Path:
    """Where the signatures of a program lie, each 128 hexadecimal digits on a line of its own."""
    return folder / f"{digest.hex()}.sig"


def message(digest: bytes) -> bytes:
    """What is signed."""
    return PREFIX + digest


def by(key: str, folder: Path, digest: bytes) -> bool:
    """One of the program's signatures is of that key (64 hexadecimal digits)."""
    return any(_good(key, digest, one) for one in _there(file(folder, digest)))


def _there(path: Path) -> list[bytes]:
    """Those of a file; none: there is none, or it is not such a file."""
    try:
        fd = os.open(path, _READ)
    except OSError:
        return []
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return []
        lines = os.read(fd, _MOST).split(b"\n")[:_LINES]
    except OSError:
        return []
    finally:
        os.close(fd)
    found = []
    for line in lines:
        try:
            found.append(bytes.fromhex(line.decode("ascii")))
        except ValueError:
            continue
    return [one for one in found if len(one) == ed25519.SIGNATURE_SIZE]


@functools.lru_cache(maxsize=256)
def _good(key: str, digest: bytes, signature: bytes) -> bool:
    return ed25519.verify(bytes.fromhex(key), message(digest), signature)
