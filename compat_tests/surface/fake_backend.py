"""A backend that knows the protocol and nothing of BPF: what the surface is tested against.

Copied by conftest.py to ROOT/libbpf_shim/backend/main.py and started by the library itself. It
answers from tables, hands out memfds and socket ends, and tells what it saw (SHIM_OP_STATUS).
"""

from __future__ import annotations

import array
import json
import os
import selectors
import site
import socket
import struct
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
PAGE = 4096
PERF_SIZE = 16 << 20
MSG = struct.Struct("<HHIIiII")


def load_ffi() -> Any:
    site.main()  # a backend is started without
    from cffi import FFI

    ffi = FFI()
    ffi.cdef((HERE / "declarations.h").read_text())
    return ffi


class Backend:
    def __init__(self) -> None:
        self.ffi = load_ffi()
        self.dir = tempfile.mkdtemp(prefix="shim-fake-")
        self.log: list[dict[str, Any]] = []
        self.kinds: dict[int, tuple[int, int]] = {}
        self.peers: dict[int, socket.socket] = {}
        self.closed = 0
        self.keep: list[int] = []
        self.drop: list[int] = []  # closed here once the client has them
        self.perf_used = 0
        self.selector = selectors.DefaultSelector()
        for name in ("cpu_possible", "cpu_online"):
            Path(self.dir, name).write_text("0-5\n")
        size = self.ffi.sizeof("struct shim_ctl")
        self.ctl = os.memfd_create("bpf-ctl")
        os.ftruncate(self.ctl, size)
        self.perf = os.memfd_create("bpf-perf")
        os.ftruncate(self.perf, PERF_SIZE)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{self.dir}/sock")
        self.listener.listen()
        self.selector.register(self.listener, selectors.EVENT_READ, self.accept)

    def accept(self, sock: socket.socket) -> None:
        self.serve(self.listener.accept()[0])

    def serve(self, sock: socket.socket) -> None:
        self.selector.register(sock, selectors.EVENT_READ, self.request)

    def run(self) -> None:
        """Until one second has passed without a client."""
        while True:
            served = any(k.data == self.request for k in self.selector.get_map().values())
            ready = self.selector.select(60 if served else 1)
            if not ready:
                return
            for key, _ in ready:
                key.data(key.fileobj)

    def exact(self, sock: socket.socket, size: int) -> bytes:
        data = b""
        while len(data) < size:
            part = sock.recv(size - len(data))
            if not part:
                raise EOFError
            data += part
        return data

    def request(self, sock: socket.socket) -> None:
        try:
            _, op, seq, size, _, _, _ = MSG.unpack(self.exact(sock, MSG.size))
            body = self.exact(sock, size)
        except (EOFError, OSError):
            self.selector.unregister(sock)
            sock.close()
            return
        if op == 32:  # an agent: nothing to do for it
            sock.sendall(MSG.pack(0x5742, 44, 0, 0, 0, 0, 0))
            return
        ret, reply, fds, action = self.answer(op, body)
        if os.environ.get("LIBBPF_SHIM_NOTICE") and op == 2:
            line = b"a notice\n"
            sock.sendall(MSG.pack(0x5742, 9, 0, len(line), 0, 0, 0) + line)
        head = MSG.pack(0x5742, op, seq, len(reply), ret, action, len(fds))
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        sent = sock.sendmsg([head], rights)
        assert sent == len(head)
        if reply:  # the client may be gone once it has the header
            sock.sendall(reply)
        while self.drop:
            os.close(self.drop.pop())

    def answer(self, op: int, body: bytes) -> tuple[int, bytes, list[int], int]:
        if op == 8:
            seen = {"log": self.log, "closed": self.closed, "dir": self.dir, "pid": os.getpid()}
            return 0, json.dumps(seen).encode(), [], 0
        if op == 1:
            return self.hello(body)
        self.reap()
        return {2: self.bpf, 3: self.perf_open, 4: self.ioctl, 5: self.perf_mmap,
                6: self.flush, 7: self.fd_info}[op](body)  # fmt: skip

    def hello(self, body: bytes) -> tuple[int, bytes, list[int], int]:
        self.log.append({"op": "hello", "pid": struct.unpack_from("<I", body, 4)[0]})
        ctl_size = self.ffi.sizeof("struct shim_ctl")
        version = self.ffi.dlopen(str(HERE / "runtime.so")).SHIM_WIRE_VERSION
        welcome = struct.pack("<IIIIQQ108s4x", version, 7, (1 << 22) | (1 << 12), 6, ctl_size,
                              PERF_SIZE, self.dir.encode())
        return 0, welcome, [self.ctl, self.perf], 0

    def reap(self) -> None:
        """Socket ends whose other end is closed."""
        for ino, peer in list(self.peers.items()):
            peer.setblocking(False)
            try:
                if peer.recv(1) == b"":
                    self.closed += 1
                    del self.peers[ino]
                    peer.close()
            except BlockingIOError:
                pass

    def flush(self, body: bytes) -> tuple[int, bytes, list[int], int]:
        self.log.append({"op": "flush", "closed": self.closed})
        return 0, b"", [], 0

    def fd_info(self, body: bytes) -> tuple[int, bytes, list[int], int]:
        _, _, _, ino = struct.unpack("<iIQQ", body)
        self.log.append({"op": "fd_info"})
        kind, number = self.kinds.get(ino, (0, 0))
        return 0, struct.pack("<II", kind, number), [], 0

    def hand_out(self, fd: int, kind: int) -> int:
        self.kinds[os.fstat(fd).st_ino] = (kind, len(self.kinds) + 1)
        self.keep.append(fd)
        return fd

    def make_map(self, attr: bytes) -> int:
        kind, key, value, entries, flags = struct.unpack_from("<5I", attr)
        ffi = self.ffi
        runtime = ffi.dlopen(str(HERE / "runtime.so"))
        hdr = ffi.new("struct shim_map_hdr *")
        hdr.magic, hdr.version = runtime.SHIM_MAP_MAGIC, runtime.SHIM_MAP_VERSION
        hdr.id, hdr.type = 1, kind
        hdr.key_size, hdr.value_size, hdr.max_entries = key, value, entries
        hdr.map_flags, hdr.nr_vcpus = flags, 6
        assert runtime.shim_map_layout(hdr) == 0
        fd = os.memfd_create("bpf-map")
        os.ftruncate(fd, hdr.file_size)
        import mmap

        with mmap.mmap(fd, hdr.file_size) as space:
            view = ffi.from_buffer(space, require_writable=True)
            assert runtime.shim_map_format(view, hdr) == 0
            ffi.release(view)
        return self.hand_out(fd, 1)

    def link(self, kind: int) -> int:
        mine, theirs = socket.socketpair()
        fd = theirs.detach()
        ino = os.fstat(fd).st_ino
        self.kinds[ino] = (kind, len(self.kinds) + 1)
        self.peers[ino] = mine
        self.drop.append(fd)
        return fd

    def bpf(self, body: bytes) -> tuple[int, bytes, list[int], int]:
        cmd, size, nsegs, nrefs = struct.unpack_from("<4I", body)
        at = 16
        attr = body[at : at + min(size, 168)]
        at += len(attr)
        segs = [struct.unpack_from("<IIQQii", body, at + 32 * i) for i in range(nsegs)]
        at += 32 * nsegs
        refs = [struct.unpack_from("<iIQQ", body, at + 24 * i) for i in range(nrefs)]
        at += 24 * nrefs
        data = []
        for off, way, _, length, err, _ in segs:
            take = length if way & 1 else 0
            data.append({"off": off, "dir": way, "err": err, "len": length,
                         "hex": body[at : at + take].hex()})  # fmt: skip
            at += take
        self.log.append({"op": "bpf", "cmd": cmd, "size": size, "segs": data,
                         "refs": [[r[0], r[3] != 0] for r in refs], "rest": len(body) - at,
                         "attr": attr.hex()})  # fmt: skip
        return self.command(cmd, attr, data)

    def command(
        self, cmd: int, attr: bytes, segs: list[dict[str, Any]]
    ) -> tuple[int, bytes, list[int], int]:
        if any(s["err"] for s in segs):
            return next(s["err"] for s in segs if s["err"]), b"", [], 0
        if cmd == 0:
            return 0, b"", [self.make_map(attr)], 0
        if cmd == 5:
            text = b"processed 2 insns\0"
            outs = [i for i, s in enumerate(segs) if s["dir"] == 2]
            reply = struct.pack("<4I", 140, 4, len(outs), 0) + struct.pack("<I", len(text))
            reply += b"".join(struct.pack("<IIQQ", i, 0, 0, len(text)) for i in outs)
            fd = self.hand_out(os.memfd_create("bpf-prog"), 2)
            return 0, reply + text * len(outs), [fd], 0
        if cmd == 10:
            # struct shim_act_run: program 5, once, 64-bit words, any CPU
            act = struct.pack("<IIII", 5, 1, 1, 0xFFFFFFFF).ljust(416, b"\0")
            return 0, struct.pack("<4I", 0, 0, 0, 0) + act, [], 1
        if cmd == 28:
            return 0, b"", [self.link(4)], 0
        if cmd == 99:
            os._exit(1)
        return -22, b"", [], 0

    def perf_open(self, body: bytes) -> tuple[int, bytes, list[int], int]:
        pid, cpu, group, size, flags = struct.unpack_from("<iiiIQ", body)
        kind, _, config = struct.unpack_from("<IIQ", body, 24)
        strings = body[24 + size :].split(b"\0")[:-1]
        self.log.append({"op": "perf_open", "pid": pid, "cpu": cpu, "size": size, "type": kind,
                         "flags": flags, "strings": [s.decode() for s in strings]})  # fmt: skip
        return 0, b"", [self.link(5 if (kind, config) == (1, 10) else 6)], 0

    def ioctl(self, body: bytes) -> tuple[int, bytes, list[int], int]:
        request, arg = struct.unpack_from("<QQ", body, 48)
        self.log.append({"op": "ioctl", "request": request, "arg": arg})
        return 0, b"", [], 0

    def perf_mmap(self, body: bytes) -> tuple[int, bytes, list[int], int]:
        (length,) = struct.unpack_from("<Q", body, 24)
        off = self.perf_used
        self.perf_used += length
        return 0, struct.pack("<Q", off), [], 0


def main() -> None:
    if os.environ.get("LIBBPF_SHIM_SEEN"):
        fds = sorted(int(n) for n in os.listdir("/proc/self/fd"))
        names = [os.readlink(f"/proc/self/fd/{n}") if os.path.exists(f"/proc/self/fd/{n}") else ""
                 for n in fds]  # fmt: skip
        seen = {"env": dict(os.environ), "fds": dict(zip(fds, names, strict=True)),
                "sid": os.getsid(0), "ppid": os.getppid(), "cwd": os.getcwd()}  # fmt: skip
        Path(os.environ["LIBBPF_SHIM_SEEN"]).write_text(json.dumps(seen))
    backend = Backend()
    backend.serve(socket.socket(fileno=3))
    backend.run()
    for name in os.listdir(backend.dir):
        os.unlink(f"{backend.dir}/{name}")
    os.rmdir(backend.dir)
