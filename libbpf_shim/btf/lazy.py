"""BTF that is read and parsed when it is first asked for, once for all who share it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import lru_cache

from .parse import Btf


@lru_cache(maxsize=16)
def parsed(blob: bytes) -> Btf:
    """BTF that programs bring along, parsed once for those that share it."""
    return Btf(blob)


class LazyBtf:
    """A blob that is not there yet. read: gives it. symbols: gives the text of /proc/kallsyms,
    where that is known."""

    __slots__ = ("_read", "_symbols", "_known", "_blob", "_btf")

    def __init__(
        self, read: Callable[[], bytes], symbols: Callable[[], bytes] | None = None
    ) -> None:
        self._read, self._symbols = read, symbols
        self._known: dict[str, bool] = {}
        self._blob: bytes | None = None
        self._btf: Btf | None = None

    @property
    def blob(self) -> bytes:
        if self._blob is None:
            self._blob = self._read()
        return self._blob

    @property
    def btf(self) -> Btf:
        if self._btf is None:
            self._btf = Btf(self.blob)
        return self._btf

    def symbol(self, name: str) -> int | None:
        """The kernel's or a module's address for it, 0 where this user is not told; None: there
        is no such symbol."""
        text = self._symbols() if self._symbols else b""
        line = rb"^(\w+) \w %s[\n\t]" % re.escape(os.fsencode(name))
        place = re.search(line, text, re.MULTILINE)
        return int(place[1], 16) if place else None

    def has_symbol(self, name: str) -> bool:
        """The kernel has an address for it: some leave variables out (CONFIG_KALLSYMS_ALL)."""
        if name not in self._known:
            text = self._symbols() if self._symbols else b""
            self._known[name] = not text or f" {name}\n".encode() in text
        return self._known[name]


def _synthetic() -> bytes:
    from . import synthetic

    return synthetic.build()


SYNTHETIC = LazyBtf(_synthetic)  # where no other is given
