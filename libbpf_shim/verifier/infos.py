"""func_info and line_info against the program and its BTF, as the kernel checks them before it
looks at any path.

Restated from kernel/bpf/verifier.c (check_btf_info_early, check_btf_info and what they call): what
is judged, in which order, with which errno and message. CO-RE relocations are not applied here.
"""

from __future__ import annotations

import struct

from libbpf_shim.btf import kinds
from libbpf_shim.btf.lazy import parsed
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.isa import insn as op
from libbpf_shim.verifier.env import E2BIG, EINVAL, Env, Reject

FUNC_SIZE, LINE_SIZE = 8, 16  # bytes of struct bpf_func_info, bpf_line_info
_MAX_RECORD = 252  # MAX_FUNCINFO_REC_SIZE, MAX_LINEINFO_REC_SIZE
_INT_MAX = 0x7FFFFFFF
_ENOMEM = 12
TAIL_CALL = 12  # BPF_FUNC_tail_call


def tail(records: bytes, size: int, known: int) -> bool:
    """Some record has more in it than is known."""
    starts = range(0, len(records) - size + 1, size) if size > known else ()
    return any(any(records[at + known : at + size]) for at in starts)


def _type(btf: Btf, type_id: int, kind: int) -> Type | None:
    try:
        found = btf.type(type_id)
    except KeyError:
        return None
    return found if found.kind == kind else None


def check_early(env: Env) -> None:
    """What func_info alone says: sizes, order, types."""
    program = env.program
    count, size = program.func_count, program.func_info_rec_size
    if not count or program.btf is None:
        return
    if not FUNC_SIZE <= size <= _MAX_RECORD or size % 4:
        raise Reject(EINVAL, f"invalid func info rec size {size}")
    if count * FUNC_SIZE > _INT_MAX:
        raise Reject(_ENOMEM, "")
    if program.func_info_fault:
        raise Reject(program.func_info_fault, "")
    btf, before = parsed(program.btf), 0
    for index in range(count):
        record = program.func_info[index * size : (index + 1) * size]
        if any(record[FUNC_SIZE:]):
            raise Reject(E2BIG, "nonzero tailing record in func info")
        at, type_id = struct.unpack_from("<II", record)
        if not index and at:
            raise Reject(EINVAL, f"nonzero insn_off {at} for the first func info record")
        if index and at <= before:
            raise Reject(EINVAL, f"same or smaller insn offset ({at}) than previous func info "
                                 f"record ({before})")
        function = _type(btf, type_id, kinds.FUNC)
        if function is None:
            signed = type_id - (type_id >> 31 << 32)
            raise Reject(EINVAL, f"invalid type id {signed} in func info")
        if _type(btf, function.ref, kinds.FUNC_PROTO) is None:
            raise Reject(EINVAL, "")
        before = at


def check(env: Env) -> None:
    """What needs the program's functions to be known."""
    program = env.program
    if program.btf is None or not (program.func_count or program.line_count):
        _abnormal(env, set())
        return
    _check_functions(env)
    _check_lines(env)


def _abnormal(env: Env, scalar: set[int]) -> None:
    """Functions with LD_ABS or tail calls return an integer. scalar: those that do."""
    known = bool(env.program.func_count)
    for number in range(1, len(env.subprogs)):
        if number in scalar:
            continue
        for what, has in (("LD_ABS", _has_ld_abs), ("tail_call", has_tail_call)):
            if not has(env, number):
                continue
            text = f"{what} is only allowed in functions that return 'int'." if known else \
                f"{what} is not allowed in subprogs without BTF"
            raise Reject(EINVAL, text)


def _slots(env: Env, number: int) -> range:
    end = env.subprogs[number + 1] if number + 1 < len(env.subprogs) else len(env.insns)
    return range(env.subprogs[number], end)


def _has_ld_abs(env: Env, number: int) -> bool:
    insns = (env.insns[at] for at in _slots(env, number))
    return any(i.klass == op.LD and i.code & 0xE0 in (op.MODE_ABS, op.MODE_IND) for i in insns)


def has_tail_call(env: Env, number: int) -> bool:
    insns = (env.insns[at] for at in _slots(env, number))
    return any(i.code == op.JMP | op.CALL and not i.src and i.imm == TAIL_CALL for i in insns)


def _check_functions(env: Env) -> None:
    program = env.program
    count, size = program.func_count, program.func_info_rec_size
    if not count:
        _abnormal(env, set())
        return
    if count != len(env.subprogs):
        raise Reject(EINVAL, "number of funcs in func_info doesn't match number of subprogs")
    assert program.btf is not None
    btf, scalar = parsed(program.btf), set()
    for number, start in enumerate(env.subprogs):
        at, type_id = struct.unpack_from("<II", program.func_info, number * size)
        if at != start:
            raise Reject(EINVAL, "func_info BTF section doesn't match subprog layout in BPF "
                                 "program")
        if _returns_scalar(btf, type_id):
            scalar.add(number)
    _abnormal(env, scalar)


def _returns_scalar(btf: Btf, func_id: int) -> bool:
    """An integer of at most 8 bytes, or an enumeration."""
    result = btf.strip(btf.type(btf.type(func_id).ref).ref)
    if result is None:
        return False
    small = result.kind == kinds.INT and result.size <= 8
    return small or result.kind in (kinds.ENUM, kinds.ENUM64)


def _check_lines(env: Env) -> None:
    program = env.program
    count, size = program.line_count, program.line_info_rec_size
    if not count:
        return
    if (count > _INT_MAX // LINE_SIZE or not LINE_SIZE <= size <= _MAX_RECORD or size % 4):
        raise Reject(EINVAL, "")
    if program.line_info_fault:
        raise Reject(program.line_info_fault, "")
    assert program.btf is not None
    strings = len(parsed(program.btf).strings)
    before, function, total = 0, 0, len(env.insns)
    for index in range(count):
        record = program.line_info[index * size : (index + 1) * size]
        if any(record[LINE_SIZE:]):
            raise Reject(E2BIG, "nonzero tailing record in line_info")
        at, file_off, line_off = struct.unpack_from("<III", record)
        if (index and at <= before) or at >= total:
            raise Reject(EINVAL, f"Invalid line_info[{index}].insn_off:{at} "
                                 f"(prev_offset:{before} prog->len:{total})")
        if not env.insns[at].code:
            raise Reject(EINVAL, f"Invalid insn code at line_info[{index}].insn_off")
        if line_off >= strings or file_off >= strings:
            raise Reject(EINVAL, f"Invalid line_info[{index}].line_off or .file_name_off")
        if function < len(env.subprogs):
            if at == env.subprogs[function]:
                function += 1
            elif env.subprogs[function] < at:
                raise Reject(EINVAL, f"missing bpf_line_info for func#{function}")
        before = at
    if function < len(env.subprogs):
        missing = len(env.subprogs) - function
        raise Reject(EINVAL, f"missing bpf_line_info for {missing} funcs starting from "
                             f"func#{function}")
