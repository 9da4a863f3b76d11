"""Abstract machine state: registers, stack slots, frames, and one path's state.

Reg and Slot are immutable once stored in a frame, so states share them; a state copy copies
lists of references only. Precision marks are bit masks of a *recorded* state (prune.py), not of
registers, so that sharing does not spread them. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.verifier.path.chain import Chain
from libbpf_shim.verifier.scalar.domains import (
    S32_MAX,
    S32_MIN,
    S64_MAX,
    S64_MIN,
    U32,
    U64,
    to_s32,
    to_s64,
)

# Register types (kernel/bpf: enum bpf_reg_type), then flags.
NOT_INIT: Final = 0
SCALAR: Final = 1
CTX: Final = 2
MAP_PTR: Final = 3
MAP_VALUE: Final = 4
MAP_KEY: Final = 5
STACK: Final = 6
PKT_META: Final = 7
PKT: Final = 8
PKT_END: Final = 9
MEM: Final = 10
BTF_PTR: Final = 11
FUNC: Final = 12
TP_BUFFER: Final = 13
SOCK: Final = 14
BUF: Final = 24  # memory of an iterator's, whose size is known when it is attached
ARENA: Final = 16  # an address in the program's arena: any value, checked when it is used
DYNPTR: Final = 15  # a callback's, whose size and place stay as they are
SOCK_COMMON: Final = 17  # a socket of which the first fields are known; SOCK has all of bpf_sock
TCP_SOCK: Final = 18
XDP_SOCK: Final = 19
FLOW_KEYS: Final = 20
TYPE_MASK: Final = 0xFF
MAYBE_NULL: Final = 0x100
RDONLY: Final = 0x200
RINGBUF: Final = 0x400
TRUSTED: Final = 0x800
UNTRUSTED: Final = 0x1000  # of BTF_PTR: may be dangling, a load that faults gives 0
RCU: Final = 0x2000  # valid until the RCU section ends
ALLOC: Final = 0x4000  # made by bpf_obj_new()
NON_OWN: Final = 0x8000  # in a list or tree, valid while its lock is held
PERCPU: Final = 0x10000
USER: Final = 0x20000  # an address of the user's
PACKET_SLICE: Final = 0x40000  # of MEM: part of a packet, void once that may have moved
OTHER_SLICE: Final = 0x80000  # of MEM: what bpf_dynptr_slice() made, not of a packet
TASK: Final = BTF_PTR | TRUSTED  # struct task_struct of the running thread, opaque here

# Stack byte types.
INVALID: Final = 0
SPILL: Final = 1
MISC: Final = 2
ZERO: Final = 3
DYNPTR_SLOT: Final = 4
ITER_SLOT: Final = 5
IRQ_SLOT: Final = 6
DYNPTR_NAMES: Final = ("invalid", "local", "ringbuf", "skb", "xdp", "skb_meta")  # by Reg.kind

MAX_FRAMES: Final = 8
STACK_SIZE: Final = 512
MAX_OFF: Final = 1 << 29  # BPF_MAX_VAR_OFF: of pointers
# Flags in Reg.id: the value is that of id plus Reg.off, added in 64 bits or in 32.
ADD_CONST64: Final = 0x80000000
ADD_CONST32: Final = 0x40000000
ADD_CONST: Final = ADD_CONST64 | ADD_CONST32
BRANCH_LIMIT: Final = 8192
# Why states are compared, and at the latter three always recorded, before an instruction
# (Env.prune_point): some jump comes from or leads here; a loop whose rounds nothing bounds.
PRUNE: Final = 1
CALLBACK: Final = 2
MAY_GOTO: Final = 3
ITER_NEXT: Final = 4
ENTERED: Final = 1
LEFT: Final = 2
TAILED: Final = 3
ASSUMED: Final = 4  # a call of a global function: not entered


@final
class Reg:
    """type and, for a scalar, its value; for a pointer, its variable offset, beside off.

    id: pointers that share a null or packet check, scalars that are equal. ref: acquired
    reference (0: none). map: index of the map, of a FUNC its subprogram, -1: none. mem_size: bytes
    of MEM. range: bytes of packet proven present. frame: of a STACK pointer. btf, type_id: type of
    what a BTF_PTR points to; btf 0 is the kernel's, n the n-th of Env.btfs. kind, depth: of what a
    slot of type DYNPTR_SLOT, ITER_SLOT or IRQ_SLOT holds.
    """

    __slots__ = (
        "type", "off", "umin", "umax", "smin", "smax", "u32min", "u32max", "s32min", "s32max",
        "tv", "tm", "id", "ref", "map", "mem_size", "range", "frame", "btf", "type_id", "kind",
        "depth",
    )

    def __init__(self, type: int) -> None:
        self.type: int = type
        self.off: int = 0
        self.umin: int = 0
        self.umax: int = U64
        self.smin: int = S64_MIN
        self.smax: int = S64_MAX
        self.u32min: int = 0
        self.u32max: int = U32
        self.s32min: int = S32_MIN
        self.s32max: int = S32_MAX
        self.tv: int = 0
        self.tm: int = U64
        self.id: int = 0
        self.ref: int = 0
        self.map: int = -1
        self.mem_size: int = 0
        self.range: int = 0
        self.frame: int = 0
        self.btf: int = 0
        self.type_id: int = 0
        self.kind: int = 0
        self.depth: int = 0

    def copy(self) -> Reg:
        r = Reg(self.type)
        r.off = self.off
        r.umin = self.umin
        r.umax = self.umax
        r.smin = self.smin
        r.smax = self.smax
        r.u32min = self.u32min
        r.u32max = self.u32max
        r.s32min = self.s32min
        r.s32max = self.s32max
        r.tv = self.tv
        r.tm = self.tm
        r.id = self.id
        r.ref = self.ref
        r.map = self.map
        r.mem_size = self.mem_size
        r.range = self.range
        r.frame = self.frame
        r.btf = self.btf
        r.type_id = self.type_id
        r.kind = self.kind
        r.depth = self.depth
        return r

    def is_const(self) -> bool:
        return self.tm == 0

    def same_value(self, o: Reg) -> bool:
        """The numeric part is equal in every bound."""
        return (
            self.tv == o.tv and self.tm == o.tm and self.umin == o.umin and self.umax == o.umax
            and self.smin == o.smin and self.smax == o.smax and self.u32min == o.u32min
            and self.u32max == o.u32max and self.s32min == o.s32min and self.s32max == o.s32max
        )

    def same(self, o: Reg) -> bool:
        """Equal in everything but ids."""
        return (
            self.type == o.type and self.off == o.off and self.map == o.map
            and self.mem_size == o.mem_size and self.range == o.range and self.frame == o.frame
            and self.btf == o.btf and self.type_id == o.type_id and self.kind == o.kind
            and self.depth == o.depth and self.same_value(o)
        )

    def set_const(self, value: int) -> None:
        """The numeric part becomes value (taken modulo 2**64)."""
        v = value & U64
        low = v & U32
        s = to_s64(v)
        s32 = to_s32(v)
        self.tv = v
        self.tm = 0
        self.umin = v
        self.umax = v
        self.smin = s
        self.smax = s
        self.u32min = low
        self.u32max = low
        self.s32min = s32
        self.s32max = s32


NO_REG: Final = Reg(NOT_INIT)
UNKNOWN: Final = Reg(SCALAR)
ARENA_REG: Final = Reg(ARENA)


def const_reg(value: int) -> Reg:
    """A known scalar."""
    r = Reg(SCALAR)
    r.set_const(value)
    return r


ZERO_REG: Final = const_reg(0)


def pointer(type: int) -> Reg:
    """A pointer with no variable offset."""
    r = Reg(type)
    r.set_const(0)
    return r


@final
class Slot:
    """Eight bytes of stack: a type for each byte (index 0 is the lowest address) and, where
    byte 7 is SPILL, the register that was spilled there."""

    __slots__ = ("types", "reg")

    def __init__(self, types: bytes, reg: Reg | None) -> None:
        self.types: bytes = types
        self.reg: Reg | None = reg


EMPTY_SLOT: Final = Slot(bytes(8), None)
MISC_SLOT: Final = Slot(bytes([MISC] * 8), None)
SPILLED: Final = bytes([SPILL] * 8)  # Slot.types of a whole register
ZERO_SLOT: Final = Slot(bytes([ZERO] * 8), None)


@final
class Frame:
    """One function's registers and stack. callsite: slot of the call, -1 for main. stack[i] is
    the slot at fp-8*(i+1). precise, precise_stack: masks of recorded states only. callback: the
    helper that calls this function (0: a program does). depth: callbacks simulated so far of the
    call that this frame is about to carry out. round: timers' callbacks that led to this one.
    chain: of the calls up to this one, once it is known (Env.chain)."""

    __slots__ = ("regs", "stack", "callsite", "subprog", "precise", "precise_stack", "callback",
                 "depth", "round", "chain")

    def __init__(self, callsite: int, subprog: int, like: Frame | None = None) -> None:
        self.regs: list[Reg] = [NO_REG] * 11 if like is None else like.regs[:]
        self.stack: list[Slot] = [] if like is None else like.stack[:]
        self.callsite: int = callsite
        self.subprog: int = subprog
        self.precise: int = 0
        self.precise_stack: int = 0
        self.callback: int = 0
        self.depth: int = 0
        self.round: int = 0
        self.chain: Chain | None = None

    def copy(self) -> Frame:
        f = Frame(self.callsite, self.subprog, self)
        f.chain = self.chain
        f.callback = self.callback
        f.depth = self.depth
        f.round = self.round
        return f


@final
class State:
    """A path's state. refs: (id, acquired at) of open references. parent: the state recorded last,
    on the way to this one. history: the Steps since. first: slot that ran first since, prev: last;
    insn: that runs next. branches: paths from this recorded state that are not finished yet.
    unroll: callbacks entered so far. visit: of the loop that the state was recorded in. gone: not
    compared any more. locks: those held, as (kind, owner, id) in the order in which they were
    taken (locks.py). rcu, preempt: open sections of RCU (0 or 1) and of disabled preemption. irqs:
    saved interrupt states, (id, saved at); irq: id of the innermost. rounds: of loops that
    may_goto ends. count, longest: where there is a class (budget.py), instructions since the state
    recorded last, and from this recorded state to the end that is furthest away."""

    __slots__ = ("frames", "refs", "parent", "history", "branches", "insn", "first", "prev",
                 "cleaned", "hits", "misses", "visit", "gone", "unroll", "locks",
                 "rcu", "preempt", "irq", "irqs", "rounds", "count", "longest")

    def __init__(self, frames: list[Frame]) -> None:
        self.frames: list[Frame] = frames
        self.refs: tuple[tuple[int, int], ...] = ()
        self.parent: State | None = None
        self.history: list[Step] = []
        self.branches: int = 0
        self.insn: int = 0
        self.first: int = 0
        self.prev: int = -1
        self.cleaned: bool = False
        self.hits: int = 0
        self.misses: int = 0
        self.visit: Visit | None = None
        self.gone: bool = False
        self.unroll: int = 0
        self.locks: tuple[tuple[int, int, int, int], ...] = ()
        self.rcu: int = 0
        self.preempt: int = 0
        self.irq: int = 0
        self.rounds: int = 0
        self.irqs: tuple[tuple[int, int], ...] = ()
        self.count: int = 0
        self.longest: int = 0

    def copy(self) -> State:
        """A copy that shares registers and slots; it has the same parent and history so far."""
        s = State([f.copy() for f in self.frames])
        s.refs = self.refs
        s.parent = self.parent
        s.history = self.history[:]
        s.first = self.first
        s.unroll = self.unroll
        s.locks = self.locks
        s.rcu = self.rcu
        s.preempt = self.preempt
        s.irq = self.irq
        s.rounds = self.rounds
        s.irqs = self.irqs
        s.count = self.count
        return s


@final
class Visit:
    """A loop being explored (loop: its component of the program, at one chain of calls). entry:
    the state that it was entered with, None: it is left. ends: paths that ended inside at a state
    that is not explored to its end (that state, a copy of the path's). done: states inside that
    are, whose ancestors the marks of ends still need. guesses: the loop is that of a call that
    calls back, where states are compared as if all marks were known; guessed: those of ends that
    were, to be compared again once they are."""

    __slots__ = ("entry", "ends", "done", "guesses", "guessed")

    def __init__(self, guesses: bool) -> None:
        self.entry: State | None = None
        self.guesses: bool = guesses
        self.guessed: list[tuple[State, State]] = []
        self.ends: list[tuple[State, State]] = []
        self.done: list[State] = []


@final
class Step:
    """One executed instruction that precision backtracking cannot tell from the program alone; all
    others follow the slot before them. prev: slot that ran before it. stack: -1, or frame << 8 |
    slot of a stack access at a known place. linked: (frame, register) or (frame, 16 + slot) pairs
    whose bounds changed together at this jump. kind: ENTERED or LEFT where a callback begins or
    ends here, TAILED where another program ended the function, ASSUMED where a global function was
    called, else 0."""

    __slots__ = ("insn", "prev", "stack", "linked", "kind")

    def __init__(self, insn: int, prev: int, kind: int) -> None:
        self.insn: int = insn
        self.prev: int = prev
        self.stack: int = -1
        self.linked: list[tuple[int, int]] = []
        self.kind: int = kind
