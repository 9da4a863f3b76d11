"""The surface for loaders that it cannot be preloaded into: their system calls are served from
another process (docs/architecture.md, Static loaders)."""
