"""`render_calls`: the trampolines of a module's system calls, for any process.

All of a module's lie in one region, struct shim_calls in front. Where the region stands at the
same distance from the module its bytes are the same in every process but for the addresses in
that head: what is rendered for one distance is kept.

Before a call rcx and r11 are free, since the call overwrites both; behind it rcx is known: the
address behind the call. The flags, all other registers, the red zone and what is below it stay as
they are. Entry and exit hooks are called from a trampoline's own code, on the application's
stack below the red zone; nothing of that is left when the call is made. Encodings: Intel SDM
volume 2.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.callsites import SYSCALL
from libbpf_shim.rewrite.plan import CopyKind, Displaced
from libbpf_shim.rewrite.render import Code, copy
from libbpf_shim.rewrite.syscalls import JUMP, UNKNOWN, CallPlan, CallSite, Half

HEAD = struct.Struct("<IIQQQQQII")  # struct shim_calls
WINDOW_FORMAT = "<iB5s5sB"  # struct shim_call_window
WHOLE, NEEDED, ISLAND = 63, 64, 128  # SHIM_CALL_*: its flags
_WINDOW = struct.Struct(WINDOW_FORMAT)
_SITE = struct.Struct("<ihH")  # struct shim_call_site
MAGIC = 0x4C4C4143
SHARED, _KEPT = 1, 8  # SHIM_CALL_*
ANY = 512  # SHIM_MAX_SYSCALLS: the byte that says whether any call is wanted
_ENTER_AT, _EXIT_AT, _WANTED_AT = 24, 32, 40  # in the head
_ANY_HOOK, _BEFORE, _BEHIND = 0, ANY + 1, 2 * (ANY + 1)  # the three rows of what is wanted
# SIGTRAP may be blocked by these, or its handler taken away (csrc/agent/trapcalls.c); -1: which
# one it is cannot be told
OF_SIGNALS = (UNKNOWN, 13, 14, 130, 270, 271, 281, 333, 426, 441)
_OF_CODE = (UNKNOWN, 9, 10)  # mmap, mprotect: what comes by these may have others
_FORMAT = b"5"  # of what is rendered: another one must not be taken for this


@dataclass(frozen=True, slots=True)
class Change:
    """One window. at: virtual address in the module; orig, patch: its bytes. fixups: (address of
    an instruction inside, offset of its copy in the region). island: fill that nobody runs, and
    the short jump of another leads to. end: behind the last instruction that is executed in the
    region. needed: probes by int3 are safe only where it is there."""

    at: int
    orig: bytes
    patch: bytes
    fixups: tuple[tuple[int, int], ...] = ()
    island: bool = False
    end: int = 0
    needed: bool = False

    @property
    def leads(self) -> int:
        """Where its short jump leads; 0: it is a long one."""
        return self.at + 2 + int.from_bytes(self.patch[1:], "little", signed=True) \
            if len(self.patch) == 2 else 0

    @property
    def flags(self) -> int:
        """As a process has them."""
        whole = self.end - self.at
        assert whole <= WHOLE, f"a window of {whole} bytes at {self.at:#x}"
        return whole | NEEDED * self.needed | ISLAND * self.island


@dataclass(frozen=True, slots=True)
class Region:
    """base: where it lies, less the module's bias. text: its bytes behind its head. key: of the
    plan at that distance, as the head holds it. table: offset of its windows."""

    base: int
    key: int
    text: bytes
    table: int
    changes: tuple[Change, ...]

    @property
    def size(self) -> int:
        return HEAD.size + len(self.text)

    def head(self, bias: int, enter: int, leave: int, wanted: int) -> bytes:
        """What is of one process: its module's bias, addresses of the agent's hooks and of the
        bytes that say which calls are wanted."""
        return HEAD.pack(MAGIC, len(self.changes), self.key, bias, enter, leave, wanted,
                         self.table, 0)


class _Writer(Code):
    """base: the region's distance from the module's address 0."""

    def __init__(self, base: int, own: bool) -> None:
        super().__init__(base + HEAD.size)
        self.origin, self.own = base, own
        self.sites: list[tuple[int, CallSite]] = []
        self.ends: list[tuple[int, str]] = []

    def slot(self, opcode: str, at: int) -> None:
        """An instruction whose operand is a word of the head."""
        self.put(opcode)
        self.rel32(self.origin + at)

    def site(self, opcode: str, site: CallSite) -> None:
        """An instruction whose operand is the call's record."""
        self.put(opcode)
        self.sites.append((len(self.out), site))
        self.put(b"\0\0\0\0")

    def keep_red_zone(self) -> None:
        """Go has none, and no room for it."""
        if not self.own:
            self.put("48 8d 64 24 80")  # lea -128(%rsp), %rsp

    def end_red_zone(self) -> None:
        if not self.own:
            self.put("48 8d a4 24 80000000")  # lea 128(%rsp), %rsp

    def over(self) -> int:
        """jrcxz forwards, to where `land` is said."""
        self.put("e300")
        return len(self.out)

    def land(self, mark: int) -> None:
        self.out[mark - 1] = len(self.out) - mark

    def gate(self, site: CallSite, hook: int) -> None:
        """rcx: not zero if somebody wants this call, by that hook. Where the entry notes the
        number for the exit, both are called."""
        if site.nr == UNKNOWN or site.shared:
            hook = _ANY_HOOK
        self.slot("48 8b 0d", _WANTED_AT)  # mov wanted, %rcx
        nr = ANY if site.nr == UNKNOWN else site.nr
        self.put("0f b6 89" + struct.pack("<I", hook + nr).hex())  # movzbl nr(%rcx), %ecx

    def records(self) -> None:
        """The calls' records, behind the code."""
        self.out += b"\xcc" * (-len(self.out) % 8)
        places: dict[int, int] = {}
        for where, site in self.sites:
            if site.vaddr not in places:
                places[site.vaddr] = len(self.out)
                here = self.base + len(self.out)
                self.out += _SITE.pack(site.vaddr + len(SYSCALL) - here, site.nr,
                                       SHARED * site.shared | site.kept << _KEPT)
            at = places[site.vaddr]
            self.out[where : where + 4] = struct.pack("<i", at - (where + 4))


def _enter(code: _Writer, site: CallSite) -> None:
    """The hook before the call; a call that is to be skipped goes on behind it, with rax set."""
    code.gate(site, _BEFORE)
    unwanted = code.over()
    code.keep_red_zone()
    code.site("4c 8d 1d", site)  # lea site, %r11
    code.slot("ff 15", _ENTER_AT)  # call *enter
    code.end_red_zone()
    made = code.over()
    if site.inside:
        code.ends.append((len(code.out) + 1, "behind"))
        code.put("e9 00000000")
    else:
        code.put("ff e1")  # jmp *%rcx
    code.land(unwanted)
    code.land(made)


def _leave(code: _Writer, site: CallSite) -> None:
    """The hook behind the call."""
    if site.shared:
        # rcx is somebody else's where control came by another way
        code.keep_red_zone()
        code.put("51 41 53")  # push %rcx; push %r11
        code.gate(site, _BEHIND)
        unwanted = code.over()
        code.site("4c 8d 1d", site)
        code.slot("ff 15", _EXIT_AT)
        code.land(unwanted)
        code.put("41 5b 59")  # pop %r11; pop %rcx
        code.end_red_zone()
        return
    code.gate(site, _BEHIND)
    unwanted = code.over()
    code.keep_red_zone()
    code.put("41 53")  # push %r11
    code.site("4c 8d 1d", site)
    code.slot("ff 15", _EXIT_AT)  # call *leave
    code.put("41 5b")  # pop %r11
    code.end_red_zone()
    code.land(unwanted)
    code.put("48 8d 0d")  # lea behind the call, %rcx
    code.rel32(site.vaddr + len(SYSCALL))


def _copies(
    code: _Writer, half: Half, first: int, last: int, fixups: list[tuple[int, int]]
) -> None:
    for insn in half.displaced[first:last]:
        if insn.vaddr != half.window:
            fixups.append((insn.vaddr, HEAD.size + len(code.out)))
        if insn.kind is CopyKind.CALL:
            _call(code, insn)
        else:
            copy(code, insn, 0)


def _call(code: _Writer, insn: Displaced) -> None:
    """A call with the return address that it has, wherever the module lies; what is below the
    stack pointer is the callee's already."""
    code.put("48 8d 64 24 f8 50")  # lea -8(%rsp), %rsp; push %rax
    code.put("48 8d 05")  # lea behind it, %rax
    code.rel32(insn.vaddr + len(insn.code))
    code.put("48 89 44 24 08 58 e9")  # mov %rax, 8(%rsp); pop %rax; jmp
    code.rel32(insn.target)


def _before(code: _Writer, site: CallSite, half: Half) -> list[tuple[int, int]]:
    fixups: list[tuple[int, int]] = []
    _copies(code, half, 0, len(half.displaced), fixups)
    _enter(code, site)
    code.put("e9")
    code.rel32(site.vaddr)
    return fixups


def _bridged(code: _Writer, site: CallSite, half: Half) -> list[tuple[int, int]]:
    """At a function's start: the hook, unless its thread is cancelled already, then the function.
    What it was given is there again; r11, which hooks do not keep, in the red zone, which
    is nobody's there (and below what Go's hooks use of it)."""
    fixups: list[tuple[int, int]] = []
    bridge = site.bridge
    assert bridge
    code.put(bridge.look + bytes((0x0F, 0x80 | bridge.when, 0, 0, 0, 0)))
    out = len(code.out)
    code.put(bridge.there)
    code.put("4c 89 5c 24 c0")  # mov %r11, -64(%rsp)
    _enter(code, site)
    code.put("4c 8b 5c 24 c0")  # mov -64(%rsp), %r11
    code.put(bridge.back)
    code.out[out - 4 : out] = struct.pack("<i", len(code.out) - out)
    _finish(code, half, 0, fixups)
    return fixups


def _inside(code: _Writer, site: CallSite, half: Half) -> list[tuple[int, int]]:
    """The call itself is made here."""
    fixups: list[tuple[int, int]] = []
    call = next(n for n, d in enumerate(half.displaced) if d.vaddr == site.vaddr)
    _copies(code, half, 0, call, fixups)
    _enter(code, site)
    fixups.append((site.vaddr, HEAD.size + len(code.out)))
    code.put(SYSCALL)
    for at, _ in code.ends:
        code.out[at : at + 4] = struct.pack("<i", len(code.out) - (at + 4))
    code.ends.clear()
    fixups.append((site.vaddr + len(SYSCALL), HEAD.size + len(code.out)))
    _leave(code, site)
    _finish(code, half, call + 1, fixups)
    return [f for f in fixups if half.window < f[0] < half.end]


def _after(code: _Writer, site: CallSite, half: Half) -> list[tuple[int, int]]:
    fixups: list[tuple[int, int]] = []
    _leave(code, site)
    _finish(code, half, 0, fixups)
    return fixups


def _finish(code: _Writer, half: Half, first: int, fixups: list[tuple[int, int]]) -> None:
    """The displaced instructions from the first on, and back behind the window."""
    _copies(code, half, first, len(half.displaced), fixups)
    last = half.displaced[-1]
    if not last.ends and last.kind is not CopyKind.CALL:
        code.put("e9")
        code.rel32(half.end)


def _changes(
    half: Half, tramp: int, fixups: list[tuple[int, int]], needed: bool
) -> list[Change]:
    """What leads from the window to the trampoline; an island before the jump into it."""
    from_island = half.island or half.window
    jump = b"\xe9" + struct.pack("<i", tramp - (from_island + JUMP))
    if not half.island:
        return [Change(half.window, half.orig[:JUMP], jump, tuple(fixups), False, half.end,
                       needed)]
    short = bytes((0xEB, half.island - (half.window + 2) & 0xFF))
    return [Change(half.island, half.fill, jump, (), True, half.island + JUMP, needed),
            Change(half.window, half.orig[:2], short, tuple(fixups), False, half.end, needed)]


def _first(site: CallSite) -> Callable[[_Writer, CallSite, Half], list[tuple[int, int]]]:
    return _inside if site.inside else _bridged if site.bridge else _before


@lru_cache(maxsize=256)
def render_calls(plan: CallPlan, base: int) -> Region:
    """base: where the region will lie, less the module's bias. ERANGE: not within 2 GiB."""
    code, changes = _Writer(base, plan.own), list[Change]()
    for site in plan.sites:
        for half, make, numbers in (
            (site.before, _first(site), OF_SIGNALS),
            (site.after, _after, _OF_CODE),
        ):  # fmt: skip
            if half:
                tramp = code.here
                changes += _changes(half, tramp, make(code, site, half), site.nr in numbers)
    changes.sort(key=lambda c: c.at)
    for one, other in pairwise(changes):
        assert one.at + len(one.orig) <= other.at, f"windows at {one.at:#x} overlap"
    code.records()
    code.out += b"\0" * (-(HEAD.size + len(code.out)) % 8)
    table = HEAD.size + len(code.out)
    for change in changes:
        code.out += _WINDOW.pack(change.at - base, len(change.orig), change.orig, change.patch,
                                change.flags)
    text = bytes(code.out)
    key = hashlib.sha256(_FORMAT + plan.key.encode() + text).digest()[:8]
    return Region(base, int.from_bytes(key, "little"), text, table, tuple(changes))


def region_size(plan: CallPlan) -> int:
    """Bytes of its region, wherever that lies."""
    try:
        return render_calls(plan, _BASE).size
    except ShimError:
        return render_calls(plan, -_BASE).size


_BASE = 1 << 26
