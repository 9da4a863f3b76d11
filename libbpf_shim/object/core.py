"""CO-RE relocations that come with PROG_LOAD, as light skeletons have them.

Source: kernel/bpf/verifier.c (check_core_relo), kernel/bpf/btf.c (bpf_core_apply).
"""

from __future__ import annotations

import errno
import struct

from libbpf_shim.btf.parse import Btf
from libbpf_shim.errors import ShimError

SIZE = 16  # bytes of struct bpf_core_relo
_MAX_RECORD = 252  # MAX_CORE_RELO_SIZE
_INT_MAX = 0x7FFFFFFF


class RelocationError(ShimError):
    """A relocation that is refused. log: the kernel's line. known: bytes of a record that are
    understood, where more were given; 0 otherwise."""

    def __init__(self, code: int, log: str, known: int = 0) -> None:
        super().__init__("OB0031", code, f"CO-RE: {log or 'sizes'}")
        self.log, self.known = log, known


def check_sizes(count: int, size: int) -> None:
    """EINVAL."""
    if count > _INT_MAX // SIZE or not SIZE <= size <= _MAX_RECORD or size % 4:
        raise RelocationError(errno.EINVAL, "")


def apply(insns: bytes, records: bytes, size: int, local: Btf, target: Btf) -> bytes:
    """The instructions as they are under the target's BTF. EINVAL, E2BIG and what the resolver
    refuses."""
    from libbpf_shim.btf.core_relo import Relo, Resolver, patch
    from libbpf_shim.isa.insn import decode, encode

    program = decode(insns)
    resolver = Resolver(local, target)
    for index in range(len(records) // size):
        record = records[index * size : (index + 1) * size]
        if any(record[SIZE:]):
            raise RelocationError(errno.E2BIG, "nonzero tailing record in core_relo", SIZE)
        insn_off, type_id, access, kind = struct.unpack_from("<IIII", record)
        if insn_off % 8 or insn_off // 8 >= len(program):
            raise RelocationError(
                errno.EINVAL,
                f"Invalid core_relo[{index}].insn_off:{insn_off} prog->len:{len(program)}")
        if access >= len(local.strings):
            raise RelocationError(errno.EINVAL, f"relo #{index}: invalid access string")
        relo = Relo(insn_off, type_id, local.string(access), kind)
        try:
            patch(program, insn_off // 8, resolver.resolve(relo))
        except ShimError as error:
            code = errno.EINVAL if error.errno == errno.EOPNOTSUPP else error.errno
            raise RelocationError(code, f"relo #{index}: {error.message}") from error
    return encode(program)
