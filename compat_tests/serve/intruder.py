"""Another user's process that does what a test tells it: a fork of this one that has become that
user's, so that an attack costs no start of Python."""

from __future__ import annotations

import os
import pickle
import select
import socket
import struct
import sys
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from libbpf_shim.errors import ShimError

State = dict[str, Any]
_LENGTH = struct.Struct("<I")


class Failed(Exception):
    """What was told to be done has failed, with an errno: of an OSError, a ShimError."""

    def __init__(self, errno: int, text: str) -> None:
        super().__init__(text)
        self.errno = errno


def _send(sock: socket.socket, value: object) -> None:
    data = pickle.dumps(value)
    sock.sendall(_LENGTH.pack(len(data)) + data)


def _receive(sock: socket.socket) -> Any:
    head = sock.recv(_LENGTH.size, socket.MSG_WAITALL)
    if len(head) < _LENGTH.size:
        raise EOFError
    (size,) = _LENGTH.unpack(head)
    return pickle.loads(sock.recv(size, socket.MSG_WAITALL))


class Intruder:
    """state: kept from one call to the next, in the other process."""

    def __init__(self, uid: int, env: dict[str, str]) -> None:
        self._sock, theirs = socket.socketpair()
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            self._sock.close()
            _serve(uid, env, theirs)
        theirs.close()

    def do(self, what: Callable[..., Any], *arguments: Any) -> Any:
        """what(state, *arguments) over there. Failed."""
        self.begin(what, *arguments)
        return self.result()

    def begin(self, what: Callable[..., Any], *arguments: Any) -> None:
        """The same; `result` waits for it."""
        _send(self._sock, (what, arguments))

    @property
    def done(self) -> bool:
        """It has come to a result."""
        return bool(select.select([self._sock], [], [], 0)[0])

    def result(self) -> Any:
        code, value = _receive(self._sock)
        if code:
            raise Failed(code, value)
        return value

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._sock.close()
            os.waitpid(self.pid, 0)

    def __enter__(self) -> Intruder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _serve(uid: int, env: dict[str, str], sock: socket.socket) -> NoReturn:
    state: State = {}
    keep = sock.fileno()  # another's socket would not end while we have a copy of it
    os.closerange(3, keep)
    os.closerange(keep + 1, 4096)
    try:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
        os.chdir("/")
        os.environ.update(env)
        os.environ.pop("XDG_RUNTIME_DIR", None)
        while True:
            what, arguments = _receive(sock)
            try:
                _send(sock, (0, what(state, *arguments)))
            except (OSError, ShimError) as error:
                _send(sock, (error.errno or -1, str(error)))
            except Exception:
                _send(sock, (-1, traceback.format_exc()))
    except EOFError:
        os._exit(0)
    finally:
        os._exit(1)
