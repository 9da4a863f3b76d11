"""Random programs that take things and give them back: nodes of lists and trees, records, dynptrs,
iterators, locks, sections, timers, kptrs.

Each statement is right by itself, and stands in the others' blocks; then one or two instructions
are changed in most programs. R6 to R9 hold what is taken; the context is at fp-8.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from compat_tests.verifier.fuzz_objects_base import (
    ADD,
    ADDX,
    AND,
    BUFFER,
    CLOCK,
    CSUM,
    DATA,
    DISCARD,
    DYN,
    FLAGS,
    FROM_MEM,
    HEAD,
    ITER,
    JA,
    JEQ,
    JGT,
    JNE,
    KEPT,
    KEY,
    KPTR,
    LDX,
    LDXW,
    LOCK,
    LOOKUP,
    LOOP,
    MOVX,
    NODE_DATA,
    NUMBER,
    OTHER_DYN,
    RANDOM,
    READ,
    RESERVE,
    RING,
    RING_DISCARD,
    RING_DYNPTR,
    RING_SUBMIT,
    ROOT,
    ST,
    STW,
    STX,
    SUBMIT,
    TIMER,
    TIMER_CALLBACK,
    TIMER_CANCEL,
    TIMER_START,
    TREE_LINK,
    UNLOCK,
    WRITE,
    XCHG,
    XDP,
    Block,
    at,
    num,
    types,
    unless_null,
)
from compat_tests.verifier.test_kfuncs import helper, kfunc
from libbpf_shim.isa import Insn
from libbpf_shim.isa import insn as op


class Writer:
    """One function in the making. taken: what is in R6 to R9, by its name."""

    def __init__(self, rnd: random.Random, kind: int, shared: bool) -> None:
        self.rnd, self.kind, self.shared, self.types = rnd, kind, shared, types(shared)
        self.taken: dict[int, str] = {}
        self.dynptrs: dict[int, bool] = {}  # by place: may be written
        self.busy: set[int] = set()  # places of the stack
        self.held = False  # a lock
        self.context = True  # at fp-8
        self.depth = 0
        self.named: list[tuple[Insn, str]] = []  # calls and addresses of functions

    # what there is

    def free(self) -> int | None:
        able = [r for r in (6, 7, 8, 9) if r not in self.taken]
        return self.rnd.choice(able) if able else None

    def some(self, *names: str) -> int | None:
        able = [r for r, name in self.taken.items() if name in names]
        return self.rnd.choice(able) if able else None

    def body(self, most: int = 3) -> Block:
        """Statements in a row; what they took they gave back."""
        if self.depth > 4:
            return []
        self.depth += 1
        out: Block = []
        for _ in range(self.rnd.randrange(most + 1)):
            names = INSIDE if self.held else STATEMENTS
            out += getattr(self, self.rnd.choice(names))()
        self.depth -= 1
        return out

    def holding(self, name: str, end: Callable[[int], Block], first: Callable[[int], Block] =
                lambda reg: []) -> Block:  # fmt: skip
        """What is in R0, if it is not NULL, kept in a register through a body."""
        reg = self.free()
        if reg is None:
            return unless_null([Insn(MOVX, 6, 0, 0, 0), *end(6)]) if name != "value" else []
        early = self.rnd.random() < 0.5
        self.taken[reg] = name
        block = [*first(reg), *self.body(), *end(reg)]
        self.taken.pop(reg)
        if early:
            return [Insn(MOVX, reg, 0, 0, 0), *unless_null(block, self.rnd.choice((0, reg)))]
        return unless_null([Insn(MOVX, reg, 0, 0, 0), *block])

    # numbers

    def data(self) -> Block:
        """A number of something that is taken."""
        rnd = self.rnd
        reg = self.some("value", "list", "tree", "plain", "record", "element")
        if reg is None:
            return [helper(RANDOM)] if not self.held else [num(1, rnd.randrange(9))]
        off = {"value": NUMBER, "list": NODE_DATA, "tree": NODE_DATA}.get(self.taken[reg], 0)
        if self.taken[reg] in ("value", "plain", "record") and rnd.random() < 0.4:
            off += 8
        if self.taken[reg] == "element":
            return [Insn(LDXW, rnd.randrange(1, 6), reg, 0, 0)]
        pick = rnd.random()
        if pick < 0.4:
            return [Insn(LDX, rnd.randrange(6), reg, off, 0)]
        if pick < 0.7:
            return [Insn(ST, reg, 0, off, rnd.randrange(9))]
        if pick < 0.8:
            return [num(1, 1), Insn(0xDB, reg, 1, off, rnd.choice((0, 1, op.XCHG)))]
        return [Insn(LDX, 1, reg, off, 0), Insn(AND, 1, 0, 0, 7), *at(2, reg, off),
                Insn(ADDX, 2, 1, 0, 0), Insn(0x71, 3, 2, 0, 0)]  # fmt: skip

    def either(self) -> Block:
        """One access by one of two pointers."""
        rnd = self.rnd
        regs = [r for r in self.taken if self.taken[r] not in ("element", "popped")]
        if not regs:
            return []
        parts = []
        for reg in rnd.choice(regs), rnd.choice([*regs, 10, 8]):
            off = {"value": NUMBER, "list": NODE_DATA, "tree": NODE_DATA}.get(
                self.taken.get(reg, ""), BUFFER if reg == 10 else 0)  # fmt: skip
            parts.append(at(2, reg, off))
        parts[0].append(Insn(JA, 0, 0, len(parts[1]), 0))
        use = rnd.choice((Insn(LDX, 1, 2, 0, 0), Insn(LDXW, 1, 2, 0, 0), Insn(ST, 2, 0, 0, 1),
                          Insn(STX, 2, 1, 0, 0), Insn(0xDB, 2, 1, 0, 0),
                          Insn(0xDB, 1, 2, 0, op.LOAD_ACQ)))  # fmt: skip
        head = [helper(RANDOM)] if not self.held else [Insn(LDXW, 0, 10, KEY, 0)]
        return [*head, num(1, 0), Insn(JEQ, 0, 0, len(parts[0]), 0), *parts[0], *parts[1], use]

    def branch(self) -> Block:
        one = self.body(2)
        if self.rnd.random() < 0.5:
            one = [*one, Insn(JA, 0, 0, 0, 0)]
            other = self.body(2)
            one[-1].off = len(other)
        else:
            other = []
        head = [helper(RANDOM)] if not self.held else [Insn(LDXW, 0, 10, KEY, 0)]
        jump = self.rnd.choice((JEQ, JGT, JNE, 0x16, 0x45))
        return [*head, Insn(jump, 0, 0, len(one), self.rnd.randrange(5)), *one, *other]

    def spill(self) -> Block:
        """What is taken, kept on the stack while its register is lost."""
        reg = self.some(*set(self.taken.values()))
        if reg is None or KEPT in self.busy:
            return []
        name = self.taken.pop(reg)
        self.busy.add(KEPT)
        body = self.body(2)
        self.busy.discard(KEPT)
        self.taken[reg] = name
        return [Insn(STX, 10, reg, KEPT, 0), num(reg, 0), *body, Insn(LDX, reg, 10, KEPT, 0)]

    # values, nodes

    def value(self) -> Block:
        find = [Insn(STW, 10, 0, KEY, 0), *at(2, 10, KEY), Insn(op.LD_IMM64, 1, 1, 0, 0),
                Insn(0, 0, 0, 0, 0), helper(LOOKUP)]  # fmt: skip
        return [*find, *self.holding("value", lambda _: [])]

    def new(self) -> Block:
        name = self.rnd.choice(("list", "tree", "plain"))
        ids = {"list": self.types.list, "tree": self.types.tree, "plain": self.types.plain}
        make = [num(1, ids[name]), num(2, 0), kfunc("bpf_obj_new_impl")]
        return [*make, *self.holding(name, lambda reg: self.give(name, reg))]

    def drop(self, reg: int) -> Block:
        return [Insn(MOVX, 1, reg, 0, 0), num(2, 0), kfunc("bpf_obj_drop_impl")]

    def give(self, name: str, reg: int) -> Block:
        """An end of what is owned."""
        value = self.some("value")
        if value is None or self.held or self.rnd.random() < 0.3:
            return self.drop(reg)
        if name == "plain":
            return [*at(1, value, KPTR), Insn(MOVX, 2, reg, 0, 0), helper(XCHG),
                    *unless_null([Insn(MOVX, 1, 0, 0, 0), num(2, 0),
                                  kfunc("bpf_obj_drop_impl")])]  # fmt: skip
        tree = name == "tree" and (not self.shared or self.rnd.random() < 0.7)
        self.taken.pop(reg, None)
        self.taken[reg] = name  # lent, as long as the lock is held
        after = self.locked_data(value)
        if tree:
            less = self.function("less")
            add = [*at(1, value, ROOT), *at(2, reg, TREE_LINK), *less, num(4, 0), num(5, 0),
                   kfunc("bpf_rbtree_add_impl")]  # fmt: skip
        else:
            side = self.rnd.choice(("front", "back"))
            add = [*at(1, value, HEAD), Insn(MOVX, 2, reg, 0, 0), num(3, 0), num(4, 0),
                   kfunc(f"bpf_list_push_{side}_impl")]  # fmt: skip
        return [*self.take_lock(value), *add, *after, *self.give_lock(value)]

    def take_lock(self, value: int) -> Block:
        return [Insn(MOVX, 1, value, 0, 0), helper(LOCK)]

    def give_lock(self, value: int) -> Block:
        return [Insn(MOVX, 1, value, 0, 0), helper(UNLOCK)]

    def locked_data(self, value: int) -> Block:
        self.held = True
        out = self.body(2)
        self.held = False
        return out

    def lock(self) -> Block:
        value = self.some("value")
        if value is None:
            return []
        return [*self.take_lock(value), *self.locked_data(value), *self.give_lock(value)]

    def pop(self) -> Block:
        """The first or last of the list."""
        value = self.some("value")
        if value is None:
            return []
        side = self.rnd.choice(("front", "back"))
        get = [*self.take_lock(value), *at(1, value, HEAD), kfunc(f"bpf_list_pop_{side}")]
        reg = self.free()
        if reg is None:
            return []
        self.taken[reg] = "popped"
        after = self.locked_data(value)
        self.taken.pop(reg)
        get += [Insn(MOVX, reg, 0, 0, 0), *after, *self.give_lock(value),
                Insn(MOVX, 0, reg, 0, 0)]  # fmt: skip
        return [*get, *self.holding("list", lambda reg: self.give("list", reg))]

    def peek(self) -> Block:
        """The first of the list or tree, looked at under the lock."""
        value, reg = self.some("value"), self.free()
        if value is None or reg is None:
            return []
        where = self.rnd.randrange(4)
        name = ("bpf_list_front", "bpf_list_back", "bpf_rbtree_first", "bpf_rbtree_root")[where]
        back = 0 if where < 2 else TREE_LINK
        look = [*at(1, value, HEAD if where < 2 else ROOT), kfunc(name)]
        self.held = True
        self.taken[reg] = "list" if where < 2 else "tree"
        block = [Insn(MOVX, reg, 0, 0, 0), Insn(ADD, reg, 0, 0, -back), *self.body(2)]
        self.taken.pop(reg)
        self.held = False
        return [*self.take_lock(value), *look, *unless_null(block), *self.give_lock(value)]

    def remove(self) -> Block:
        """A node of the tree, or what stands beside it."""
        value, reg = self.some("value"), self.free()
        if value is None or reg is None:
            return []
        first = [*at(1, value, ROOT), kfunc(self.rnd.choice(("bpf_rbtree_first",
                                                             "bpf_rbtree_root")))]  # fmt: skip
        if self.rnd.random() < 0.3:
            side = self.rnd.choice(("left", "right"))
            first += unless_null([Insn(MOVX, 2, 0, 0, 0), *at(1, value, ROOT),
                                  kfunc(f"bpf_rbtree_{side}")])  # fmt: skip
        out = [*at(1, value, ROOT), Insn(MOVX, 2, 0, 0, 0), kfunc("bpf_rbtree_remove")]
        away = [*out, Insn(MOVX, reg, 0, 0, 0)]
        given = self.holding("tree", lambda r: self.give("tree", r),
                             lambda r: [Insn(ADD, r, 0, 0, -TREE_LINK)])  # fmt: skip
        return [*self.take_lock(value), num(reg, 0), *first, *unless_null(away),
                *self.give_lock(value), Insn(MOVX, 0, reg, 0, 0), *given]  # fmt: skip

    def again(self) -> Block:
        """One more owner of a node."""
        reg = self.some("list", "tree")
        if reg is None or not self.shared:
            return []
        name = self.taken[reg]
        return [Insn(MOVX, 1, reg, 0, 0), num(2, 0), kfunc("bpf_refcount_acquire_impl"),
                *self.holding(name, lambda r: self.give(name, r))]  # fmt: skip

    def kptr(self) -> Block:
        """What the value keeps: looked at, or taken out."""
        value = self.some("value")
        if value is None:
            return []
        if self.rnd.random() < 0.4:
            return [Insn(LDX, 1, value, KPTR, 0), *unless_null([Insn(LDX, 2, 1, 8, 0)], 1)]
        return [*at(1, value, KPTR), num(2, 0), helper(XCHG),
                *self.holding("plain", lambda reg: self.give("plain", reg))]  # fmt: skip

    def timer(self) -> Block:
        value = self.some("value")
        if value is None:
            return []
        out = [*at(1, value, CLOCK), Insn(op.LD_IMM64, 2, 1, 0, 0), Insn(0, 0, 0, 0, 0),
               num(3, 1), helper(TIMER)]  # fmt: skip
        if self.rnd.random() < 0.6:
            out += [*at(1, value, CLOCK), *self.function("tick", 2), helper(TIMER_CALLBACK)]
        out += [*at(1, value, CLOCK), num(2, 0), num(3, 0), helper(TIMER_START)]
        if self.rnd.random() < 0.3:
            out += [*at(1, value, CLOCK), helper(TIMER_CANCEL)]
        return out

    # records and dynptrs

    def record(self) -> Block:
        get = [Insn(op.LD_IMM64, 1, 1, 0, RING), Insn(0, 0, 0, 0, 0), num(2, 16), num(3, 0),
               helper(RESERVE)]  # fmt: skip
        end = self.rnd.choice((SUBMIT, DISCARD))
        return [*get, *self.holding("record", lambda reg: [
            Insn(MOVX, 1, reg, 0, 0), num(2, 0), helper(end)])]  # fmt: skip

    def dynptr(self) -> Block:
        """A dynptr of something, through a body."""
        rnd = self.rnd
        places = [p for p in (DYN, OTHER_DYN) if p not in self.busy]
        if not places:
            return []
        place, pick, value = rnd.choice(places), rnd.randrange(4), self.some("value")
        end: Block = []
        if pick == 0 and value is not None:
            make = [*at(1, value, NUMBER), num(2, rnd.choice((8, 16))), num(3, 0),
                    *at(4, 10, place), helper(FROM_MEM)]  # fmt: skip
        elif pick == 1 and self.dynptrs:
            make = [*at(1, 10, rnd.choice(list(self.dynptrs))), *at(2, 10, place),
                    kfunc("bpf_dynptr_clone")]  # fmt: skip
        elif pick == 2 and self.context:
            make = [Insn(LDX, 1, 10, -8, 0), num(2, 0), *at(3, 10, place),
                    kfunc("bpf_dynptr_from_xdp" if self.kind == XDP else "bpf_dynptr_from_skb")]
        else:
            make = [Insn(op.LD_IMM64, 1, 1, 0, RING), Insn(0, 0, 0, 0, 0), num(2, 16), num(3, 0),
                    *at(4, 10, place), helper(RING_DYNPTR)]  # fmt: skip
            end = [*at(1, 10, place), num(2, 0), helper(rnd.choice((RING_SUBMIT, RING_DISCARD)))]
        self.busy.add(place)
        self.dynptrs[place] = True
        body = self.body()
        self.busy.discard(place)
        self.dynptrs.pop(place)
        return [*make, *body, *end]

    def dynptr_use(self) -> Block:
        rnd = self.rnd
        if not self.dynptrs:
            return []
        place, pick = rnd.choice(list(self.dynptrs)), rnd.randrange(7)
        off = rnd.choice((0, 0, 4, 8))
        buffer = [Insn(ST, 10, 0, BUFFER, 0), Insn(ST, 10, 0, BUFFER + 8, 0)]
        if pick == 0:
            return [*at(1, 10, BUFFER), num(2, 8), *at(3, 10, place), num(4, off), num(5, 0),
                    helper(READ)]  # fmt: skip
        if pick == 1:
            return [*buffer, *at(1, 10, place), num(2, off), *at(3, 10, BUFFER), num(4, 8),
                    num(5, 0), helper(WRITE)]  # fmt: skip
        if pick == 2:
            return [*at(1, 10, place), num(2, off), num(3, 8), helper(DATA),
                    *self.holding("slice", lambda _: [], lambda r: [Insn(LDX, 1, r, 0, 0)])]
        if pick == 3:
            name = rnd.choice(("bpf_dynptr_slice", "bpf_dynptr_slice_rdwr"))
            given = at(3, 10, BUFFER) if rnd.random() < 0.7 else [num(3, 0)]
            use = Insn(LDX, 1, 0, 0, 0) if rnd.random() < 0.7 else Insn(ST, 0, 0, 0, 1)
            return [*buffer, *at(1, 10, place), num(2, off), *given, num(4, 8), kfunc(name),
                    *self.holding("slice", lambda _: [], lambda r: [
                        Insn(use.code, 1 if use.code == LDX else r,
                             r if use.code == LDX else 0, 0, 1)])]  # fmt: skip
        if pick == 4:
            return [*at(1, 10, place), num(2, off), num(3, 16), kfunc("bpf_dynptr_adjust")]
        if pick == 5:
            return [*at(1, 10, place), kfunc(rnd.choice((
                "bpf_dynptr_size", "bpf_dynptr_is_null", "bpf_dynptr_is_rdonly")))]  # fmt: skip
        return [*at(1, 10, place), num(2, off), num(3, 8), num(4, 1), kfunc("bpf_dynptr_memset")]

    def given(self) -> Block:
        """Something that is taken, read by a helper."""
        rnd = self.rnd
        reg = self.some("value", "list", "tree", "plain", "record", "slice")
        if reg is None:
            return []
        off = {"value": NUMBER, "list": NODE_DATA, "tree": NODE_DATA}.get(self.taken[reg], 0)
        return [num(1, 0), num(2, 0), *at(3, reg, off + rnd.choice((0, 0, 4))), num(4, 4),
                num(5, 0), helper(CSUM)]  # fmt: skip

    # loops and sections

    def iterator(self) -> Block:
        reg = self.free()
        if ITER in self.busy or reg is None:
            return []
        self.busy.add(ITER)
        self.taken[reg] = "element"
        body = self.body()
        self.taken.pop(reg)
        self.busy.discard(ITER)
        begin = [*at(1, 10, ITER), num(2, 0), num(3, self.rnd.choice((0, 1, 10))),
                 kfunc("bpf_iter_num_new")]  # fmt: skip
        step = [*at(1, 10, ITER), kfunc("bpf_iter_num_next")]
        round_ = [Insn(MOVX, reg, 0, 0, 0), *body]
        loop = [*step, Insn(JEQ, 0, 0, len(round_) + 1, 0), *round_,
                Insn(JA, 0, 0, -len(step) - len(round_) - 2, 0)]  # fmt: skip
        return [*begin, *loop, *at(1, 10, ITER), kfunc("bpf_iter_num_destroy")]

    def may_goto(self) -> Block:
        body = self.body(2)
        return [Insn(op.JMP | op.JCOND, 0, 0, len(body) + 1, 0), *body,
                Insn(JA, 0, 0, -len(body) - 2, 0)]  # fmt: skip

    def section(self) -> Block:
        name = self.rnd.choice(("rcu", "preempt", "irq"))
        if name == "irq":
            if FLAGS in self.busy:
                return []
            self.busy.add(FLAGS)
            body = self.body()
            self.busy.discard(FLAGS)
            return [*at(1, 10, FLAGS), kfunc("bpf_local_irq_save"), *body, *at(1, 10, FLAGS),
                    kfunc("bpf_local_irq_restore")]  # fmt: skip
        first, last = {"rcu": ("bpf_rcu_read_lock", "bpf_rcu_read_unlock"),
                       "preempt": ("bpf_preempt_disable", "bpf_preempt_enable")}[name]
        return [kfunc(first), *self.body(), kfunc(last)]

    def function(self, name: str, reg: int = 3) -> Block:
        insn = Insn(op.LD_IMM64, reg, op.PSEUDO_FUNC, 0, 0)
        self.named.append((insn, name))
        return [insn, Insn(0, 0, 0, 0, 0)]

    def loop(self) -> Block:
        return [num(1, self.rnd.choice((0, 1, 5))), *self.function("round", 2),
                *at(3, 10, BUFFER), num(4, 0), helper(LOOP)]  # fmt: skip

    def call(self) -> Block:
        if not self.context:
            return []
        insn = Insn(op.JMP | op.CALL, 0, op.PSEUDO_CALL, 0, 0)
        self.named.append((insn, "called"))
        return [Insn(LDX, 1, 10, -8, 0), *at(2, 10, BUFFER), num(3, 1), insn]

    def throw(self) -> Block:
        if (self.taken or self.dynptrs or self.busy) and self.rnd.random() < 0.9:
            return []
        return [helper(RANDOM), Insn(JNE, 0, 0, 2, 7), num(1, 0), kfunc("bpf_throw")]


INSIDE = ("data", "data", "branch", "either")
STATEMENTS = (
    "data", "data", "either", "branch", "branch", "spill", "value", "value", "value", "new", "new",
    "lock", "pop", "peek", "remove", "again", "kptr", "timer", "record", "dynptr", "dynptr",
    "dynptr_use", "dynptr_use", "given", "iterator", "may_goto", "section", "loop", "call",
    "throw",
)  # fmt: skip
