"""The verifier: the kernel's algorithm on abstract states (DESIGN.md, verifier engine).

Which room holds what: docs/architecture.md.
"""

from libbpf_shim.verifier.verify import verify

__all__ = ["verify"]
