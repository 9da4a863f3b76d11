"""Programs that are a member of a structure of operations: TCP's congestion control, and the
kernel's own test of such structures.

A structure is one if the kernel's BTF has its bpf_struct_ops_NAME. Which members it takes is code
in the kernel, so only structures in ROWS are known. Source of rules and messages: Linux 6.18,
kernel/bpf/verifier.c, check_struct_ops_btf_id; net/ipv4/bpf_tcp_ca.c,
net/bpf/bpf_dummy_struct_ops.c; measured.
"""

from __future__ import annotations

from typing import Final, final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.call import availability
from libbpf_shim.verifier.env import EACCES, EINVAL, ENOTSUPP, Env, Reject
from libbpf_shim.verifier.kernel import btf_walk
from libbpf_shim.verifier.kernel.target import Target
from libbpf_shim.verifier.state import BTF_PTR, MAYBE_NULL, TRUSTED, Reg

SLEEPABLE: Final = 1 << 4  # BPF_F_SLEEPABLE
VALUE: Final = "bpf_struct_ops_"


@final
class Row:
    """lacks: members that no program may be. sleepers: those that may sleep (all: None).
    helpers: beside the general ones (None: it has none at all)."""

    __slots__ = ("lacks", "sleepers", "helpers")

    def __init__(
        self, lacks: frozenset[str], sleepers: frozenset[str] | None,
        helpers: frozenset[int] | None,
    ) -> None:
        self.lacks: frozenset[str] = lacks
        self.sleepers: frozenset[str] | None = sleepers
        self.helpers: frozenset[int] | None = helpers


_TCP: Final = "tcp_congestion_ops"
_DUMMY: Final = "bpf_dummy_ops"
ROWS: Final = {
    _TCP: Row(frozenset(("get_info",)), None, frozenset((49, 57, 107, 108, 116, 160))),
    _DUMMY: Row(frozenset(), frozenset(("test_sleepable",)), None),
}
_NOT_IN_RELEASE: Final = (49, 57)
# Members of struct tcp_sock that a congestion control may write: of which structure in it.
_WRITABLE: Final = (
    ("sock", "sk_pacing_rate"), ("sock", "sk_pacing_status"),
    ("inet_connection_sock", "icsk_ca_priv"), ("inet_connection_sock", "icsk_ack.pending"),
    ("tcp_sock", "snd_cwnd"),
    ("tcp_sock", "snd_cwnd_cnt"), ("tcp_sock", "snd_cwnd_stamp"), ("tcp_sock", "snd_ssthresh"),
    ("tcp_sock", "ecn_flags"), ("tcp_sock", "app_limited"),
)  # fmt: skip


def member(env: Env) -> Target:
    """What the program is to be. Raises Reject."""
    program = env.program
    if not program.gpl_compatible:
        raise Reject(EINVAL, "struct ops programs must have a GPL compatible license")
    if not program.attach_btf_id:
        raise Reject(ENOTSUPP, "")
    btf = env.btf(0)
    name = btf_walk.type_name(btf, program.attach_btf_id)
    if name and btf.find(VALUE + name, kinds.STRUCT) is None:
        name = ""
    row = ROWS.get(name)
    if not name:
        text = f"attach_btf_id {program.attach_btf_id} is not a supported struct"
        raise Reject(ENOTSUPP, text)
    if row is None:
        raise Reject(ENOTSUPP, f"members of struct {name} are not supported here")
    members, at = btf.type(program.attach_btf_id).members, program.expected_attach_type
    if at >= len(members):
        raise Reject(EINVAL, f"attach to invalid member idx {at} of struct {name}")
    found = members[at]
    proto = _function(btf, found.type)
    if proto is None:
        raise Reject(EINVAL, f"attach to invalid member {found.name}(@idx {at}) of struct {name}")
    unfit = f"attach to unsupported member {found.name} of struct {name}"
    if found.name in row.lacks:
        raise Reject(ENOTSUPP, unfit)
    if row.sleepers is not None and program.prog_flags & SLEEPABLE:
        if found.name not in row.sleepers:
            raise Reject(EINVAL, unfit)
    to = Target(found.name, proto, 0, True)
    to.args = _arguments(btf, f"{name}__{found.name}")
    return to


def _function(btf: Btf, type_id: int) -> Type | None:
    """The prototype behind a member that is a pointer to a function."""
    found = btf.strip(type_id) if type_id else None
    if found is None or found.kind != kinds.PTR:
        return None
    proto = btf.strip(found.ref) if found.ref else None
    return proto if proto is not None and proto.kind == kinds.FUNC_PROTO else None


def _arguments(btf: Btf, stub: str) -> dict[int, tuple[int, str]]:
    """Arguments that the kernel's stub says may be NULL."""
    found = btf.find(stub, kinds.FUNC)
    args: dict[int, tuple[int, str]] = {}
    for n, param in enumerate(btf.type(found.ref).members if found else ()):
        pointer = btf.strip(param.type) if param.type else None
        if param.name.endswith("__nullable") and pointer is not None:
            target = btf.strip(pointer.ref)
            if target is not None:
                args[n] = (BTF_PTR | TRUSTED | MAYBE_NULL, target.name)
    return args


def structure(env: Env) -> str:
    """The name of the structure that the program is a member of."""
    return btf_walk.type_name(env.btf(0), env.program.attach_btf_id)


def promoted(env: Env, reg: Reg) -> Reg:
    """A congestion control's sockets are TCP's."""
    if reg.type == BTF_PTR | TRUSTED and structure(env) == _TCP:
        btf = env.btf(0)
        if btf_walk.type_name(btf, reg.type_id) == "sock":
            tcp = btf.find("tcp_sock", kinds.STRUCT)
            if tcp is not None:
                reg.type_id = tcp.id
    return reg


def return_range(env: Env, to: Target) -> tuple[int, int] | None:
    """A pointer that is returned is NULL."""
    found = env.btf(0).strip(to.proto.ref) if to.proto.ref else None
    return (0, 0) if found is not None and found.kind == kinds.PTR else None


def allowed(env: Env, to: Target, helper: int) -> bool:
    row = ROWS[structure(env)]
    if row.helpers is None or (to.name == "release" and helper in _NOT_IN_RELEASE):
        return False
    return helper in row.helpers or helper in availability.EVERYWHERE


def check_write(env: Env, name: str, off: int, size: int) -> None:
    """A store into the structure of that name."""
    btf = env.btf(0)
    if structure(env) == _DUMMY:
        if name != "bpf_dummy_ops_state":
            raise Reject(EACCES, "only access to bpf_dummy_ops_state is supported")
        found = btf.find(name, kinds.STRUCT)
        if found is None or off + size > found.size:
            text = f"write access for struct {name} at off {off} with size {size}"
            raise Reject(EACCES, text)
        return
    if name != "tcp_sock":
        raise Reject(EACCES, "only read is supported")
    end = _writable(btf, off)
    if not end:
        raise Reject(EACCES, f"no write support to tcp_sock at off {off}")
    if off + size > end:
        text = f"write access at off {off} with size {size} beyond the member of tcp_sock ended at"
        raise Reject(EACCES, f"{text} {end}")


def _writable(btf: Btf, off: int) -> int:
    """Where a member ends that may be written at off; 0: none."""
    for within, path in _WRITABLE:
        found, start, end = btf.find(within, kinds.STRUCT), 0, 0
        for name in path.split("."):
            member = next((m for m in found.members if m.name == name), None) if found else None
            if member is None:
                start, end = -1, 0
                break
            start += member.offset // 8
            end = start + btf.sizeof(member.type)
            found = btf.strip(member.type)
        if off == start or (path == "icsk_ca_priv" and start <= off < end):
            return end
    return 0
