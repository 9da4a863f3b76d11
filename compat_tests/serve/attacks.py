"""What a loader of another user may try, one function each: run in its process (intruder.py), with
its state. They answer what they came to; errnos are raised."""

from __future__ import annotations

import array
import errno
import mmap
import os
import random
import select
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from compat_tests.serve.intruder import State
from compat_tests.token import room
from libbpf_shim import Object
from libbpf_shim.backend import wire
from libbpf_shim.client import session as sessions
from libbpf_shim.client.session import Command, Session, packed
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.uapi.bpf import bpf_cmd, bpf_map_type

HELLO_AGENT, HELLO_LOADER, STATUS, LEAVE, LOOK, FIND = 32, 1, 8, 12, 13, 14


def join(state: State) -> int:
    """The daemon's session for this user; its number."""
    state["session"] = session = Session.default()
    return session.id


def extend(state: State, path: str, app: str, *programs: str) -> None:
    """Loads programs of the object, and attaches them to the application's function."""
    state["object"] = loaded = Object.open(path)
    for name, program in loaded.programs.items():
        program.autoload = name in programs
    loaded.load()
    state["links"] = [loaded.programs[name].attach_uprobe(app, "app_handle") for name in programs]
    state["session"] = Session.default()


def counted(state: State) -> tuple[int, int]:
    found = state["object"].vars
    return found["hits"], found["bytes"]


def leave(state: State) -> None:
    """Everything goes, as if the loader had ended."""
    for link in state.pop("links", ()):
        link.close()
    if "object" in state:
        state.pop("object").close()


def ids(state: State, command: int) -> list[int]:
    """Every id that a *_GET_NEXT_ID tells of."""
    found: list[int] = []
    while True:
        asked = Command(command, "by_id", start_id=found[-1] if found else 0)
        if state["session"].bpf(asked).ret:
            return found
        found.append(int.from_bytes(asked.attr[4:8], "little"))


def by_id(state: State, command: int, number: int) -> int:
    return room.by_id(state["session"], command, number)


def files(state: State) -> list[tuple[int, int]]:
    """Device and inode of each map."""
    found = [os.fstat(one.fd) for one in state["object"].maps.values()]
    return [(one.st_dev, one.st_ino) for one in found]


def use_inode(state: State, dev: int, ino: int) -> list[int]:
    """Commands on a descriptor of which we say that it is that file."""
    plain = sessions.identity
    sessions.identity = lambda fd: {"fd": fd, "mode": os.O_RDWR, "dev": dev, "ino": ino}
    try:
        rows = []
        for number, part, field in (
                (bpf_cmd.BPF_MAP_FREEZE, "elem", "map_fd"),
                (bpf_cmd.BPF_OBJ_GET_INFO_BY_FD, "info", "bpf_fd"),
                (bpf_cmd.BPF_LINK_CREATE, "link_create", "prog_fd")):
            command = Command(number, part)
            command.fd(field, 0)
            if part == "info":
                command.info(bytes(80))
            rows.append(state["session"].bpf(command).ret)
        return rows
    finally:
        sessions.identity = plain


def pin(state: State, path: str) -> int:
    command = Command(bpf_cmd.BPF_OBJ_PIN, "obj")
    command.fd("bpf_fd", next(iter(state["object"].maps.values())).fd)
    command.give("pathname", os.fsencode(path) + b"\0")
    return int(state["session"].bpf(command).ret)


def command(state: State, number: int, part: str) -> int:
    return int(state["session"].bpf(Command(number, part)).ret)


def event(state: State, path: str) -> int:
    """A uprobe's event there."""
    return room.event(state["session"], path, 0)


def new_map(state: State, kind: int = bpf_map_type.BPF_MAP_TYPE_ARRAY, entries: int = 1) -> int:
    made = state["session"].bpf(Command(
        bpf_cmd.BPF_MAP_CREATE, "map_create", map_type=kind, key_size=4,
        value_size=8 if kind == bpf_map_type.BPF_MAP_TYPE_ARRAY else 4, max_entries=entries))
    state.setdefault("fds", []).extend(made.fds)
    return int(made.ret)


def refused_often(state: State, times: int) -> int:
    """Asks so often for what is not there for other users; how often that was EPERM."""
    asked = (command(state, bpf_cmd.BPF_OBJ_GET, "obj") for _ in range(times))
    return sum(ret == -errno.EPERM for ret in asked)


def load(state: State) -> int:
    """A program that nobody has loaded before."""
    number = random.SystemRandom().getrandbits(31)
    made = room.load(state["session"], encode([Insn(0xB7, 0, 0, 0, number),
                                               Insn(0x95, 0, 0, 0, 0)]))
    state.setdefault("fds", []).extend(made.fds)
    return int(made.ret)


def let_go(state: State) -> None:
    for fd in state.pop("fds", ()):
        os.close(fd)


# the daemon's socket, without the protocol's manners


def _connect(path: str) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    sock.connect(path)  # waits where the queue is full
    sock.settimeout(30)
    return sock


def reach(state: State, path: str) -> None:
    """Somebody's socket."""
    _connect(path).close()


def ask(state: State, path: str, op: int, payload: bytes) -> int | None:
    """One request, without a hello; its answer, None: the connection was closed."""
    with _connect(path) as sock:
        sock.sendall(wire.HEADER.pack(wire.MAGIC, op, 1, len(payload), 0, 0, 0) + payload)
        file = sock.makefile("rb")
        while True:
            head = file.read(wire.HEADER.size)
            if len(head) < wire.HEADER.size:
                return None
            _, answered, _, length, ret, _, nfds = wire.HEADER.unpack(head)
            assert not nfds
            file.read(length)
            if answered == op:
                return int(ret)


def crowd(state: State, path: str, number: int) -> int:
    """Connections that say nothing; how many of them have been closed."""
    found = state.setdefault("crowd", [])
    found += [_connect(path) for _ in range(number)]
    return sum(not one.recv(1) for one in found if select.select([one], [], [], 0)[0])


def hello_as(state: State, path: str, pid: int) -> int | None:
    return ask(state, path, HELLO_LOADER,
               packed("shim_hello", version=wire.VERSION, pid=pid, tid=pid, uid=0))


def garbage(state: State, path: str, seed: int) -> None:
    """What is no message, half of one, and one that is too long."""
    rng = random.Random(seed)
    for data in (rng.randbytes(300), wire.HEADER.pack(wire.MAGIC, 2, 1, 50, 0, 0, 0)[:9],
                 wire.HEADER.pack(wire.MAGIC, 2, 1, 1 << 27, 0, 0, 0),
                 wire.HEADER.pack(wire.MAGIC, 2, 1, 16, 0, 0, 0) + b"\xff" * 16):
        with _connect(path) as sock:
            sock.sendall(data)


def hostile_descriptors(state: State, path: str) -> None:
    """Descriptors beside messages that are to have none."""
    with _connect(path) as sock, socket.socket() as other:
        fds = array.array("i", [0, other.fileno(), sock.fileno()] * 60)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)]
        for _ in range(20):
            head = wire.HEADER.pack(wire.MAGIC, 99, 1, 0, 0, 0, 180)
            sock.sendmsg([head], rights)
            sock.recv(4096)


# files of others


_NOT_OURS = (errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENXIO, errno.EXDEV, errno.EISDIR,
             errno.ENOTDIR, errno.ENOTEMPTY, errno.EEXIST, errno.EROFS)


def _write(path: str) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


_CHANGES: dict[str, Callable[[str], None]] = {
    "write": _write,
    "rename": lambda path: os.rename(path, path + ".old"),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "chmod": lambda path: os.chmod(path, 0o777),
    "create": lambda path: os.symlink("/etc/passwd", path + "/new"),
    "replace": lambda path: os.rename(own_file(), path),
}


def change(state: State, folder: str) -> list[str]:
    """What of a folder's tree could be changed, replaced or written; nothing should."""
    done = []
    everything = [folder]
    for top, folders, names in os.walk(folder):
        everything += [os.path.join(top, name) for name in (*folders, *names)]
    for path in everything:
        for what, attempt in _CHANGES.items():
            try:
                attempt(path)
                done.append(f"{what} {path}")
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
    return done


def own_file() -> str:
    """A file of our own, beside the folder's: /tmp may be another file system than it."""
    path = f"/tmp/serve-intruder-{os.getuid()}"
    Path(path).touch()
    return path


def tidy(state: State) -> None:
    Path(own_file()).unlink()


def squat(state: State, path: str) -> None:
    """Another user's run directory, made before he makes it: with a session that nobody began."""
    folder = Path(path)
    place = folder / "sessions" / "1"
    place.mkdir(parents=True)
    for one in (folder, folder / "sessions", place):
        one.chmod(0o777)
    state["squat"] = listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(place / "sock"))
    (place / "sock").chmod(0o777)
    listener.listen(8)
    listener.setblocking(False)


def came(state: State) -> bool:
    """Somebody has come to what `squat` made."""
    try:
        state["squat"].accept()
    except BlockingIOError:
        return False
    return True


# memory that is shared


def _mappings(state: State) -> list[memoryview]:
    """Control page, perf area (the beginning), and whole files of maps, headers included: opened
    anew, to be written whatever the descriptor may do."""
    if "memory" not in state:
        session = state["session"]
        ffi = session.ffi
        found = [memoryview(ffi.buffer(session._ctl, ffi.sizeof("struct shim_ctl"))),
                 memoryview(ffi.buffer(session.perf, session.perf_size))]
        for one in state["object"].maps.values():
            fd = os.open(f"/proc/self/fd/{one.fd}", os.O_RDWR)
            found.append(memoryview(mmap.mmap(fd, os.fstat(fd).st_size)))
            os.close(fd)
        state["memory"] = found
    return list(state["memory"])


def scribble(state: State, seed: int, rounds: int) -> None:
    """Writes words of all kinds, at random places and at all places of headers."""
    rng = random.Random(seed)
    words = (0, 1, 2, 7, 8, 64, 511, 512, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 32, 1 << 47, (1 << 64) - 1)
    for memory in _mappings(state):
        view = memory.cast("B")
        size = min(len(view), 1 << 20)
        for _ in range(rounds):
            word = rng.choice(words) if rng.random() < 0.7 else rng.getrandbits(64)
            near = rng.choice((0, len(view) - 4096, rng.randrange(0, size - 4096, 8)))
            at = near + rng.randrange(0, 4096, 8)
            view[at : at + 8] = struct.pack("<Q", word)


def fill(state: State, byte: int) -> None:
    """Everything that is shared becomes one byte."""
    for memory in _mappings(state):
        view = memory.cast("B")
        size = min(len(view), 1 << 20)
        view[:size] = bytes([byte]) * size
        view[len(view) - 4096 :] = bytes([byte]) * 4096


def set_constant(state: State, value: int) -> Any:
    """What is read-only and frozen, through a mapping of our own."""
    one = next(m for name, m in state["object"].maps.items() if "rodata" in name)
    fd = os.open(f"/proc/self/fd/{one.fd}", os.O_RDWR)
    with mmap.mmap(fd, 4096) as memory:
        before = int.from_bytes(memory[:8], "little")
        memory[:8] = value.to_bytes(8, "little")
    os.close(fd)
    return before
