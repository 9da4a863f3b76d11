"""USDT probes as entries: where they are in a binary, and how each place passes its arguments.

Read from the binary's notes (elf/usdt.py), never from what a loader says of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from libbpf_shim.eim.ctype import NUMBER, POINTER, CType
from libbpf_shim.elf import usdt
from libbpf_shim.elf.module import Module
from libbpf_shim.errors import ShimError
from libbpf_shim.verifier.policy import FIXED, MEMORY, NOWHERE, REGISTER, Operand

_KINDS = {usdt.CONST: FIXED, usdt.REG: REGISTER, usdt.DEREF: MEMORY}
_PAGE = 4096
_FAR = 1 << 15  # offsets that an instruction has room for
_CONSTANTS = range(-1 << 31, 1 << 31)
LOST = Operand(NOWHERE, 0, 0, 0, False)


@dataclass(frozen=True, slots=True)
class Site:
    """One place. offset: in the file. operands: by position; why: those that are NOWHERE are."""

    offset: int
    operands: tuple[Operand, ...]
    why: tuple[str, ...] = ()


def of(path: str, probe: str, params: Sequence[tuple[str, CType]]) -> tuple[Site, ...]:
    """Every place of a probe (PROVIDER:NAME), for a prototype's arguments. ValueError: the binary
    cannot be read, or has no such probe, or one with fewer arguments."""
    provider, _, name = probe.partition(":")
    try:
        module = Module(path)
    except (ShimError, OSError) as error:
        raise ValueError(f"{path}: {getattr(error, 'message', '') or error}") from error
    every = usdt.probes(module)
    found = [one for one in every if (one.provider, one.name) == (provider, name)]
    if not found:
        known = ", ".join(dict.fromkeys(f"{one.provider}:{one.name}" for one in every)) or "none"
        raise ValueError(f"{path} has no probe {probe} (it has {known})")
    return tuple(_site(one, params) for one in found)


def _site(probe: usdt.Probe, params: Sequence[tuple[str, CType]]) -> Site:
    texts = probe.arguments.split()
    if len(texts) < len(params):
        raise ValueError(f"probe {probe.provider}:{probe.name} passes {len(texts)} arguments at "
                         f"{probe.offset:#x}, the prototype has {len(params)}")
    rows = [_operand(text, type) for text, (_, type) in zip(texts, params, strict=False)]
    return Site(probe.offset, tuple(row[0] for row in rows), tuple(row[1] for row in rows))


def _operand(text: str, type: CType) -> tuple[Operand, str]:
    """Where it is; NOWHERE, and why."""
    try:
        found = usdt.argument(text)
    except ShimError:
        return LOST, f"{text} is no operand that programs can read"
    if type.kind not in (NUMBER, POINTER):
        return LOST, f"an argument of type {type.words}"
    if type.kind == POINTER and (found.size != 8 or found.type == usdt.CONST):
        return LOST, f"{text} holds no pointer"
    most = _FAR if found.type == usdt.DEREF else _CONSTANTS.stop
    if not -most <= found.value < most:
        return LOST, f"{text} is too far away"
    return Operand(_KINDS[found.type], found.value, found.register, found.size,
                   found.signed), ""


def now(path: str, probe: str, params: Sequence[tuple[str, CType]]) -> tuple[Site, ...]:
    """The same of the file as it is at an attachment; (): there is no such probe."""
    try:
        return of(path, probe, params)
    except ValueError:
        return ()


def registers(sites: Sequence[Site], count: int) -> dict[int, int]:
    """Of positions whose argument every place passes whole in the same register: by the register's
    offset in struct pt_regs, the position."""
    found: dict[int, int] = {}
    for at in range(count):
        rows = {site.operands[at].register for site in sites}
        if len(rows) == 1 and all(site.operands[at].kind == REGISTER for site in sites):
            found.setdefault(rows.pop(), at)
    return found


def layouts(
    sites: Sequence[Site]
) -> tuple[tuple[tuple[tuple[int, ...], tuple[Operand, ...]], ...], dict[int, str]]:
    """The ways in which places pass their arguments, each with the last twelve bits of their
    addresses, which tell a program where it is; of positions that are NOWHERE somewhere, why."""
    ways: dict[tuple[Operand, ...], set[int]] = {}
    lost: dict[int, str] = {}
    for site in sites:
        ways.setdefault(site.operands, set()).add(site.offset % _PAGE)
        for at, why in enumerate(site.why):
            if why:
                lost.setdefault(at, why)
    rows = list(ways.items())
    while pair := _alike(rows):
        (one, lows), (other, more) = rows[pair[0]], rows[pair[1]]
        both = tuple(a if a == b else LOST for a, b in zip(one, other, strict=True))
        for at, operand in enumerate(both):
            if operand == LOST:
                lost.setdefault(at, "two places that pass it differently cannot be told apart")
        rows = [row for n, row in enumerate(rows) if n not in pair] + [(both, lows | more)]
    return tuple((tuple(sorted(lows)), operands) for operands, lows in rows), lost


def _alike(
    rows: Sequence[tuple[tuple[Operand, ...], set[int]]]
) -> tuple[int, int] | None:
    for n, (_, lows) in enumerate(rows):
        for m in range(n + 1, len(rows)):
            if lows & rows[m][1]:
                return n, m
    return None


def words(sites: Sequence[Site]) -> str:
    """How many places there are."""
    return "1 place" if len(sites) == 1 else f"{len(sites)} places"
