"""What one verification has in hand: the program, its tables, the log, and the running figures."""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.btf.lazy import LazyBtf, parsed
from libbpf_shim.btf.parse import Btf
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.kfunc_types import Kfunc
from libbpf_shim.verifier.program import MapDesc, Program
from libbpf_shim.verifier.special import Special
from libbpf_shim.verifier.state import (
    ARENA,
    BRANCH_LIMIT,
    BTF_PTR,
    CTX,
    DYNPTR,
    FUNC,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAYBE_NULL,
    MEM,
    NOT_INIT,
    PERCPU,
    PKT,
    PKT_END,
    PKT_META,
    RCU,
    RDONLY,
    RINGBUF,
    SCALAR,
    SOCK,
    STACK,
    TP_BUFFER,
    TRUSTED,
    TYPE_MASK,
    UNTRUSTED,
    USER,
    Frame,
    Reg,
    State,
)

EACCES: Final = 13
EINVAL: Final = 22
E2BIG: Final = 7
EBUSY: Final = 16
ERANGE: Final = 34
EFAULT: Final = 14
ENOTSUPP: Final = 524  # the kernel's own, as bpf(2) answers it

INSN_LIMIT: Final = 1000000

_TYPE_NAME: Final = {
    NOT_INIT: "?", SCALAR: "scalar", CTX: "ctx", MAP_PTR: "map_ptr", MAP_VALUE: "map_value",
    MAP_KEY: "map_key", STACK: "fp", PKT_META: "pkt_meta", PKT: "pkt", PKT_END: "pkt_end",
    MEM: "mem", BTF_PTR: "ptr_", FUNC: "func", TP_BUFFER: "tp_buffer", SOCK: "sock",
    DYNPTR: "dynptr_ptr", ARENA: "arena",
}


def type_name(type: int) -> str:
    """A register type in the words of the kernel's messages."""
    if type == MAP_PTR | MAYBE_NULL:  # of a map of maps: the kernel's word until it is known
        return "map_value_or_null"
    prefix = ("rdonly_" if type & RDONLY else "") + ("ringbuf_" if type & RINGBUF else "")
    prefix += ("user_" if type & USER else "") + ("percpu_" if type & PERCPU else "")
    prefix += ("rcu_" if type & RCU else "") + ("untrusted_" if type & UNTRUSTED else "")
    prefix += "trusted_" if type & TRUSTED else ""
    return prefix + _TYPE_NAME[type & TYPE_MASK] + ("_or_null" if type & MAYBE_NULL else "")


@final
class Reject(Exception):
    """The program is refused: errno for bpf(2), lines for the log."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno: int = errno
        self.message: str = message


@final
class Unfinished(Exception):
    """More instructions are to be processed than the caller allowed."""


@final
class Global:
    """One global function: its first slot, its name, the registers of its arguments. refused: why
    it cannot be called."""

    __slots__ = ("entry", "name", "args", "refused")

    def __init__(self, entry: int, name: str, args: list[Reg]) -> None:
        self.entry: int = entry
        self.name: str = name
        self.args: list[Reg] = args
        self.refused: str = ""


@final
class Env:
    """maps: those of the program, then inner maps met. log_level: bits of BPF_LOG_*.

    helper_map: call's slot to its map, -1 when it had several. sub_depth: stack bytes.
    linkage: of functions, by first slot, as func_info tells. edges: paths that ended at a state
    not explored to its end (the state, a copy of the path's); marks: precision marks set. later:
    functions that timers call. globals: functions to be verified by themselves,
    by first slot; called: those that are. btfs: what Reg.btf counts: the kernel's, the program's
    own (or no BTF), then those of fd_array."""

    def __init__(self, program: Program, insns: list[Insn]) -> None:
        self.program: Program = program
        self.insns: list[Insn] = insns
        self.prog_type: int = program.prog_type
        self.maps: list[MapDesc] = list(program.maps)
        self.btfs: list[LazyBtf | bytes | None] = [program.kernel_btf, program.btf]
        self.strict: bool = (program.prog_flags & 1) != 0
        self.log_level: int = program.log_level
        self.lines: list[str] = []
        self.subprogs: list[int] = [0]
        self.sub_of: list[int] = []
        self.live: list[int] = []
        self.live_stack: list[int] = []
        self.prune_point: bytearray = bytearray(len(insns))
        self.seen: bytearray = bytearray(len(insns))
        self.checked: bytearray = bytearray(len(insns))
        self.sub_depth: list[int] = []
        self.next_id: int = 0
        self.cur: State = State([Frame(-1, 0)])
        self.insn_idx: int = 0
        self.prev_idx: int = -1
        self.processed: int = 0
        self.limit: int = INSN_LIMIT
        self.jumps: int = 0
        self.prev_processed: int = 0
        self.prev_jumps: int = 0
        self.max_states: int = 0
        self.total_states: int = 0
        self.peak_states: int = 0
        self.explored: dict[int, list[State]] = {}
        self.stack: list[tuple[State, int, int]] = []
        self.helper_map: dict[int, int] = {}
        self.insn_kind: dict[int, int] = {}
        self.arena: int = -1  # index of the program's arena
        self.arena_alu: dict[int, bool] = {}  # arithmetic: on arena addresses, or on numbers
        self.ctx_loads: set[tuple[int, int]] = set()
        self.ctx_escapes: bool = False
        self.percpu: bool = False
        self.reads_unset: bool = False
        self.helpers: set[int] = set()
        self.used_maps: set[int] = set()
        self.tail_call: list[bool] = []
        self.linkage: dict[int, int] = {}
        self.edges: list[tuple[State, State]] = []
        self.marks: int = 0
        self.later: set[int] = set()
        self.globals: dict[int, Global] = {}
        self.called: set[int] = set()
        self.touched: list[str] = []
        self.return_lo: int = 0
        self.return_hi: int = -1
        self.kfuncs: dict[tuple[int, int], Kfunc] = {}
        self.called_kfuncs: set[str] = set()
        self.records: dict[tuple[int, int], list[Special]] = {}
        self.throws: bool = False

    def new_id(self) -> int:
        self.next_id += 1
        return self.next_id

    def frame(self) -> Frame:
        return self.cur.frames[-1]

    def regs(self) -> list[Reg]:
        return self.cur.frames[-1].regs

    def get_map(self, index: int) -> MapDesc:
        return self.maps[index]

    def btf(self, index: int) -> Btf:
        """The BTF that a register's type is of. KeyError: there is none."""
        if index >= len(self.btfs):
            raise KeyError(index)
        found = self.btfs[index]
        if found is None:
            raise KeyError(index)
        return parsed(found) if isinstance(found, bytes) else found.btf

    def btf_index(self, blob: bytes) -> int:
        """Of BTF that is not the kernel's, added when it is first met."""
        for n in range(1, len(self.btfs)):
            if self.btfs[n] == blob:
                return n
        self.btfs.append(blob)
        return len(self.btfs) - 1

    def read_reg(self, regno: int) -> Reg:
        """Raises Reject if the register holds nothing."""
        if regno > 10:
            raise Reject(EINVAL, f"R{regno} is invalid")
        reg = self.cur.frames[-1].regs[regno]
        if reg.type == NOT_INIT:
            raise Reject(EACCES, f"R{regno} !read_ok")
        return reg

    def write_reg(self, regno: int, reg: Reg) -> None:
        if regno == 10:
            raise Reject(EACCES, "frame pointer is read only")
        if regno > 10:
            raise Reject(EINVAL, f"R{regno} is invalid")
        self.cur.frames[-1].regs[regno] = reg

    def add_depth(self, frame: Frame, bytes_below: int) -> None:
        if bytes_below > self.sub_depth[frame.subprog]:
            self.sub_depth[frame.subprog] = bytes_below

    def push(self, to: int) -> State:
        """A copy of the current state, to be explored later from slot to."""
        if len(self.stack) >= BRANCH_LIMIT:
            raise Reject(E2BIG, f"The sequence of {len(self.stack)} jumps is too complex.")
        other = self.cur.copy()
        if other.parent is not None:
            other.parent.branches += 1
        self.stack.append((other, to, len(self.lines)))
        return other

    def reference(self, at: int) -> int:
        """A new open reference, acquired at slot at."""
        ident = self.new_id()
        self.cur.refs = self.cur.refs + ((ident, at),)
        return ident

    def release(self, ident: int) -> bool:
        """False if no such reference is open."""
        left = tuple([r for r in self.cur.refs if r[0] != ident])
        if len(left) == len(self.cur.refs):
            return False
        self.cur.refs = left
        return True


