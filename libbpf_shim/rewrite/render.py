"""`render`: the bytes of a trampoline and of its window, for one process.

A trampoline builds struct shim_pt_regs on the application's stack, calls the agent, puts
everything back, runs the copies of the displaced instructions and jumps behind the window. Before
each copy but the probed one's is a slot, an eight-byte nop: a probe of that instruction puts a
jump to a trampoline of its own there, and takes it away again, whatever other probes do.
It never pushes anything that stays: no return address of ours is on the stack afterwards.

At a function's entry the flags and the red zone are dead (System V ABI), so they are not saved;
elsewhere both are. The encodings stand here byte by byte (Intel SDM volume 2); tests check them
against an assembler.
"""

from __future__ import annotations

import errno
import struct

from libbpf_shim.errors import ShimError
from libbpf_shim.rewrite.plan import TRAP, CopyKind, Displaced, SitePatch, SitePlan

_RED_ZONE = 128
_USER_CS, _USER_SS = 0x33, 0x2B
# push and pop in the order of struct shim_pt_regs, from orig_ax downwards.
_PUSHES = bytes.fromhex("57 56 52 51 50 4150 4151 4152 4153 53 55 4154 4155 4156 4157")
_POPS = bytes.fromhex("415b 415a 4159 4158 58 59 5a 5e 5f")  # of what a call may change

_CHANGED = 13  # bytes of each of them: from di to r11

# The arithmetic flags, which are in ecx. Changes rax and rcx. csrc/agent/flags.inc.
_FLAGS_BACK = bytes.fromhex(
    "88cc"  # mov %cl, %ah
    "80e508 80c578"  # and $8, %ch; add $120, %ch: overflow, if that was 8
    "9e"  # sahf
)
# All of them (popfq costs three times as much).
_ALL_FLAGS_BACK = bytes.fromhex("ffb42490000000 9d")  # push 144(%rsp); popfq

SLOT = bytes.fromhex("0f1f840000000000")  # nopl 0(%rax,%rax,1), with a 32-bit displacement
_NOPS = tuple(bytes.fromhex(n) for n in (
    "", "90", "6690", "0f1f00", "0f1f4000", "0f1f440000", "660f1f440000", "0f1f8000000000"))


class Code:
    """Bytes at an address, with 64-bit literals that are placed behind them. outwards: where in
    them displacements of places outside stand; words: where literals do, and which."""

    def __init__(self, base: int) -> None:
        self.base = base
        self.out = bytearray()
        self.literals: list[tuple[int, int]] = []
        self.outwards: list[int] = []
        self.words: list[tuple[int, int]] = []

    @property
    def here(self) -> int:
        return self.base + len(self.out)

    def put(self, code: bytes | str) -> None:
        self.out += bytes.fromhex(code) if isinstance(code, str) else code

    def rel32(self, target: int) -> None:
        """A displacement that ends its instruction."""
        self.outwards.append(len(self.out))
        self.out += _rel32(target - (self.here + 4))

    def literal(self, opcode: str, value: int) -> None:
        """An instruction with a RIP-relative operand that holds value."""
        self.put(opcode)
        self.literals.append((len(self.out), value))
        self.put(b"\0\0\0\0")

    def finish(self) -> bytes:
        self.out += b"\xcc" * (-len(self.out) % 8)
        places: dict[int, int] = {}
        for at, value in self.literals:
            if value not in places:
                places[value] = len(self.out)
                self.words.append((len(self.out), value))
                self.out += struct.pack("<Q", value & (2**64 - 1))
            self.out[at : at + 4] = _rel32(places[value] - (at + 4))
        return bytes(self.out)


def _rel32(delta: int) -> bytes:
    try:
        return struct.pack("<i", delta)
    except struct.error as err:
        raise ShimError(
            "RW0002", errno.ERANGE, f"trampoline: {delta:#x} bytes away, 32 bits reach 2 GiB"
        ) from err


class _Whole:
    """Registers to the stack, call of agent_enter(regs, site), registers back. Behind all else
    (`out`) is what is done where the direction flag was set."""

    def __init__(self, code: Code, at_entry: bool, ip: int, site: int, enter: int) -> None:
        gap, self._jump, self._back = 0 if at_entry else _RED_ZONE, 0, 0
        if gap:
            code.put("48 8d 64 24 80")  # lea -128(%rsp), %rsp
        code.put(bytes([0x6A, _USER_SS]))  # push ss
        code.put("48 8d 64 24 f8 9c")  # lea -8(%rsp), %rsp; pushfq
        code.put(bytes([0x6A, _USER_CS]))  # push cs
        code.literal("ff 35", ip)  # push ip
        code.put("6a ff")  # push $-1: orig_ax
        code.put(_PUSHES)
        code.put("48 8d bc 24" + struct.pack("<i", 168 + gap).hex())  # lea 168 + gap(%rsp), %rdi
        code.put("48 89 bc 24 98000000")  # mov %rdi, 152(%rsp)
        code.put("48 89 e7")  # mov %rsp, %rdi
        code.literal("48 8b 35", site)  # mov site, %rsi
        if gap:  # the ABI wants the direction flag clear in a call
            code.put("f7 84 24 90000000 00040000")  # testl $0x400, 144(%rsp)
            code.put("74 01 fc")  # jz over; cld
        code.literal("ff 15", enter)  # call *enter, which aligns the stack
        if gap:
            code.put("8b 8c 24 90000000 f7 c1 00040000")  # mov 144(%rsp), %ecx; test $0x400, %ecx
            code.put("0f 85")  # jnz out
            self._jump = len(code.out)
            code.put(bytes(4))
            code.put(_FLAGS_BACK)
            self._back = len(code.out)
        code.put("48 8d 64 24 30")  # lea 48(%rsp), %rsp: what agent_enter has put back
        code.put(_POPS)
        code.put("48 8d a4 24" + struct.pack("<i", 48 + gap).hex())  # orig_ax ip cs flags sp ss

    def out(self, code: Code) -> None:
        at = self._jump
        if at:
            code.out[at : at + 4] = _rel32(len(code.out) - (at + 4))
            code.put(_ALL_FLAGS_BACK)
            code.put(b"\xe9" + _rel32(self._back - (len(code.out) + 5)))


class _Lean:
    """The entry of a function: what a call may change goes to its place in struct shim_pt_regs,
    agent_enter_lean (csrc/agent/lean.S) is called, and the registers come back. It answers with 0,
    or with the return slot that is to call the copies that follow: then `out`, which stands behind
    all else, takes the return address away and goes there."""

    def __init__(self, code: Code, ip: int, site: int, enter: int) -> None:
        code.put("48 8d 64 24 d0")  # lea -48(%rsp), %rsp: orig_ax ip cs flags sp ss
        code.put(_PUSHES[:_CHANGED])
        code.put("48 8d 64 24 d0")  # lea -48(%rsp), %rsp: bx bp r12 to r15
        code.literal("48 8b 35", site)  # mov site, %rsi
        code.literal("48 8b 15", ip)  # mov ip, %rdx
        code.put("48 8d 05")  # lea copies(%rip), %rax
        copies = len(code.out)
        code.put(bytes(4))
        code.literal("ff 15", enter)  # call *enter
        code.put("48 85 c0 0f 85")  # test %rax, %rax; jnz out
        self._jump = len(code.out)
        code.put(bytes(4))
        self._back(code, 48)
        code.out[copies : copies + 4] = _rel32(len(code.out) - (copies + 4))

    @staticmethod
    def _back(code: Code, more: int) -> None:
        code.put("48 8d 64 24 30")  # lea 48(%rsp), %rsp
        code.put(_POPS)
        code.put(b"\x48\x8d\x64\x24" + bytes([more]))  # lea more(%rsp), %rsp

    def out(self, code: Code) -> None:
        at = self._jump
        code.out[at : at + 4] = _rel32(len(code.out) - (at + 4))
        code.put("48 89 44 24 78")  # mov %rax, 120(%rsp): the place of orig_ax
        self._back(code, 48 + 8)
        code.put("ff 64 24 c8")  # jmp *-56(%rsp): the red zone is dead


def _enter_own(code: Code, ip: int, site: int, enter: int) -> None:
    """The same where the stack is a goroutine's, through agent_enter_own (csrc/agent/ownstack.S),
    which leaves it for one of the agent's. Go keeps no red zone."""
    code.put("50 51")  # push %rax; push %rcx
    code.literal("48 8b 05", site)  # mov site, %rax
    code.literal("48 8b 0d", ip)  # mov ip, %rcx
    code.literal("ff 15", enter)  # call *enter
    code.put("59 58")  # pop %rcx; pop %rax


def copy(code: Code, insn: Displaced, bias: int) -> None:
    """One displaced instruction, to the same effect at another address."""
    target = insn.target + bias
    after = insn.vaddr + len(insn.code) + bias
    kind = insn.kind
    if kind is CopyKind.PLAIN:
        code.put(b"" if _is_nop(insn.code) else insn.code)
    elif kind is CopyKind.RIP:
        _moved(code, insn.code, insn.disp_at, target)
    elif kind is CopyKind.JMP:
        code.put("e9")
        code.rel32(target)
    elif kind is CopyKind.JCC:
        op = insn.code[-2] if insn.code[-2] & 0xF0 == 0x70 and len(insn.code) < 6 else 0
        code.put(bytes([0x0F, 0x80 | (op or insn.code[-5]) & 0x0F]))
        code.rel32(target)
    elif kind is CopyKind.STAYS:
        pass
    elif kind is CopyKind.LOOP:
        code.put(insn.code[:-1] + b"\x02\xeb\x05\xe9")  # taken: over the next jump
        code.rel32(target)
    elif kind is CopyKind.CALL:
        code.literal("ff 35", after)
        code.put("e9")
        code.rel32(target)
    else:
        _call_indirect(code, insn, target, after)


def _is_nop(code: bytes) -> bool:
    """It does nothing, as most that are probed for USDT; `pause` is none."""
    rest = code.lstrip(b"\x66\x2e")
    return rest == b"\x90" or rest[:2] == b"\x0f\x1f" and not rest[2] & 0x38


def _moved(code: Code, insn: bytes, at: int, target: int) -> None:
    """A RIP-relative instruction: the displacement counts from the copy's end."""
    end = code.here + len(insn)
    code.outwards.append(len(code.out) + at)
    code.put(insn[:at] + _rel32(target - end) + insn[at + 4 :])


def _call_indirect(code: Code, insn: Displaced, target: int, after: int) -> None:
    """call r/m64 (ff /2) as a push of the original return address and jmp r/m64 (ff /4)."""
    code.literal("ff 35", after)
    raw = bytearray(insn.code)
    at = raw.index(0xFF)  # no prefix is ff
    raw[at + 1] = raw[at + 1] & ~0x38 | 0x20
    if insn.disp_at:
        _moved(code, bytes(raw), insn.disp_at, target)
    else:
        code.put(bytes(raw))


def _slot(code: Code) -> int:
    """Eight bytes of one nop, that one aligned store can make a jump of; their address."""
    pad = -len(code.out) % len(SLOT)
    code.put(_NOPS[pad])
    code.put(SLOT)
    return code.here - len(SLOT)


def render(
    plan: SitePlan, bias: int, tramp: int, site: int, enter: int, own: bool = False,
    lean: int = 0,
) -> SitePatch:
    """The bytes for one process.

    bias: what to add to the module's virtual addresses. tramp: where the trampoline will lie, a
    multiple of 16, executable, within 2 GiB of the window (region.py finds a place). site: address
    of the struct shim_site. enter: address of agent_enter, or (own) of agent_enter_own; lean: of
    agent_enter_lean, which takes its place at a function's entry, or 0. Raises ShimError ERANGE:
    out of reach.
    """
    return lay_out(plan, bias, tramp, site, enter, own, lean)[0]


def lay_out(
    plan: SitePlan, bias: int, tramp: int, site: int, enter: int, own: bool, lean: int
) -> tuple[SitePatch, Code]:
    """The same, and the code with what is known of its parts."""
    code = Code(tramp)
    begins = {}
    slots = []
    entry: _Whole | _Lean | None = None
    for insn in plan.displaced:
        begins[insn.vaddr] = code.here
        if insn.vaddr == plan.vaddr and own:
            _enter_own(code, plan.vaddr + bias, site, enter)
        elif insn.vaddr == plan.vaddr and lean and plan.at_entry:
            entry = _Lean(code, plan.vaddr + bias, site, lean)
        elif insn.vaddr == plan.vaddr:
            entry = _Whole(code, plan.at_entry, plan.vaddr + bias, site, enter)
        else:
            begins[insn.vaddr] = _slot(code)
            slots.append((insn.vaddr + bias, begins[insn.vaddr]))
        copy(code, insn, bias)
    if plan.resume:
        code.put("e9")
        code.rel32(plan.resume + bias)
    if entry:
        entry.out(code)
    fixups = tuple((at + bias, begins[at]) for at in plan.inner)
    made = SitePatch(code.finish(), window_bytes(plan, bias, tramp), fixups, tuple(slots))
    return made, code


def window_bytes(plan: SitePlan, bias: int, tramp: int) -> bytes:
    """What is written over the window. ERANGE: the trampoline is out of reach, or (pun) not
    where the fixed bytes lead."""
    at = plan.window + bias
    if plan.tactic == TRAP:
        return b"\xcc" + plan.orig[1:]
    if plan.hole:
        delta = plan.hole.vaddr - (plan.window + 2)
        return b"\xeb" + struct.pack("<b", delta) + plan.orig[2:]
    jump = b"\xe9" + _rel32(tramp - (at + 5))
    if plan.fixed and jump[-len(plan.fixed) :] != plan.fixed:
        raise ShimError("RW0002", errno.ERANGE, f"{at:#x}: the jump does not end in these bytes")
    return jump[: len(plan.orig)] + plan.orig[5:]


def hole_bytes(plan: SitePlan, bias: int, tramp: int) -> bytes:
    """What is written over the hole. ERANGE."""
    assert plan.hole
    return b"\xe9" + _rel32(tramp - (plan.hole.vaddr + bias + 5))


def reachable(plan: SitePlan, bias: int) -> tuple[int, int] | None:
    """[lo, hi] of the addresses that a punned jump can lead to; None: not punned."""
    if not plan.fixed:
        return None
    free = 4 - len(plan.fixed)
    lo = int.from_bytes(bytes(free) + plan.fixed, "little", signed=True)
    lo += plan.window + 5 + bias
    return lo, lo + (1 << 8 * free) - 1


def render_guest(
    ip: int, slot: int, tramp: int, site: int, enter: int, own: bool = False, lean: int = 0
) -> SitePatch:
    """For an instruction whose slot lies in another site's trampoline: the hit, and the way
    back. lean: address of agent_enter_lean, of a function's entry; else 0."""
    code = Code(tramp)
    entry: _Whole | _Lean | None = None
    if own:
        _enter_own(code, ip, site, enter)
    elif lean:
        entry = _Lean(code, ip, site, lean)
    else:
        entry = _Whole(code, False, ip, site, enter)
    code.put("e9")
    code.rel32(slot + len(SLOT))
    if entry:
        entry.out(code)
    jump = b"\xe9" + _rel32(tramp - (slot + 5)) + b"\x90\x90\x90"
    return SitePatch(code.finish(), jump, ())


GUEST_SIZE = 224  # bytes, at most, of render_guest's trampoline


def trampoline_size(plan: SitePlan) -> int:
    """An upper bound in bytes, for allocation before the addresses are known; a multiple of 16."""
    return 224 + 48 * len(plan.displaced)
