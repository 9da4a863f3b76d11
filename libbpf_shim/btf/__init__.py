"""BTF: reading, checking and writing type information (Documentation/bpf/btf.rst, linux/btf.h)."""
