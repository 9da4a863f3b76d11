"""What a process has loaded, from one conversation to the next. Sites in what it has unloaded
since are forgotten, in its agent's table too: something else may be loaded at their addresses."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from libbpf_shim.attach.agent import Conversation
from libbpf_shim.attach.inherited import is_met
from libbpf_shim.attach.process import Process, Root, Site
from libbpf_shim.attach.target import loaded_in
from libbpf_shim.elf.process import LoadedModule
from libbpf_shim.errors import ShimError

_OWN = 32  # bits of a link's id; watches of the agent's have more, and are whole or not at all


def see(talk: Conversation, process: Process) -> None:
    """Once a conversation: what is loaded now."""
    process.before = process.modules if process.modules else None
    maps, process.modules = loaded_in(process.pid)
    process.near.seen = list(maps)
    if process.modules == process.before and not process.reloaded:
        return
    process.staying = None
    gone = [m for m in process.before or ()
            if m.base in process.reloaded or not _among(m, process.modules)]
    process.reloaded.clear()
    for site in list(process.sites.values()):
        if any(m.holds(site.addr) for m in gone):
            _lose(talk, process, site)


def is_new(process: Process, module: LoadedModule) -> bool:
    """It was not there in the conversation before; False if there was none."""
    return process.before is not None and not _among(module, process.before)


def read_links(talk: Conversation, process: Process, root: Root) -> None:
    """Links that are there already: of a fork child those that it has inherited, of a process that
    begins those of a visit that came first. Those at what has been unloaded since are taken out,
    and those of places that nobody has patched, as where a visit did not get that far."""
    from libbpf_shim._native import ffi, lib

    link = ffi.new("struct shim_site_link *")
    size = ffi.sizeof("struct shim_site_link")
    gone: dict[int, int] = {}
    unmet: set[int] = set()
    sites = [talk.site_record(index) for index in range(root.nr_sites)]
    for index, site in enumerate(sites):
        at, seen = int(site.first), 0
        code = at and not site.addr >> lib.SHIM_EVENT_SHIFT
        if code and not any(m.holds(site.addr) for m in process.modules):
            gone[index] = int(site.addr)
        met = not at or is_met(site, sites)
        while site.addr and at and seen < 1024:
            ffi.memmove(link, talk.read(root.links + (at - 1) * size, size), size)
            if link.live and link.session == process.session:
                process.linked.add((int(link.link_id), int(site.addr)))
                if not met:
                    unmet.add(int(link.link_id))
            at, seen = int(link.next), seen + 1
    for index, addr in gone.items():
        _lose(talk, process, Site(index, addr, "", ""))
    for link_id in unmet:
        talk.unlink(link_id, process.session)
        process.unlinked(link_id)


def _lose(talk: Conversation, process: Process, site: Site) -> None:
    from libbpf_shim._native import lib

    record = talk.site_record(site.index)
    host = talk.site_record(record.host - 1) if record.host else record
    size = int(host.window_len)
    with contextlib.suppress(ShimError):
        if talk.read(int(host.window), size) == bytes(host.patch)[:size]:
            return  # it is there after all
    for link_id in {i for i, a in process.linked if a == site.addr and i >> _OWN}:
        talk.unlink(link_id, process.session)
        process.unlinked(link_id)
    talk.unlink(0, process.session, site.index)
    process.linked = {(i, a) for i, a in process.linked if a != site.addr}
    process.sites.pop(site.index, None)
    if record.addr != site.addr:
        return
    _unpatched(talk, site.index)
    if record.host and not host.flags & lib.SHIM_SITE_HOLE:  # a slot, to be used again
        talk.write(int(record.window), bytes(record.orig)[: record.window_len])
    while record.host:
        _unpatched(talk, record.host - 1)
        record = talk.site_record(record.host - 1)


def _unpatched(talk: Conversation, index: int) -> None:
    from libbpf_shim._native import ffi

    patched = ffi.offsetof("struct shim_site", "patched")
    talk.write(talk.site_address(index) + patched, bytes(4))


def _among(module: LoadedModule, others: Sequence[LoadedModule]) -> bool:
    """The same file at the same place; a page that was patched counts as another mapping, so the
    bounds may differ."""
    lo, hi = module.base, module.mappings[-1].end
    return any(
        o.ino == module.ino and o.base < hi and lo < o.mappings[-1].end for o in others
    )
