"""The verifier: the kernel's algorithm on abstract states (DESIGN.md, verifier engine)."""

from libbpf_shim.verifier.verify import verify

__all__ = ["verify"]
