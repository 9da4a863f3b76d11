"""How tokens are refused."""

from __future__ import annotations

import errno

from libbpf_shim.errors import ShimError


def invalid() -> ShimError:
    """A token that is none. One sentence for all of them: what was wrong with a forgery helps
    nobody but its author."""
    return ShimError("TK0001", errno.EPERM, "token: not a valid one")


def refused(why: str) -> ShimError:
    """A genuine token that does not permit what was asked."""
    return ShimError("TK0002", errno.EPERM, f"token: {why}")


def wrong(what: str, code: int = errno.EINVAL, hint: str = "") -> ShimError:
    """What a person asked for cannot be done."""
    return ShimError("CL0010", code, f"token: {what}", hint)
