"""Helper prototypes: what each takes and gives. The rows are in prototypes.py.

Words for arguments; "?" behind one: or NULL, "!": given back by the call, "*": not set yet.
any, ctx context, map, key of the map before, value of it, mem read, out filled, inout read and
filled, size of the memory before (> 0), size0 (0 allowed), alloc constant size (0 allowed), str
constant string, func of the program, stack what a callback is given, lock and timer in a map
value, record of a ring buffer, sk socket of any kind, bsk that or a struct sock of the kernel,
socket struct bpf_sock, u64 and u32 number filled, ip4, ip6, tcp header read, percpu kernel
variable, kptr field, dynptr (":" and its kind), @NAME the kernel's struct of that name.
Words for results: int, void, value of the map, record of the size given, mem of the size given,
socket, sock_common, tcp_sock, percpu, @NAME.
"""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.uapi.bpf_func import bpf_func_id
from libbpf_shim.verifier.call.prototypes import OF_TYPE, ROWS

ANY: Final = 1
CTX: Final = 2
MAP: Final = 3
KEY: Final = 4
VALUE: Final = 5
MEM: Final = 6
OUT: Final = 7
INOUT: Final = 8
SIZE: Final = 9
SIZE0: Final = 10
ALLOC: Final = 11
STR: Final = 12
FUNC: Final = 13
STACK: Final = 14
LOCK: Final = 15
TIMER: Final = 16
RECORD: Final = 17
SK: Final = 18
BSK: Final = 19
SOCKET: Final = 20
U64: Final = 21
U32: Final = 22
IP4: Final = 23
IP6: Final = 24
TCP: Final = 25
PERCPU: Final = 26
KPTR: Final = 27
DYNPTR: Final = 28
BTF: Final = 29
INT: Final = 30
VOID: Final = 31
SOCK_COMMON: Final = 32
TCP_SOCK: Final = 33
KIND: Final = 0xFF
OR_NULL: Final = 0x100
RELEASE: Final = 0x200
UNSET: Final = 0x400

# bpf_get_func_ip, bpf_get_attach_cookie: they are given a context that they do not look at
# (csrc/runtime/helpers_task.c)
BLIND: Final = frozenset((173, 174))

_WORDS: Final[dict[str, int]] = {
    "any": ANY, "ctx": CTX, "map": MAP, "key": KEY, "value": VALUE, "mem": MEM, "out": OUT,
    "inout": INOUT, "size": SIZE, "size0": SIZE0, "alloc": ALLOC, "str": STR, "func": FUNC,
    "stack": STACK, "lock": LOCK, "timer": TIMER, "record": RECORD, "sk": SK, "bsk": BSK,
    "socket": SOCKET, "u64": U64, "u32": U32, "ip4": IP4, "ip6": IP6, "tcp": TCP,
    "percpu": PERCPU, "kptr": KPTR, "dynptr": DYNPTR, "int": INT, "void": VOID,
    "sock_common": SOCK_COMMON, "tcp_sock": TCP_SOCK,
}  # fmt: skip
_MARKS: Final[dict[str, int]] = {"?": OR_NULL, "!": RELEASE, "*": UNSET}
# bytes of what has a size by itself
SIZES: Final[dict[int, int]] = {U64: 8, U32: 4, IP4: 20, IP6: 40, TCP: 20}


@final
class Proto:
    """args: kinds of r1.. in order, each with flags; ret: kind of r0. types: of each argument and
    then of r0, the name of the kernel's struct or the kind of dynptr. gpl: needs a GPL-compatible
    license. moves: packet pointers are void after the call. packet: packet memory may be an
    argument. sleeps: for sleepable programs only. never: there, but always refused."""

    __slots__ = ("args", "ret", "types", "gpl", "moves", "packet", "percpu", "sleeps", "never")

    def __init__(self, args: str, ret: str, flags: str) -> None:
        words = [*args.split(), ret]
        kinds = [_kind(word) for word in words]
        self.args: list[int] = kinds[:-1]
        self.ret: int = kinds[-1]
        self.types: list[str] = [_type(word) for word in words]
        self.gpl: bool = "g" in flags
        self.moves: bool = "d" in flags
        self.packet: bool = "p" in flags
        self.percpu: bool = "c" in flags
        self.sleeps: bool = "s" in flags
        self.never: bool = "n" in flags


def _kind(word: str) -> int:
    mark = _MARKS.get(word[-1], 0)
    plain = word[:-1] if mark else word
    if plain.startswith("@"):
        return BTF | mark
    return _WORDS[plain.split(":")[0]] | mark


def _type(word: str) -> str:
    plain = word.rstrip("?!*")
    if plain.startswith("@"):
        return plain[1:]
    return plain.partition(":")[2]


PROTOS: Final[dict[int, Proto]] = {n: Proto(args, ret, flags) for n, args, ret, flags in ROWS}
_OF_TYPE: Final[dict[tuple[int, int], Proto]] = {
    (type, n): Proto(args, ret, flags)
    for types, n, args, ret, flags in OF_TYPE for type in types
}  # fmt: skip


def proto(prog_type: int, number: int) -> Proto | None:
    """What the helper is for programs of this type; None: there is none of that number."""
    return _OF_TYPE.get((prog_type, number)) or PROTOS.get(number)


def name(number: int) -> str:
    """bpf_NAME, or "unknown" as the kernel's log has it."""
    if 0 < number <= len(bpf_func_id) - 1:
        return "bpf_" + bpf_func_id(number).name.removeprefix("BPF_FUNC_")
    return "unknown" if number else "bpf_unspec"


def exists(number: int) -> bool:
    """A helper of enum bpf_func_id."""
    return 0 < number < len(bpf_func_id)
