"""Which links a process has, by its agent's table as it lies in its memory, read from outside
while the process goes on: a fork child has its parent's, and need not be stopped for the same."""

from __future__ import annotations

import errno
import os
from bisect import bisect_right
from collections.abc import Iterable
from typing import Any

from libbpf_shim.attach.target import Target

_MOST = 1 << 16  # steps along a list


def _read(mem: int, address: int, kind: str, size: int = 0) -> Any:
    """A cffi value of that type, or its first `size` bytes. OSError: there is none."""
    from libbpf_shim._native import ffi

    value = ffi.new(kind)
    if not size:
        size = ffi.sizeof(value) if kind.endswith("]") else ffi.sizeof(ffi.typeof(kind).item)
    data = os.pread(mem, size, address)
    if len(data) != size:
        raise OSError(errno.EFAULT, "not mapped")
    ffi.memmove(value, data, size)
    return value


def sessions(target: Target) -> set[int] | None:
    """Numbers of the sessions that are in the process. None: its memory cannot be read."""
    from libbpf_shim._native import ffi

    try:
        mem = os.open(f"/proc/{target.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # it has ended
        return set()
    except OSError:
        return None
    try:
        root = _read(mem, target.root, "struct shim_agent *",
                     ffi.offsetof("struct shim_agent", "runnables"))
        return {int(s.id) for s in root.sessions if s.id}
    except OSError:
        return None
    finally:
        os.close(mem)


def links(target: Target, session: int, ctl_ino: int) -> set[tuple[int, int]] | None:
    """Link ids of the session in the process, with addresses of their sites, empty where there
    are none or nothing can be read. None: its agent begins just now, or is in a conversation: the
    next look finds more. What is being changed meanwhile may be missing."""
    if not target.root:
        return set()
    try:
        mem = os.open(f"/proc/{target.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return set()
    try:
        return _links(mem, target.root, session, ctl_ino)
    except OSError:
        return set()
    finally:
        os.close(mem)


def reloaded(target: Target, sites: Iterable[tuple[int, int]]) -> set[int]:
    """Bases of modules in which bytes of a site are not there any more, by their addresses and
    indices: the file has been mapped again at the same place. One site of each is looked at."""
    from libbpf_shim._native import ffi

    found: set[int] = set()
    bases = [m.base for m in target.modules]
    first: dict[int, int] = {}
    for addr, index in sites:
        at = bisect_right(bases, addr) - 1
        if at >= 0 and addr < target.modules[at].mappings[-1].end:
            first.setdefault(bases[at], index)
    try:
        mem = os.open(f"/proc/{target.pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return found
    try:
        head = _read(mem, target.root, "struct shim_agent *",
                     ffi.offsetof("struct shim_agent", "runnables"))
        size = ffi.sizeof("struct shim_site")
        for base, index in first.items():
            site = _read(mem, int(head.sites) + index * size, "struct shim_site *")
            while site.host:
                site = _read(mem, int(head.sites) + (site.host - 1) * size, "struct shim_site *")
            patch = bytes(site.patch)[: site.window_len]
            if site.patched and os.pread(mem, len(patch), int(site.window)) != patch:
                found.add(base)
    except OSError:
        pass  # it changes now
    finally:
        os.close(mem)
    return found


def _links(mem: int, at: int, session: int, ctl_ino: int) -> set[tuple[int, int]] | None:
    from libbpf_shim._native import ffi

    # a process that has begun just now has touched nothing of the rest
    root = _read(mem, at, "struct shim_agent *", ffi.offsetof("struct shim_agent", "runnables"))
    if not root.service_entry or root.lock:
        return None
    index = next((n for n, s in enumerate(root.sessions)
                  if s.id == session and s.ctl_ino == ctl_ino), -1)
    if index < 0 or not root.nr_sites or not root.nr_links:
        return set()
    return _walk(_read(mem, int(root.sites), f"struct shim_site[{root.nr_sites}]"),
                 _read(mem, int(root.links), f"struct shim_site_link[{root.nr_links}]"), index)


def is_met(site: Any, sites: Any) -> bool:
    """Its links run: it is an event's, or code that is patched. sites: what has the record of its
    host by its index."""
    from libbpf_shim._native import lib

    if site.addr >> lib.SHIM_EVENT_SHIFT:
        return True
    return bool((sites[site.host - 1] if 0 < site.host <= len(sites) else site).patched)


def _walk(sites: Any, table: Any, session: int) -> set[tuple[int, int]]:
    found = set()
    for site in sites:
        at, steps = int(site.first) if is_met(site, sites) else 0, 0
        while 0 < at <= len(table) and steps < _MOST:
            link = table[at - 1]
            if link.live and link.session == session:
                found.add((int(link.link_id), int(site.addr)))
            at, steps = int(link.next), steps + 1
    return found
