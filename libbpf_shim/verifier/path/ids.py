"""Names of values in two states, matched one to one. Compiled by mypyc."""

from __future__ import annotations

from typing import final

from libbpf_shim.verifier.state import ADD_CONST


@final
class IdMap:
    """Ids of a recorded state and those of the current one. A state has few: lists, not dicts."""

    __slots__ = ("old", "new", "spare")

    def __init__(self) -> None:
        self.old: list[int] = []
        self.new: list[int] = []
        self.spare: int = 0

    def clear(self) -> None:
        if self.old:
            self.old.clear()
            self.new.clear()

    def match(self, old: int, new: int) -> bool:
        if old == 0 or new == 0:
            return old == new
        for n in range(len(self.old)):
            if self.old[n] == old:
                return self.new[n] == new
            if self.new[n] == new:
                return False
        self.old.append(old)
        self.new.append(new)
        return True

    def match_scalar(self, old: int, new: int) -> bool:
        """An id that only the current one has tells more than needed. One that only the recorded
        one has says that it equals no other, so it gets a name of its own."""
        if old == 0:
            return True
        if new == 0:
            self.spare -= 1
            new = self.spare
        if not self.match(old, new):
            return False
        if old & ADD_CONST:
            return self.match(old & ~ADD_CONST, new & ~ADD_CONST)
        return True
