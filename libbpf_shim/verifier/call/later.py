"""Callbacks that run by themselves, as work in a queue or of a task: each is verified on a stack
of its own. Ready for mypyc.

Source of rules: Linux 6.18, kernel/bpf/verifier.c, push_callback_call, push_async_cb,
set_timer_callback_state, set_task_work_schedule_callback_state.
"""

from __future__ import annotations

from libbpf_shim.verifier.call import callbacks, sleep
from libbpf_shim.verifier.env import Env
from libbpf_shim.verifier.kfuncs.kfunc_call import Call
from libbpf_shim.verifier.state import STACK, Frame, pointer


def set_callback(env: Env, call: Call, of_task: bool) -> None:
    """The callback is explored from its start, with nothing held."""
    caller = env.frame()
    env.room()
    callee = Frame(-1, call.subprog)
    callee.callback = sleep.TASK_WORK if of_task else sleep.WORK
    callee.round = caller.round + 1
    callbacks.element(callee, call.map)
    callee.regs[10] = pointer(STACK)
    env.later.add(callee.subprog)
    env.called_back.add(callee.subprog)
    env.push_apart(callee)
