"""The folder where loaders of one user meet (csrc/surface/share.c): `session`, a link to the
folder of the session that is shared; `bpffs`, its pins; `lock`, held by a backend while it
starts.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
from pathlib import Path

from libbpf_shim.errors import ShimError


class Share:
    """One meeting place. Made by the surface, 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bpffs = path / "bpffs"
        self._link = path / "session"
        self._lock = -1

    def take(self) -> bool:
        """Waits for a backend that is starting; True: nobody serves here, and this process is the
        one that starts now, until `publish`."""
        try:
            self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
        except OSError as err:
            raise ShimError("BH0001", err.errno or errno.EIO, f"{self.path}: {err}") from err
        if not self._served():
            return True
        os.close(self._lock)
        return False

    def _served(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            return sock.connect_ex(str(self._link / "sock")) == 0

    def publish(self, folder: Path) -> None:
        """Others join the session at `folder` from now on. Pins of the one before went with it."""
        self.bpffs.mkdir(mode=0o700, exist_ok=True)
        for where, _, names in os.walk(self.bpffs):
            for name in names:
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(where, name))
        aside = self.path / "session.new"
        aside.unlink(missing_ok=True)
        aside.symlink_to(folder)
        aside.rename(self._link)
        os.close(self._lock)
