"""What verification proved, for the compiler and the trampoline.

A fact is a join over all recorded states and pruned edges (docs/architecture.md, facts under
pruning): it holds in every concrete run. Instruction indices count 8-byte slots.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Facts:
    """subprogs: first instruction of each function, ascending, main first (0).
    stack_depth: bytes of stack of each, same order. seen: per slot, 1 if some run reaches it.
    call_map: instruction of a helper call to the index of the one map it is always given.
    probe_mem: loads that may fault and then give 0 (untrusted BTF pointers).
    kernel: slots of loads from the kernel's own structures. typed: those of them that go through
    a pointer that the kernel's BTF describes.
    ctx_loads: (offset, size) of context fields read or written; ctx_escapes: the context pointer
    reaches a helper that may look at it, a kfunc, subprogram or memory: all of it must be there.
    ctx_written: some run may change the context.
    ctx_at: slots of loads from and stores to the context. stack_at: slots of those that are of the
    stack always, the function's own or a caller's. constant_at: slots of those that are of maps'
    values always; the loads among them are of maps whose values nobody can change any more.
    loaded: slots of those loads that give one number always, and that, before it is made wider.
    arena: slots of accesses to the arena, whose index arena_map is (-1: none); arena_alu: slots of
    arithmetic on its addresses, which is of 32 bits.
    host_loads, host_stores: slots of accesses of the host's memory through what its class grants;
    loads may fault, and then give 0.
    host_bytes: of calls of bpf_probe_read*() through pointers to bytes whose number a field says,
    R4 and R5 of the call that checks it (verifier/granted/lengths.py).
    counted: how many instructions a run may take, of a program that could take more: it is counted
    (jit/charge.py), -1: it is not. held: where the class has a counter, slots before which some
    run holds what it has to give back.
    indices: of a program whose class says `spectre`, slots where a number is added to a pointer,
    or subtracted: whether it is the source, and its bounds.
    percpu: some reachable instruction touches per-CPU storage or asks for the CPU's number.
    reads_unset: some run may read stack that it has not written, which the kernel allows.
    helpers: numbers of the reachable helpers (enum bpf_func_id). kfuncs: reachable calls of kernel
    functions, by slot, with the names ("host:" before those of the host's). maps: indices used.
    """

    subprogs: tuple[int, ...]
    stack_depth: tuple[int, ...]
    seen: bytes
    call_map: dict[int, int] = field(default_factory=dict)
    probe_mem: frozenset[int] = frozenset()
    kernel: frozenset[int] = frozenset()
    typed: frozenset[int] = frozenset()
    ctx_loads: frozenset[tuple[int, int]] = frozenset()
    ctx_escapes: bool = False
    ctx_at: frozenset[int] = frozenset()
    stack_at: frozenset[int] = frozenset()
    constant_at: frozenset[int] = frozenset()
    arena: frozenset[int] = frozenset()
    arena_alu: frozenset[int] = frozenset()
    arena_map: int = -1
    percpu: bool = False
    reads_unset: bool = False
    host_loads: frozenset[int] = frozenset()
    host_stores: frozenset[int] = frozenset()
    helpers: frozenset[int] = frozenset()
    kfuncs: dict[int, str] = field(default_factory=dict)
    maps: frozenset[int] = frozenset()
    host_bytes: dict[int, tuple[int, int]] = field(default_factory=dict)
    counted: int = -1
    held: frozenset[int] = frozenset()
    indices: dict[int, tuple[bool, int, int]] = field(default_factory=dict)
    loaded: dict[int, int] = field(default_factory=dict)
    ctx_written: bool = False


@dataclass(frozen=True, slots=True)
class Stats:
    """The kernel's own closing figures (kernel/bpf/verifier.c, print_verification_stats)."""

    insns_processed: int
    max_states_per_insn: int
    total_states: int
    peak_states: int
    mark_read: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """errno 0: accepted, and facts is there; else the positive errno. log: the kernel's text for
    Program.log_level, the closing statistics line included, unbounded: the caller cuts it."""

    errno: int
    log: str
    stats: Stats
    facts: Facts | None = None
