"""A backend of a test: one session, hand-made images and trampolines (or, lean, those of
rewrite.render), no Python package but attach.agent."""

from __future__ import annotations

import mmap
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from libbpf_shim._native import ffi, lib

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.rewrite.plan import Displaced, SitePlan
from libbpf_shim.rewrite.render import render

PROT_RW, PROT_RX = 3, 5
PRIVATE_ANON, SHARED = 0x22, 1
# free in a program that is not position independent: behind its heap, which begins within 1 GiB
NEAR = 0x60000000
NOP5, NOPS = bytes.fromhex("0f1f440000"), b"\x90" * 5
REGS = "r15 r14 r13 r12 rbp rbx r11 r10 r9 r8 rax rcx rdx rsi rdi".split()
CTL_SIZE = ffi.sizeof("struct shim_ctl")
COUNTERS = 4096  # bytes of the shared counters


def assemble(text: str) -> bytes:
    from keystone import KS_ARCH_X86, KS_MODE_64, Ks

    code, _ = Ks(KS_ARCH_X86, KS_MODE_64).asm(text)
    return bytes(code)


def trampoline(
    at: int, site: int, record: int, enter: int, window: int, displaced: bytes
) -> bytes:
    """As the contract says: struct shim_pt_regs, ENTER(regs, record), displaced copy, back."""
    save = [f"mov [rsp+{i * 8}], {r}" for i, r in enumerate(REGS)]
    restore = [f"mov {r}, [rsp+{i * 8}]" for i, r in enumerate(REGS)]
    head = (
        assemble(
            "; ".join(
                [
                    "sub rsp, 168",
                    *save,
                    "mov qword ptr [rsp+120], -1",
                    f"mov rax, {site}",
                    "mov [rsp+128], rax",
                    "mov qword ptr [rsp+136], 0x33",
                    "mov qword ptr [rsp+144], 0x202",
                    "lea rax, [rsp+168]",
                    "mov [rsp+152], rax",
                    "mov qword ptr [rsp+160], 0x2b",
                    "mov rdi, rsp",
                    f"movabs rsi, {record}",
                    f"movabs rax, {enter}",
                    "call rax",
                    *restore,
                    "add rsp, 168",
                ]
            )
        )
        + displaced
    )
    back = window + len(displaced) - (at + len(head) + 5)
    return head + b"\xe9" + back.to_bytes(4, "little", signed=True)


class Backend:
    """A session's files: control page, counters, socket. `serve` answers agents by a callback."""

    def __init__(self, runtime_dir: Path, session_id: int = 1) -> None:
        self.id = session_id
        self.dir = runtime_dir / "libbpf_shim" / "sessions" / str(session_id)
        self.dir.mkdir(parents=True)
        self.environment = {"XDG_RUNTIME_DIR": str(runtime_dir), "PATH": "/usr/bin:/bin"}
        self.path = self.dir / "sock"
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(self.path))
        self.listener.listen(64)
        self.listener.settimeout(20)
        self.ctl_fd = os.memfd_create("bpf-ctl")
        os.ftruncate(self.ctl_fd, CTL_SIZE)
        self._ctl_map = mmap.mmap(self.ctl_fd, CTL_SIZE)
        self.ctl = ffi.cast("struct shim_ctl *", ffi.from_buffer(self._ctl_map))
        self.ctl.magic, self.ctl.version = lib.SHIM_CTL_MAGIC, lib.SHIM_CTL_VERSION
        self.ctl.session_id, self.ctl.nr_vcpus, self.ctl.size = session_id, 8, CTL_SIZE
        self.ctl.nr_real_cpus = 2
        for i in range(1, lib.SHIM_MAX_SLOTS):
            self.ctl.slot[i].gen = 1
        self.counters_fd = os.memfd_create("counters")
        os.ftruncate(self.counters_fd, COUNTERS)
        self.counters = mmap.mmap(self.counters_fd, COUNTERS)
        self.errors: list[BaseException] = []

    def counter(self, index: int) -> int:
        return int.from_bytes(self.counters[index * 8 : index * 8 + 8], "little", signed=True)

    def missed(self, link: int) -> int:
        return int(self.ctl.link[link].missed)

    def slots(self) -> int:
        """Process slots in use."""
        states = (self.ctl.slot[i].state for i in range(lib.SHIM_MAX_SLOTS))
        return sum(s == lib.SHIM_SLOT_LIVE for s in states)

    def in_runs(self) -> int:
        """Virtual CPUs whose owners are in a run."""
        nr = self.ctl.nr_vcpus
        keepers = sum(self.ctl.vcpu[i].owner != 0 for i in range(nr, lib.SHIM_MAX_VCPUS))
        return int(keepers + sum(v.owner != 0 and not v.kept for v in self.ctl.vcpu[0:nr]))

    def conversation(self) -> Conversation:
        sock, _ = self.listener.accept()
        return Conversation(sock, timeout=10)

    def session(self, talk: Conversation) -> int:
        return talk.session(self.id, self.ctl_fd, -1, CTL_SIZE, 0, os.fstat(self.ctl_fd).st_ino)

    def serve(self, times: int, answer: Callable[[Conversation], None]) -> threading.Thread:
        """Answers the next 'times' agents in a thread; `wait` has what went wrong."""

        def loop() -> None:
            try:
                for _ in range(times):
                    with self.conversation() as talk:
                        answer(talk)
            except BaseException as error:
                self.errors.append(error)

        thread = threading.Thread(target=loop, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        self.listener.close()
        self.ctl = ffi.NULL
        self.counters.close()
        os.close(self.ctl_fd)
        os.close(self.counters_fd)


def lean_trampoline(
    at: int, site: int, record: int, symbols: Sequence[int], displaced: bytes
) -> bytes:
    """Of a function's entry, as rewrite.render makes it."""
    plan = SitePlan(site, site, displaced, (Displaced(site, displaced, ""),), True, "single")
    return render(plan, 0, at, record, symbols[lib.SHIM_SYM_ENTER],
                  lean=symbols[lib.SHIM_SYM_ENTER_LEAN]).tramp


_BARE = int(lib.SHIM_PROG_BARE) | int(lib.SHIM_PROG_NO_CONTEXT) | int(lib.SHIM_PROG_NO_STACKS)


class Attacher:
    """Puts counting programs on functions of one process, in one conversation after another."""

    def __init__(self, backend: Backend, symbols: dict[str, int], near: int = NEAR) -> None:
        self.backend = backend
        self.symbols = symbols
        self.next_tramp = self.near = near
        self.image_at = 0
        self.images = 0
        self.session = 0
        self.counters = 0
        self.sites: dict[str, int] = {}
        self.lean = False  # trampolines save little, and programs look at no context
        self.bare = False  # and call nothing

    def begin(self, talk: Conversation) -> None:
        """Maps session, counters, an image region and a trampoline region."""
        self.session = self.backend.session(talk)
        self.counters = talk.mmap(COUNTERS, PROT_RW, SHARED, fd=self.backend.counters_fd)
        self.image_at = talk.mmap(65536, PROT_RX, PRIVATE_ANON)
        talk.mmap(65536, PROT_RX, PRIVATE_ANON, address=self.near)

    def image(self, talk: Conversation, body: str) -> int:
        """Writes a program and returns its address; `COUNTER+n` in the text is counter n."""
        at = self.image_at + 256 * self.images
        self.images += 1
        for n in range(16):
            body = body.replace(f"COUNTER+{n};", f"{self.counters + 8 * n};")
        code = assemble(body)
        assert len(code) <= 256
        talk.write(at, code)
        return at

    def adder(self, talk: Conversation, counter: int) -> int:
        return self.image(
            talk, f"movabs rax, COUNTER+{counter}; lock inc qword ptr [rax]; xor eax, eax; ret"
        )

    def site(
        self, talk: Conversation, name: str, orig: bytes = NOP5, flags: int | None = None
    ) -> int:
        """The site of a probed function, its trampoline written."""
        addr, tramp = self.symbols[name], self.next_tramp
        jump = b"\xe9" + (tramp - (addr + 5)).to_bytes(4, "little", signed=True)
        if flags is None:
            flags = lib.SHIM_SITE_SINGLE if orig == NOP5 else 0
        index, existed = talk.site(
            addr=addr,
            window=addr,
            orig=orig,
            patch=jump,
            tramp=tramp,
            tramp_len=512,
            func=addr,
            flags=flags,
        )
        if not existed:
            record = talk.site_address(index)
            enter = talk.hello.syms[lib.SHIM_SYM_ENTER]
            code = (lean_trampoline(tramp, addr, record, talk.hello.syms, orig) if self.lean
                    else trampoline(tramp, addr, record, enter, addr, orig))
            talk.write(tramp, code)
            self.next_tramp += 512
        self.sites[name] = index
        return index

    def link(
        self,
        talk: Conversation,
        name: str,
        image: int,
        link: int,
        ret: bool = False,
        **fields: int,
    ) -> None:
        self.backend.ctl.link[link].enabled = 1
        values: dict[str, Any] = {
            "flags": _BARE if self.bare else 0,
            "prog_id": 7,
            "tgid": 0,
            "cookie": 0,
            "link_id": 100 + link,
            **fields,
        }
        kind = lib.SHIM_LINK_RET if ret else lib.SHIM_LINK_ENTRY
        talk.link(
            self.sites[name], session=self.session, link=link, kind=kind, image=image, **values
        )

    def count(
        self,
        talk: Conversation,
        name: str,
        counter: int,
        ret: bool = False,
        orig: bytes = NOP5,
        patch: bool = True,
        **fields: int,
    ) -> None:
        """A program on the function that adds one to a counter; link number = counter number."""
        index = self.site(talk, name, orig)
        if self.lean:
            flags = int(lib.SHIM_PROG_NO_CONTEXT) | int(lib.SHIM_PROG_NO_STACKS)
            fields["flags"] = fields.get("flags", 0) | flags | (_BARE if self.bare else 0)
        self.link(talk, name, self.adder(talk, counter), counter, ret, **fields)
        if patch:
            talk.patch(index, True)


def start(
    library: Path, victim: Path, backend: Backend, *args: object, **options: object
) -> subprocess.Popen[str]:
    """The victim under the agent."""
    environment = {**backend.environment, "LD_PRELOAD": str(library)}
    process: subprocess.Popen[str] = subprocess.Popen(
        [str(victim), *map(str, args)],
        stdin=subprocess.PIPE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        env=environment,
        **options,
    )  # type: ignore[call-overload]
    return process


def finish(process: subprocess.Popen[str]) -> str:
    """Its output, after an end in good order."""
    out, _ = process.communicate(timeout=30)
    assert process.returncode == 0, f"victim ended with {process.returncode}"
    return out.strip()
