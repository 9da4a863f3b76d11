"""Reading the parts of union bpf_attr and writing the structures that commands fill in.

Field tables are generated (uapi/structs.py). Source: linux/bpf.h, kernel/bpf/syscall.c.
"""

from __future__ import annotations

from libbpf_shim.uapi.structs import ATTR, Fields

SIZE = 168  # bytes of union bpf_attr as Linux 6.18 has it


class Attr:
    """One command's part of the attr: fields by name, absent bytes read as zero."""

    def __init__(self, part: str, data: bytes) -> None:
        self.fields = ATTR[part]
        self.data = data[:SIZE].ljust(SIZE, b"\0")

    def __getitem__(self, name: str) -> int:
        """An integer field, unsigned."""
        at, size = self.fields[name]
        return int.from_bytes(self.data[at : at + size], "little")

    def signed(self, name: str) -> int:
        """The same, signed: descriptors."""
        at, size = self.fields[name]
        return int.from_bytes(self.data[at : at + size], "little", signed=True)

    def raw(self, name: str) -> bytes:
        """The bytes of a field: names."""
        at, size = self.fields[name]
        return self.data[at : at + size]

    def offset(self, name: str) -> int:
        """Where the field lies: how segments are told apart."""
        return self.fields[name][0]

    def ends_after(self, last: str) -> bool:
        """CHECK_ATTR: every byte behind the command's last field is zero."""
        at, size = self.fields[last]
        return not any(self.data[at + size :])


class Struct:
    """A structure to be filled in, from its field table; fields left alone are zero."""

    def __init__(self, fields: Fields, size: int, given: bytes = b"") -> None:
        self.fields = fields
        self.data = bytearray(given[:size].ljust(size, b"\0"))

    def __setitem__(self, name: str, value: int | bytes) -> None:
        at, size = self.fields[name]
        if isinstance(value, int):
            value = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        self.data[at : at + size] = value[:size].ljust(size, b"\0")

    def __getitem__(self, name: str) -> int:
        at, size = self.fields[name]
        return int.from_bytes(self.data[at : at + size], "little")

    def has(self, name: str, given: int) -> bool:
        """The caller's structure of `given` bytes reaches behind this field."""
        at, size = self.fields[name]
        return at + size <= given
