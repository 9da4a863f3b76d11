"""struct bpf_prog_info: instructions, machine code, functions, lines, runs.

The instructions are those that were loaded, maps named by their ids; a kernel shows them as it
rewrote them. Addresses are offsets into the image, which lies in many processes.
Source: kernel/bpf/syscall.c (bpf_prog_get_info_by_fd, bpf_insn_prepare_dump).
"""

from __future__ import annotations

import errno
import os

from libbpf_shim.backend.info_out import Given
from libbpf_shim.errors import ShimError
from libbpf_shim.object.prog import ProgObject, tag

_LD_IMM64, _CALL, _PSEUDO_CALL = 0x18, 0x85, 1
_MAP_FD, _MAP_VALUE = 1, 2
# ld_imm64 source registers that name a map: as loaded, as shown
_MAPS = {_MAP_FD: _MAP_FD, _MAP_VALUE: _MAP_VALUE, 5: _MAP_FD, 6: _MAP_VALUE}
_RECORDS = {"func_info": 8, "line_info": 16, "jited_line_info": 8}  # bytes of one


def shown(obj: ProgObject) -> bytes:
    """The instructions, with the ids of maps in the place of what named them; calls of functions
    have the distance in `off`, the function's number in `imm` (jit_subprogs())."""
    out = bytearray(obj.program.insns)
    at = 0
    while at + 8 <= len(out):
        if out[at] == _CALL and out[at + 1] >> 4 == _PSEUDO_CALL:
            far = int.from_bytes(out[at + 4 : at + 8], "little", signed=True)
            out[at + 2 : at + 4] = (far & 0xFFFF).to_bytes(2, "little")
            number = obj.facts.subprogs.index(at // 8 + 1 + far)
            out[at + 4 : at + 8] = number.to_bytes(4, "little")
        if out[at] != _LD_IMM64:
            at += 8
            continue
        if (src := out[at + 1] >> 4) in _MAPS:
            index = int.from_bytes(out[at + 4 : at + 8], "little")
            out[at + 1] = out[at + 1] & 15 | _MAPS[src] << 4
            out[at + 4 : at + 8] = obj.maps[index].id.to_bytes(4, "little")
        at += 16
    return bytes(out)


def _function_sizes(obj: ProgObject) -> list[int]:
    """Bytes of machine code of each function."""
    if not obj.image.machine_code:
        return [0] * len(obj.facts.subprogs)
    starts = [obj.image.insn_offsets[slot] for slot in obj.facts.subprogs]
    starts[0] = 0
    order = sorted([*starts, len(obj.image.text)])
    return [order[order.index(start) + 1] - start for start in starts]


def _tags(obj: ProgObject) -> list[bytes]:
    """One for each function."""
    bounds = [8 * slot for slot in obj.facts.subprogs] + [len(obj.program.insns)]
    if len(bounds) == 2:
        return [obj.tag]
    return [tag(obj.program.insns[at:end]) for at, end in zip(bounds, bounds[1:], strict=False)]


def _check_sizes(given: Given) -> None:
    """set_info_rec_size(): sizes of records are told back; EINVAL: others were expected."""
    for name, size in _RECORDS.items():
        field = f"{name}_rec_size"
        if (given.what[f"nr_{name}"] or given.what[field]) and given.what[field] != size:
            raise ShimError("BI0005", errno.EINVAL,
                            f"information: {name} of {given.what[field]} bytes, {size} expected")
        given.what[field] = size


def _list(given: Given, count: str, pointer: str, each: int, data: bytes) -> None:
    """As many elements as the caller has room for, and how many there are."""
    room, there = given.what[count], len(data) // each
    given.what[count] = there
    given.through(pointer, data, min(room, there) * each)


def _bytes(given: Given, length: str, pointer: str, data: bytes) -> None:
    room = given.what[length]
    given.what[length] = len(data)
    given.through(pointer, data, room)


def _u32s(numbers: list[int]) -> bytes:
    return b"".join(number.to_bytes(4, "little") for number in numbers)


def _u64s(numbers: list[int]) -> bytes:
    return b"".join(max(number, 0).to_bytes(8, "little") for number in numbers)


def fill(obj: ProgObject, given: Given, missed: int) -> None:
    """Everything known of a program. EFAULT, EINVAL."""
    what, program = given.what, obj.program
    what["type"], what["id"], what["tag"] = program.prog_type, obj.id, obj.tag
    what["load_time"], what["created_by_uid"] = obj.load_time, os.getuid()
    what["name"] = obj.name.encode()
    at = what.fields["ifindex"][0] + 4  # a bit field: the caller's others stay, as devices' do
    what.data[at] = what.data[at] & ~1 | program.gpl_compatible
    _list(given, "nr_map_ids", "map_ids", 4, _u32s([m.id for m in (*obj.maps, *obj.bound)]))
    _check_sizes(given)
    what["run_cnt"], what["run_time_ns"] = obj.runs
    what["recursion_misses"], what["verified_insns"] = missed, obj.verified_insns
    what["btf_id"] = obj.btf.id if obj.btf else 0
    what["attach_btf_obj_id"], what["attach_btf_id"] = 0, program.attach_btf_id
    _bytes(given, "xlated_prog_len", "xlated_prog_insns", shown(obj))
    _bytes(given, "jited_prog_len", "jited_prog_insns", obj.image.machine_code)
    starts = [obj.image.insn_offsets[slot] for slot in obj.facts.subprogs]
    _list(given, "nr_jited_ksyms", "jited_ksyms", 8, _u64s(starts))
    _list(given, "nr_jited_func_lens", "jited_func_lens", 4, _u32s(_function_sizes(obj)))
    records = {"func_info": program.func_info, "line_info": program.line_info}
    sizes = {"func_info": program.func_info_rec_size, "line_info": program.line_info_rec_size}
    for name, size in (("func_info", 8), ("line_info", 16)):
        data, step = records[name], sizes[name] or size
        known = b"".join(data[i : i + size] for i in range(0, len(data) - step + 1, step))
        _list(given, f"nr_{name}", name, size, known)
    slots = [int.from_bytes(known[at : at + 4], "little") for at in range(0, len(known), 16)]
    lines = [obj.image.insn_offsets[slot] for slot in slots]
    # libbpf drops the lines of source, too, if it cannot make sense of where they are
    told = _u64s(lines) if min(lines, default=0) >= 0 else b""
    _list(given, "nr_jited_line_info", "jited_line_info", 8, told)
    _list(given, "nr_prog_tags", "prog_tags", 8, b"".join(_tags(obj)))
