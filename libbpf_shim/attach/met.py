"""Windows of system calls that are met in a process (syscalls.py), where sites are to stand.

A site's window may take the place of a call's: the instructions that the call's jump had replaced
come back around it, and that call is not seen as long as the site is there. Not so where somebody
would be led astray by that, or where probes by int3 need to see the call.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.keeper import Window
from libbpf_shim.rewrite.plan import JUMP, SitePlan

if TYPE_CHECKING:
    from libbpf_shim.attach.process import Process

_LONGEST = 32  # SHIM_WINDOW_MAX
_ROW_SIZE = 16  # of struct shim_call_window
_MOST = 63  # bytes of instructions that one of them has, SHIM_CALL_WHOLE
_KEEPER = 2  # SHIM_SYNC_KEEPER
Span = tuple[int, int]  # of addresses: the first, the one behind the last


class Row(NamedTuple):
    """struct shim_call_window, its place an address. end: behind the last instruction that is
    executed elsewhere."""

    at: int
    orig: bytes
    patch: bytes
    end: int
    needed: bool
    island: bool


class Head(NamedTuple):
    """A region of trampolines: where, of which plan, its module's bias; are its windows written,
    where are they listed, how many are there."""

    at: int
    key: int
    bias: int
    patched: bool
    table: int
    nr: int


def _table(talk: Conversation) -> Span:
    """Where its agent lists the regions, and how many bytes that are."""
    from libbpf_shim._native import ffi, lib

    size = ffi.sizeof("struct shim_call_region") * int(lib.SHIM_MAX_CALLS)
    return talk.hello.root + int(ffi.offsetof("struct shim_agent", "calls")), size


def foresee(talk: Conversation) -> None:
    """It is going to be asked whether something can be somewhere."""
    talk.foresee(*_table(talk))


def heads(talk: Conversation) -> Iterator[Head]:
    """All regions of the process."""
    from libbpf_shim._native import ffi, lib

    regions = ffi.new("struct shim_call_region[]", int(lib.SHIM_MAX_CALLS))
    ffi.memmove(regions, talk.read(*_table(talk)), ffi.sizeof(regions))
    rows = [row for row in regions if row.at]
    if not rows:
        return
    from libbpf_shim.rewrite.callregion import HEAD

    for row in rows:
        at = int(row.at)
        _, nr, key, bias, _, _, _, listed, _ = HEAD.unpack(talk.read(at, HEAD.size))
        yield Head(at, key, bias, bool(row.patched), at + listed, nr)


def _rows(talk: Conversation, process: Process) -> list[list[Row]]:
    """Of the regions whose windows are written, each by address; read once a conversation."""
    if process.met is None:
        process.met = [_listed(h.at, talk.read(h.table, h.nr * _ROW_SIZE))
                       for h in heads(talk) if h.patched]
    return process.met


@lru_cache(maxsize=32)
def _listed(at: int, rows: bytes) -> list[Row]:
    """As a region at that address lists them: the same ones for each visit of a process."""
    from libbpf_shim.rewrite.callregion import ISLAND, NEEDED, WHOLE, WINDOW_FORMAT

    return [Row(at + off, orig[:size], patch[:size], at + off + (flags & WHOLE),
                bool(flags & NEEDED), bool(flags & ISLAND))
            for off, size, orig, patch, flags in struct.iter_unpack(WINDOW_FORMAT, rows)]


def any_met(talk: Conversation, process: Process) -> bool:
    """There are such windows."""
    return bool(_rows(talk, process))


def _under(talk: Conversation, process: Process, span: Span) -> Iterator[Row]:
    """Rows of instructions that share bytes with these, and stand there."""
    lo, hi = span
    for rows in _rows(talk, process):
        for n in range(bisect_left(rows, (lo - _MOST,)), len(rows)):
            row = rows[n]
            if row.at >= hi:
                break
            if lo < row.end and talk.read(row.at, len(row.patch)) == row.patch:
                yield row


def traps(talk: Conversation, process: Process) -> bool:
    """Some session has sites of int3 there, which calls are met for."""
    from libbpf_shim._native import lib

    return bool(process.trap_links()) or any(
        s.flags & lib.SHIM_SITE_TRAP and (s.first or s.patched) for s in _sites(talk))


def claims(talk: Conversation, process: Process) -> list[Span]:
    """Bytes of sites that are written, and those that their jumps end with; read once a
    conversation."""
    from libbpf_shim._native import lib

    if process.claims is None:
        pun = int(lib.SHIM_SITE_PUN)
        process.claims = [
            (int(s.window), int(s.window) + (JUMP if s.flags & pun else int(s.window_len)))
            for s in _sites(talk) if s.patched]
    return process.claims


def _sites(talk: Conversation) -> Any:
    """Their table, struct shim_site[]."""
    from libbpf_shim._native import ffi

    at = talk.hello.root + int(ffi.offsetof("struct shim_agent", "nr_sites"))
    (count,) = struct.unpack("<I", talk.read(at, 4))
    sites = ffi.new("struct shim_site[]", count)
    ffi.memmove(sites, talk.read(talk.site_address(0), ffi.sizeof(sites)), ffi.sizeof(sites))
    return sites


def _why_not(talk: Conversation, process: Process, row: Row, span: Span) -> str:
    if row.island:
        return f"{row.at:#x} leads to where a call is met"
    if span[0] < row.end < span[1]:
        return f"{row.end:#x}, where a call goes on, would be inside of the window"
    if row.needed and traps(talk, process):
        return f"{row.at:#x}: a call is met there, which probes by int3 need"
    return ""


def cannot(talk: Conversation, process: Process, span: Span) -> str:
    """Why a site's window cannot be there; "" if it can. Asked of a process that is stopped: in
    another the agent looks (csrc/agent/calls.c)."""
    if talk.hello.reason != _KEEPER or not any_met(talk, process):
        return ""
    whys = (_why_not(talk, process, row, span) for row in _under(talk, process, span))
    return next(filter(None, whys), "")


def barred(talk: Conversation, process: Process, plan: SitePlan, bias: int) -> str:
    """The same of a plan's windows."""
    spans = [(plan.window + bias, plan.end + bias)]
    if plan.carrier:
        spans.append((plan.carrier.window + bias, plan.carrier.end + bias))
    elif plan.hole:
        spans.append((plan.hole.vaddr + bias, plan.hole.vaddr + len(plan.hole.orig) + bias))
    return next(filter(None, (cannot(talk, process, span) for span in spans)), "")


def _over(window: Window, row: Row) -> Window:
    """The same, where the call's jump stands and goes with it."""
    lo = min(window.addr, row.at)
    size = max(window.addr + len(window.new), row.at + len(row.orig)) - lo
    expect, new = bytearray(size), bytearray(size)
    for into, parts in ((expect, ((row.at, row.orig), (window.addr, window.expect),
                                  (row.at, row.patch))),
                        (new, ((row.at, row.orig), (window.addr, window.new)))):
        for at, part in parts:
            into[at - lo : at - lo + len(part)] = part
    return window._replace(addr=lo, expect=bytes(expect), new=bytes(new))


def over(talk: Conversation, process: Process, window: Window) -> tuple[Window, str]:
    """A site's window as it is where jumps of calls stand, and why it cannot be there."""
    made = bare = window.bare or window
    span = bare.addr, bare.addr + len(bare.new)
    for row in _under(talk, process, span):
        if why := _why_not(talk, process, row, span):
            return bare, why
        made = _over(made, row)._replace(bare=bare)
    return made, "" if len(made.new) <= _LONGEST else f"{bare.addr:#x}: calls are met around it"


def left_out(talk: Conversation, process: Process, window: Window) -> str:
    """A call's window that is not written, since a site's is to stand there: why that cannot
    be."""
    rows = chain.from_iterable(_rows(talk, process))
    row = next((r for r in rows if r.at == window.addr), None)
    return _why_not(talk, process, row, (row.at, row.at)) if row else ""
