"""A session with a key, and loaders of several tokens in it."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from compat_tests.victims import build
from libbpf_shim.client.attach import open_event, pmus
from libbpf_shim.client.session import Command, Reply, Session
from libbpf_shim.isa.insn import Insn, encode
from libbpf_shim.token import chain, keys
from libbpf_shim.token.chain import Token
from libbpf_shim.token.claims import EVERYWHERE, Claims
from libbpf_shim.uapi import structs
from libbpf_shim.uapi.bpf import bpf_attach_type, bpf_cmd, bpf_map_type, bpf_prog_type

RETURN_0 = encode([Insn(0xB7, 0, 0, 0, 0), Insn(0x95, 0, 0, 0, 0)])
RET = 1  # perf_event_attr.config of a uprobe: at the return


class Room:
    """One backend that holds a key; its first loader has a token that grants everything. Short
    paths: a socket's has 108 bytes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.folder = Path(tempfile.mkdtemp(prefix="tk"))
        self.key = self.folder / "key"
        keys.make(self.key)
        patch.setenv("XDG_RUNTIME_DIR", str(self.folder))
        patch.setenv("LIBBPF_SHIM_TOKEN_KEY", str(self.key))
        patch.delenv("LIBBPF_SHIM_AUDIT", raising=False)
        self.root = chain.mint(keys.read(self.key), Claims(attach=EVERYWHERE))
        self._sessions: list[Session] = []
        self._bring(self.text(self.root))
        self.first = Session(private=True)
        self._sessions.append(self.first)
        self.victim = build.private_copy(build.calls())

    @staticmethod
    def text(token: Token) -> bytes:
        return chain.to_text(token).encode() + b"\n"

    def token(self, *steps: Claims) -> Token:
        """Of the first loader's, narrowed so often."""
        token = self.root
        for step in steps:
            token = chain.attenuate(token, step)
        return token

    def _bring(self, text: bytes | None) -> None:
        path = self.folder / "token"
        path.unlink(missing_ok=True)
        if text is not None:
            path.write_bytes(text)
        self._patch.setenv("LIBBPF_BPF_TOKEN_PATH", str(path))

    def join(self, brought: bytes | None | Token) -> Session:
        """Another loader with that token, or what it takes for one. ShimError."""
        self._bring(self.text(brought) if isinstance(brought, Token) else brought)
        session = Session.of(Path(self.first.folder))
        self._sessions.append(session)
        return session

    def log(self) -> list[dict[str, Any]]:
        """Every line of the audit log."""
        text = self.key.with_name("key.audit").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        shutil.rmtree(self.victim)
        shutil.rmtree(self.folder, ignore_errors=True)


def new_map(session: Session, entries: int, flags: int = 0, **more: int) -> Reply:
    """An array of 8-byte values."""
    return session.bpf(Command(
        bpf_cmd.BPF_MAP_CREATE, "map_create", map_type=bpf_map_type.BPF_MAP_TYPE_ARRAY,
        key_size=4, value_size=8, max_entries=entries, map_flags=flags, map_name=b"m", **more))


def load(session: Session, insns: bytes = RETURN_0,
         kind: int = bpf_prog_type.BPF_PROG_TYPE_KPROBE, **more: int) -> Reply:
    command = Command(bpf_cmd.BPF_PROG_LOAD, "prog_load", prog_type=kind,
                      insn_cnt=len(insns) // 8, prog_name=b"p", **more)
    command.give("insns", insns)
    command.give("license", b"GPL\0")
    return session.bpf(command)


def event(session: Session, path: str, offset: int, config: int = 0) -> int:
    """A uprobe's event; ShimError."""
    attr = bytearray(structs.PERF_EVENT_ATTR_SIZE)
    for name, value in (("type", pmus().uprobe), ("size", len(attr)), ("config", config),
                        ("config2", offset)):
        at, size = structs.PERF_EVENT_ATTR[name]
        attr[at : at + size] = value.to_bytes(size, "little")
    return open_event(session, bytes(attr), -1, 0, os.fsencode(path) + b"\0\0")


def link(session: Session, prog: int, target: int,
         kind: int = bpf_attach_type.BPF_PERF_EVENT) -> Reply:
    command = Command(bpf_cmd.BPF_LINK_CREATE, "link_create", attach_type=kind)
    command.fd("prog_fd", prog)
    command.fd("target_fd", target)
    return session.bpf(command)


def by_id(session: Session, command: int, number: int) -> int:
    """bpf(2)'s answer to a *_GET_FD_BY_ID."""
    reply = session.bpf(Command(command, "by_id", start_id=number))
    for fd in reply.fds:
        os.close(fd)
    return reply.ret
