"""Combined stack of every chain of calls: at most 512 bytes in 8 frames.

Frames are rounded up to 16 bytes, as with a JIT. Tracing programs have stacks of their own
(private stacks) for their entry and for functions of 64 bytes and more, which then count alone.
Calls count wherever they stand, also where no path comes.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_max_stack_depth.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.call import fastcall
from libbpf_shim.verifier.env import E2BIG, EACCES, EFAULT, Env, Reject
from libbpf_shim.verifier.kfuncs import exceptions
from libbpf_shim.verifier.state import MAX_FRAMES, STACK_SIZE

_TAIL_LIMIT: Final = 256
_OWN_LEAST: Final = 64  # BPF_PRIV_STACK_MIN_SIZE
_TRACING: Final = 26
_ITER: Final = 28  # BPF_TRACE_ITER
_OWN_TYPES: Final = (2, 5, 7, 17)  # KPROBE, TRACEPOINT, PERF_EVENT, RAW_TRACEPOINT
_OPEN, _SHARED, _OWN = 0, 1, 2  # of a function: not decided, on the caller's stack, on its own


class _Walk:
    """depths: bytes a function; calls: what each function calls; stacks: whose it runs on."""

    def __init__(self, env: Env) -> None:
        self.env = env
        self.depths = [d + 15 & ~15 for d in env.stack_depths]
        self.calls: list[dict[int, None]] = [{} for _ in env.subprogs]
        self.stacks = [_OPEN] * len(env.subprogs)
        for at, i in enumerate(env.insns):
            call = i.code == op.JMP | op.CALL and i.src == op.PSEUDO_CALL
            if call or (i.code == op.LD_IMM64 and i.src == op.PSEUDO_FUNC):
                callee = env.sub_of[at + 1 + i.imm]
                if call or callee not in env.later:  # runs by itself
                    self.calls[env.sub_of[at]][callee] = None
                elif env.tail_call[callee]:
                    text = "verifier bug: subprog has tail_call and async cb"
                    raise Reject(EFAULT, text)

    def go(self, sub: int, above: int, frames: int, own: bool) -> None:
        if not own:
            self.stacks[sub] = _SHARED
        if frames > 1 and above >= _TAIL_LIMIT and self.env.tail_call[sub]:
            raise Reject(
                EACCES,
                "tail_calls are not allowed when call stack of previous frames is "
                f"{above} bytes. Too large",
            )
        size = self.depths[sub]
        if own and self.stacks[sub] == _OPEN and size >= _OWN_LEAST:
            self.stacks[sub] = _OWN
        if self.stacks[sub] == _OWN:
            if size > STACK_SIZE:
                raise Reject(EACCES, f"stack size of subprog {sub} is {size}. Too large")
        else:
            above += size
            if above > STACK_SIZE:
                text = f"combined stack size of {frames} calls is {above}. Too large"
                raise Reject(EACCES, text)
        for callee in self.calls[sub]:
            if frames == MAX_FRAMES:
                raise Reject(E2BIG, f"the call stack of {frames} frames is too deep !")
            self.go(callee, above, frames + 1, own)


def check(env: Env) -> None:
    """Raises Reject. Fills env.stack_depths."""
    env.stack_depths = fastcall.depths(env)
    exceptions.check_calls(env)
    own = env.prog_type in _OWN_TYPES or (
        env.prog_type == _TRACING and env.program.expected_attach_type != _ITER
    )
    walk = _Walk(env)
    for sub in range(len(env.subprogs) - 1, -1, -1):
        if sub == 0 or sub in env.later or sub == env.exception:
            walk.go(sub, 0, 1, own and sub == 0 and not any(env.tail_call))
