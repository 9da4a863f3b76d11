"""BPF tokens as loaders hold them: a descriptor that says nothing but that its session has a gate
which let its loader in (backend/gate.py).

Source: kernel/bpf/token.c.
"""

from __future__ import annotations

from libbpf_shim.object.file import SocketFile
from libbpf_shim.object.store import Object


class TokenObject(Object):
    """A descriptor of TOKEN_CREATE. What is granted is what the loader's capability token grants,
    whether it names this descriptor or not."""

    kind = 8

    def __init__(self, number: int) -> None:
        super().__init__(number, SocketFile())
