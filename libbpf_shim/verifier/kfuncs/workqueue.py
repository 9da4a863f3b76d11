"""Work that runs later: bpf_wq and bpf_task_work in map values. Ready for mypyc.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_map_field_pointer (there
process_wq_func, process_task_work_func), set_timer_callback_state,
set_task_work_schedule_callback_state.
"""

from __future__ import annotations

from libbpf_shim.verifier.env import EINVAL, ENOTSUPP, Env, Reject
from libbpf_shim.verifier.kfuncs.kfunc_call import Call
from libbpf_shim.verifier.memory import record, special
from libbpf_shim.verifier.state import MAP_VALUE, Reg


def check(env: Env, call: Call, n: int, reg: Reg, name: str) -> None:
    """The argument is the field of that name in a map's value."""
    regno = n + 1
    if reg.type != MAP_VALUE:
        raise Reject(EINVAL, f"arg#{n} doesn't point to a map value")
    if reg.tm:
        why = f"{name} has to be at the constant offset"
        raise Reject(EINVAL, f"R{regno} doesn't have constant offset. {why}")
    desc = env.maps[reg.map]
    if not desc.btf:
        raise Reject(EINVAL, f"map '{desc.name}' has to have BTF in order to use {name}")
    found = record.named(record.of_reg(env, reg), name)
    if found is None:
        raise Reject(EINVAL, f"map '{desc.name}' has no valid {name}")
    if found.off != reg.tv + reg.off:
        text = f"off {reg.tv + reg.off} doesn't point to 'struct {name}' that is at {found.off}"
        raise Reject(EINVAL, text)
    if reg.map >= len(env.program.maps):
        text = f"{name} in the values of inner maps is not supported here"
        raise Reject(ENOTSUPP, text)
    call.map = reg.map
    call.map_first = True


def same_map(env: Env, call: Call, reg: Reg) -> None:
    """The map that is given is that of the field given before it."""
    if not call.map_first or call.map == reg.map or reg.map < 0:
        return
    fields = record.of_type(
        env, env.btf_index(env.maps[reg.map].btf or b""), env.maps[reg.map].btf_value_type_id
    ) if env.maps[reg.map].fields and env.maps[reg.map].btf else []
    if record.named(fields, special.TASK_WORK) is not None:
        text = "bpf_task_work pointer in R2 map_uid=0 doesn't match map pointer in R3 map_uid=0"
        raise Reject(EINVAL, text)
    if record.named(fields, special.WORKQUEUE) is not None:
        text = "workqueue pointer in R1 map_uid=0 doesn't match map pointer in R2 map_uid=0"
        raise Reject(EINVAL, text)
