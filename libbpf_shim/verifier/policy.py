"""A class of extensions as the verifier holds it: names are resolved to offsets and ids.

Made by eim/ from an interface and its grants. A value of plain tuples, so that it is part of a
verdict's key. Without one (Program.policy is None) the kernel's rules hold unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

Ranges = tuple[tuple[int, int], ...]

# Of a constraint's right side.
CONSTANT: Final = 0
PARAMETER: Final = 1
ENTRY: Final = 2  # an argument of the entry

# Of a host function's parameter, and of its result.
VOID: Final = 0
NUMBER: Final = 1
HOST: Final = 2  # a pointer to an object of the host's
READS: Final = 3  # memory of the program's, which the function reads
WRITES: Final = 4

# How a program is held to its memory when it runs, besides what was proved: not at all, or within
# a window of its own (jit/isolated.py); or its memory is held from the application by a
# protection key (attach/keys.py).
VERIFY_ONLY: Final = ""
SFI: Final = "sfi"
MPK: Final = "mpk"

# Of an argument of a USDT probe: a constant of the place, a register, memory behind one, or what
# programs cannot read.
FIXED: Final = 0
REGISTER: Final = 1
MEMORY: Final = 2
NOWHERE: Final = 3

# What holds a processor that runs ahead of a branch (jit/speculation.py).
MASKED: Final = "mask-indices"
FULL: Final = "full"

RESULT: Final = -1  # the left side of a rule: what the function returns


@dataclass(frozen=True, slots=True)
class Bytes:
    """A pointer that leads to as many bytes as a number in the same object says, and to
    no more than most. way: to that object: the argument's register in struct pt_regs, then where
    pointers are in the objects on the way. pointer, length: where they are in it; size (bytes),
    signed: of the length. name: the length's path."""

    way: tuple[int, ...]
    pointer: int
    length: int
    size: int
    signed: bool
    most: int
    name: str


@dataclass(frozen=True, slots=True)
class Node:
    """What a pointer to an object of the host's leads to, reached in one way.

    path: as capabilities write it. type_id: of what it points to, in Policy.btf; size: its bytes.
    reads, writes: bytes granted, as (first, one past the last), ascending and apart. links: of its
    pointer fields, (offset, node that it leads to). nonnull: the interface says so. bytes: its
    size is only known when it is read, and read by bpf_probe_read*() alone."""

    path: str
    type_id: int
    size: int
    nonnull: bool = False
    reads: Ranges = ()
    writes: Ranges = ()
    links: tuple[tuple[int, int], ...] = ()
    bytes: Bytes | None = None


@dataclass(frozen=True, slots=True)
class Arg:
    """A register of the context that holds an argument of the class's entries. off: in struct
    pt_regs. capability: what grants it. node: of what it points to, -1: a number, or entries
    differ."""

    off: int
    name: str
    capability: str
    node: int = -1
    granted: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on numbers or pointers of a host function. left: index of a parameter, or
    RESULT. op: ==, !=, <, <=, >, >=; in: the right side is ranges. kind: what value is: a
    constant, a parameter's index, a node."""

    text: str
    left: int
    op: str
    kind: int = CONSTANT
    value: int = 0
    ranges: Ranges = ()


@dataclass(frozen=True, slots=True)
class HostParam:
    """size: bytes of a number; of memory that is read or written, -1: as many as parameter
    size_of says. type_id: of the object that a pointer leads to, 0: any. truth: a number of type
    bool, so that the function may take it for 0 or 1."""

    name: str
    kind: int
    size: int = 8
    signed: bool = False
    type_id: int = 0
    nonnull: bool = False
    size_of: int = -1
    truth: bool = False


@dataclass(frozen=True, slots=True)
class HostFunction:
    """A function of the host's that programs call as a kernel function. id: of its FUNC in
    Policy.btf. symbol: its own name in the binary. node: what its result points to.
    releases: index of the parameter that is given back, -1: none. gpl: for programs of a
    GPL-compatible licence only."""

    name: str
    id: int
    params: tuple[HostParam, ...] = ()
    result: int = VOID
    result_size: int = 8
    result_signed: bool = False
    node: int = -1
    pre: tuple[Rule, ...] = ()
    post: tuple[Rule, ...] = ()
    acquires: bool = False
    releases: int = -1
    may_fail: bool = False
    gpl: bool = False
    granted: bool = False
    symbol: str = ""


@dataclass(frozen=True, slots=True)
class MapLimits:
    """What maps programs may use. types: None: any. bytes, entries: of one map; count: of them.
    -1: no limit."""

    types: tuple[int, ...] | None = None
    count: int = -1
    bytes: int = -1
    entries: int = -1


@dataclass(frozen=True, slots=True)
class Operand:
    """Where a place of a USDT probe has an argument. value: the constant, or what is added to the
    register (its offset in struct pt_regs) to find the memory. size: bytes."""

    kind: int
    value: int
    register: int
    size: int
    signed: bool


@dataclass(frozen=True, slots=True)
class Probes:
    """What the USDT probes of a class's entries pass. ways: the last twelve bits of the addresses
    of places that pass their arguments so, and where each is. args: by position (off). frames: by
    position, the node of the 8 bytes that hold an argument in memory."""

    ways: tuple[tuple[tuple[int, ...], tuple[Operand, ...]], ...]
    args: tuple[Arg, ...]
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Policy:
    """One class. where: file that a line is to be added to. binary: of the host functions and
    variables, "": the file that a program is attached to. helpers, kfuncs: None: all.
    state: host variables, (id of the VAR in btf, node). registers: read(regs). untyped_reads,
    untyped_writes: read(*), write(*). override: what an entry may be made to return, None:
    nothing; result: bytes and sign of what it returns. instructions, memory, stack: at most, -1:
    no limit. counter: what cannot be proved to take no more instructions is counted when it runs;
    default: what a run then comes to, by which the host's function is skipped, where override is
    something, and else R0; None: 0, and it is not skipped. isolation: VERIFY_ONLY, SFI or MPK.
    probes: where entries are USDT probes.
    spectre: MASKED, FULL, or "": nothing."""

    name: str
    where: str
    btf: bytes
    nodes: tuple[Node, ...] = ()
    args: tuple[Arg, ...] = ()
    state: tuple[tuple[int, int], ...] = ()
    functions: tuple[HostFunction, ...] = ()
    helpers: tuple[int, ...] | None = ()
    kfuncs: tuple[str, ...] | None = ()
    registers: bool = False
    untyped_reads: bool = False
    untyped_writes: bool = False
    maps: MapLimits = MapLimits()
    override: Ranges | None = None
    result: tuple[int, bool] = (8, True)
    instructions: int = -1
    memory: int = -1
    stack: int = -1
    binary: str = ""
    isolation: str = VERIFY_ONLY
    counter: bool = False
    default: int | None = None
    probes: Probes | None = None
    spectre: str = ""
