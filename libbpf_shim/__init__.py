"""A userspace kernel-of-BPF: unmodified eBPF loaders run with LD_PRELOAD=libbpf_shim.so."""

__version__ = "0.1.0"
