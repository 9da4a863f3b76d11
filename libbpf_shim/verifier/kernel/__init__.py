"""The kernel's own structures, typed by its BTF: pointers to them, and the programs that are
attached by BTF and see them."""
