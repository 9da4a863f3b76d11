"""What the log tells of a verification: instructions, what they leave behind, lines of source.

Levels 1 and 2 of the kernel. At level 1 a path's text goes when the path ends well, so the log
holds what led to the refusal; the kernel cuts where the line of the branch ended when its other
side was kept for later, so that what came behind that on the line goes too, its line end as well.

Source: Linux 6.18, kernel/bpf/verifier.c, do_check; kernel/bpf/log.c, print_insn_state,
verbose_linfo; observed logs.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import Counter
from operator import itemgetter

from libbpf_shim.isa import insn as op
from libbpf_shim.isa.disasm import disassemble
from libbpf_shim.isa.insn import Insn
from libbpf_shim.verifier.call import helpers
from libbpf_shim.verifier.env import Env, Global
from libbpf_shim.verifier.granted import hostcalls
from libbpf_shim.verifier.log import signature, statelog
from libbpf_shim.verifier.state import (
    DYNPTR_SLOT,
    ITER_SLOT,
    STACK,
    Reg,
    Slot,
    State,
)

JOINED = "\x01"  # ends a line whose line end was cut
_COLUMN, _STEP = 40, 8  # BPF_LOG_ALIGNMENT, BPF_LOG_MIN_ALIGNMENT
_LINE = struct.Struct("<IIII")  # struct bpf_line_info


def before_running(env: Env) -> None:
    """Level 2: functions, and registers that are live before each instruction."""
    env.lines.append("Live regs before insn:")
    members = Counter(n for n in env.loop_of if n)
    at = 0
    while at < len(env.insns):
        live = "".join(str(r) if env.live[at] & 1 << r else "." for r in range(10))
        loop = f"{env.loop_of[at]:3} " if members[env.loop_of[at]] > 1 else "    "
        env.lines.append(f"{loop}{at:3}: {live} {text(env, at)}")
        at += 2 if env.insns[at].code == op.LD_IMM64 else 1


def functions(env: Env) -> None:
    for number, start in enumerate(env.subprogs):
        env.lines.append(f"func#{number} @{start}")


def signature_of_main(env: Env) -> None:
    if line := signature.complaint(env):
        env.lines.append(line)


def done(env: Env) -> None:
    """All paths from an entry are: at level 1 nothing of them is told."""
    if not env.log_level & 2:
        env.lines.clear()


def verified(env: Env, function: Global) -> None:
    """A global function is."""
    done(env)
    if env.log_level & 3:
        number = env.sub_of[function.entry]
        env.lines.append(f"Func#{number} ('{function.name}') is safe for any args that match its "
                         f"prototype")


def text(env: Env, at: int) -> str:
    """An instruction as the kernel writes it."""
    i = env.insns[at]
    if i.code == op.JMP | op.CALL and i.src == op.PSEUDO_KFUNC_CALL:
        return f"({i.code:02x}) call {_kfunc(env, i)}#{i.imm}"
    return disassemble(env.insns, at, helpers.name)


def _kfunc(env: Env, i: Insn) -> str:
    try:
        if i.off:
            called = hostcalls.of(env, i)
            return called.name if called else "kernel-function"
        return env.btf(0).type(i.imm).name
    except KeyError:
        return "unknown"


def started(env: Env) -> None:
    """At an entry: everything is new."""
    shown = env.shown
    shown.everything = True
    shown.insn = -1
    shown.line = -1
    shown.came_from = -1


def resumed(env: Env, mark: int) -> None:
    """The path goes on that was kept when the log had mark lines."""
    shown = env.shown
    shown.everything = True
    shown.insn = -1
    shown.came_from = env.prev_idx
    if env.log_level & 2:
        return
    del env.lines[mark:]
    while shown.cuts and shown.cuts[-1][0] >= mark:
        shown.cuts.pop()
    if shown.cuts and shown.cuts[-1][0] == mark - 1:
        width = shown.cuts.pop()[1]
        line = env.lines[mark - 1]
        # the last one told goes on as if it were new
        env.lines[mark - 1] = line[:width] if shown.mark == mark else line[: width + 1] + JOINED


def safe(env: Env) -> None:
    """A recorded state covers the path."""
    shown = env.shown
    if shown.came_from >= 0:
        env.lines.append(f"\nfrom {shown.came_from} to {env.insn_idx}: safe")
    else:
        env.lines.append(f"{env.insn_idx}: safe")


def instruction(env: Env) -> None:
    """The one that is about to be looked at, after what the last one left behind."""
    shown = env.shown
    at = env.insn_idx
    if shown.came_from >= 0 and env.log_level & 2:
        whole = statelog.state(env, len(env.cur.frames) - 1)
        env.lines.append(f"\nfrom {shown.came_from} to {at}:{whole}")
    shown.came_from = -1
    after(env, at)
    source(env, at)
    line = f"{at}: {text(env, at)}"
    env.lines.append(line)
    shown.mark = len(env.lines)
    shown.width = len(line)
    shown.insn = at
    shown.everything = False
    shown.stack = env.cur.frames[-1].stack[:]
    shown.slots = _addressed(env, env.insns[at])


def after(env: Env, at: int) -> None:
    """At slot at: what the last instruction read or changed, on its line if that is the last."""
    shown = env.shown
    if shown.everything:
        changed = statelog.state(env, len(env.cur.frames) - 1)
    elif shown.insn < 0:
        return
    else:
        regs = touched(env.insns[shown.insn])
        if not regs:
            return
        changed = statelog.state(env, len(env.cur.frames) - 1, regs, _slots(env))
    shown.everything = False
    shown.insn = -1
    if shown.mark != len(env.lines) or not env.lines:
        env.lines.append(f"{at}:{changed}")
        return
    width = shown.width + 1
    column = -(-max(width + _STEP // 2, _COLUMN) // _STEP) * _STEP
    if not env.log_level & 2:  # there nothing is taken back
        shown.cuts.append((shown.mark - 1, shown.width))
    env.lines[-1] += " " * (column - width - 1) + ";" + changed


def _slots(env: Env) -> set[int]:
    """Stack slots of the current frame that the last instruction used."""
    shown = env.shown
    i = env.insns[shown.insn]
    found = set(shown.slots)
    if i.code & 7 in (op.ST, op.STX) or (i.code == op.JMP | op.CALL and i.src != op.PSEUDO_CALL):
        stack, old = env.cur.frames[-1].stack, shown.stack
        for n in range(len(stack)):
            if n >= len(old) or (stack[n] is not old[n] and not _same(stack[n], old[n])):
                found.add(n)
    return found


def _same(a: Slot, b: Slot) -> bool:
    return a.types == b.types and (a.reg is b.reg or not a.reg)


def _addressed(env: Env, i: Insn) -> set[int]:
    """Slots that the instruction is about to use by a known address; the kernel shows those of
    the current frame with these numbers, whosever they are."""
    klass, regs = i.code & 7, env.cur.frames[-1].regs
    if klass in (op.LDX, op.ST, op.STX):
        load = klass == op.LDX or (i.code & 0xE0 == op.MODE_ATOMIC and i.imm == op.LOAD_ACQ)
        base = i.src if load else i.dst
        return _slot(regs[base], i.off) if base <= 10 else set()
    found: set[int] = set()
    if i.code == op.JMP | op.CALL and i.src != op.PSEUDO_CALL:
        for regno in range(1, 6):
            for n in _slot(regs[regno], 0):
                frame = env.cur.frames[regs[regno].frame]
                if n < len(frame.stack) and frame.stack[n].types[0] in (DYNPTR_SLOT, ITER_SLOT):
                    found |= {n, n - 1}
    return found


def _slot(reg: Reg, off: int) -> set[int]:
    at = reg.off + reg.smin + off
    return {(-at - 1) // 8} if reg.type == STACK and not reg.tm and -512 <= at < 0 else set()


def touched(i: Insn) -> int:
    """Registers that an instruction reads or writes, a bit each."""
    dst, src = 1 << i.dst, 1 << i.src
    klass, kind = i.code & 7, i.code & 0xF0
    if klass in (op.ALU, op.ALU64):
        by_register = i.code & 8 and kind not in (op.END, op.NEG)
        return dst | src if by_register else dst
    if klass == op.LDX:
        return dst | src
    if klass == op.STX:
        atomic = i.code & 0xE0 == op.MODE_ATOMIC and i.imm == op.CMPXCHG
        return dst | src | (1 if atomic else 0)
    if klass == op.ST:
        return dst
    if klass == op.LD:
        return dst if i.code == op.LD_IMM64 else 0x7F
    if kind == op.CALL:
        return 0x3F
    if kind == op.EXIT:
        return 1
    if kind in (op.JA, op.JCOND):
        return 0
    return dst | src if i.code & 8 else dst


def entered(env: Env) -> None:
    """A static function was called."""
    top = len(env.cur.frames) - 1
    env.lines += ["caller:", statelog.state(env, top - 1), "callee:", statelog.state(env, top)]
    env.shown.everything = True


def returning(env: Env) -> None:
    """The current frame ends."""
    env.lines += ["returning from callee:", statelog.state(env, len(env.cur.frames) - 1)]


def returned(env: Env) -> None:
    """The caller goes on at env.insn_idx."""
    top = statelog.state(env, len(env.cur.frames) - 1)
    env.lines += [f"to caller at {env.insn_idx}:", top]
    env.shown.insn = -1
    env.shown.came_from = env.running


def tail_called(env: Env, at: int) -> None:
    """The call at slot at ended the function; its caller, which goes on, has a result."""
    returned(env)
    shown = env.shown
    shown.came_from = -1
    shown.insn, shown.slots, shown.stack = at, set(), env.cur.frames[-1].stack[:]


def loop(env: Env, old: State) -> str:
    """The states that are the same, behind the message that they are."""
    top = len(env.cur.frames) - 1
    return (f"\ncur state:{statelog.state(env, top)}"
            f"\nold state:{statelog.of(env, old, top)}") if env.log_level else ""


def source(env: Env, at: int) -> None:
    """The line of source that the instruction is of."""
    if line := _source(env, at):
        env.lines.append(line)


def behind(env: Env) -> str:
    """The same, behind a message about the current instruction."""
    line = _source(env, env.insn_idx) if env.log_level else ""
    return f"\n{line}" if line else ""


def _source(env: Env, at: int) -> str:
    """Empty if the last one told is the same."""
    program = env.program
    size = program.line_info_rec_size
    if size < _LINE.size or not program.line_info or not program.btf:
        return ""
    shown = env.shown
    if not shown.rows:
        shown.rows = [_LINE.unpack_from(program.line_info, n)
                      for n in range(0, len(program.line_info) - size + 1, size)]
    row = bisect_right(shown.rows, at, key=itemgetter(0)) - 1
    if row < 0 or row == shown.line:
        return ""
    _, file, line, column = shown.rows[row]
    if shown.line >= 0:
        before = shown.rows[shown.line]
        if before[1] == file and before[3] >> 10 == column >> 10:
            return ""
    shown.line = row
    strings = env.btf(1)
    said = strings.string(line).lstrip()
    name = strings.string(file).rpartition("/")[2]
    return f"; {said} @ {name}:{column >> 10}"
