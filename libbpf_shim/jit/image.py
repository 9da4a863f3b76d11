"""A compiled program: one position-independent text section and what must be filled in.

The backend relocates a private copy for each target. An image is entered at offset 0 as
``u64 image(void *ctx, struct shim_run *run)`` (csrc/include/shim_run.h).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

OF_HOST: Final = "host:"  # before the name, in facts and in relocations
OF_STATE: Final = "state:"


class RelocKind(Enum):
    """ABS64: 8 bytes, the address. REL32: 4 bytes, address - place, end of field at place."""

    ABS64 = "abs64"
    REL32 = "rel32"


_MEMORY: Final = ("map:", "mapval:", "state:", "text", "window", "ctl", "prog")
# Where an isolated program's image calls to before it returns: that asks nothing of the run.
_TOLD: Final = "sym:CONTAINED"
_TAIL_CALL: Final = "helper:12"
# Helpers that look at no more of struct shim_run than SHIM_PROG_READS says (csrc/runtime).
_READERS: Final = frozenset((
    "sym:UNREACHABLE", _TOLD,
    *(f"helper:{number}" for number in (
        4, 45, 112, 113, 114, 115,  # probe_read of all kinds
        214, 215, 219, 254,  # HOST_PEEK, HOST_CLIP, HOST_LOAD, KERNEL_LOAD
        5, 253, 125, 160, 208,  # ktime_get_ns and CLOCK_OWN, _boot_ns, _coarse_ns, _tai_ns
        8, 14, 15, 16, 35,  # CPU, pid and tgid, uid and gid, comm, current task
    )),
))
# Those, and helpers that look at the owner and at scratch too: SHIM_PROG_MAPS.
_CHANGERS: Final = _READERS | {f"helper:{number}" for number in (
    1, 2, 3, 87, 88, 89, 195,  # map lookup, update, delete, push, pop, peek, lookup of a CPU's
    130, 131, 132, 133, 134,  # ringbuf output, reserve, submit, discard, query
)}


@dataclass(frozen=True, slots=True)
class Reloc:
    """symbol is one of: ``helper:N``, ``map:I`` (address of the map's struct shim_map_desc in
    the target), ``mapval:I`` (address of the first value of array map I there), ``sym:NAME``
    (shim_agent.h, SHIM_SYM_NAME), ``host:NAME`` and ``state:NAME`` (a function, a variable of the
    application's), ``text`` (start of this image); of isolated programs ``window`` (base of the
    window), ``ctl`` (the session's control page), ``prog`` (no address: the program's id)."""

    offset: int
    kind: RelocKind
    symbol: str
    addend: int = 0


@dataclass(frozen=True, slots=True)
class Image:
    """text: machine code, at most 16 MiB. needs_vcpu: SHIM_PROG_VCPU. asm: what it was made from,
    a line an instruction, for dumps. insn_offsets: offset in text of each BPF slot, -1 where
    none. missing: what a verified program has in it that cannot run in userspace; then there is no
    code. context: it may look at its context, or give it to somebody who does; writes: somebody
    may change it. bare: it calls nothing outside of itself, and reads no more of the run than
    SHIM_PROG_BARE names. jited: the program's instructions are machine code; False: they are
    interpreted. binary: whose functions and variables it names, "": of the file that it is
    attached to. window: of an isolated program, what it shares a window with (window.py); "":
    none. keyed: it works on memory that is under a protection key where it runs."""

    text: bytes
    relocs: tuple[Reloc, ...]
    needs_vcpu: bool
    stack_bytes: int
    asm: str
    insn_offsets: tuple[int, ...]
    missing: str = ""
    context: bool = True
    bare: bool = False
    jited: bool = True
    binary: str = ""
    window: str = ""
    keyed: bool = False
    writes: bool = True

    @property
    def machine_code(self) -> bytes:
        """What a loader is told of as the program's."""
        return self.text if self.jited else b""

    @property
    def ends(self) -> bool:
        """No branch of it leads out of it, to another program neither: SHIM_PROG_ENDS."""
        return not any(reloc.symbol == _TAIL_CALL
                       or (reloc.symbol.startswith("sym:") and reloc.symbol != _TOLD)
                       for reloc in self.relocs)

    @property
    def reads(self) -> bool:
        """What it calls reads memory, clocks and who runs: SHIM_PROG_READS."""
        return self._calls_only(_READERS)

    @property
    def changes_maps(self) -> bool:
        """What it calls does that, or changes maps and sends records of rings: SHIM_PROG_MAPS."""
        return self._calls_only(_CHANGERS)

    def _calls_only(self, those: frozenset[str]) -> bool:
        return all(reloc.symbol in those or reloc.symbol.startswith(_MEMORY)
                   for reloc in self.relocs)

    def relocate(self, base: int, symbols: dict[str, int]) -> bytes:
        """The bytes for a copy at address base. Raises KeyError for an unknown symbol and
        OverflowError for a REL32 that does not reach."""
        out = bytearray(self.text)
        for reloc in self.relocs:
            address = (base if reloc.symbol == "text" else symbols[reloc.symbol]) + reloc.addend
            at = reloc.offset
            if reloc.kind is RelocKind.ABS64:
                out[at : at + 8] = (address & (2**64 - 1)).to_bytes(8, "little")
            else:
                delta = address - (base + at + 4)
                out[at : at + 4] = delta.to_bytes(4, "little", signed=True)
        return bytes(out)


def absent(slots: int, why: str) -> Image:
    """In place of the image of a program of that many slots."""
    return Image(b"", (), False, 0, "", (-1,) * slots, why)
