"""The verifier with a mistake put in, and which test notices.

Each Mutation replaces one piece of text in one module of a copy of the package, which is then put
before the real one and tried: `python -m compat_tests.verifier.mutations [NAME...]`. A mutation
that no test notices is a missing test. Where a text is not found any more, the verifier has
changed: give the mutation the new text.

Classes are those of test_bug_classes.py, and: a confusion of 32 and 64 bits, b pruning and precision,
d stack, e leaks.
"""

# ruff: noqa: E501 (texts of other files are not cut)
from __future__ import annotations

import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 240  # of one mutation's tests
SEEDS = range(700)  # of generated programs that are tried
# programs of generate.py and of generate_merge.py; other names are modules whose cases are tried
RUNS, MERGES = "generate", "generate_merge"


@dataclass(frozen=True, slots=True)
class Mutation:
    """by: the test that notices, found by trying."""

    name: str
    kind: str
    file: str
    old: str
    new: str
    by: str


def M(name: str, kind: str, file: str, old: str, new: str, by: str = RUNS) -> Mutation:
    return Mutation(name, kind, file, old, new, by)


CLASSES, LOCKS, CALLBACKS, VERDICTS, GLOBALS, READS = (
    "test_bug_classes", "test_locks", "test_callbacks", "test_verdicts", "test_globals",
    "test_stack_reads")
MUTATIONS = (
    # a: 32 and 64 bits
    M("32-bit AND keeps the greater bound", "a", "scalar/transfer",
      "r.u32max = min(a.u32max, b.u32max)", "r.u32max = max(a.u32min, b.u32min)"),
    M("32-bit OR forgets the unknown bits", "a", "scalar/transfer",
      "r.u32max = (r.tv | r.tm) & U32\n    else:", "r.u32max = max(a.u32max, b.u32max)\n    else:"),
    M("a known XOR half has one sign", "a", "scalar/transfer",
      "if not (r.tm | b.tm) & U32:", "if not b.tm & U32:"),
    M("32-bit arithmetic keeps the high half", "a", "scalar/transfer",
      "    if is32:\n        low_to_full(r)\n    sync(r)\n    return r\n\n\ndef added",
      "    sync(r)\n    return r\n\n\ndef added"),
    M("32-bit RSH shifts the whole", "a", "scalar/transfer",
      "r.u32min = a.u32min >> count\n            r.u32max = a.u32max >> count",
      "r.u32min = a.umin >> count & U32\n            r.u32max = a.umax >> count & U32",
      "test_transfer"),
    M("a 32-bit comparison is one of the whole", "a", "scalar/branches",
      "        if is32:\n            return _ordered(op, a.u32min, a.u32max, b.u32min, b.u32max)\n",
      ""),
    M("JSLT teaches a bound one too small", "a", "scalar/branches",
      "x.smax = min(x.smax, to_s64((y.smax - strict) & U64))",
      "x.smax = min(x.smax, to_s64((y.smax - strict - 1) & U64))"),
    M("32-bit JNE cuts off the wrong edge", "a", "scalar/branches",
      "if x.u32max == u:", "if x.u32min <= u:"),
    M("the low half from the whole whatever the high half", "a", "scalar/bounds",
      "if lo >> 32 == hi >> 32:", "if lo & U32 <= hi & U32:"),
    M("the whole from the low half without its sign", "a", "scalar/bounds",
      "    if r.s32min >= 0 and r.smin >= S32_MIN and r.smax <= S32_MAX:",
      "    if r.s32min >= 0:"),
    M("sign extension is zero extension", "a", "scalar/bounds",
      "if (a >= 0) == (b >= 0):\n            lo = min(a, b)", "if True:\n            lo = min(a, b)"),
    M("an immediate is not sign extended", "a", "scalar/arithmetic",
      "env.constant(i.imm if wide else i.imm & U32)", "env.constant(i.imm & U32)"),
    M("a sum's carry is forgotten", "a", "scalar/domains",
      "mu = ((sm + sv) ^ sv) | am | bm\n    return sv & ~mu & full, mu & full\n\n\ndef t_sub",
      "mu = am | bm\n    return sv & ~mu & full, mu & full\n\n\ndef t_sub"),
    M("a linked scalar's distance is forgotten", "a", "scalar/linked",
      "apart = const_reg(reg.off - known.off)", "apart = const_reg(0)"),
    # b: pruning and precision
    M("every scalar covers every other", "b", "path/compare",
      "if how == COVERED and not precise:", "if how == COVERED:", MERGES),
    M("what a branch compares is not marked", "b", "scalar/jumps",
      "        if dst.type == SCALAR:\n            precision.mark_reg(env, i.dst)\n", "", MERGES),
    M("marks stop at a call", "b", "path/precision",
      "            t.regs[f - 1] |= args\n", "            pass\n", MERGES),
    M("marks stop at a return", "b", "path/precision",
      "        t.regs[f + 1] |= 1\n", "        pass\n", MERGES),
    M("marks stop at the stack", "b", "path/precision",
      "            t.slots[step.stack >> 8] |= 1 << (step.stack & 255)\n", "            pass\n", MERGES),
    M("marks don't follow the second operand", "b", "path/precision",
      "    if code & 8 and src != 10:\n", "    if code & 8 and src != 10 and kind == MOV:\n", MERGES),
    M("marks don't follow equal scalars", "b", "path/precision",
      "    if hit:\n", "    if False:\n", MERGES),
    M("an offset of a pointer is not marked", "b", "scalar/arithmetic",
      "        precision.mark_reg(env, i.dst if dst.type == SCALAR else i.src)", "        pass", MERGES),
    M("marks are not carried to what is pruned", "b", "path/prune",
      "    if some:\n        precision.mark_masks", "    if False:\n        precision.mark_masks", MERGES),
    M("ids are not compared", "b", "path/compare",
      "            if not ids.match_scalar(old.id, new.id):\n                return False\n",
      "", MERGES),
    M("offsets of packet pointers are not compared", "b", "path/compare",
      "        return ids.match(old.id, new.id) and within(old, new)", "        return True", MERGES),
    M("spilled registers are not compared", "b", "path/compare",
      "    if last == SPILL:\n        return _reg_safe(old.reg, new.reg, precise, ids, how)",
      "    if last == SPILL:\n        return True", MERGES),
    M("R6 is dead where it is not", "b", "path/liveness",
      "        return dst | (src if i.code & 8 else 0), 0\n    if klass == op.LDX:",
      "        return dst, 0\n    if klass == op.LDX:", MERGES),
    M("frames are told apart by nothing", "b", "path/compare",
      "    if old.callsite != new.callsite or old.callback != new.callback or old.depth > new.depth:"
      "\n        return False\n", "", MERGES),
    M("a tail call does not end its function", "b", "path/chain",
      "        if flow.ends[insn]:", "        if False:", MERGES),
    M("a load tells of no stack slot", "b", "memory/stack",
      "    env.reads_stack(reg.frame, slot, slot)\n", "    env.reads_stack(0, 1, 0)\n", READS),
    M("a load somewhere tells of no stack slot", "b", "memory/stack",
      "        env.reads_stack(reg.frame, -high // 8, (-low - 1) // 8)\n        slots.check",
      "        slots.check", READS),
    M("a helper's memory tells of no stack slot", "b", "memory/access",
      "            env.reads_stack(reg.frame, -high // 8, (-low - 1) // 8)\n        if kind",
      "            pass\n        if kind", READS),
    M("an iterator tells of no stack slot", "b", "kfuncs/iterators",
      "    env.reads_stack(reg.frame, spi - count + 1, spi)\n", "    env.reads_stack(0, 1, 0)\n", READS),
    M("saved interrupts tell of no stack slot", "b", "kfuncs/sections",
      "    env.reads_stack(reg.frame, at, at)\n", "    env.reads_stack(0, 1, 0)\n", READS),
    M("a dynptr tells of no stack slot", "b", "kfuncs/dynptr",
      "        return None\n    env.reads_stack(reg.frame, spi - 1, spi)\n",
      "        return None\n    env.reads_stack(0, 1, 0)\n", READS),
    # c: nullness and types
    M("a check of one lookup is one of all", "c", "memory/pointers",
      "if reg.type & MAYBE_NULL and reg.id == ident:", "if reg.type & MAYBE_NULL:", CLASSES),
    M("arithmetic before the check", "c", "memory/pointers",
      "    if ptr.type & MAYBE_NULL:", "    if False:", CLASSES),
    M("a packet's bound one too far", "c", "memory/pointers",
      "size = reg.off + (1 if open else 0)", "size = reg.off + 1", CLASSES),
    M("a packet's bound for another number", "c", "memory/pointers",
      "        r.id = env.new_id()\n        if opcode", "        if opcode", CLASSES),
    M("a packet that moved is still there", "c", "call/calls",
      "    if proto.moves or written:", "    if written:", CLASSES),
    M("one byte behind a map value", "c", "memory/access",
      "if off >= 0 and off + size <= limit and", "if off >= 0 and off + size <= limit + 1 and",
      CLASSES),
    M("a record at an offset is given back", "c", "call/arguments",
      "    if reg.off:\n        raise Reject(\n            EINVAL,\n            f\"R{regno} must have zero",
      "    if False:\n        raise Reject(\n            EINVAL,\n            f\"R{regno} must have zero",
      CLASSES),
    M("what is only read may be written", "c", "memory/access",
      "    if kind == WRITE and desc.read_only:", "    if False:", CLASSES),
    M("a packet pointer stays behind the end", "c", "memory/pointers",
      "        if moved < ptr.off and r.range < 0:", "        if False:", CLASSES),
    # d: stack
    M("a partial write leaves the spilled register", "d", "memory/stack",
      "    types = bytearray(slots.scrubbed(frame.stack[slot]))\n    for b in range(first",
      "    types = bytearray(frame.stack[slot].types)\n    for b in range(first", CLASSES),
    M("a write somewhere changes nothing", "d", "memory/stack",
      "                clobber(frame, low, high, False)", "                pass"),
    M("a narrow fill has the spilled range", "d", "memory/access",
      "    return sign_extended(r, size) if signed else truncated(r, size)",
      "    return sign_extended(r, size) if signed else r"),
    M("helpers fill nothing", "d", "memory/access",
      "            stack.clobber(frame, low, high, reg.tm == 0)\n            if",
      "            if"),
    M("a callee's write goes to its own frame", "d", "memory/stack",
      "    frame = env.cur.frames[reg.frame]\n    if reg.tm:",
      "    frame = env.cur.frames[-1]\n    if reg.tm:"),
    M("depths of the stack are not summed", "h", "call/depth",
      "            self.go(callee, above, frames + 1, own)", "            self.go(callee, 0, frames + 1, own)",
      CLASSES),
    M("a spill that is dropped counts where it is not", "h", "call/depth",
      "    env.stack_depths = fastcall.depths(env)", "    env.stack_depths = [0] * len(env.subprogs)",
      CLASSES),
    # e: leaks
    M("an address is a known number", "e", "scalar/arithmetic",
      "        if kind == op.SUB:\n            return UNKNOWN\n        sign",
      "        if kind == op.SUB:\n            return const_reg(0)\n        sign"),
    M("half an address is one", "e", "scalar/arithmetic",
      "env.write_reg(i.dst, UNKNOWN if wide else bounds.WORD)", "env.write_reg(i.dst, reg)", CLASSES),
    M("a stack address is returned", "e", "check",
      "        if result.type & TYPE_MASK == STACK:", "        if False:", CLASSES),
    M("half an address is stored as one", "e", "memory/stack",
      "    if value is not None and value.type != SCALAR and value.type != NOT_INIT:\n"
      "        if size != 8:",
      "    if value is not None and value.type != SCALAR and value.type != NOT_INIT:\n"
      "        if size < 4:", CLASSES),
    M("an address is still there after an atomic", "e", "memory/loadstore",
      "    access.check(env, i.dst, i.off, i.size, access.WRITE, None, -1, step)\n    if i.imm & op.F",
      "    if i.imm & op.F", CLASSES),
    # g: lifetimes
    M("references may be left at the exit", "g", "kfuncs/sections",
      "    if cur.refs and (thrown or len(cur.frames) == 1):", "    if False:", CLASSES),
    M("references may be left at a tail call", "g", "call/calls",
      '    sections.check_left(env, "tail_call")\n', "", CLASSES),
    M("copies live on after the release", "g", "call/calls",
      "        slots.forget_reference(env, call.ref)\n", "", CLASSES),
    M("a release takes all references", "g", "env",
      "left = tuple([r for r in self.cur.refs if r[0] != ident])",
      "left: tuple[tuple[int, int], ...] = ()", CLASSES),
    M("a NULL record must be given back", "g", "memory/pointers",
      "    if is_null:\n        state.refs = ", "    if False:\n        state.refs = ", CLASSES),
    M("any lock is given back", "g", "kfuncs/locks",
      "    if lock[:3] not in [held[:3] for held in cur.locks]:", "    if False:", CLASSES),
    M("a lock may be left at the exit", "g", "check",
      '    sections.check_left(env, "BPF_EXIT instruction in main prog")\n', "", CLASSES),
    M("calls under a lock", "g", "check",
      '    if env.cur.locks:\n        _call_under_lock(env, i)\n', "", CLASSES),
    M("slices live on after their dynptr", "g", "memory/slots",
      "        return reg.type & ~MAYBE_NULL == MEM and reg.kind == ident",
      "        return False", CLASSES),
    M("R1 to R5 live on after a call", "g", "call/calls",
      "    for r in range(6):\n        regs[r] = NO_REG\n    _result", "    _result", CLASSES),
    # facts
    M("reads of stack never written are forgotten", "d", "path/prune",
      "    _note_unset(env, old)\n", "", VERDICTS),
    M("the map of a call is the first one's", "c", "call/calls",
      "env.helper_map[here] = call.map if have == call.map else -1",
      "env.helper_map[here] = have"),
)  # fmt: skip


def copied(folder: Path, mutation: Mutation) -> bool:
    """The package with the mutation, in folder; False: its text is not there, once."""
    package = folder / "libbpf_shim"
    package.mkdir()
    for entry in (ROOT / "libbpf_shim").iterdir():
        if entry.name == "verifier":
            shutil.copytree(entry, package / entry.name,
                            ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        elif entry.name != "__pycache__":
            (package / entry.name).symlink_to(entry)
    path = package / "verifier" / f"{mutation.file}.py"
    text = path.read_text()
    if text.count(mutation.old) != 1:
        return False
    path.write_text(text.replace(mutation.old, mutation.new))
    return True


def tried(mutation: Mutation, tests: list[str]) -> str:
    """Which of the tests notices it; "": none."""
    with tempfile.TemporaryDirectory(prefix="mutation") as name:
        if not copied(Path(name), mutation):
            raise LookupError(f"{mutation.name}: {mutation.file}.py has not got its text once")
        env = {**os.environ, "PYTHONPATH": f"{name}:{ROOT}", "LIBBPF_SHIM_PURE": "1",
               "PYTHONDONTWRITEBYTECODE": "1"}
        run = subprocess.run(
            [sys.executable, "-m", "compat_tests.verifier.mutations", "--notice", *tests],
            cwd=name, env=env, capture_output=True, text=True, timeout=SECONDS)
    if run.returncode not in (0, 1):
        raise RuntimeError(run.stderr[-2000:])
    return run.stdout.strip() if run.returncode else ""


def notice(tests: list[str]) -> str:
    """What fails, in this process, of the tests: their name and what they say."""
    for test in tests:
        module = importlib.import_module(f"compat_tests.verifier.{test}")
        wrong = generated(test) if test in (RUNS, MERGES) else cases(module)
        if wrong:
            return f"{test}: {wrong[:300]}"
    return ""


def generated(which: str) -> str:
    """The first violation of generated programs."""
    from compat_tests.verifier import containment, generate, generate_merge

    for seed in SEEDS:
        make = generate.generate if which == RUNS else generate_merge.merge
        program = make(seed)
        for mode in (0, 1, 2):
            try:
                wrong = containment.judge(program, mode, seed, containment.Totals())
            except Exception as error:  # a crash is noticed too
                wrong = repr(error)
            if wrong:
                return f"seed {seed}: {wrong}"
    return ""


def cases(module: ModuleType) -> str:
    """The first case of the module's tables that fails; those that ask the kernel are left out."""
    for name, test in vars(module).items():
        if not name.startswith("test_"):
            continue
        marks = getattr(test, "pytestmark", [])
        if any(m.name in ("kernel", "long", "skipif") for m in marks):
            continue
        rows = [()] if not marks else [m.args[1] for m in marks if m.name == "parametrize"][0]
        for row in rows:
            try:
                test(*(row if isinstance(row, tuple) else (row,)))
            except Exception as error:
                return f"{name} {str(row[:1])}: {error!r}"
    return ""


def main(args: list[str]) -> int:
    if args[:1] == ["--notice"]:
        found = notice(args[1:])
        print(found)
        return 1 if found else 0
    left = 0
    for mutation in MUTATIONS:
        if args and mutation.name not in args and mutation.kind not in args:
            continue
        try:
            found = tried(mutation, [mutation.by])
        except (LookupError, RuntimeError, subprocess.TimeoutExpired) as error:
            found, left = "", left + 1
            print(f"{mutation.kind} {mutation.name}: {error}", flush=True)
            continue
        left += not found
        print(f"{mutation.kind} {mutation.name}: {found or 'NOT NOTICED'}"[:230], flush=True)
    return left


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
