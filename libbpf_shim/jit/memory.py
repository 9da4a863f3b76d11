"""The memory of an interpreted program: regions of bytes, each access checked against their
bounds."""

from __future__ import annotations

from typing import Final

U32: Final = 0xFFFFFFFF
REGION_BITS: Final = 32  # a region's addresses share the bits above these


class InterpreterError(Exception):
    """A run that cannot go on: the program does what a verified program never does."""


class MemoryFault(InterpreterError):
    """An access outside every region, across a region's end, or a store to a read-only one.

    address: the 64-bit address; size: bytes; what: "load" or "store"."""

    def __init__(self, what: str, address: int, size: int) -> None:
        super().__init__(f"{what} of {size} bytes at {address:#x}: in no region that allows it")
        self.what = what
        self.address = address
        self.size = size


class Memory:
    """Regions of bytes at addresses no process uses: address = region number << 32 | offset.

    Region 0 is never given out, so small integers and offsets below a region's start fault."""

    __slots__ = ("_next", "_regions")

    def __init__(self) -> None:
        self._regions: dict[int, tuple[bytearray, bool]] = {}
        self._next = 1

    def add(self, data: bytearray, writable: bool = True) -> int:
        """Make data addressable, shared with the caller, who must not resize it. Returns its
        address."""
        number, self._next = self._next, self._next + 1
        self._regions[number] = (data, writable)
        return number << REGION_BITS

    def remove(self, address: int) -> None:
        """Take the region that begins at address away: later accesses fault."""
        del self._regions[address >> REGION_BITS]

    def load(self, address: int, size: int) -> int:
        """The unsigned little-endian integer of size bytes at address. Raises MemoryFault."""
        return int.from_bytes(self.read(address, size), "little")

    def store(self, address: int, size: int, value: int) -> None:
        """Store the low size bytes of value at address. Raises MemoryFault."""
        self.write(address, (value & ((1 << 8 * size) - 1)).to_bytes(size, "little"))

    def read(self, address: int, size: int) -> bytes:
        """size bytes at address. Raises MemoryFault."""
        data, _ = self._regions.get(address >> REGION_BITS, (b"", False))
        at = address & U32
        if at + size > len(data):
            raise MemoryFault("load", address, size)
        return bytes(data[at : at + size])

    def write(self, address: int, data: bytes) -> None:
        """Store data at address. Raises MemoryFault."""
        region, writable = self._regions.get(address >> REGION_BITS, (bytearray(), False))
        at = address & U32
        if not writable or at + len(data) > len(region):
            raise MemoryFault("store", address, len(data))
        region[at : at + len(data)] = data
