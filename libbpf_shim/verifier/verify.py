"""`verify`: the verdict on one program. A pure function of the program."""

from __future__ import annotations

import gc
import re
from dataclasses import replace

from libbpf_shim.isa.insn import decode
from libbpf_shim.verifier import check, structure
from libbpf_shim.verifier.call import callbacks, depth, fastcall
from libbpf_shim.verifier.env import EINVAL, INSN_LIMIT, Env, Reject
from libbpf_shim.verifier.facts import Facts, Stats, Verdict
from libbpf_shim.verifier.granted import allowed, budget, lengths, speculation
from libbpf_shim.verifier.kfuncs import kfunc
from libbpf_shim.verifier.log import trace
from libbpf_shim.verifier.memory import context
from libbpf_shim.verifier.path import liveness
from libbpf_shim.verifier.program import Program
from libbpf_shim.verifier.state import ARENA, CTX, MAP_VALUE, STACK
from libbpf_shim.verifier.watch import EVERYWHERE, Watch

_LOOP_WORDS = 24
LIRC_MODE2 = 20  # BPF_PROG_TYPE_LIRC_MODE2
# whose line ends 6.18 forgets
_UNENDED = re.compile("expected prog array map for tail call$|cannot call exception cb directly$|"
                      "for the first func info record$|than previous func info record|"
                      "^invalid type id .* in func info$")


def verify(program: Program, limit: int = 0, watch: Watch | None = None) -> Verdict:
    """What Linux 6.18 says of the program to a privileged user, and the facts for the compiler.
    limit: instructions to be processed before Unfinished is raised; 0: as many as the kernel
    does. watch: a test's, to see the states."""
    if program.prog_type not in context.TYPES:
        refused = unknown_type(program)
        text = f"{refused.message}\n" if program.log_level and refused.message else ""
        return Verdict(refused.errno, text, Stats(0, 0, 0, 0, 0))
    collects = gc.isenabled()
    gc.disable()  # a path makes objects by the thousand, and no cycles that end before it does
    try:
        if watch is None and program.log_level & 3 == 1:
            verdict = _untold(program, limit)
            if verdict is not None:
                return verdict
        env = Env(program, decode(program.insns))
        env.limit = limit or INSN_LIMIT
        return _verdict(env, program, watch)
    finally:
        if collects:
            gc.enable()


def _untold(program: Program, limit: int) -> Verdict | None:
    """Level 1 tells nothing of paths that end well, so nothing is written of any at first; None:
    the program is refused, and its path to be told."""
    env = Env(program, decode(program.insns))
    env.limit = limit or INSN_LIMIT
    env.log_level &= ~3
    verdict = _verdict(env, program, None)
    if verdict.errno:
        return None
    env.log_level = program.log_level
    env.lines.clear()
    if env.verified is not None:
        trace.verified(env, env.verified)
    return replace(verdict, log=_log(env, verdict.stats, 0))


def _verdict(env: Env, program: Program, watch: Watch | None) -> Verdict:
    errno = 0
    try:
        prepare(env)
        if program.log_level & 2:
            trace.before_running(env)
        if watch is not None:
            _watched(env, watch)
        check.explore(env)
        finish(env)
    except Reject as reject:
        errno = reject.errno
        env.lines += [reject.message] * bool(reject.message)
        if _UNENDED.search(reject.message):
            env.lines[-1] += trace.JOINED
    stats = Stats(env.processed, env.max_states, env.total_states, env.peak_states, 0)
    return Verdict(errno, _log(env, stats, errno), stats, None if errno else _facts(env))


def _watched(env: Env, watch: Watch) -> None:
    env.watch = watch
    watch.globals += env.globals
    if watch.mode == EVERYWHERE:
        for at in range(len(env.insns)):
            env.prune_point[at] = env.prune_point[at] or 1


def unknown_type(program: Program) -> Reject:
    """Of a program whose type is not modelled."""
    if program.prog_type == LIRC_MODE2:  # 6.18 as we know it is built without
        return Reject(EINVAL, "")
    return Reject(EINVAL, f"program type {program.prog_type} is not supported here")


def prepare(env: Env) -> None:
    """What is judged before any path is looked at. Raises Reject."""
    structure.check(env)
    if env.policy is not None:
        budget.begin(env)
    fastcall.find(env)
    liveness.compute(env)


def finish(env: Env) -> None:
    """What is judged when all of them were. Raises Reject."""
    depth.check(env)
    if env.policy is not None:
        budget.finish(env)
        speculation.finish(env)
    if env.kfunc_left:
        raise Reject(EINVAL, "invalid kernel function call not eliminated in verifier pass")
    callbacks.check_removed(env)


def _depths(env: Env, errno: int) -> list[int]:
    """Bytes by function. Of a program that is loaded, functions that no path enters are removed,
    and calls of bpf_loop that are made loops take three words."""
    depths = [d + 7 & ~7 for d in env.stack_depths or env.sub_depth]
    if errno:
        return depths
    for sub in {env.sub_of[at] for at, callback in env.loops.items() if callback >= 0}:
        depths[sub] += _LOOP_WORDS
    bounds = [*env.subprogs, len(env.insns)]
    return [d for n, d in enumerate(depths) if any(env.seen[bounds[n] : bounds[n + 1]])]


def _log(env: Env, stats: Stats, errno: int) -> str:
    if not env.log_level:
        return ""
    lines = env.lines
    if env.log_level & 4:
        lines.append(f"stack depth {'+'.join(str(d) for d in _depths(env, errno))}")
    lines.append(
        f"processed {stats.insns_processed} insns (limit {INSN_LIMIT}) "
        f"max_states_per_insn {stats.max_states_per_insn} total_states {stats.total_states} "
        f"peak_states {stats.peak_states} mark_read {stats.mark_read}\n"
    )
    log = "\n".join(lines)
    lines.clear()  # it may be of many MB
    return log.replace(trace.JOINED + "\n", "")


def _kfuncs(env: Env) -> dict[int, str]:
    found = {}
    for at, i in enumerate(env.insns):
        called = kfunc.of(env, i) if env.seen[at] else None
        if called is not None:
            found[at] = called.name
    return found | {at: f"host:{name}" for at, name in env.host_calls.items()}


def _host_bytes(env: Env) -> dict[int, tuple[int, int]]:
    found: dict[int, tuple[int, int]] = {}
    for at, node in env.host_bytes.items():
        if node != lengths.NONE and env.policy is not None:
            row = env.policy.nodes[node].bytes
            assert row
            found[at] = lengths.packed(row, env.insns[at].imm in allowed.STRINGS)
    return found


def _facts(env: Env) -> Facts:
    return Facts(
        subprogs=tuple(env.subprogs), stack_depth=tuple(env.sub_depth), seen=bytes(env.seen),
        call_map={at: index for at, index in env.helper_map.items()
                  if 0 <= index < len(env.program.maps)},
        probe_mem=frozenset(env.probe_mem), kernel=frozenset(env.kernel),
        typed=frozenset(env.typed),
        ctx_loads=frozenset(env.ctx_loads), ctx_escapes=env.ctx_escapes, percpu=env.percpu,
        ctx_written=env.ctx_written,
        ctx_at=frozenset(at for at, kind in env.insn_kind.items() if kind == CTX),
        stack_at=frozenset(at for at, kind in env.insn_kind.items() if kind == STACK),
        constant_at=frozenset(at for at, kind in env.insn_kind.items()
                              if kind == MAP_VALUE and at not in env.changing),
        loaded={at: known for at, known in env.loaded.items()
                if known >= 0 and env.insn_kind.get(at) == MAP_VALUE},
        arena=frozenset(at for at, kind in env.insn_kind.items() if kind == ARENA),
        arena_alu=frozenset(at for at, arena in env.arena_alu.items() if arena),
        arena_map=env.arena, reads_unset=env.reads_unset,
        host_loads=frozenset(env.host_loads), host_stores=frozenset(env.host_stores),
        helpers=frozenset(env.helpers), kfuncs=_kfuncs(env), maps=frozenset(env.used_maps),
        host_bytes=_host_bytes(env), counted=env.counted,
        indices={at: (one.in_src, one.low, one.high) for at, one in env.indices.items()},
        held=frozenset(env.held),
    )  # fmt: skip
