"""`make_plan`: how the system calls of a module are met, each between two windows.

The `syscall` instruction stays where it is: a window that ends at it leads to the entry hook, one
that begins behind it to the exit hook. Nothing of ours lies on the stack while the thread is in
the kernel, and its instruction pointer is the one that unwinders, pthread_cancel and the kernel's
restart know; so clone, vfork, exec and signals need no special case.

The window of a function that looks for cancellations comes before that look (`bridge.py`).

Where no such window fits: before the call, a short jump to fill between two functions; behind it,
a window some instructions later, while rax is what the kernel left; and for calls that do not
return, or never wait and run with signals blocked, one window that holds the call itself. What
none of these fits misses that side's event (`why` says so). A signal's return is never
touched, since unwinders know it by its bytes. Plans are pure functions of a file and kept by its
build-id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from libbpf_shim.elf.module import Module
from libbpf_shim.rewrite import decode
from libbpf_shim.rewrite.bridge import Bridge, Shape, shape, windows
from libbpf_shim.rewrite.callsites import ENDS, PADDING, SYSCALL, Body, Code, Insn
from libbpf_shim.rewrite.plan import CopyKind, Displaced
from libbpf_shim.rewrite.targets import inside, jump_targets

JUMP, SHORT = 5, 2  # bytes of jmp rel32, rel8
_BACK, _AHEAD = 24, 64  # bytes before and behind that a window may reach
_REACH = 120  # bytes that a short jump is taken to span
_LATE = 8  # instructions behind the call that may come before its window
_WORDS = 255  # of the stack behind a call that CallSite.kept can tell of
SIGRETURN, EXIT, EXIT_GROUP, SET_ROBUST_LIST = 15, 60, 231, 273
_ENDING = (EXIT, EXIT_GROUP)  # they do not return
_INSIDE = (*_ENDING, SET_ROBUST_LIST)  # may be made from a trampoline
_CALLS = (CopyKind.CALL, CopyKind.CALL_INDIRECT)
_RAX = frozenset(("rax", "eax", "ax", "al", "ah"))
_KEPT = _RAX | {"rsp", "esp"}  # between a call and a later window
UNKNOWN = -1


@dataclass(frozen=True, slots=True)
class Half:
    """A window: where it begins, the bytes there, the instructions that are displaced. island:
    where a short jump leads, in fill of those bytes (0: the window has room for a long one)."""

    window: int
    orig: bytes
    displaced: tuple[Displaced, ...]
    island: int = 0
    fill: bytes = b""

    @property
    def single(self) -> bool:
        """Nobody can stand inside it."""
        return len(self.displaced) == 1

    @property
    def end(self) -> int:
        return self.window + len(self.orig)


@dataclass(frozen=True, slots=True)
class CallSite:
    """vaddr: of the `syscall`. nr: the number that it always has, or UNKNOWN. before, after: its
    windows. shared: control may come to `after` by another way than from the call. inside:
    `before` holds the call itself. why: what is missing, "" if nothing. bridge: `before` stands at
    the start of a function that looks for cancellations. kept: where a number that is no constant
    was taken from, as words of the stack behind the call, from 1; 0: nobody knows."""

    vaddr: int
    nr: int
    before: Half | None
    after: Half | None
    shared: bool = False
    inside: bool = False
    why: str = ""
    bridge: Bridge | None = None
    kept: int = 0


@dataclass(frozen=True, slots=True)
class CallPlan:
    """All call sites of a file, by address; those that nothing is done to are in `left`. own: of
    Go, whose stacks have no room for a hook."""

    key: str
    sites: tuple[CallSite, ...]
    left: tuple[CallSite, ...]
    own: bool = False

    def __hash__(self) -> int:
        """For each process that begins: not of hundreds of sites."""
        return hash(self.key)


class _Around:
    """What is known of one call's neighbourhood. taken: where windows of others end. used: bytes
    of the module that windows have, so that fill may be used; None: that is not known yet."""

    def __init__(self, code: Code, body: Body, index: int, cache: Path | None) -> None:
        self.code, self.body, self.index = code, body, index
        self.taken, self.used = 0, None  # type: int, set[int] | None
        self.module = code.module
        self.call = body.insns[index]
        lo, hi = self.call.at - _BACK, self.call.end + _AHEAD
        self.targets = set(body.targets)
        for near in code.near(lo, hi):
            self.targets |= near.targets
        far = jump_targets(self.module, cache)
        at = inside(far, lo, hi)
        while at is not None:
            if body.index(at) is not None:  # elsewhere it is an accident of bytes
                self.targets.add(at)
            at = inside(far, at + 1, hi)

    def target_in(self, lo: int, hi: int) -> bool:
        """Something may jump to an address in [lo, hi)."""
        return any(t in self.targets for t in range(lo, hi))

    def full(self, insn: Insn) -> Any:
        """The instruction with all that capstone knows of it."""
        return next(decode.instructions(self.module.read(insn.at, insn.size), insn.at))

    def writes(self, insn: Insn, names: frozenset[str]) -> bool:
        full = self.full(insn)
        return any(full.reg_name(r) in names for r in full.regs_access()[1])

    def half(self, start: int, end: int, insns: Sequence[Insn]) -> Half | None:
        """A window of these instructions; None: one of them cannot be moved."""
        try:
            copies = tuple(decode.displaced(self.full(i)) for i in insns)
        except (decode.NotMovableError, StopIteration):
            return None
        if any(c.kind is CopyKind.CALL_INDIRECT for c in copies):
            return None
        return Half(start, self.module.read(start, end - start), copies)


def _back(around: _Around, size: int) -> int | None:
    """Index of the instruction from which at least `size` bytes lead to the call."""
    at, insns = around.index, around.body.insns
    while around.call.at - insns[at].at < size:
        at -= 1
        if at < 0 or insns[at].end != insns[at + 1].at:
            return None
    return at


def _before(around: _Around) -> tuple[Half | None, str]:
    """The window that ends at the call."""
    why = "no room before it"
    for size in (JUMP, SHORT):
        at = _back(around, size)
        if at is None:
            continue
        start, end = around.body.insns[at].at, around.call.at
        if start < around.taken:
            why = "the call before it is too near"
            continue
        if around.target_in(start + 1, end):
            why = f"a jump target between {start:#x} and the call"
            continue
        half = around.half(start, end, around.body.insns[at : around.index])
        if half is None or any(d.kind in _CALLS or d.ends for d in half.displaced):
            why = "an instruction before it that cannot be moved"
            continue
        if size == JUMP or (half := _island(around, half)):
            return half, ""
    return None, why


def _ahead(around: _Around, found: Shape) -> tuple[Half | None, str]:
    """The window at the start of a function that looks for cancellations; between that and the
    call there is none."""
    insns = around.body.insns
    start = insns[found.first].at
    if start < around.taken:
        return None, "the call before it is too near"
    for last, size in windows(found, insns, JUMP, SHORT):
        if last > found.reads and around.used is None:
            break  # fill is looked for first
        end = insns[last - 1].end
        half = around.half(start, end, insns[found.first : last])
        if half is None or around.target_in(start + 1, end):
            continue
        if size == JUMP or (half := _island(around, half)):
            return half, ""
    return None, "no room before a look for cancellations"


def _island(around: _Around, half: Half) -> Half | None:
    """A long jump in fill that a short jump at the window reaches."""
    if around.used is None:
        return None
    for fill in around.code.padding(half.window - _REACH, half.window + _REACH, JUMP):
        for at in range(fill.start, fill.stop - JUMP + 1):
            place = range(at, at + JUMP)
            if abs(at - half.window) < _REACH and around.used.isdisjoint(place) \
                    and not around.target_in(at, at + JUMP):
                around.used.update(place)
                return Half(half.window, half.orig, half.displaced, at,
                            around.module.read(at, JUMP))
    return None


def _after(around: _Around) -> tuple[Half | None, bool, str]:
    """The window behind the call, whether it is shared with other ways, why there is none."""
    insns, first = around.body.insns, around.index + 1
    why = "no room behind it"
    for at in range(first, min(first + _LATE, len(insns))):
        if insns[at].at != insns[at - 1].end:
            break
        half, why_not = _forward(around, at)
        if half:
            return half, at > first or around.target_in(half.window, half.window + 1), ""
        if at == first and (short := _short_after(around)):
            return short, around.target_in(short.window, short.window + 1), ""
        why = why if at > first else why_not
        gone = insns[at].target or insns[at].name in (*ENDS, "call", "syscall")
        if gone or around.writes(insns[at], _KEPT):
            break
    return None, False, why


def _short_after(around: _Around) -> Half | None:
    """Directly behind the call, by way of some fill."""
    insns, first = around.body.insns, around.index + 1
    last, start = first, around.call.end
    while last < len(insns) and insns[last].at - start < SHORT and insns[last].name != "call" \
            and (last == first or insns[last - 1].name not in ENDS):
        last += 1
    end = insns[last - 1].end
    if insns[last - 1].name in ENDS and end - start < SHORT:
        end += min(around.code.dead(end), start + SHORT - end)
    if end - start < SHORT or around.target_in(start + 1, end):
        return None
    half = around.half(start, end, insns[first:last])
    return _island(around, half) if half else None


def _forward(around: _Around, index: int) -> tuple[Half | None, str]:
    """Whole instructions from that one on, and padding behind an end."""
    insns = around.body.insns
    start = end = insns[index].at
    taken: list[Insn] = []
    over = False
    for insn in insns[index:]:
        if end - start >= JUMP or insn.at != end:
            break
        if over and insn.name not in PADDING:
            return None, "no room behind it"
        if not over:
            taken.append(insn)
        over = over or insn.name in ENDS
        end = insn.end
        if insn.name == "call" and end - start < JUMP:
            return None, "a call behind it"
    if over and end - start < JUMP:
        end = max(_padded(around.module, start, end), end + around.code.dead(end))
        end = min(end, max(start + JUMP, taken[-1].end))
    if end - start < JUMP:
        return None, "no room behind it"
    if around.target_in(start + 1, end):
        return None, f"a jump target behind {start:#x}"
    half = around.half(start, end, taken)
    return half, "" if half else "an instruction behind it that cannot be moved"


def _padded(module: Module, start: int, end: int) -> int:
    """Behind a function's end there may be fill that no table names."""
    for _, size, mnemonic, operands in decode.sweep(module.read(end, 16), end):
        fill = mnemonic.split()[-1] in PADDING or operands == "ax, ax"
        if end - start >= JUMP or not fill:
            break
        end += size
    return end


def _inside(around: _Around) -> Half | None:
    """A window that holds the call: what is displaced is what leads to it; it goes on behind."""
    at, insns = around.index, around.body.insns
    end = around.call.end
    while end - insns[at].at < JUMP and at > 0 and insns[at - 1].end == insns[at].at \
            and not around.target_in(insns[at].at, insns[at].at + 1):
        at -= 1
    start, last = insns[at].at, around.index + 1
    while end - start < JUMP and last < len(insns) and insns[last].at == end:
        end = insns[last].end
        last += 1
    if end - start < JUMP or start < around.taken or around.target_in(start + 1, end):
        return None
    before = around.half(start, end, insns[at : around.index])
    behind = around.half(around.call.end, end, insns[around.index + 1 : last])
    if before is None or behind is None or any(d.kind in _CALLS for d in before.displaced):
        return None
    call = Displaced(around.call.at, SYSCALL, "syscall")
    return Half(start, around.module.read(start, end - start),
                (*before.displaced, call, *behind.displaced))


def _constant(full: Any) -> int | None:
    """What `mov $N, %eax` or `xor %eax, %eax` puts into its register."""
    import capstone.x86 as x86

    ops = full.operands
    if full.mnemonic in ("mov", "movabs") and ops[1].type == x86.X86_OP_IMM \
            and ops[0].type == x86.X86_OP_REG and ops[0].size >= 4:
        return int(ops[1].imm) & 0xFFFFFFFF
    if full.mnemonic == "xor" and ops[0].type == ops[1].type == x86.X86_OP_REG \
            and ops[0].reg == ops[1].reg:
        return 0
    return None


def _number(around: _Around) -> tuple[int, bool]:
    """What eax holds at the call, if every way there leads through one constant; and whether
    the call is one that ends a thread, as far as reading upwards tells."""
    insns, end, names, sure = around.body.insns, around.call.at, _RAX, True
    for insn in reversed(insns[max(around.index - 64, 0) : around.index]):
        sure = sure and insn.end == end and not around.target_in(end, end + 1) \
            and insn.name not in ("call", *ENDS)
        end = insn.at
        if not around.writes(insn, names):
            continue
        full = around.full(insn)
        value = _constant(full)
        if value is not None:
            return value if sure else UNKNOWN, value in _ENDING
        source = full.operands[-1] if full.mnemonic == "mov" and len(full.operands) == 2 else None
        if source is None or not source.reg or source.size < 4:
            break
        base = full.reg_name(source.reg).lstrip("er").rstrip("d")
        names, sure = frozenset((f"r{base}", f"e{base}", f"r{base}d", base)), False
    return UNKNOWN, False


def _kept(around: _Around, after: Half | None) -> int:
    """CallSite.kept: of glibc 2.41's `mov 16(%rsp), %rax` right before the call, where the window
    behind it begins at once."""
    import capstone.x86 as x86

    call = around.call
    before = around.body.insns[around.index - 1] if around.index else None
    if before is None or before.end != call.at or before.name != "mov" or after is None \
            or after.window != call.end or around.target_in(call.at, call.end):
        return 0
    full = around.full(before)
    to, what = full.operands
    words, rest = divmod(what.mem.disp, 8) if what.type == x86.X86_OP_MEM else (-1, 0)
    plain = words in range(_WORDS) and not rest and full.reg_name(what.mem.base) == "rsp" \
        and not what.mem.index and not what.mem.segment
    return words + 1 if plain and to.reg and full.reg_name(to.reg) in ("rax", "eax") else 0


def _site(around: _Around) -> CallSite:
    call = around.call.at
    nr, ending = _number(around)
    if nr == SIGRETURN:
        return CallSite(call, nr, None, None, why="a signal's return, known by its bytes")
    found = shape(around.body, around.index, around.full)
    before, why = _ahead(around, found) if found else _before(around)
    after, shared, why_not = (None, False, "") if ending else _after(around)
    if (before is None and ending) or (nr in _INSIDE and after is None and not ending):
        half = _inside(around)
        if half:
            return CallSite(call, nr, half, None, inside=True)
    return CallSite(call, nr, before, after, shared, why=why or why_not,
                    bridge=found.bridge if found and before else None,
                    kept=_kept(around, after) if nr == UNKNOWN and not shared else 0)


def _apart(sites: list[CallSite]) -> list[CallSite]:
    """No two windows share a byte: of two calls near each other the first one's `after` gives
    way."""
    found = []
    for site, following in zip_longest(sites, sites[1:]):
        if following and site.after and site.after.end > (
                following.before.window if following.before else following.vaddr):
            site = CallSite(site.vaddr, site.nr, site.before, None,
                            why="the call behind it is too near", bridge=site.bridge)
        found.append(site)
    return found


def _bytes(site: CallSite) -> set[int]:
    """Of its windows, and of the call."""
    found = set(range(site.vaddr, site.vaddr + len(SYSCALL)))
    for half in (site.before, site.after):
        if half:
            found.update(range(half.window, half.end))
            found.update(range(half.island, half.island + JUMP) if half.island else ())
    return found


def make_plan(module: Module, cache: Path | None = None, only: str = "") -> CallPlan:
    """The call sites of a module. only: the name of the one function whose calls count. cache: as
    plan_site's."""
    lo, hi = 0, 1 << 64
    if only:
        symbol = module.find(only)
        lo, hi = (symbol.vaddr, symbol.vaddr + symbol.size) if symbol else (0, 0)
    code, sites, taken = Code(module), list[CallSite](), 0
    arounds = [_Around(code, body, index, cache) for body, index in code.calls()
               if lo <= body.insns[index].at < hi]
    for around in arounds:
        around.taken = taken
        sites.append(_site(around))
        before = sites[-1].before
        taken = max(around.call.end, before.end if before else 0)
    sites = _apart(sites)
    used = set().union(*map(_bytes, sites)) if sites else set()
    for n, around in enumerate(arounds):  # fill is used only where nothing else serves
        if sites[n].why and sites[n].nr != SIGRETURN:
            used -= _bytes(sites[n])
            around.used = used
            sites[n] = _site(around)
            used |= _bytes(sites[n])
    sites = _apart(sites)
    return CallPlan(f"{module.key}-{only}", tuple(s for s in sites if s.before or s.after),
                    tuple(s for s in sites if not s.before and not s.after))
