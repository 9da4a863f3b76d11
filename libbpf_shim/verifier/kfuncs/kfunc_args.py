"""What kernel functions are given: one check a kind of argument.

To add a kind: a name in kfunc_proto.py, how it is known in _pointer_kind() there, and here a
function of (env, call, number of the argument, step) in the dispatch of _of_kind(). What it learns
for the result or for effects it leaves in the Call. Dynptrs and iterators are such kinds.

Source of rules and messages: Linux 6.18, kernel/bpf/verifier.c, check_kfunc_args and what it
calls. Ready for mypyc.
"""

from __future__ import annotations

from typing import Final

from libbpf_shim.btf import kinds
from libbpf_shim.verifier.call import arguments
from libbpf_shim.verifier.env import EACCES, EINVAL, ENOTSUPP, Env, Reject, tnum, type_name
from libbpf_shim.verifier.kfuncs import (
    dynptr,
    graph,
    iterators,
    kfunc_proto,
    kfunc_table,
    kfunc_types,
    locks,
    sections,
    workqueue,
)
from libbpf_shim.verifier.kfuncs.kfunc_call import Call
from libbpf_shim.verifier.memory import access, record, special
from libbpf_shim.verifier.path import precision
from libbpf_shim.verifier.state import (
    ALLOC,
    ARENA,
    BTF_PTR,
    BUF,
    CTX,
    FUNC,
    MAP_KEY,
    MAP_PTR,
    MAP_VALUE,
    MAX_OFF,
    MAYBE_NULL,
    MEM,
    NON_OWN,
    PERCPU,
    PKT,
    PKT_META,
    RCU,
    RDONLY,
    RINGBUF,
    SCALAR,
    SOCK,
    STACK,
    TRUSTED,
    TYPE_MASK,
    Reg,
    Step,
)

MAX_ARGS: Final = 5
_FLAGS: Final = ~TYPE_MASK
_GOOD: Final = ALLOC | TRUSTED | NON_OWN  # flags that make no pointer unsafe
# Registers whose offset a function's memory argument may have.
_FREE_OFFSET: Final = frozenset((
    STACK, PKT, PKT_META, MAP_KEY, MAP_VALUE, MEM, MEM | RDONLY, MEM | RINGBUF, ARENA, SCALAR,
    BUF, BUF | RDONLY,
))  # fmt: skip
_FIXED_OFFSET: Final = frozenset((
    BTF_PTR, BTF_PTR | ALLOC, BTF_PTR | TRUSTED, BTF_PTR | RCU, BTF_PTR | ALLOC | NON_OWN,
    BTF_PTR | ALLOC | NON_OWN | RCU,
))  # fmt: skip


def trusted(reg: Reg) -> bool:
    """Referenced, or certainly alive."""
    if reg.ref:
        return True
    flags = reg.type & _FLAGS
    if reg.type & TYPE_MASK in (MAP_PTR, SOCK) and not flags & ~_GOOD:
        return True
    return flags & _GOOD != 0 and not flags & ~_GOOD


def check(env: Env, call: Call, step: Step) -> None:
    """All arguments, in order. Raises Reject."""
    k = call.kfunc
    if len(k.params) > MAX_ARGS:
        text = f"Function {k.name} has {len(k.params)} > {MAX_ARGS} args"
        raise Reject(EINVAL, text)
    skip = False
    for n in range(len(k.params)):
        if skip:
            skip = False
            continue
        skip = _argument(env, call, n, step)
    if k.flags & kfunc_table.RELEASE and not call.release:
        text = f"release kernel function {k.name} expects refcounted PTR_TO_BTF_ID"
        raise Reject(EINVAL, text)


def _argument(env: Env, call: Call, n: int, step: Step) -> bool:
    """Argument n; True: the next one is its size, and checked too."""
    param, regno = call.kfunc.params[n], n + 1
    kind = param.kind
    if kind == kfunc_types.IGNORED or kind == kfunc_types.PROG:
        return False
    reg = env.regs()[regno]
    if kind == kfunc_types.NUMBER or kind == kfunc_types.CONSTANT:
        _number(env, call, regno, reg, kind == kfunc_types.CONSTANT)
        return False
    if kind == kfunc_types.UNKNOWN_ARG:
        word = kfunc_types.kind_words(kinds.STRUCT)
        raise Reject(EINVAL, f"Unrecognized arg#{n} type {word}")
    flags = call.kfunc.flags
    null = reg.type == SCALAR and reg.tm == 0 and reg.tv == 0
    strict = flags & (kfunc_table.TRUSTED | kfunc_table.RELEASE | kfunc_table.RCU_ARGS)
    if strict and (null or reg.type & MAYBE_NULL) and not param.nullable:
        raise Reject(EACCES, f"Possibly NULL pointer passed to trusted arg{n}")
    if reg.ref:
        call.ref = reg.ref
        if flags & kfunc_table.RELEASE:
            call.release = regno
    size = env.regs()[regno + 1].type == SCALAR if param.sized else False
    if param.nullable and null and not size and kind != kfunc_types.CTX_ARG:
        precision.mark_reg(env, regno)
        return False
    if reg.type & TYPE_MASK == CTX:
        env.ctx_escapes = env.ctx_written = True
    if kind == kfunc_types.OTHER:
        return _by_register(env, call, n, reg, size)
    if kind == kfunc_types.MAP_ARG:
        _map(env, call, n, reg)
    if kind == kfunc_types.ALLOC_ARG:
        _must_be_trusted(call, regno, reg)
    _offset(call, regno, reg)
    _of_kind(env, call, n, reg, step)
    return False


def _number(env: Env, call: Call, regno: int, reg: Reg, constant: bool) -> None:
    if reg.type != SCALAR:
        raise Reject(EINVAL, f"R{regno} is not a scalar")
    if constant:
        if reg.tm:
            raise Reject(EINVAL, f"R{regno} must be a known constant")
        precision.mark_reg(env, regno)
        call.constant = reg.tv


def _must_be_trusted(call: Call, regno: int, reg: Reg) -> None:
    flags = call.kfunc.flags
    if not flags & (kfunc_table.TRUSTED | kfunc_table.RELEASE | kfunc_table.RCU_ARGS):
        return
    if trusted(reg):
        return
    if not flags & kfunc_table.RCU_ARGS:
        raise Reject(EINVAL, f"R{regno} must be referenced or trusted")
    if not reg.type & RCU:
        raise Reject(EINVAL, f"R{regno} must be a rcu pointer")


def _offset(call: Call, regno: int, reg: Reg) -> None:
    """Whether the register's offset may be what it is."""
    fixed_ok = reg.type in _FIXED_OFFSET
    if call.kfunc.flags & kfunc_table.RELEASE and reg.ref:
        if call.kfunc.params[regno - 1].kind == kfunc_types.DYNPTR_ARG and reg.type == STACK:
            return
        if reg.off:
            raise Reject(EINVAL, f"R{regno} must have zero offset when passed to release func or "
                                 "trusted arg to kfunc")
        fixed_ok = False
    elif reg.type in _FREE_OFFSET:
        return
    name = type_name(reg.type)
    if reg.off < 0:
        raise Reject(EACCES, f"negative offset {name} ptr R{regno} off={reg.off} disallowed")
    if reg.off and not fixed_ok:
        text = f"dereference of modified {name} ptr R{regno} off={reg.off} disallowed"
        raise Reject(EACCES, text)
    if reg.tm or reg.tv:
        raise Reject(EACCES, f"variable {name} access var_off={tnum(reg)} disallowed")


def _by_register(env: Env, call: Call, n: int, reg: Reg, sized: bool) -> bool:
    """A pointer whose kind the register decides: a kernel's object, a function, memory."""
    param, regno = call.kfunc.params[n], n + 1
    base = reg.type & TYPE_MASK
    if base == BTF_PTR or base == SOCK or base == MAP_PTR:
        if param.target_kind != kinds.STRUCT:
            raise Reject(EINVAL, f"kernel function {call.kfunc.name} args#{n} pointer type "
                                 f"{param.target_words()} is not supported")
        _must_be_trusted(call, regno, reg)
        _offset(call, regno, reg)
        _object(env, call, n, reg, param.target, param.target_words(), param.target_name)
        return False
    if param.function:
        _offset(call, regno, reg)
        if reg.type != FUNC:
            raise Reject(EINVAL, f"arg{n} expected pointer to func")
        call.subprog = reg.map
        return False
    if not param.plain and not (sized and param.target == 0):
        may = "void, " if sized else ""
        raise Reject(EINVAL, f"arg#{n} pointer type {param.target_words()} must point to "
                             f"{may}scalar, or struct with scalar")
    _offset(call, regno, reg)
    if sized:
        _sized_memory(env, call, n, reg)
        return True
    if param.size < 0:
        raise Reject(EINVAL, f"arg#{n} reference type('{param.target_words()}') size cannot be "
                             "determined: -22")
    if not (reg.type == SCALAR and reg.tm == 0 and reg.tv == 0):
        _memory(env, regno, param.size)
    else:
        precision.mark_reg(env, regno)
    return False


def _memory(env: Env, regno: int, size: int) -> None:
    """size bytes that the function may read and write."""
    regs = env.regs()
    reg = regs[regno]
    if reg.type & MAYBE_NULL:
        there = reg.copy()
        there.type &= ~MAYBE_NULL
        regs[regno] = there
    access.indirect(env, regno, size, access.READ, True, True, "fp")
    access.indirect(env, regno, size, access.WRITE, True, True, "fp")
    regs[regno] = reg


def _sized_memory(env: Env, call: Call, n: int, reg: Reg) -> None:
    """Memory, and its size in the next argument."""
    param, regno = call.kfunc.params[n], n + 1
    size = env.regs()[regno + 1]
    null = reg.type == SCALAR and reg.tm == 0 and reg.tv == 0
    optional = param.name.endswith("__opt") or param.nullable
    if not (null and optional):
        try:
            _size_in_range(env, regno + 1, size)
            _memory(env, regno, size.umax)
        except Reject as reject:
            text = f"arg#{n} arg#{n + 1} memory, len pair leads to invalid memory access"
            raise Reject(reject.errno, f"{reject.message}\n{text}") from None
    if param.constant_size:
        if size.tm:
            raise Reject(EINVAL, f"R{regno + 1} must be a known constant")
        call.constant = size.tv


def _size_in_range(env: Env, regno: int, size: Reg) -> None:
    if size.smin < 0:
        text = f"R{regno} min value is negative, either use unsigned or 'var &= const'"
        raise Reject(EACCES, text)
    if size.umax >= MAX_OFF:
        text = f"R{regno} unbounded memory access, use 'var &= const' or 'if (var < const)'"
        raise Reject(EACCES, text)
    precision.mark_reg(env, regno)


def _map(env: Env, call: Call, n: int, reg: Reg) -> None:
    base = reg.type & TYPE_MASK
    known = reg.mem_size if base == MEM else reg.range if base in (PKT, PKT_META) else 0
    if base not in (MAP_PTR, MAP_VALUE, MAP_KEY, BTF_PTR) and not known:
        raise Reject(EINVAL, f"pointer in R{n + 1} isn't map pointer")
    workqueue.same_map(env, call, reg)
    call.map = reg.map if base == MAP_PTR else -1
    _must_be_trusted(call, n + 1, reg)


def _of_kind(env: Env, call: Call, n: int, reg: Reg, step: Step) -> None:
    kind, regno = call.kfunc.params[n].kind, n + 1
    if kind == kfunc_types.CTX_ARG:
        if reg.type != CTX:
            text = f"arg#{n} expected pointer to ctx, but got {type_name(reg.type)}"
            raise Reject(EINVAL, text)
    elif kind == kfunc_types.ALLOC_ARG:
        _allocated(call, n, reg)
    elif kind == kfunc_types.REFCOUNTED:
        _counted(env, call, n, reg)
    elif kind == kfunc_types.MAP_ARG:
        btf = env.btf(0)
        wanted = btf.find("bpf_map", kinds.STRUCT)
        number = wanted.id if wanted is not None else 0
        _object(env, call, n, reg, number, "STRUCT bpf_map", "bpf_map")
    elif kind == kfunc_types.STRING:
        if reg.type != MAP_VALUE:
            raise Reject(EINVAL, f"arg#{n} doesn't point to a const string")
        arguments.constant_string(env, regno, reg)
    elif kind == kfunc_types.LIST_HEAD_ARG or kind == kfunc_types.RB_ROOT_ARG:
        name = special.LIST_HEAD if kind == kfunc_types.LIST_HEAD_ARG else special.RB_ROOT
        graph.root(env, call, n, reg, name)
    elif kind == kfunc_types.LIST_NODE_ARG or kind == kfunc_types.RB_NODE_ARG:
        graph.node(env, call, n, reg, kind == kfunc_types.RB_NODE_ARG)
    elif kind == kfunc_types.WORKQUEUE_ARG or kind == kfunc_types.TASK_WORK_ARG:
        name = special.WORKQUEUE if kind == kfunc_types.WORKQUEUE_ARG else special.TASK_WORK
        workqueue.check(env, call, n, reg, name)
    elif kind == kfunc_types.IRQ_FLAG:
        _irq_flag(env, call, n, reg)
    elif kind == kfunc_types.RES_LOCK:
        _res_lock(env, call, n, reg)
    elif kind == kfunc_types.DYNPTR_ARG:
        param = call.kfunc.params[n]
        call.dynptr = dynptr.kfunc_argument(
            env, regno, reg, call.kfunc.name, param.uninit, call.dynptr)  # fmt: skip
    elif kind == kfunc_types.ITER_ARG:
        _iterator(env, call, n, reg)
    else:
        raise Reject(ENOTSUPP, f"kernel function {call.kfunc.name} is not supported here")


def _iterator(env: Env, call: Call, n: int, reg: Reg) -> None:
    param, flags, regno = call.kfunc.params[n], call.kfunc.flags, n + 1
    if call.kfunc.name == "bpf_iter_css_task_new" and not iterators.css_task_allowed(env):
        text = "css_task_iter is only allowed in bpf_lsm, bpf_iter and sleepable progs"
        raise Reject(EINVAL, text)
    iterators.on_stack(reg, n)
    name, type_id, size = param.target_name, param.target, param.size
    if flags & kfunc_table.ITER_NEW:
        protected = flags & kfunc_table.IN_RCU != 0
        iterators.create(env, regno, reg, name, type_id, size, protected)
        return
    spi = iterators.existing(env, regno, reg, name, type_id, size, call.kfunc.name)
    call.ref = iterators.reference(env, reg, spi)
    call.iter_frame, call.iter_slot = reg.frame, spi
    if flags & kfunc_table.ITER_DESTROY:
        iterators.destroy(env, reg, spi, size)


def _allocated(call: Call, n: int, reg: Reg) -> None:
    name = call.kfunc.name
    if reg.type == BTF_PTR | ALLOC:
        if name != "bpf_obj_drop_impl":
            raise Reject(EINVAL, f"arg#{n} expected for bpf_obj_drop_impl()")
    elif reg.type == BTF_PTR | ALLOC | PERCPU:
        if name != "bpf_percpu_obj_drop_impl":
            raise Reject(EINVAL, f"arg#{n} expected for bpf_percpu_obj_drop_impl()")
    else:
        raise Reject(EINVAL, f"arg#{n} expected pointer to allocated object")
    if not reg.ref:
        raise Reject(EINVAL, "allocated object must be referenced")
    call.btf, call.type_id = reg.btf, reg.type_id


def _counted(env: Env, call: Call, n: int, reg: Reg) -> None:
    if reg.type & TYPE_MASK != BTF_PTR or not reg.type & ALLOC:
        raise Reject(EINVAL, f"arg#{n} is neither owning or non-owning ref")
    call.owning = not reg.type & NON_OWN
    if record.named(record.of_reg(env, reg), special.REFCOUNT) is None:
        text = f"arg#{n} doesn't point to a type with bpf_refcount field"
        raise Reject(EINVAL, text)
    call.btf, call.type_id = reg.btf, reg.type_id


def _irq_flag(env: Env, call: Call, n: int, reg: Reg) -> None:
    if reg.type != STACK:
        raise Reject(EINVAL, f"arg#{n} doesn't point to an irq flag on stack")
    name = call.kfunc.name
    kind = sections.NATIVE if "local_irq" in name else sections.LOCKED
    if name.endswith("save"):
        sections.irq_save(env, n + 1, reg, kind)
    else:
        sections.irq_restore(env, n + 1, reg, kind)


def _res_lock(env: Env, call: Call, n: int, reg: Reg) -> None:
    if reg.type != MAP_VALUE and reg.type != BTF_PTR | ALLOC:
        raise Reject(EINVAL, f"arg#{n} doesn't point to map value or allocated object")
    name = call.kfunc.name
    kind = locks.RES_IRQ if "irq" in name else locks.RES
    locks.spin_lock(env, n + 1, reg, "unlock" not in name, kind)


# objects of the kernel


def _object(
    env: Env, call: Call, n: int, reg: Reg, wanted: int, words: str, name: str
) -> None:
    """A pointer to the kernel's structure that is wanted."""
    base = reg.type & TYPE_MASK
    unsafe = reg.type & _FLAGS & ~_GOOD
    other = base not in (BTF_PTR, SOCK, MAP_PTR)
    if other or (base == BTF_PTR and unsafe and not reg.type & RCU):
        has = type_name(reg.type)
        good = type_name(base | reg.type & _GOOD)
        raise Reject(EINVAL, f"arg#{n} is {has} expected {good} or socket")
    btf, type_id = reg.btf, reg.type_id
    if base == MAP_PTR:
        found = env.btf(0).find("bpf_map", kinds.STRUCT)
        btf, type_id = 0, found.id if found is not None else 0
    if base == SOCK:
        raise Reject(ENOTSUPP, "sockets for kernel functions are not supported here")
    have = env.btf(btf).strip(type_id)
    have_name = have.name if have is not None else ""
    strict = call.kfunc.flags & kfunc_table.RELEASE != 0 and reg.ref != 0
    strict = strict or _no_cast(have_name, name)
    if have is not None and (kfunc_proto.seen_as(have_name) == name != ""):
        return
    if btf == 0 and have is not None and _contains(env, have.id, reg.off, wanted, strict):
        return
    kind = kfunc_types.kind_words(have.kind if have is not None else 0)
    raise Reject(EINVAL, f"kernel function {call.kfunc.name} args#{n} expected pointer to {words} "
                         f"but R{n + 1} has a pointer to {kind} {have_name}")


def _no_cast(have: str, want: str) -> bool:
    """One is the other before it is made ready."""
    tail = "___init"
    if have.endswith(tail) == want.endswith(tail):
        return False
    return have.removesuffix(tail) == want.removesuffix(tail)


def _contains(env: Env, type_id: int, off: int, wanted: int, strict: bool) -> bool:
    """The structure is the one that is wanted, or has it at that offset."""
    btf = env.btf(0)
    if type_id == wanted and off == 0:
        return True
    if strict:
        return False
    while True:
        here = btf.type(type_id)
        if here.kind != kinds.STRUCT:
            return False
        inner = 0
        for row in here.members:
            found = btf.strip(row.type)
            at = row.offset // 8
            while found is not None and found.kind == kinds.ARRAY and found.nelems:
                element = btf.strip(found.ref)
                if element is None or element.kind not in (kinds.STRUCT, kinds.ARRAY):
                    break
                size = btf.sizeof(element.id)
                total = size * found.nelems
                if not at <= off < at + total or not size:
                    break
                at += (off - at) // size * size
                found = element
            if found is None or found.kind != kinds.STRUCT:
                continue
            if at <= off < at + found.size:
                inner, off = found.id, off - at
                break
        if not inner:
            return False
        type_id = inner
        if type_id == wanted and off == 0:
            return True

