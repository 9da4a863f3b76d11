"""Where the loaders of a user meet, and how a backend is started for them.

The same folder and the same start as csrc/surface/share.c and spawn.c, so that preloaded loaders
and Python ones are in one session.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Final

from libbpf_shim.backend.rundir import locate
from libbpf_shim.backend.share import name
from libbpf_shim.errors import ShimError

LIBRARY: Final = Path(__file__).resolve().parent.parent / "_lib" / "libbpf_shim.so"
_CONNECT_SECONDS = 5.0  # where its queue is full
# The backend, after the descriptor that it is given became its descriptor 3.
_CODE = (
    "import os, signal, sys; fd = int(sys.argv.pop()); "
    "fd == 3 or (os.dup2(fd, 3), os.close(fd)); "
    "[signal.signal(s, signal.SIG_DFL) for s in (signal.SIGINT, signal.SIGQUIT)]; "
    "sys.path.insert(0, sys.argv[1]); from libbpf_shim.backend.main import main; main()"
)
# In a session of its own, and not our child: it outlives us, and we need not wait for it.
_DETACH, _DETACH_DEBUG = '"$@" </dev/null >/dev/null 2>&1 &', '"$@" </dev/null >/dev/null &'


def _own(path: Path) -> bool:
    """Makes the folder if need be; whether it is this user's alone."""
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError:
        return False
    return (stat.S_ISDIR(found.st_mode) and found.st_uid == os.getresuid()[1]
            and not found.st_mode & 0o077)


def share(version: int) -> Path | None:
    """The meeting place, made; None: this loader meets nobody."""
    if os.environ.get("LIBBPF_SHIM_SESSION") == "private":
        return None
    place = locate() / name(Path(os.path.realpath(LIBRARY.parent)), version)
    if not _own(locate()) or not _own(place):
        return None
    (place / "bpffs").mkdir(mode=0o700, exist_ok=True)
    return place


def connect(path: Path) -> socket.socket | None:
    """A connection to a session's socket, or None: nobody serves there."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(_CONNECT_SECONDS)
        sock.connect(os.path.join(os.path.realpath(path.parent), path.name))
    except OSError:
        sock.close()
        return None
    return sock


def _conf() -> tuple[str, str]:
    """The backend's interpreter and the project's root, from beside the library."""
    path = LIBRARY.with_name("libbpf_shim.conf")
    try:
        interpreter, root = path.read_text().splitlines()[:2]
    except (OSError, ValueError) as error:
        raise ShimError("CS0001", errno.ENOSYS, f"no backend: {path}: {error}",
                        "make build") from error
    if not os.access(interpreter, os.X_OK):
        raise ShimError("CS0001", errno.ENOSYS, f"no backend: cannot run {interpreter}",
                        "make build")
    return interpreter, root


def spawn(place: Path | None) -> socket.socket:
    """Starts a backend; our end of its first connection. Whether it came up is seen there."""
    interpreter, root = _conf()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    env = {name: text for name, text in os.environ.items()
           if name.startswith("LIBBPF_SHIM_") or name == "XDG_RUNTIME_DIR"}
    env |= {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8"}
    detach = _DETACH_DEBUG if env.get("LIBBPF_SHIM_DEBUG") else _DETACH
    argv = [interpreter, "-I", "-S", "-c", _CODE, root, str(place or ""), str(theirs.fileno())]
    try:
        subprocess.run(["/bin/sh", "-c", detach, "sh", *argv], env=env, cwd="/", umask=0o077,
                       pass_fds=(theirs.fileno(),), start_new_session=True, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        ours.close()
        raise ShimError("CS0001", errno.ENOSYS, f"no backend: {error}") from error
    finally:
        theirs.close()
    return ours
