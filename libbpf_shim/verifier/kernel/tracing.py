"""Programs that are attached by BTF id: whether there is such a thing, and may be attached to;
what they return; which helpers they have.

What 6.18 takes for a function that may sleep or whose result may be changed is a list in the
kernel's memory (error injection), of which nothing but the system calls can be told from BTF.
Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_attach_btf_id,
bpf_check_attach_target, check_return_code; kernel/trace/bpf_trace.c, kernel/bpf/bpf_lsm.c.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.btf.parse import Btf, Type
from libbpf_shim.verifier.call import availability
from libbpf_shim.verifier.env import EINVAL, ENOTSUPP, Env, Reject
from libbpf_shim.verifier.kernel import btf_context, lsm, struct_ops, target
from libbpf_shim.verifier.kernel.target import ITERATORS, Target

SLEEPABLE: Final = 1 << 4  # BPF_F_SLEEPABLE
_TRACEPOINT: Final = "btf_trace_"
_ITERATOR: Final = "bpf_iter_"
_MOST_ARGS: Final = 12  # MAX_BPF_FUNC_ARGS
_FUNCTIONS: Final = (target.FENTRY, target.FEXIT, target.MODIFY_RETURN, target.LSM_MAC,
                     target.LSM_CGROUP)  # fmt: skip
# Functions of test runs whose result programs may change (BTF_KFUNC_HOOK_FMODRET).
_MODIFIABLE: Final = frozenset((
    "bpf_modify_return_test", "bpf_modify_return_test2", "bpf_modify_return_test_tp",
    "bpf_fentry_test1", "bpf_rstat_flush",
))  # fmt: skip
_SLEEPING: Final = frozenset(("bpf_fentry_test1",))  # of those, with KF_SLEEPABLE
_INJECTED: Final = frozenset(("should_failslab", "should_fail_alloc_page", "__filemap_add_folio"))
_NEVER: Final = frozenset((
    "___migrate_enable", "migrate_disable", "migrate_enable", "rcu_read_unlock_strict",
    "preempt_count_add", "preempt_count_sub", "__rcu_read_lock", "__rcu_read_unlock",
))  # fmt: skip
_NO_RETURN: Final = frozenset((
    "__ia32_sys_exit", "__ia32_sys_exit_group", "__kunit_abort", "kunit_try_catch_throw",
    "__module_put_and_kthread_exit", "__x64_sys_exit", "__x64_sys_exit_group", "do_exit",
    "do_group_exit", "kthread_complete_and_exit", "make_task_dead",
))  # fmt: skip


def may_sleep(env: Env) -> bool:
    """A program that is attached to what may sleep."""
    kind = env.program.expected_attach_type
    where = (target.FENTRY, target.FEXIT, target.MODIFY_RETURN, target.ITER)
    return env.prog_type == target.TRACING and kind in where


def attach(env: Env) -> None:
    """Sets env.target, where the program has one. Raises Reject."""
    program = env.program
    if program.prog_type not in target.TYPES:
        return
    if program.prog_type == target.STRUCT_OPS:
        env.target = struct_ops.member(env)
        return
    type_id = program.attach_btf_id
    if not type_id:
        raise Reject(EINVAL, "Tracing programs must provide btf_id")
    if program.attach_prog is not None:
        raise Reject(ENOTSUPP, "attaching to a program is not supported here")
    btf = env.btf(0)
    try:
        found = btf.type(type_id)
    except KeyError:
        raise Reject(EINVAL, f"attach_btf_id {type_id} is invalid") from None
    if not found.name:
        raise Reject(EINVAL, f"attach_btf_id {type_id} doesn't have a name")
    if program.prog_type == target.EXT:
        raise Reject(EINVAL, "Cannot replace kernel functions")
    if program.expected_attach_type == target.RAW_TP:
        env.target = _tracepoint(btf, found)
    elif program.expected_attach_type == target.ITER:
        env.target = _iterator(btf, found)
    elif program.expected_attach_type in _FUNCTIONS:
        env.target = _function(env, btf, found)
    else:
        raise Reject(EINVAL, "")


def _tracepoint(btf: Btf, found: Type) -> Target:
    if found.kind != kinds.TYPEDEF:
        raise Reject(EINVAL, f"attach_btf_id {found.id} is not a typedef")
    if not found.name.startswith(_TRACEPOINT):
        text = f"attach_btf_id {found.id} points to wrong type name {found.name}"
        raise Reject(EINVAL, text)
    name = found.name.removeprefix(_TRACEPOINT)
    # the prototype with its arguments' names, where the tracepoint has a template of its own
    function = btf.find(f"__bpf_trace_{name}", kinds.FUNC)
    proto = btf.type(function.ref) if function else None
    if proto is None:
        pointer = btf.type(found.ref) if found.ref else None
        proto = btf.type(pointer.ref) if pointer and pointer.ref else None
    if proto is None or proto.kind != kinds.FUNC_PROTO:
        raise Reject(EINVAL, "")
    return Target(name, proto, 1, True)


def _proto(btf: Btf, found: Type) -> Type:
    if found.kind != kinds.FUNC:
        raise Reject(EINVAL, f"attach_btf_id {found.id} is not a function")
    proto = btf.type(found.ref)
    _distill(btf, found.name, proto)
    return proto


def _distill(btf: Btf, name: str, proto: Type) -> None:
    """A trampoline can pass the arguments on (btf_distill_func_proto)."""
    args = proto.members
    if len(args) > _MOST_ARGS:
        raise Reject(EINVAL, f"The function {name} has {len(args)} arguments. Too many.")
    if (size := _bytes(btf, proto.ref)) < 0 or _is_struct(btf, proto.ref):
        what = btf_context.kind_name(btf.strip(proto.ref))
        raise Reject(EINVAL, f"The function {name} return type {what} is unsupported.")
    for n, param in enumerate(args):
        if n == len(args) - 1 and not param.type:
            raise Reject(EINVAL, f"The function {name} with variable args is unsupported.")
        size = _bytes(btf, param.type)
        if not 0 <= size <= 16:
            what = btf_context.kind_name(btf.strip(param.type))
            raise Reject(EINVAL, f"The function {name} arg{n} type {what} is unsupported.")
        if not size:
            raise Reject(EINVAL, f"The function {name} has malformed void argument.")


def _bytes(btf: Btf, type_id: int) -> int:
    """Of an argument, 0 of void, -1 of what cannot be passed (__get_type_size)."""
    found = btf.strip(type_id)
    if found is None:
        return 0
    if found.kind == kinds.PTR:
        return 8
    numbers = (kinds.INT, kinds.ENUM, kinds.ENUM64, kinds.STRUCT, kinds.UNION)
    return found.size if found.kind in numbers else -1


def _is_struct(btf: Btf, type_id: int) -> bool:
    found = btf.strip(type_id)
    return found is not None and found.kind in (kinds.STRUCT, kinds.UNION)


def _iterator(btf: Btf, found: Type) -> Target:
    proto = _proto(btf, found)
    name = found.name.removeprefix(_ITERATOR)
    if not found.name.startswith(_ITERATOR) or name not in ITERATORS:
        raise Reject(EINVAL, "")
    to = Target(found.name, proto, 0, True)
    to.args = ITERATORS[name]
    return to


def _function(env: Env, btf: Btf, found: Type) -> Target:
    """fentry, fexit, fmod_ret, lsm: a function of the kernel."""
    proto, name = _proto(btf, found), found.name
    kind = env.program.expected_attach_type
    hook = name.removeprefix(lsm.PREFIX)
    if env.program.prog_flags & SLEEPABLE:
        if not (hook in lsm.SLEEPABLE if env.prog_type == target.LSM else _may_sleep(name)):
            raise Reject(EINVAL, f"{name} is not sleepable")
    elif kind == target.MODIFY_RETURN and not _modifiable(name):
        raise Reject(EINVAL, f"{name}() is not modifiable")
    if env.prog_type == target.LSM:
        if not env.program.gpl_compatible:
            raise Reject(EINVAL, "LSM programs must have a GPL compatible license")
        if not lsm.is_hook(name):
            text = f"attach_btf_id {found.id} points to wrong type name {name}"
            raise Reject(EINVAL, text)
        if hook in lsm.DISABLED:
            raise Reject(EINVAL, f"attach_btf_id {found.id} points to disabled hook {name}")
        return Target(name, proto, 0, hook not in lsm.UNTRUSTED)
    if name in _NEVER:
        text = f"Attaching tracing programs to function '{name}' is rejected."
        raise Reject(EINVAL, text)
    if name in _NO_RETURN and kind in (target.FEXIT, target.MODIFY_RETURN):
        text = f"Attaching fexit/fmod_ret to __noreturn function '{name}' is rejected."
        raise Reject(EINVAL, text)
    return Target(name, proto, 0, False)


def _injected(name: str) -> bool:
    """A function on the list of those in which errors may be injected."""
    return name.startswith(("__x64_sys_", "__ia32_sys_")) or name in _INJECTED


def _may_sleep(name: str) -> bool:
    return name in _SLEEPING or (_injected(name) and name not in _INJECTED)


def _modifiable(name: str) -> bool:
    return name in _MODIFIABLE or name.startswith("security_") or _injected(name)


def return_range(env: Env, to: Target) -> tuple[int, int] | None:
    """What R0 must be within at exit; None: anything."""
    kind = env.program.expected_attach_type
    if env.prog_type == target.TRACING:
        if kind in (target.FENTRY, target.FEXIT):
            return (0, 0)
        return (0, 1) if kind == target.ITER else None
    if env.prog_type == target.LSM:
        if kind == target.LSM_CGROUP:
            return (0, 1) if to.proto.ref else (1, 1)
        return lsm.returns(to.name)
    return struct_ops.return_range(env, to)


def returns_int(env: Env) -> bool:
    """The low half of R0 is what the kernel takes, and the range is of it."""
    kind = env.program.expected_attach_type
    return env.prog_type == target.LSM and kind != target.LSM_CGROUP


def returns_nothing(env: Env, to: Target) -> bool:
    """The function is void, and R0 need not be set."""
    if env.prog_type == target.STRUCT_OPS:
        return not to.proto.ref
    mac = env.program.expected_attach_type == target.LSM_MAC
    return env.prog_type == target.LSM and mac and not to.proto.ref


# Beside what raw tracepoints have.
_BY_BTF: Final = frozenset((46, 107, 108, 111, 121, 136, 137, 138, 139, 140, 147, 162, 178, 188,
                            196))  # fmt: skip
_SEQ: Final = frozenset((126, 127, 150))
_TRAMPOLINE: Final = frozenset((183, 184, 185))  # get_func_arg and the like
_COOKIE: Final = 174
_SOCKOPT: Final = frozenset((49, 57))
_OF_LSM: Final = frozenset((145, 146, 159, 161, 193))
_OF_SLEEPABLE_LSM: Final = frozenset((147, 161, 193))  # d_path, ima_inode_hash, ima_file_hash
_D_PATH: Final = 147
_SK_STORAGE: Final = (107, 108)
_PATHS: Final = frozenset((  # functions that hold a path (btf_allowlist_d_path)
    "security_file_permission", "security_inode_getattr", "security_file_open",
    "security_path_truncate", "vfs_truncate", "vfs_fallocate", "dentry_open", "vfs_getattr",
    "filp_close",
))  # fmt: skip
_OF_LSM_CGROUP: Final = frozenset((81, 186, 187))


def forbidden(env: Env, to: Target, helper: int) -> bool:
    """Programs like this one have the helper, but not where it is attached."""
    kind = env.program.expected_attach_type
    if env.prog_type == target.LSM:
        hook = to.name.removeprefix(lsm.PREFIX)
        return helper in _OF_SLEEPABLE_LSM and hook not in lsm.SLEEPABLE
    if env.prog_type != target.TRACING:
        return False
    if helper == _D_PATH:
        return kind != target.ITER and to.name not in _PATHS
    if helper not in _SK_STORAGE or kind in (target.ITER, target.RAW_TP):
        return False
    return kind == target.MODIFY_RETURN or to.name.startswith("bpf_sk_storage")


def allowed(env: Env, to: Target, helper: int) -> bool:
    """A program that is attached there may call this helper."""
    kind = env.program.expected_attach_type
    if env.prog_type == target.STRUCT_OPS:
        return struct_ops.allowed(env, to, helper)
    if kind == target.ITER:
        if helper in _SOCKOPT:
            return to.name in ("bpf_iter_tcp", "bpf_iter_unix")
        if helper in _SEQ:
            return True
        if helper == _COOKIE:
            return False
    trampoline = kind in _FUNCTIONS and kind != target.LSM_CGROUP
    if helper in _TRAMPOLINE or (helper == _COOKIE and kind != target.RAW_TP):
        return trampoline
    if env.prog_type == target.LSM:
        if helper in _OF_LSM or (kind == target.LSM_CGROUP and helper in _OF_LSM_CGROUP):
            return True
    return helper in _BY_BTF or availability.allowed(17, 0, helper)
