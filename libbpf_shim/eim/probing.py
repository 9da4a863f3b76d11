"""A class whose entries are USDT probes: what its programs have of their arguments.

An argument that every place passes in the same register is had by loading that register, as a
function's is; all are had by bpf_usdt_arg(), by position (eim/usdt.py). libbpf's macros ask for
every argument up to the last one that is wanted, so a pointer to an object may be asked for
where nothing of the object is granted: where it lies is no secret of a class's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from libbpf_shim.eim import sites
from libbpf_shim.eim.ctype import CType
from libbpf_shim.eim.interface import Entry
from libbpf_shim.eim.sites import Site
from libbpf_shim.verifier.policy import MEMORY, Arg, Node, Probes

NO_REGISTER = -1
Agreed = dict[str, tuple[int, CType]]
_WHOLE = 8  # bytes of what holds an argument


def same(a: tuple[str, CType], b: tuple[str, CType]) -> bool:
    """The name and the type are the same."""
    return (a[0], a[1].kind, a[1].size, a[1].signed, a[1].target) == \
        (b[0], b[1].kind, b[1].size, b[1].signed, b[1].target)


def _rows(entries: Sequence[Entry]) -> list[list[tuple[str, CType] | None]]:
    """By position, the argument of each entry; None: it has none."""
    most = max((len(entry.proto.params) for entry in entries), default=0)
    return [[entry.proto.params[at] if at < len(entry.proto.params) else None
             for entry in entries] for at in range(most)]


def agree(entries: Sequence[Entry], agreed: Agreed, named: dict[str, list[Entry]]) -> None:
    """Adds the arguments of probes that are in no register, and the names of all."""
    if not all(entry.usdt for entry in entries):
        return
    for entry in entries:
        for name, _ in entry.proto.params:
            if entry not in named.setdefault(name, []):
                named[name].append(entry)
    for rows in _rows(entries):
        first = rows[0]
        if first is not None and all(row is not None and same(row, first) for row in rows):
            agreed.setdefault(first[0], (NO_REGISTER, first[1]))


def mixed(entries: Sequence[Entry]) -> bool:
    """Functions and probes: what an argument is would depend on where a program runs."""
    return len({bool(entry.usdt) for entry in entries}) > 1


@dataclass(frozen=True, slots=True)
class Found:
    """probes: None where the entries are functions. nodes: those given and some more. lost: by
    name, why an argument is not to be had."""

    probes: Probes | None
    nodes: tuple[Node, ...]
    lost: dict[str, str]


def compiled(entries: Sequence[Entry], agreed: Agreed, roots: dict[str, int],
             nodes: tuple[Node, ...], loaded: Callable[[str], bool]) -> Found:
    """For a class with those entries. roots: nodes of arguments; loaded: something is granted of
    the argument of that name."""
    if not entries or not all(entry.usdt for entry in entries):
        return Found(None, nodes, {})
    rows = _rows(entries)
    ways, lost = sites.layouts([_whole(site, entry, len(rows))
                                for entry in entries for site in entry.sites])
    args, frames = list[Arg](), list[int]()
    why: dict[str, str] = {}
    for at, row in enumerate(rows):
        names = list(dict.fromkeys(one[0] for one in row if one is not None))
        missing = [name for name in names if not loaded(name)]
        node = roots.get(names[0], -1) if len(names) == 1 and names[0] in agreed and \
            all(one is not None and same(one, (names[0], agreed[names[0]][1])) for one in row) \
            else -1
        args.append(Arg(at, " or ".join(names), f"read({(missing or names)[0]})", node,
                        (not missing or node >= 0) and None not in row and at not in lost))
        if at in lost:
            why |= dict.fromkeys(names, lost[at])
        frames.append(-1)
        if any(operands[at].kind == MEMORY for _, operands in ways):
            frames[-1] = len(nodes)
            first = next(one for one in row if one is not None)
            nodes += (Node(f"&{names[0]}", first[1].id or 1, _WHOLE, True, ((0, _WHOLE),),
                           links=((0, node),) if node >= 0 else ()),)
    return Found(Probes(ways, tuple(args), tuple(frames)), nodes, why)


def _whole(site: Site, entry: Entry, count: int) -> Site:
    """With a place of none for each argument that other entries have."""
    more = count - len(site.operands)
    return Site(site.offset, site.operands + (sites.LOST,) * more,
                site.why + (f"entry {entry.name} has no such argument",) * more)
