"""A session without a backend: its files, a Delivery, and victims that are told what to do.

Nothing runs beside the test: a process that comes by itself (start, dlopen) waits until the test
calls `serve`.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from libbpf_shim._native import ffi, lib

from compat_tests.clients.tool import ended
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Attachment, Code, Event
from libbpf_shim.attach.call import SessionFiles
from libbpf_shim.attach.deliver import Delivery
from libbpf_shim.attach.door import agent_hello, ready
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.attach.keeper import Session as KeeperSession
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.jit.image import Image, Reloc, RelocKind
from libbpf_shim.object.control import Control

HERE = Path(__file__).resolve().parent
LIBRARY = HERE.parents[1] / "libbpf_shim" / "_lib" / "libbpf_shim.so"
HEADER = struct.Struct("<HHIIiII")  # struct shim_msg
LIMIT = 20.0  # seconds for anything that must happen
GET_ATTACH_COOKIE = 174  # linux/bpf.h, BPF_FUNC_get_attach_cookie


class Counter:
    """An array of one value, at least 64 bytes: hits, cookie of the last, hits by the
    descriptor."""

    def __init__(self, number: int, control: Control, size: int = 64) -> None:
        hdr = ffi.new("struct shim_map_hdr *")
        hdr.magic, hdr.version, hdr.id = lib.SHIM_MAP_MAGIC, lib.SHIM_MAP_VERSION, number
        hdr.type, hdr.key_size, hdr.value_size, hdr.max_entries = 2, 4, size, 1
        hdr.nr_vcpus = control.nr_vcpus
        assert lib.shim_map_layout(hdr) == 0
        self.id, self.file_size = number, int(hdr.file_size)
        self.fd = os.memfd_create("bpf-map")
        self.ino, self.contents, self.frozen = os.fstat(self.fd).st_ino, None, False
        os.ftruncate(self.fd, self.file_size)
        self.memory = mmap.mmap(self.fd, self.file_size)
        view = ffi.from_buffer(self.memory)
        assert lib.shim_map_format(view, hdr) == 0
        self.desc: Any = ffi.new("struct shim_map_desc *")
        assert lib.shim_map_desc_init(self.desc, view, self.file_size) == 0
        self.desc.perf_size = control.perf_size

    def word(self, index: int) -> int:
        return int.from_bytes(self.memory[index * 8 : index * 8 + 8], "little")

    @property
    def hits(self) -> int:
        assert self.word(0) == self.word(2)  # both ways to the map lead to the same memory
        return self.word(0)

    @property
    def cookie(self) -> int:
        return self.word(1)


def by_hand(*parts: str, context: bool = True) -> Image:
    """Code in hexadecimal; a part with a colon is a symbol, whose address stands there."""
    text, relocs = bytearray(), []
    for part in parts:
        if ":" in part:
            relocs.append(Reloc(len(text), RelocKind.ABS64, part))
            text.extend(bytes(8))
        else:
            text.extend(bytes.fromhex(part))
    return Image(bytes(text), tuple(relocs), False, 0, "", (), context=context)


def counting() -> Image:
    """value[0]++ by its address; value[1] = bpf_get_attach_cookie(); value[2]++ by the
    descriptor's base."""
    return by_hand(
        "4883ec08 4989f1",  # sub $8, %rsp; mov %rsi, %r9: helpers take 'run' there
        "48b8", f"helper:{GET_ATTACH_COOKIE}",  # movabs, %rax
        "ffd0",  # call *%rax
        "48b9", "mapval:0",  # movabs, %rcx
        "f048ff01 48894108",  # lock incq (%rcx); mov %rax, 8(%rcx)
        "48b9", "map:0",
        "488b09 f048ff4110",  # mov (%rcx), %rcx; lock incq 16(%rcx)
        "31c0 4883c408 c3",  # xor %eax, %eax; add $8, %rsp; ret
        context=False)


@dataclass
class Prog:
    """A counting program and its counter."""

    id: int
    image: Image
    maps: Sequence[Counter]


class Host:
    """One session in a run directory, and its delivery."""

    def __init__(self, runtime_dir: Path, number: int, keeper: Keeper | None = None) -> None:
        self.run = runtime_dir / "libbpf_shim"
        self.dir = self.run / "sessions" / str(number)
        self.dir.mkdir(parents=True)
        self.control = Control(number)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.dir / "sock"))
        self.listener.listen(64)
        self._own_keeper, self._keeper = keeper is None, keeper
        self.notices: list[str] = []
        self.parked: list[socket.socket] = []
        self._ids = 0
        self._counters: list[Counter] = []
        control = self.control
        files = SessionFiles(
            id=number, socket=str(self.dir / "sock"), ctl_fd=control.fd, ctl_size=control.size,
            ctl_ino=control.ino, ctl_dev=control.dev, perf_fd=control.perf_fd,
            perf_size=control.perf_size, run_dir=str(self.run), library=str(LIBRARY),
            cache=self.run / "cache",
        )  # fmt: skip
        self.delivery = Delivery(
            files, self.listener, self.keeper, self.notices.append, self.parked.append
        )
        self.delivery.knocking(self._knocking)

    def keeper(self) -> Keeper:
        if self._keeper is None:
            self._keeper = Keeper()
            library = Module(str(LIBRARY))
            root = library.find_object("shim_agent_root")
            assert root
            self._keeper.session(
                KeeperSession(
                    int(self.control.ctl.session_id), self.control.dev, self.control.ino,
                    os.getuid(), str(LIBRARY), root.vaddr - library.load_base,
                )  # fmt: skip
            )
        return self._keeper

    def _knocking(self) -> list[tuple[socket.socket, bytes]]:
        """Those of them that turn out to be agents."""
        found = []
        for sock in ready(self.parked, 0):
            with contextlib.suppress(OSError):
                if (hello := agent_hello(sock)) is not None:
                    self.parked.remove(sock)
                    found.append((sock, hello))
        return found

    def number(self) -> int:
        """Another one, of an object or a link."""
        self._ids += 1
        return self._ids

    def prog(self) -> Prog:
        counter = Counter(self.number(), self.control)
        self._counters.append(counter)
        return Prog(self.number(), counting(), (counter,))

    def attachment(
        self, path: Path, symbol: str, *, ret: bool = False, cookie: int = 0, pid: int = 0,
    ) -> tuple[Attachment, Counter]:  # fmt: skip
        module = Module(str(path))
        found = module.find(symbol)
        assert found, f"{path}: no {symbol}"
        prog = self.prog()
        att = Attachment(
            link_id=self.number(), link=self.control.take_link(pid), prog=prog,
            place=Code(str(path), module.vaddr_to_offset(found.vaddr), ret),
            cookie=cookie, pid=pid,
        )  # fmt: skip
        return att, prog.maps[0]

    def watch(self, event: int, pid: int = 0) -> tuple[Attachment, Counter]:
        """The same at an event, SHIM_EVENT_*."""
        prog = self.prog()
        att = Attachment(
            link_id=self.number(), link=self.control.take_link(pid), prog=prog,
            place=Event(event, str(event)), cookie=0, pid=pid)
        self.delivery.attach(att)
        self.control.enable(att.link, True)
        return att, prog.maps[0]

    def attach(self, path: Path, symbol: str, **what: Any) -> tuple[Attachment, Counter]:
        """Attaches and enables, as a link does."""
        att, counter = self.attachment(path, symbol, **what)
        self.delivery.attach(att)
        self.control.enable(att.link, True)
        return att, counter

    def detach(self, att: Attachment) -> None:
        self.control.enable(att.link, False)
        self.delivery.detach(att)

    def end(self) -> None:
        for att in self.delivery.attachments:
            self.control.enable(att.link, False)
        self.control.say_dead()
        self.delivery.end()

    def close(self) -> None:
        """The files go; what is in processes stays, unless `end` was called before."""
        # libc's list of the robust mutexes that a thread holds leads through their memory
        lib.shim_native_let_go(ffi.addressof(self.control.ctl, "backend_lock"))
        self.listener.close()
        if self._keeper and self._own_keeper:
            self._keeper.close()
        for fd in (self.control.fd, self.control.perf_fd, *(c.fd for c in self._counters)):
            os.close(fd)
        os.unlink(self.dir / "sock")
        self.dir.rmdir()


@contextlib.contextmanager
def serving(*hosts: Host) -> Iterator[None]:
    """Every agent that comes meanwhile is served; the test only waits."""
    stop, go = socket.socketpair()
    waiting: dict[int, Host] = {host.listener.fileno(): host for host in hosts}

    def loop() -> None:
        while True:
            ready = select.select([*waiting, stop.fileno()], [], [])[0]
            if stop.fileno() in ready:
                return
            for fd in ready:
                sock, _ = waiting[fd].listener.accept()
                with sock, contextlib.suppress(OSError, AssertionError, ShimError):
                    sock.settimeout(LIMIT)
                    length = HEADER.unpack(_exactly(sock, HEADER.size))[3]
                    waiting[fd].delivery.arrivals.agent(sock, _exactly(sock, length))

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        go.close()
        thread.join()
        stop.close()


def serve(*hosts: Host, reason: int) -> None:
    """The next agent of each session, that came for that reason."""
    waiting = {host.listener.fileno(): host for host in hosts}
    end = time.monotonic() + LIMIT
    while waiting:
        ready = select.select(list(waiting), [], [], max(end - time.monotonic(), 0))[0]
        assert ready, f"no agent came within {LIMIT} s"
        for fd in ready:
            sock, _ = waiting[fd].listener.accept()
            sock.settimeout(LIMIT)
            with sock:
                _, op, _, length, _, _, _ = HEADER.unpack(_exactly(sock, HEADER.size))
                payload = _exactly(sock, length)
                # struct shim_hello_agent: version, pid, reason
                assert (op, *struct.unpack_from("<8xI", payload)) == (
                    lib.SHIM_OP_HELLO_AGENT, reason,
                )  # fmt: skip
                waiting[fd].delivery.arrivals.agent(sock, payload)
            del waiting[fd]


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = sock.recv(size - len(data))
        assert part, "the agent went away"
        data += part
    return data


class Victim:
    """A process under the shim that obeys (victim.c). hosts: sessions it meets at its start.
    no_ptrace: ptrace(2) is refused to it, and so reached by its mailbox alone."""

    def __init__(
        self, program: Path, runtime_dir: Path, *hosts: Host, preload: str = str(LIBRARY),
        no_ptrace: bool = False, arguments: Sequence[str] = (),
    ) -> None:  # fmt: skip
        argv = ["/usr/bin/env", f"LD_PRELOAD={preload}", str(program), *arguments]
        self.process = subprocess.Popen(
            [str(program), "-s", *argv] if no_ptrace else argv,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env={"XDG_RUNTIME_DIR": str(runtime_dir), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        self.pid = self.process.pid
        serve(*hosts, reason=lib.SHIM_SYNC_START)
        if no_ptrace:  # else that is known from attachments that it is met with
            for host in hosts:
                host.delivery.talks.no_ptrace.add(self.pid)
        assert self.answer() == "ready"

    def tell(self, command: str) -> None:
        assert self.process.stdin
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        assert self.process.stdout
        assert select.select([self.process.stdout], [], [], LIMIT)[0], "no answer"
        return self.process.stdout.readline().strip()

    def say(self, command: str) -> str:
        self.tell(command)
        return self.answer()

    def run(self, rounds: int, prefix: str = "") -> None:
        said = self.say(f"{prefix}run {rounds}")
        assert said == f"ran {rounds}", (said, self.process.poll())

    def end(self) -> None:
        """In good order: it was not hurt."""
        assert self.process.stdin and self.process.stdout
        self.process.stdin.close()
        status = ended(self.process, LIMIT)
        self.process.stdout.close()
        assert status == 0, f"victim ended with {status}"

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def eventually(what: Callable[[], bool]) -> None:
    """Looks until it is so."""
    end = time.monotonic() + LIMIT
    while not what():
        assert time.monotonic() < end, f"not within {LIMIT} s"
        time.sleep(0.001)


def victim_program() -> Path:
    return build.make("obeys", [HERE / "victim.c"], build.VICTIM_FLAGS, ["-ldl"])


def plugin() -> Path:
    return build.calls()["libplug.so"]


@contextlib.contextmanager
def victims(
    program: Path, runtime_dir: Path, arguments: Sequence[str] = ()
) -> Iterator[Callable[..., Victim]]:
    """Starts victims of a program. They must end in good order, unless the test has ended them
    itself."""
    started: list[Victim] = []

    def make(*hosts: Host, **what: Any) -> Victim:
        started.append(Victim(program, runtime_dir, *hosts, arguments=arguments, **what))
        return started[-1]

    try:
        yield make
        for victim in started:
            if victim.process.poll() is None:
                victim.end()
    finally:
        for victim in started:
            victim.kill()
