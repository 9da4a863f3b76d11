"""BPF tokens as loaders hold them: a descriptor that says nothing but that its session has a gate
which let its loader in (backend/gate.py).

Source: kernel/bpf/token.c.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.object.file import SocketFile
from libbpf_shim.object.store import Object
from libbpf_shim.uapi.bpf import bpf_cmd

# What the kernel's tokens can delegate, as bits (token_create()); of types, everything.
COMMANDS: Final = sum(1 << cmd for cmd in (
    bpf_cmd.BPF_MAP_CREATE, bpf_cmd.BPF_PROG_LOAD, bpf_cmd.BPF_BTF_LOAD,
    bpf_cmd.BPF_BTF_GET_FD_BY_ID))
EVERY: Final = (1 << 64) - 1


class TokenObject(Object):
    """A descriptor of TOKEN_CREATE. What is granted is what the loader's capability token grants,
    whether it names this descriptor or not."""

    kind = 8

    def __init__(self, number: int) -> None:
        super().__init__(number, SocketFile())
