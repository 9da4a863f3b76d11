"""What one verification has in hand: the program, its tables, the log, and the running figures."""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.btf.lazy import LazyBtf, parsed
from libbpf_shim.btf.parse import Btf
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.granted.index import Index
from libbpf_shim.verifier.kernel.target import Target
from libbpf_shim.verifier.kfuncs.kfunc_types import Kfunc
from libbpf_shim.verifier.memory.special import Special
from libbpf_shim.verifier.path.chain import Chain, Flow
from libbpf_shim.verifier.path.ids import IdMap
from libbpf_shim.verifier.policy import Policy
from libbpf_shim.verifier.program import MapDesc, Program
from libbpf_shim.verifier.scalar.domains import S64_MAX, S64_MIN
from libbpf_shim.verifier.state import (
    ARENA,
    BRANCH_LIMIT,
    BTF_PTR,
    BUF,
    CTX,
    DYNPTR,
    FLOW_KEYS,
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
    SOCK_COMMON,
    STACK,
    TCP_SOCK,
    TP_BUFFER,
    TRUSTED,
    TYPE_MASK,
    UNTRUSTED,
    USER,
    XDP_SOCK,
    Frame,
    Reg,
    Slot,
    State,
    Step,
    Visit,
    const_reg,
)
from libbpf_shim.verifier.watch import Watch

EACCES: Final = 13
EINVAL: Final = 22
E2BIG: Final = 7
EBUSY: Final = 16
ENOMEM: Final = 12
ERANGE: Final = 34
EFAULT: Final = 14
ENOTSUPP: Final = 524  # the kernel's own, as bpf(2) answers it

INSN_LIMIT: Final = 1000000

_TYPE_NAME: Final = {
    NOT_INIT: "?", SCALAR: "scalar", CTX: "ctx", MAP_PTR: "map_ptr", MAP_VALUE: "map_value",
    MAP_KEY: "map_key", STACK: "fp", PKT_META: "pkt_meta", PKT: "pkt", PKT_END: "pkt_end",
    MEM: "mem", BTF_PTR: "ptr_", FUNC: "func", TP_BUFFER: "tp_buffer", SOCK: "sock",
    DYNPTR: "dynptr_ptr", ARENA: "arena", SOCK_COMMON: "sock_common", TCP_SOCK: "tcp_sock",
    XDP_SOCK: "xdp_sock", FLOW_KEYS: "flow_keys", BUF: "buf",
}

_FLAG_NAME: Final = (  # in the order of the kernel's words
    (RDONLY, "rdonly_"), (RINGBUF, "ringbuf_"), (USER, "user_"), (PERCPU, "percpu_"),
    (RCU, "rcu_"), (UNTRUSTED, "untrusted_"), (TRUSTED, "trusted_"),
)  # fmt: skip


def type_name(type: int) -> str:
    """A register type in the words of the kernel's messages."""
    if type == MAP_PTR | MAYBE_NULL:  # of a map of maps: the kernel's word until it is known
        return "map_value_or_null"
    name = "".join([word for flag, word in _FLAG_NAME if type & flag])
    name += _TYPE_NAME[type & TYPE_MASK]
    if type & MAYBE_NULL:
        name += "or_null_" if type & TYPE_MASK == BTF_PTR else "_or_null"
    return name


def tnum(reg: Reg) -> str:
    """(value; mask) as the kernel prints the variable offset."""
    if reg.tm == 0:
        return str(reg.tv) if reg.tv < 1 << 16 else f"0x{reg.tv:x}"
    return f"(0x{reg.tv:x}; 0x{reg.tm:x})"


@final
class Reject(Exception):
    """The program is refused: errno for bpf(2), lines for the log."""

    def __init__(self, errno: int, message: str) -> None:
        super().__init__(message)
        self.errno: int = errno
        self.message: str = message


def not_in_range(when: str, reg: Reg, low: int, high: int, regno: int = 0) -> Reject:
    """A scalar is not what may be returned; the kernel tells the bounds that it has."""
    has = f" smin={reg.smin}" if reg.smin > S64_MIN else ""
    has += f" smax={reg.smax}" if reg.smax < S64_MAX else ""
    has = has or " unknown scalar value"
    text = f"{when} the register R{regno} has{has} should have been in [{low}, {high}]"
    return Reject(EINVAL, text)


@final
class Unfinished(Exception):
    """More instructions are to be processed than the caller allowed."""


@final
class Global:
    """One global function: its first slot, its name, the registers of its arguments. refused,
    errno: why it cannot be called."""

    __slots__ = ("entry", "name", "args", "refused", "errno")

    def __init__(self, entry: int, name: str, args: list[Reg]) -> None:
        self.entry: int = entry
        self.name: str = name
        self.args: list[Reg] = args
        self.refused: str = ""
        self.errno: int = EINVAL


@final
class Shown:
    """How far the log is told (trace.py). mark: lines after the last instruction's; width: of its
    text; insn: its slot, -1 if what it left behind is told; stack: before it; slots:
    that it addresses. everything: all of
    the state is to be told next. cuts: lines that grew (number, width before). came_from: slot of
    the branch whose other side begins, else -1. rows, line: line_info; the last row told."""

    __slots__ = ("mark", "width", "insn", "stack", "slots", "everything", "cuts", "came_from",
                 "rows", "line")

    def __init__(self) -> None:
        self.mark: int = -1
        self.width: int = 0
        self.insn: int = -1
        self.stack: list[Slot] = []
        self.slots: set[int] = set()
        self.everything: bool = True
        self.cuts: list[tuple[int, int]] = []
        self.came_from: int = -1
        self.rows: list[tuple[int, int, int, int]] = []
        self.line: int = -1


@final
class Env:
    """maps: those of the program, then inner maps met. log_level: bits of BPF_LOG_*.

    helper_map: call's slot to its map, -1 when it had several. sub_depth: stack bytes;
    stack_depths: those that count. spilling, spill_pairs, spills_low, spills_kept: fastcall.py's.
    linkage: of functions, by first slot, as func_info tells. marks: precision marks set. later:
    functions that timers call. insn_idx: slot that runs, then the next one; running: that runs;
    prev_idx: that ran before it. wrote: slots of frame wrote_frame that it wrote whole. live:
    registers that may be read, by slot; chains: those of the stack that changed (chain.py), roots:
    by the first function's first slot. loop_of: the loop that a slot is in, visits: by calls and
    loop (visits.py). explored: states by call site and slot; buckets: how many, as the kernel
    hashes them; of them gone_states are not compared any more. globals: functions to be verified
    by themselves, by first slot; called: those that are. btfs: what Reg.btf counts: the kernel's,
    the program's own (or no BTF), then those of fd_array. target: what the program is attached to
    by BTF. kernel: slots of loads from the kernel's memory, probe_mem: those of them that may
    fault, typed: those through a pointer that its BTF describes. policy: the program's class.
    host_bytes: of calls that read it, the node whose length is to be checked, -1: none.
    host_loads, host_stores: slots of accesses of the host's memory,
    host_calls: of calls of its functions, with names. longest: instructions of a
    run, cyclic: why they cannot be counted; cover: the state that the current path ends at.
    held: where they are counted at run time, slots before which something is held; keeps: the
    first place in such a section that is cyclic; counted: Facts.counted."""

    def __init__(self, program: Program, insns: list[Insn]) -> None:
        self.program: Program = program
        self.insns: list[Insn] = insns
        self.prog_type: int = program.prog_type
        self.maps: list[MapDesc] = list(program.maps)
        self.btfs: list[LazyBtf | bytes | None] = [program.kernel_btf, program.btf]
        self.strict: bool = (program.prog_flags & 1) != 0
        self.log_level: int = program.log_level
        self.lines: list[str] = []
        self.shown: Shown = Shown()
        self.subprogs: list[int] = [0]
        self.sub_of: list[int] = []
        self.live: list[int] = []
        self.flow: Flow = Flow([], [], bytearray())
        self.loop_of: list[int] = []
        self.visits: dict[tuple[int, ...], Visit] = {}
        self.chains: list[Chain] = []
        self.roots: dict[int, Chain] = {}
        self.ids: IdMap = IdMap()
        self.constants: dict[int, Reg] = {}
        self.force: bool = (program.prog_flags & 8) != 0  # BPF_F_TEST_STATE_FREQ
        self.prune_point: bytearray = bytearray(len(insns))
        self.jump_point: bytearray = bytearray(len(insns))
        self.seen: bytearray = bytearray(len(insns))
        self.checked: bytearray = bytearray(len(insns))
        self.sub_depth: list[int] = []
        self.stack_depths: list[int] = []
        self.spilling: bytearray = bytearray(len(insns))
        self.spill_pairs: dict[int, int] = {}
        self.spills_low: list[int] = []
        self.spills_kept: list[bool] = []
        self.next_id: int = 0
        self.cur: State = State([Frame(-1, 0)])
        self.insn_idx: int = 0
        self.prev_idx: int = -1
        self.running: int = 0
        self.wrote: int = 0
        self.wrote_frame: int = 0
        self.processed: int = 0
        self.limit: int = INSN_LIMIT
        self.jumps: int = 0
        self.prev_processed: int = 0
        self.prev_jumps: int = 0
        self.max_states: int = 0
        self.total_states: int = 0
        self.peak_states: int = 0
        self.known_states: int = 0
        self.gone_states: int = 0
        self.open_ends: int = 0
        self.explored: dict[int, list[State]] = {}
        self.buckets: list[int] = [0] * len(insns)
        self.stack: list[tuple[State, int, int, int]] = []
        self.helper_map: dict[int, int] = {}
        self.insn_kind: dict[int, int] = {}
        self.first_type: dict[int, int] = {}  # Reg.type by which an access was made first
        self.changing: set[int] = set()  # loads from maps whose values may change
        self.loaded: dict[int, int] = {}  # what loads from frozen maps give; -1: it depends
        self.arena: int = -1  # index of the program's arena
        self.arena_alu: dict[int, bool] = {}  # arithmetic: on arena addresses, or on numbers
        self.target: Target | None = None
        self.kernel: set[int] = set()
        self.typed: set[int] = set()
        self.probe_mem: set[int] = set()
        self.ctx_loads: set[tuple[int, int]] = set()
        self.ctx_escapes: bool = False
        self.ctx_written: bool = False
        self.percpu: bool = False
        self.reads_unset: bool = False
        self.helpers: set[int] = set()
        self.used_maps: set[int] = set()
        self.tail_call: list[bool] = []
        self.linkage: dict[int, int] = {}
        self.marks: int = 0
        self.later: set[int] = set()
        self.globals: dict[int, Global] = {}
        self.called: set[int] = set()
        self.verified: Global | None = None  # the last one
        self.touched: list[str] = []
        self.loops: dict[int, int] = {}  # calls of bpf_loop to their only callback, else to -1
        self.kfunc_left: bool = False  # a call of none is met: refused at last
        self.return_lo: int = 0
        self.return_hi: int = -1
        self.kfuncs: dict[tuple[int, int], Kfunc] = {}
        self.called_kfuncs: set[str] = set()
        self.records: dict[tuple[int, int], list[Special]] = {}
        self.throws: bool = False
        self.watch: Watch | None = None  # a test's
        self.exception: int = -1
        self.called_back: set[int] = set()
        self.policy: Policy | None = program.policy
        self.host_loads: set[int] = set()
        self.host_stores: set[int] = set()
        self.host_calls: dict[int, str] = {}
        self.host_bytes: dict[int, int] = {}
        self.longest: int = 0
        self.cyclic: str = ""
        self.held: set[int] = set()
        self.keeps: str = ""
        self.counted: int = -1
        self.indices: dict[int, Index] = {}
        self.cover: State | None = None

    def unbounded(self, why: str) -> None:
        """No number of instructions bounds a run. why: of the first place where that is so."""
        if self.policy is None:
            return
        if not self.cyclic:
            self.cyclic = f"{why}, at insn {self.insn_idx}"
        if not self.keeps and self.running in self.held:
            self.keeps = f"{why}, at insn {self.insn_idx}"

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

    def may_write(self, regno: int) -> None:
        """Raises Reject if no instruction can change the register."""
        if regno == 10:
            raise Reject(EACCES, "frame pointer is read only")
        if regno > 10:
            raise Reject(EINVAL, f"R{regno} is invalid")

    def write_reg(self, regno: int, reg: Reg) -> None:
        self.may_write(regno)
        self.cur.frames[-1].regs[regno] = reg

    def chain(self, state: State, n: int) -> Chain:
        """The calls that led to the state's n-th frame."""
        frame = state.frames[n]
        found = frame.chain
        if found is None:
            start = self.subprogs[frame.subprog]
            last = frame.subprog + 1 == len(self.subprogs)
            count = (len(self.insns) if last else self.subprogs[frame.subprog + 1]) - start
            if n:
                found = self.chain(state, n - 1).call(frame.callsite, start, count)
            else:
                known = self.roots.get(start)
                found = Chain(None, -1, start, count, self.chains) if known is None else known
                self.roots[start] = found
            frame.chain = found
        return found

    def reads_stack(self, frame: int, low: int, high: int) -> None:
        """The instruction that runs may read the frame's slots low to high (of Frame.stack)."""
        if high >= low:
            mask = (2 << high) - (1 << low)
            self.chain(self.cur, len(self.cur.frames) - 1).reads(frame, self.running, mask)

    def writes_stack(self, frame: int, slot: int) -> None:
        """The instruction that runs writes all of that slot."""
        if not self.wrote:
            self.wrote_frame = frame
        if self.wrote_frame == frame:
            self.wrote |= 1 << slot

    def note(self, step: Step) -> None:
        """The instruction has run; kept where backtracking cannot do without."""
        if step.stack >= 0 or step.kind or self.jump_point[step.insn] or len(step.linked) > 1:
            self.cur.history.append(step)

    def known_here(self) -> tuple[list[State], int]:
        """States recorded before this instruction, oldest first, and the kernel's hash of it."""
        callsite = self.cur.frames[-1].callsite
        size = len(self.insns)
        key = (callsite + 1) * size + self.insn_idx
        known = self.explored.get(key)
        if known is None:
            known = []
            self.explored[key] = known
        return known, (self.insn_idx ^ (callsite & 0xFFFFFFFF)) % size

    def forget(self, state: State) -> None:
        """A recorded state is not compared any more. It is kept while paths from it go on."""
        state.gone = True
        self.known_states -= 1
        if state.branches or (state.visit is not None and state.visit.ends):
            self.gone_states += 1

    def peak(self) -> None:
        now = self.known_states + self.gone_states + self.open_ends
        if now > self.peak_states:
            self.peak_states = now

    def add_depth(self, frame: Frame, bytes_below: int) -> None:
        if bytes_below > self.sub_depth[frame.subprog]:
            self.sub_depth[frame.subprog] = bytes_below

    def constant(self, value: int) -> Reg:
        """The scalar of an immediate; not to be changed, since it is shared."""
        found = self.constants.get(value)
        if found is None:
            found = const_reg(value)
            self.constants[value] = found
        return found

    def push(self, to: int, too_many: int = EFAULT) -> State:
        """A copy of the current state, to be explored later from slot to. too_many: the errno if
        that many are waiting."""
        self.room(too_many)
        other = self.cur.copy()
        if other.parent is not None:
            other.parent.branches += 1
        self.stack.append((other, to, self.running, len(self.lines)))
        return other

    def room(self, too_many: int = EFAULT) -> None:
        """Raises Reject if no other state may wait."""
        if len(self.stack) >= BRANCH_LIMIT:
            count = len(self.stack) + 1
            raise Reject(too_many, f"The sequence of {count} jumps is too complex.")

    def push_apart(self, frame: Frame) -> None:
        """A function that begins with a stack of its own, to be explored later."""
        state = State([frame])
        state.first = self.subprogs[frame.subprog]
        self.stack.append((state, state.first, -1, len(self.lines)))

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


