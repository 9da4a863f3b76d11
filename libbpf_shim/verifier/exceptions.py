"""bpf_throw(): the program ends wherever it is, and a callback, or none, gives its result.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_kfunc_call,
process_bpf_exit_full, check_return_code. Ready for mypyc.
"""

from __future__ import annotations

from libbpf_shim.verifier import sections
from libbpf_shim.verifier.env import EINVAL, Env, Reject


def thrown(env: Env) -> None:
    """Nothing may be held, in no frame."""
    env.throws = True
    if env.cur.refs:
        ident, at = env.cur.refs[0]
        raise Reject(EINVAL, f"Unreleased reference id={ident} alloc_insn={at}\n"
                             "bpf_throw would lead to reference leak")
    sections.check_left(env, "bpf_throw")
