"""What a backend and its workers send each other, as pickles."""

from __future__ import annotations

import io
import pickle
from typing import Any

from libbpf_shim.btf.lazy import SYNTHETIC, LazyBtf
from libbpf_shim.object.btf import MACHINE

_SHARED: dict[str, LazyBtf] = {"machine": MACHINE, "synthetic": SYNTHETIC}


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: object) -> str | None:
        """Each process has its own of what is large and the same everywhere."""
        return next((name for name, one in _SHARED.items() if one is obj), None)


class _Unpickler(pickle.Unpickler):
    def persistent_load(self, pid: str) -> LazyBtf:
        return _SHARED[pid]


def dumps(value: object) -> bytes:
    out = io.BytesIO()
    _Pickler(out, pickle.HIGHEST_PROTOCOL).dump(value)
    return out.getvalue()


def loads(data: bytes) -> Any:
    return _Unpickler(io.BytesIO(data)).load()
