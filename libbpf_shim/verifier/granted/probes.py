"""Arguments of USDT probes: loads that stand for them in the code that eim/usdt.py makes.

Only the slots that Program.probed names are such loads. Ready for mypyc.
"""

from __future__ import annotations

from libbpf_shim.verifier.env import EACCES, Env, Reject
from libbpf_shim.verifier.granted import denial, host
from libbpf_shim.verifier.state import UNKNOWN, Reg


def load(env: Env) -> Reg | None:
    """What the load of the context at the present slot gives; None: it is none of those. Raises
    Reject: the argument is not granted."""
    for slot, position, memory, offset in env.program.probed:
        if slot == env.insn_idx:
            return _argument(env, position, memory, offset)
    return None


def _argument(env: Env, position: int, memory: int, offset: int) -> Reg:
    if position < 0:
        return UNKNOWN
    p = denial.policy(env)
    if p.probes is None or position >= len(p.probes.args):
        raise Reject(EACCES, "an argument of a probe that the class does not know")
    arg = p.probes.args[position]
    if not arg.granted:
        raise denial.denied(env, f"reading argument {arg.name} of a probe", arg.capability)
    if memory:
        reg = host.register(env, p.probes.frames[position])
        reg.off = -offset
        return reg
    return host.register(env, arg.node) if arg.node >= 0 else UNKNOWN
