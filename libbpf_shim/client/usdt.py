"""Attaching to USDT probes: what libbpf's usdt manager does (src/usdt.c of libbpf 1.1).

A probe's arguments go into the object's map __bpf_usdt_specs, once for each way to find them; the
index there is the cookie by which the program knows them (bpf/usdt.bpf.h).
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from libbpf_shim.client import attach
from libbpf_shim.client.link import Link
from libbpf_shim.errors import ShimError

if TYPE_CHECKING:
    from libbpf_shim.client.map import Map
    from libbpf_shim.client.program import Program

SPECS = "__bpf_usdt_specs"
_REF_CTR_SHIFT = 32  # where perf_event_attr.config has a uprobe's reference counter


class Links(Link):
    """Several links as one: a probe is often in many places."""

    def __init__(self, links: list[Link], name: str) -> None:
        super().__init__(links[0].session, links[0].fd, name)
        self.links = links

    def close(self) -> None:
        self.fd = -1
        for link in self.links:
            link.close()

    def detach(self) -> None:
        for link in self.links:
            link.detach()

    def pin(self, path: str) -> None:
        """ENOTSUPP: one name cannot keep several links."""
        raise ShimError("CU0001", errno.ENOTSUP, f"{path}: {len(self.links)} links, one pin")


class Specs:
    """The rows of one object's spec map, given out once each."""

    def __init__(self, specs: Map) -> None:
        self._map = specs
        self._rows: dict[tuple[str, int], int] = {}

    def row(self, key: tuple[str, int], spec: bytes) -> int:
        """The index of a spec; E2BIG: the map is full."""
        if key not in self._rows:
            index = len(self._rows)
            if index >= self._map.max_entries:
                raise ShimError("CU0002", errno.E2BIG, f"{SPECS}: full with {index} specs",
                                "set object.specs[...].max_entries before load")
            self._map.put(index, spec)
            self._rows[key] = index
        return self._rows[key]


def usdt(
    program: Program, specs: Specs, path: str, provider: str, name: str, pid: int, cookie: int
) -> Link:
    """At every place of a probe. ENOENT: the binary has none of that name."""
    from libbpf_shim.elf.module import Module
    from libbpf_shim.elf.usdt import probes

    path = attach.find_binary(path)
    found = [p for p in probes(Module(path)) if (p.provider, p.name) == (provider, name)]
    if not found:
        raise ShimError("CU0003", errno.ENOENT, f"usdt: no probe {provider}:{name} in {path}")
    links: list[Link] = []
    try:
        for probe in found:
            row = specs.row((probe.arguments, cookie), probe.spec(cookie))
            config = probe.semaphore << _REF_CTR_SHIFT
            links.append(attach.uprobe_at(program, path, probe.offset, config, pid, row))
    except BaseException:
        for link in links:
            link.close()
        raise
    return links[0] if len(links) == 1 else Links(links, program.name)


def parse_section(section: str) -> tuple[str, str, str]:
    """Of `usdt/PATH:provider:name`. EINVAL."""
    parts = section.partition("/")[2].rsplit(":", 2)
    if len(parts) != 3 or not all(parts):
        raise ShimError("CU0004", errno.EINVAL,
                        f"SEC({section!r}): names no probe: usdt/PATH:PROVIDER:NAME",
                        "say it: program.attach_usdt(path, provider, name)")
    return parts[0], parts[1], parts[2]
