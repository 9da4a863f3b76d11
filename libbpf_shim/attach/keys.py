"""Sessions whose memory is under a protection key in a process (`isolation: mpk`): the agent holds
the key and opens it for the time that it runs (csrc/agent/keys.S, csrc/agent/keys.c)."""

from __future__ import annotations

import errno
import struct

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.errors import ShimError

_WHY = {
    errno.EOPNOTSUPP: "this machine has no protection keys (sfi needs none)",
    errno.ENOSPC: "it has used up the protection keys that a process has",
    errno.EBUSY: "a program of the tool's runs there all the time",
    errno.EINVAL: "its kernel knows no protection keys (sfi needs none)",
    errno.ENOSYS: "its kernel knows no protection keys (sfi needs none)",
    errno.EPERM: "a seccomp filter refuses pkey_alloc or pkey_mprotect there",
}


def begin(talk: Conversation, pid: int, session: int) -> None:
    """From now on the session's memory there is under the key. What the agent refuses, with the
    reason: EOPNOTSUPP, ENOSPC, EPERM; EAGAIN: a program of the session's runs just now."""
    try:
        talk.under_key(session)
    except ShimError as error:
        if error.errno not in _WHY:
            raise
        code = {errno.EINVAL: errno.EOPNOTSUPP, errno.ENOSYS: errno.EOPNOTSUPP,
                errno.EBUSY: errno.EAGAIN}.get(error.errno, error.errno)
        raise ShimError("AP0011", code,
                        f"process {pid}: isolation: mpk: {_WHY[error.errno]}") from error


def word(root: int) -> tuple[int, int]:
    """Where it says which sessions are, and how many bytes that are."""
    from libbpf_shim._native import ffi

    return root + int(ffi.offsetof("struct shim_agent", "keyed")), 8


def inherited(talk: Conversation, root: int, session: int) -> bool:
    """It is already: a fork child of a process where it was."""
    (keyed,) = struct.unpack("<Q", talk.read(*word(root)))
    return bool(keyed >> session & 1)
