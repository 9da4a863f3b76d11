"""A userspace kernel-of-BPF: unmodified eBPF loaders run with LD_PRELOAD=libbpf_shim.so.

The Python API of libbpf_shim.client by its names here: `from libbpf_shim import Object`.
"""

from __future__ import annotations

from libbpf_shim import compiled

TYPE_CHECKING = False  # a backend's first module: without typing, which takes long to load
if TYPE_CHECKING:
    from typing import Any

    from libbpf_shim.client import (
        Link,
        Map,
        Object,
        PerfBuffer,
        Program,
        Queue,
        RingBuffer,
        Session,
    )
    from libbpf_shim.errors import ShimError

__version__ = "0.1.0"
__all__ = ["Link", "Map", "Object", "PerfBuffer", "Program", "Queue", "RingBuffer", "Session",
           "ShimError"]
compiled.install()


def __getattr__(name: str) -> Any:
    """Loads what is asked for when it is: importing the package costs nothing."""
    if name == "ShimError":
        from libbpf_shim.errors import ShimError

        return ShimError
    if name in __all__:
        from libbpf_shim import client

        return getattr(client, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
