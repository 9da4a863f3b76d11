"""The conformance cases of ../shared/data/corpus.tar.xz: a program, its memory, what R0 must be.

The cases are bpf_conformance's and ubpf's (R1 = memory, R2 = its size, 64-bit R0) and those of
Linux
lib/test_bpf.c (R1 = a buffer, 32-bit R0). The helpers are the ones that ubpf's test program
registers.
"""

from __future__ import annotations

import functools
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

CORPUS = Path(__file__).parents[3] / "shared" / "data" / "corpus.tar.xz"
LARGE_MEMORY = 65536  # of the test_bpf cases that reach beyond a page

# What is no eBPF, or is another's to refuse.
NOT_EBPF = {
    "bpf_conformance:callx": "a call by register, which no kernel accepts",
    "ubpf:extensions/call_unwind": "a helper that ends the program: an extension of ubpf",
}
REFUSED_BY_STRUCTURE = {  # by the verifier, before anything runs
    "ubpf:errors/err-call0": "a function that does not end in an exit",
    "ubpf:errors/err-unknown-opcode": "0x06 has become gotol since the case was written",
    "ubpf:errors/err-too-many-instructions": "a program of 65537 instructions",
}


@dataclass(frozen=True, slots=True)
class Case:
    """result: R0, cut to bits; None if the program is wrong. memory_after: where the case knows
    it."""

    name: str
    insns: bytes
    memory: bytes
    passes_length: bool  # R2 = len(memory)
    bits: int
    result: int | None
    memory_after: bytes | None


@functools.cache
def cases() -> tuple[Case, ...]:
    """All of them, in the corpus's order; none if this checkout has no corpus."""
    if not CORPUS.exists():
        return ()
    with tarfile.open(CORPUS) as corpus:
        member = corpus.extractfile("corpus/conformance.jsonl")
        assert member is not None
        return tuple(_case(json.loads(line)) for line in member)


def _case(record: dict[str, str | int]) -> Case:
    linux = record["prog_type"] == "socket_filter"
    after = record.get("kernel_mem_after")
    return Case(
        name=str(record["name"]),
        insns=bytes.fromhex(str(record["insns_hex"])),
        memory=bytes(LARGE_MEMORY) if linux else bytes.fromhex(str(record["mem_hex"])),
        passes_length=not linux,
        bits=32 if linux else 64,
        result=None if record["kind"] == "error" else int(str(record["result"]), 16),
        memory_after=bytes.fromhex(str(after)) if after else None,
    )
