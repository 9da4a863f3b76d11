"""Objects of bpf(2): maps, programs, BTF, links, events; their ids and lifetimes."""
