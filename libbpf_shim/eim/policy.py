"""One class against its interface: names become offsets, ids and nodes for the verifier.

Everything that a class says is either held by the verifier or refused here.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from libbpf_shim.btf import kinds
from libbpf_shim.eim import probing
from libbpf_shim.eim.budget import counted
from libbpf_shim.eim.capability import ANY, REGS, Capability
from libbpf_shim.eim.constraint import Condition, Ranges
from libbpf_shim.eim.ctype import NUMBER, POINTER, VOID, CType, truth
from libbpf_shim.eim.document import PolicyError, Where
from libbpf_shim.eim.grants import Class, Grants
from libbpf_shim.eim.interface import RTN, Entry, Function, Offers
from libbpf_shim.eim.isolation import chosen, narrowed, tail_calls
from libbpf_shim.eim.tree import READ, Tree
from libbpf_shim.uapi.bpf import bpf_map_type
from libbpf_shim.uapi.bpf_func import bpf_func_id
from libbpf_shim.verifier import policy as held

_HELPERS = {m.name.removeprefix("BPF_FUNC_"): int(m) for m in bpf_func_id}
_MAPS = {m.name.removeprefix("BPF_MAP_TYPE_").lower(): int(m) for m in bpf_map_type}
# What is not a matter of a helper's name.
_IMPLIED = {
    "probe_read": "read", "probe_read_str": "read", "probe_read_user": "read",
    "probe_read_kernel": "read", "probe_read_user_str": "read", "probe_read_kernel_str": "read",
    "probe_write_user": "write",
}  # fmt: skip
_REFUSED = {
    "tail_call": "the program that it goes on in may be of another class",
    "override_return": "say override: true, or the values",
    "timer_init": "a timer's function runs outside of the class's entries",
    "timer_set_callback": "a timer's function runs outside of the class's entries",
    "timer_start": "a timer's function runs outside of the class's entries",
}  # fmt: skip
# Kernel functions that read no memory but the program's own.
_KFUNCS = frozenset("""
bpf_iter_num_new bpf_iter_num_next bpf_iter_num_destroy bpf_dynptr_adjust bpf_dynptr_is_null
bpf_dynptr_is_rdonly bpf_dynptr_size bpf_dynptr_clone bpf_dynptr_copy bpf_dynptr_memset
bpf_dynptr_slice bpf_dynptr_slice_rdwr bpf_rcu_read_lock bpf_rcu_read_unlock bpf_preempt_disable
bpf_preempt_enable bpf_local_irq_save bpf_local_irq_restore bpf_obj_new_impl bpf_obj_drop_impl
""".split())


@dataclass(slots=True)
class Compiled:
    """policy: None where something is wrong. tree: of what it grants, for those who explain it."""

    policy: held.Policy | None
    tree: Tree
    wrong: list[PolicyError]


def compiled(grants: Grants, name: str) -> Compiled:
    """The class of that name (KeyError) as the verifier holds it."""
    return _Compiler(grants, grants.classes[name]).compile()


def policy(grants: Grants, name: str) -> held.Policy:
    """The same. PolicyError: the first thing that is wrong."""
    found = compiled(grants, name)
    if found.policy is None:
        raise found.wrong[0]
    return found.policy


class _Compiler:
    def __init__(self, grants: Grants, row: Class) -> None:
        self._grants, self._class = grants, row
        self._interface = grants.interface
        self._entries = [grants.interface.entries[e] for e in row.entries
                         if e in grants.interface.entries]
        self._tree = Tree(grants.interface.btf, grants.interface.bytes)
        self._agreed: dict[str, tuple[int, CType]] = {}
        self._named: dict[str, list[Entry]] = {}
        self._plain: set[str] = set()
        self.wrong: list[PolicyError] = []

    def _error(self, key: Where, what: str, hint: str = "") -> None:
        where: Where = ("classes", self._class.name, *key)
        self.wrong.append(self._grants.document.error(where, what, hint))

    def compile(self) -> Compiled:
        self._roots()
        for n, one in enumerate(self._class.allow):
            self._bytes(one, n, "allow")
        for n, one in enumerate(self._class.deny):
            self._bytes(one, n, "deny")
        self._offers()
        registers = {name: off for name, (off, _) in self._agreed.items()
                     if off != probing.NO_REGISTER}
        if why := self._tree.unreachable(registers):
            self._error(("allow",), why)
        args = self._args()
        probed = self._probed(self._tree.nodes(registers))
        self._known("call", self._interface.functions)
        functions = tuple(self._function(f) for f in self._interface.functions.values())
        row = self._class
        isolation, override = chosen(row, self._error), self._override()
        found = held.Policy(
            name=row.name, where=self._grants.document.path, btf=self._interface.blob,
            args=args, state=self._state(), functions=functions, helpers=self._helpers(),
            kfuncs=self._kfuncs(), registers=self._has(READ, REGS),
            untyped_reads=self._has(READ, ANY), untyped_writes=self._has("write", ANY),
            maps=held.MapLimits(self._map_types(), **row.maps), override=override,
            result=self._result(), nodes=probed.nodes, probes=probed.probes,
            binary=self._interface.binary, isolation=isolation,
            instructions=row.limits.get("instructions", -1), memory=row.limits.get("memory", -1),
            stack=row.limits.get("stack", -1),
            spectre=row.choices["spectre"].removeprefix("off"),
            **counted(row, override, self._error))
        return Compiled(None if self.wrong else narrowed(found, row), self._tree, self.wrong)

    # the host's memory

    def _roots(self) -> None:
        """Arguments that every entry passes in the same register as the same type."""
        places = [entry.registers() for entry in self._entries]
        for place, entry in zip(places, self._entries, strict=True):
            for name, _ in place.values():
                self._named.setdefault(name, []).append(entry)
        for off in dict.fromkeys(off for place in places for off in place):
            rows = [place.get(off) for place in places]
            first = rows[0]
            if first is not None and all(row is not None and probing.same(row, first)
                                         for row in rows):
                self._agreed[first[0]] = (off, first[1])
        probing.agree(self._entries, self._agreed, self._named)
        for name, (_, type) in self._agreed.items():
            if type.kind == POINTER and type.target:
                self._tree.root(name, type.target, all(name in e.nonnull for e in self._entries))
        for variable in self._interface.state.values():
            self._tree.root(variable.name, self._variable(variable.name), True)
        for function in self._interface.functions.values():
            if function.proto.result.kind == POINTER and function.proto.result.target:
                self._tree.root(f"{function.name}()", function.proto.result.target, False)

    def _variable(self, name: str) -> int:
        found = self._interface.btf.find(name, kinds.VAR)
        assert found
        return found.ref

    def _bytes(self, one: Capability, n: int, key: str) -> None:
        """A capability of bytes into, or out of, the tree."""
        if one.path is None:
            if key == "deny" and one.kind == READ and one.what == ANY:
                self._error((key, n), "deny what is allowed, by its name")
            return
        where: Where = (key, n)
        if key == "deny" and self._has(one.kind, ANY):
            self._error(where, f"{one} cannot be held where {one.kind}({ANY}) is allowed")
            return
        root = f"{one.path.root}()" if one.path.result else one.path.root
        if root not in self._tree.roots:
            self._plain_argument(one, where, key)
            return
        try:
            if key == "allow":
                self._tree.grant(one.kind, one.path, str(one))
            else:
                self._tree.deny(one.kind, one.path, str(one))
        except ValueError as error:
            self._error(where, str(error))

    def _plain_argument(self, one: Capability, where: Where, key: str) -> None:
        """An argument that is a number, or that entries do not agree on."""
        assert one.path
        name = one.path.root
        if name not in self._named or one.path.result:
            known = ", ".join(dict.fromkeys([*self._named, *self._tree.roots]))
            self._error(where, f"{one}: no entry of the class has an argument {name}, and there "
                               f"is no such variable (there is {known or 'nothing'})")
        elif one.kind != READ:
            self._error(where, f"{one}: an argument itself cannot be written")
        elif one.path.parts or one.path.deref:
            why = "it is no pointer to an object" if name in self._agreed else \
                "the entries of the class do not pass it in the same register as the same type"
            self._error(where, f"{one}: {name} has no fields here: {why}")
        elif key == "allow":
            self._plain.add(name)
        else:
            self._plain.discard(name)

    def _args(self) -> tuple[held.Arg, ...]:
        found = []
        places = [entry.registers() for entry in self._entries]
        for off in dict.fromkeys(off for place in places for off in place):
            rows = [place.get(off) for place in places]
            names = list(dict.fromkeys(row[0] for row in rows if row is not None))
            missing = [n for n in names if not self._loaded(n)]
            granted = not missing and all(row is not None for row in rows)
            node = -1
            if len(names) == 1 and names[0] in self._agreed:
                node = self._tree.roots.get(names[0], -1)
            wanted = f"read({missing[0]})" if missing else f"read({REGS})"
            found.append(held.Arg(off, " or ".join(names), wanted, node, granted))
        return tuple(found)

    def _probed(self, nodes: tuple[held.Node, ...]) -> probing.Found:
        """Arguments of USDT probes; nodes: those that there are without them."""
        if probing.mixed(self._entries):
            self._error(("entries",), "functions and USDT probes are entries of classes of their "
                                      "own")
        found = probing.compiled(self._entries, self._agreed, self._tree.roots, nodes,
                                 self._loaded)
        for name, why in found.lost.items():
            inside = self._agreed.get(name, (probing.NO_REGISTER,))[0] != probing.NO_REGISTER
            if not inside and (name in self._plain or self._tree.granted(name)):
                self._error(("allow",), f"read({name}): {why}")
        return found

    def _loaded(self, name: str) -> bool:
        """The argument's register may be loaded: something is granted of it, or a function that
        is granted takes it."""
        if name in self._plain or self._tree.granted(name):
            return True
        target = self._agreed[name][1].target if name in self._agreed else 0
        return bool(target) and any(
            self._granted(f) and any(t.target == target and n not in f.memory
                                     for n, t in f.proto.params)
            for f in self._interface.functions.values())

    def _granted(self, row: Function) -> bool:
        return any(c.kind == "call" and c.what == row.name for c in self._class.allow) and \
            not any(c.kind == "call" and c.what == row.name for c in self._class.deny)

    def _state(self) -> tuple[tuple[int, int], ...]:
        found = []
        for name in self._interface.state:
            variable = self._interface.btf.find(name, kinds.VAR)
            assert variable
            found.append((variable.id, self._tree.roots[name]))
        return tuple(found)

    def _offers(self) -> None:
        """What the developer does not offer cannot be granted."""
        for name in self._agreed:
            for entry in self._entries:
                self._offered(name, entry.offers, f"entry {entry.name}")
        for name in sorted(self._plain):  # the argument itself
            for entry in self._named[name]:
                if entry.offers is not None and \
                        not any(path.root == name for _, path in entry.offers):
                    self._error(("allow",), f"read({name}) is not offered by entry {entry.name} "
                                            "of the interface")
        for variable in self._interface.state.values():
            self._offered(variable.name, variable.offers, f"state {variable.name}")

    def _offered(self, name: str, offers: Offers | None, whose: str) -> None:
        if name not in self._tree.roots:
            return
        other = Tree(self._interface.btf, self._interface.bytes)
        other.root(name, self._tree.root_type(name), False)
        for kind, path in offers or ():
            if path.root != name:
                continue
            try:
                other.grant(kind, path, f"{kind}({path.root})")
            except ValueError as error:  # of a variable whose type the interface gives
                where: Where = ("state", name, "offers")
                self.wrong.append(self._interface.document.error(where, str(error)))
        for text in self._tree.offered(other, name):
            if offers is not None or text.startswith("write"):
                self._error(("allow",), f"{text} is not offered by {whose} of the interface")

    # everything else

    def _has(self, kind: str, what: str) -> bool:
        denied = any(d.kind == kind and d.what == what for d in self._class.deny)
        return not denied and any(a.kind == kind and a.what == what for a in self._class.allow)

    def _names(self, kind: str) -> tuple[bool, list[str]]:
        """Of that kind: all are allowed; those that are, with what is denied taken out."""
        denied = {d.what for d in self._class.deny if d.kind == kind}
        names = [a.what for a in self._class.allow if a.kind == kind and a.what not in denied]
        return ANY in names, [n for n in names if n != ANY]

    def _known(self, kind: str, names: Iterable[str]) -> None:
        for key, rows in (("allow", self._class.allow), ("deny", self._class.deny)):
            for n, one in enumerate(rows):
                if one.kind == kind and one.what != ANY and one.what not in names:
                    known = f" (there is {', '.join(names) or 'none'})" if kind == "call" else ""
                    self._error((key, n), f"{one}: there is no such {kind}{known}")

    def _helpers(self) -> tuple[int, ...]:
        self._known("helper", _HELPERS)
        everything, names = self._names("helper")
        refused = set(_REFUSED) - ({"tail_call"} if tail_calls(self._class) else set())
        for n, one in enumerate(self._class.allow):
            if one.kind == "helper" and one.what in refused:
                self._error(("allow", n), f"{one} is not supported: {_REFUSED[one.what]}")
            elif one.kind == "helper" and one.what in _IMPLIED:
                self._error(("allow", n), f"{one}: {_IMPLIED[one.what]}(..) of what it may be "
                                          "given grants it")
        for n, one in enumerate(self._class.deny):
            if one.kind == "helper" and one.what in _IMPLIED:
                self._error(("deny", n), f"{one}: a form of {_IMPLIED[one.what]}(..) is granted "
                                         "and denied with it")
        denied = {d.what for d in self._class.deny if d.kind == "helper"}
        if everything:
            names = [n for n in _HELPERS if n not in denied]
        return tuple(sorted(_HELPERS[n] for n in names if n in _HELPERS and n not in refused))

    def _kfuncs(self) -> tuple[str, ...]:
        everything, names = self._names("kfunc")
        denied = {d.what for d in self._class.deny if d.kind == "kfunc"}
        for n, one in enumerate(self._class.allow):
            if one.kind == "kfunc" and one.what != ANY and one.what not in _KFUNCS:
                self._error(("allow", n), f"{one} is not supported: it is none of those known to "
                                          "read no memory but the program's")
        if everything:
            names = sorted(_KFUNCS - denied)
        return tuple(n for n in names if n in _KFUNCS)

    def _map_types(self) -> tuple[int, ...]:
        self._known("map", _MAPS)
        everything, names = self._names("map")
        denied = {d.what for d in self._class.deny if d.kind == "map"}
        if everything:
            names = [n for n in _MAPS if n not in denied]
        if "prog_array" in names and not tail_calls(self._class):
            if not everything:
                self._error(("allow",), "map(prog_array) is not supported: "
                                        + _REFUSED["tail_call"])
            names = [n for n in names if n != "prog_array"]
        return tuple(sorted({_MAPS[n] for n in names if n in _MAPS}))

    def _override(self) -> Ranges | None:
        wanted = self._class.override
        if wanted is None:
            return None
        allowed: Ranges | None = None
        for entry in self._entries:
            if entry.override is None:
                self._error(("override",), f"entry {entry.name} offers no override")
                return None
            both = entry.override if allowed is None else _both(allowed, entry.override)
            allowed = both
        for low, high in wanted:
            if not any(a <= low and high <= b for a, b in allowed or ()):
                text = f"{low}" if low == high else f"{low} to {high}"
                self._error(("override",), f"{text} is not offered by the class's entries")
        return wanted or allowed

    def _result(self) -> tuple[int, bool]:
        if self._class.override is None:
            return 8, True
        found = {(e.proto.result.size, e.proto.result.signed) for e in self._entries
                 if e.proto.result.kind != VOID}
        if len(found) > 1:
            self._error(("override",), "the class's entries return different types")
        return next(iter(found), (8, True))

    # functions

    def _function(self, row: Function) -> held.HostFunction:
        granted = self._granted(row)
        btf = self._interface.btf
        ids = [i for i in btf.ids(row.name) if btf.type(i).kind == kinds.FUNC]
        names = [name for name, _ in row.proto.params]
        result = row.proto.result
        kind = held.VOID if result.kind == VOID else \
            held.NUMBER if result.kind == NUMBER else held.HOST
        return held.HostFunction(
            row.name, min(ids), tuple(self._param(row, name, type, names)
                                      for name, type in row.proto.params),
            kind, result.size, result.signed, self._tree.roots.get(f"{row.name}()", -1),
            self._rules(row, row.pre, granted), self._rules(row, row.post, granted),
            row.acquires, names.index(row.releases) if row.releases in names else -1,
            row.may_fail, row.gpl, granted, row.function)

    def _param(self, row: Function, name: str, type: CType, names: list[str]) -> held.HostParam:
        nonnull = name in row.nonnull or any(
            c.op == "!=" and c.number == 0 and c.left in (name, f"arg{names.index(name)}")
            for c in row.pre) and type.kind == POINTER
        if type.kind == NUMBER:
            return held.HostParam(name, held.NUMBER, type.size, type.signed,
                                  truth=truth(type, self._interface.btf))
        if name not in row.memory:
            return held.HostParam(name, held.HOST, 8, False, type.target, nonnull)
        how, size = row.memory[name]
        kind = held.READS if how == "reads" else held.WRITES
        if isinstance(size, int):
            return held.HostParam(name, kind, size, False, 0, nonnull)
        return held.HostParam(name, kind, -1, False, 0, nonnull, names.index(size))

    def _rules(self, row: Function, conditions: Iterable[Condition],
               granted: bool) -> tuple[held.Rule, ...]:
        names = [name for name, _ in row.proto.params]
        found = []
        for one in conditions:
            left = held.RESULT if one.left == RTN else _index(names, one.left)
            if one.op == "in":
                found.append(held.Rule(one.text, left, "in", ranges=one.ranges))
            elif one.entry:
                node = self._tree.roots.get(one.entry, -1) if one.entry in self._agreed else -1
                if granted and node < 0:
                    self._error(("allow",), f"call({row.name}): {one.text} cannot be proved: the "
                                            f"class's entries do not all pass {one.entry}")
                found.append(held.Rule(one.text, left, one.op, held.ENTRY, node))
            elif one.name:
                found.append(held.Rule(one.text, left, one.op, held.PARAMETER,
                                       _index(names, one.name)))
            else:
                found.append(held.Rule(one.text, left, one.op, value=one.number or 0))
        return tuple(found)


def _index(names: list[str], name: str) -> int:
    return names.index(name) if name in names else int(name.removeprefix("arg"))


def _both(a: Ranges, b: Ranges) -> Ranges:
    """What is in both."""
    return tuple((max(x[0], y[0]), min(x[1], y[1])) for x in a for y in b
                 if max(x[0], y[0]) <= min(x[1], y[1]))
