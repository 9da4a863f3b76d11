"""What a loader sees whose session may have 4 MiB of maps: `python limited.py`, JSON on stdout."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from compat_tests.runtime import calls as c  # noqa: E402

HASH, ARRAY, LPM = 1, 2, 11
NO_PREALLOC = 1
MIB = 1 << 20


def fill(fd: int, count: int, prefix: bytes = b"") -> tuple[int, int]:
    """New elements until one is refused: how many went in, the errno."""
    for n in range(count):
        if err := c.update(fd, prefix + n.to_bytes(4, "big"), bytes(1024)):
            return n, err
    return count, 0


def cover(fd: int) -> None:
    """A trie's new addresses take two nodes: one may be left, for a prefix that covers them."""
    for length in range(1, 16):
        if c.update(fd, length.to_bytes(4, "little") + bytes(4), bytes(1024)):
            return


def main() -> None:
    said: dict[str, object] = {}
    first = c.create(ARRAY, 4, MIB, 3)
    said["three"] = first > 0
    said["two more"] = c.create(ARRAY, 4, MIB, 2)
    said["a hash of two more"] = c.create(HASH, 4, 1024, 2048)
    said["far too much"] = c.create(ARRAY, 4, MIB, 1 << 20)
    os.close(first)
    again = c.create(ARRAY, 4, MIB, 3)
    said["after the close"] = again > 0
    os.close(again)
    for name, kind, prefix in (("hash", HASH, b""), ("trie", LPM, (32).to_bytes(4, "little"))):
        fd = c.create(kind, 4 + len(prefix), 1024, 1 << 16, NO_PREALLOC)
        went, err = fill(fd, 1 << 16, prefix)
        said[name] = [MIB < went * 1024 < 5 * MIB, err]
        if kind == LPM:
            cover(fd)
        key, value = prefix + bytes(4), b"x" * 1024
        said[name + " still works"] = [
            c.update(fd, key, value), c.lookup(fd, key, 1024) == value, c.delete(fd, key),
            c.update(fd, key, bytes(1024))]
        os.close(fd)
    said["everything again"] = c.create(ARRAY, 4, MIB, 3) > 0
    print(json.dumps(said))


main()
