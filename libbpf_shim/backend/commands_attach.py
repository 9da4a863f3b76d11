"""PROG_ATTACH, PROG_DETACH and PROG_QUERY: attach points that are not there.

Every check that Linux 6.18 makes before it reaches the attach point is made here, in its order;
what would then be attached to a cgroup, a socket map, a network device or a network namespace is
refused as by a kernel built without them. The groups of attach types are measured.
Source: kernel/bpf/syscall.c (bpf_prog_attach, bpf_prog_detach, bpf_prog_query).
"""

from __future__ import annotations

import errno
import os
import socket

from libbpf_shim.backend.command import Family, Table
from libbpf_shim.backend.wire import BpfReply, BpfRequest
from libbpf_shim.errors import ShimError
from libbpf_shim.object import attach_type
from libbpf_shim.object.attr import Attr
from libbpf_shim.object.map import MapObject
from libbpf_shim.object.prog import ProgObject
from libbpf_shim.uapi.bpf import bpf_cmd

# enum bpf_attach_type, by what a program of that type would be attached to.
_CGROUP = frozenset((0, 1, 2, 3, 6, *range(8, 16), *range(18, 23), *range(29, 33), 34, 43,
                     *range(49, 54)))
_SOCKET_MAP = frozenset((4, 5, 7, 38))
_DEVICE = frozenset((46, 47))  # BPF_TCX_*
_NETKIT = frozenset((54, 55))
_NETNS = frozenset((17, 36))
_LSM = frozenset((27,))
_REST = frozenset((16, 23, 24, 25, 26, 28, 37))  # attach_type_to_prog_type() knows them
_SEVERAL = _CGROUP | _LSM  # flags of cgroups and, of mprog lists, what both have
_LISTS = _DEVICE | _NETKIT
_KNOWN = _SEVERAL | _LISTS | _SOCKET_MAP | _NETNS | _REST
_LIST_FLAGS = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 13  # BPF_F_REPLACE, _BEFORE, ... _LINK
_BASE_FLAGS = 1 | 1 << 1 | 1 << 2 | 1 << 6  # BPF_F_ALLOW_OVERRIDE, _MULTI, _REPLACE, _PREORDER
_QUERY_EFFECTIVE = 1  # BPF_F_QUERY_EFFECTIVE
_CGROUP_TOP = "/sys/fs/cgroup"


def _refused(what: str, code: int = errno.EINVAL) -> ShimError:
    return ShimError("BC0020", code, f"attach: {what}")


def device(index: int) -> None:
    """A network device of that number is there; ENODEV."""
    try:
        socket.if_indextoname(index)
    except (OSError, OverflowError) as err:
        raise _refused(f"network device {index} is not there", errno.ENODEV) from err


class AttachCommands(Family):
    """Attaching without links."""

    def table(self) -> Table:
        c = bpf_cmd
        return {
            c.BPF_PROG_ATTACH: ("attach", "expected_revision", self.attach),
            c.BPF_PROG_DETACH: ("attach", "expected_revision", self.detach),
            c.BPF_PROG_QUERY: ("query", "revision", self.query),
        }

    def attach(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_ATTACH."""
        kind, flags = attr["attach_type"], attr["attach_flags"]
        if kind not in _KNOWN:
            raise _refused(f"type {kind}")
        allowed = _BASE_FLAGS
        if kind in _LISTS:
            allowed = _LIST_FLAGS
        elif kind in _SEVERAL:
            allowed |= _LIST_FLAGS
        elif attr["relative_fd"] or attr["expected_revision"]:
            raise _refused("a place in a list, for what has one program")
        if flags & ~allowed:
            raise _refused(f"flags {flags:#x}")
        self._prog(request, attr, kind)
        if kind in _DEVICE:
            device(attr["target_ifindex"])
        raise _refused(f"type {kind} is not there")

    def detach(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_DETACH: nothing is attached."""
        kind, flags = attr["attach_type"], attr["attach_flags"]
        if kind in _LISTS:
            if flags & ~_LIST_FLAGS:
                raise _refused(f"flags {flags:#x}")
            if attr["attach_bpf_fd"]:
                self._prog(request, attr, kind)
            if kind in _DEVICE:
                device(attr["target_ifindex"])
                raise _refused("nothing is attached", errno.ENOENT)
            raise _refused(f"type {kind} is not there")
        if flags or attr["relative_fd"] or (attr["expected_revision"] and kind not in _SEVERAL):
            raise _refused("a place in a list, for what has one program")
        if kind in _SEVERAL:
            self._cgroup(request, attr, loader)
        if kind in _SOCKET_MAP:
            if attr["replace_bpf_fd"]:
                raise _refused("something to replace")
            self._open(request, attr)
        raise _refused(f"type {kind} is not there")

    def query(self, request: BpfRequest, attr: Attr, loader: int) -> BpfReply:
        """BPF_PROG_QUERY."""
        kind, flags = attr["attach_type"], attr["query_flags"]
        if flags & ~_QUERY_EFFECTIVE:
            raise _refused(f"flags {flags:#x}")
        if kind in _CGROUP:
            self._cgroup(request, attr, loader)
        if kind in _SOCKET_MAP | _NETNS:
            if flags:
                raise _refused(f"flags {flags:#x}")
            self._open(request, attr)
        if kind in _SOCKET_MAP and self._is_map(request, attr):
            raise _refused("not a map of sockets", errno.EOPNOTSUPP)
        if kind in _DEVICE:
            device(attr["target_ifindex"])
        raise _refused(f"type {kind} is not there")

    def _prog(self, request: BpfRequest, attr: Attr, kind: int) -> None:
        """The program is one for that attach type, and runs in userspace. EINVAL, EOPNOTSUPP."""
        prog = self.store.at(request.key(attr.signed("attach_bpf_fd")), ProgObject)
        if not attach_type.fits(prog.program, kind):
            raise _refused("a program of another type")
        attach_type.require(prog.program)

    def _open(self, request: BpfRequest, attr: Attr) -> None:
        if request.key(attr.signed("target_fd")) == (0, 0):
            raise _refused("no such descriptor", errno.EBADF)

    def _cgroup(self, request: BpfRequest, attr: Attr, loader: int) -> None:
        """EBADF unless the descriptor is a cgroup's folder."""
        try:
            path = os.readlink(f"/proc/{loader}/fd/{attr['target_fd']}")
        except OSError:
            path = ""
        if not path.startswith(_CGROUP_TOP):
            raise _refused("not a cgroup", errno.EBADF)

    def _is_map(self, request: BpfRequest, attr: Attr) -> bool:
        found = self.store.by_file.get(request.key(attr.signed("target_fd")))
        return isinstance(found, MapObject)
