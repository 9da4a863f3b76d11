"""A daemon that root starts for another user: it becomes that user before it serves.

Agents take images from their own user's backends or root's, but come to no folder that is root's
alone, so a daemon runs as the user of the application. What only root may make, its folder in
/run and its log beside the policy, is made before.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from pathlib import Path

from libbpf_shim.errors import ShimError


def _wrong(what: object, why: str, code: int = errno.EPERM) -> ShimError:
    return ShimError("SV0003", code, f"serve: {what}: {why}")


def user(name: str) -> pwd.struct_passwd:
    """By name or number, one that the machine does not know too. EINVAL."""
    try:
        return pwd.getpwuid(int(name)) if name.isdigit() else pwd.getpwnam(name)
    except KeyError:
        if not name.isdigit():
            raise _wrong(name, "no such user", errno.EINVAL) from None
    number = int(name)
    return pwd.struct_passwd((name, "x", number, number, "", "/", "/bin/false"))


def become(who: pwd.struct_passwd, folder: Path, audit: Path) -> None:
    """From now on this process is that user's, without a way back. ShimError: EPERM, or what
    stands in the way."""
    if os.geteuid() == who.pw_uid:
        return
    if os.geteuid():
        raise _wrong(who.pw_name, "only root may become another user")
    try:
        _given(folder, who, stat.S_IFDIR)
        _given(audit, who, stat.S_IFREG)
        if _known(who):
            os.initgroups(who.pw_name, who.pw_gid)
        else:
            os.setgroups([])
        os.setresgid(who.pw_gid, who.pw_gid, who.pw_gid)
        os.setresuid(who.pw_uid, who.pw_uid, who.pw_uid)
    except OSError as error:
        raise _wrong(error.filename or who.pw_name, error.strerror or "",
                     error.errno or errno.EIO) from error
    os.environ.pop("XDG_RUNTIME_DIR", None)  # root's


def _known(who: pwd.struct_passwd) -> bool:
    try:
        return pwd.getpwnam(who.pw_name).pw_uid == who.pw_uid
    except KeyError:
        return False


def _given(path: Path, who: pwd.struct_passwd, kind: int) -> None:
    """The folder or file, made if it is not there, is that user's. EPERM: something else stands
    there, or what is neither root's nor his."""
    if kind == stat.S_IFDIR:
        path.mkdir(mode=0o755, exist_ok=True)
    flags = os.O_RDONLY | os.O_DIRECTORY if kind == stat.S_IFDIR else os.O_WRONLY | os.O_CREAT
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        found = os.fstat(fd)
        if stat.S_IFMT(found.st_mode) != kind or found.st_uid not in (0, who.pw_uid) or \
                kind == stat.S_IFREG and found.st_nlink != 1:
            raise _wrong(path, f"not {who.pw_name}'s")
        os.fchown(fd, who.pw_uid, who.pw_gid)
    finally:
        os.close(fd)
