"""What the log says of a main function whose BTF does not fit a global function of one context.

Such a signature is only told, never refused. Source: Linux 6.18, kernel/bpf/btf.c,
btf_prepare_func_args, btf_is_prog_ctx_type; kernel/bpf/verifier.c, do_check_common.
"""

from __future__ import annotations

import struct

from libbpf_shim.btf import kinds
from libbpf_shim.verifier.call import params
from libbpf_shim.verifier.env import Env, Reject

_GLOBAL = 1  # BTF_FUNC_GLOBAL


def complaint(env: Env) -> str:
    """The line, or "" if main fits, is static, or has no BTF."""
    program = env.program
    if not program.btf or program.func_info_rec_size < 8 or len(program.func_info) < 8:
        return ""
    insn, type_id = struct.unpack_from("<II", program.func_info)
    btf = env.btf(1)
    try:
        function = btf.type(type_id)
        if insn or function.kind != kinds.FUNC or function.extra != _GLOBAL:
            return ""
        params.prepare(env, btf, function)
    except Reject as reject:
        return reject.message
    except KeyError:
        return ""
    return ""
