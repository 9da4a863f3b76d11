"""System calls that name files: what loaders are shown below /sys instead of what this user has,
and what /proc/self/fdinfo says of their objects. All other files are the kernel's matter.

Source: csrc/surface/redirect.c, csrc/surface/path_*.c.
"""

from __future__ import annotations

import ctypes
import os
import re
from collections.abc import Sequence
from typing import Final

from libbpf_shim.client.proxy import surface
from libbpf_shim.client.proxy.process import Waiting
from libbpf_shim.client.proxy.seccomp import Call

_SYS, _PROC = b"/sys/", b"/proc"
_FDINFO: Final = re.compile(rb"/proc/(self|[0-9]+)/fdinfo/([0-9]{1,7})")
_SHOWN: Final = (b"/sys/kernel/debug/tracing", b"/sys/kernel/tracing", b"/sys/fs/bpf",
                 b"/sys/bus/event_source/devices/uprobe", b"/sys/bus/event_source/devices/kprobe",
                 b"/sys/kernel/btf/vmlinux", b"/sys/kernel/debug/kprobes/blacklist",
                 b"/sys/devices/system/cpu/possible", b"/sys/devices/system/cpu/online")
_TOKEN: Final = os.environb.get(b"LIBBPF_BPF_TOKEN_PATH", b"")  # opened as a folder: bpffs
_LONGEST: Final = 4096

# The surface's function, and the arguments. d: a folder, which an absolute path does without;
# p: a path; n: a number; o: what is told. A 0 stands where the system call has no flags yet.
CALLS: Final = {
    2: ("open", "pnn"), 257: ("openat", "dpnn"),
    4: ("stat", "po"), 6: ("lstat", "po"), 262: ("fstatat", "dpon"), 332: ("statx", "dpnno"),
    137: ("statfs", "po"), 21: ("access", "pn"), 269: ("faccessat", "dpn0"),
    439: ("faccessat", "dpnn"), 83: ("mkdir", "pn"), 258: ("mkdirat", "dpn"), 84: ("rmdir", "p"),
    87: ("unlink", "p"), 263: ("unlinkat", "dpn"), 82: ("rename", "pp"),
    264: ("renameat", "dpdp"), 316: ("renameat2", "dpdpn"), 90: ("chmod", "pn"),
    268: ("fchmodat", "dpn0"),
}  # fmt: skip
OPENS: Final = {2: 1, 257: 2}  # place of the flags
_TOLD: Final = {"statx": 256, "statfs": 120}  # bytes
_STAT: Final = 144  # bytes of all others
_AT_FDCWD: Final = -100


def named(call: Call, waiting: Waiting) -> list[bytes]:
    """The paths of a call that names something shown below /sys; [] of any other."""
    at = [call.args[place] for place, kind in enumerate(CALLS[call.nr][1]) if kind == "p"]
    folder = call.nr in OPENS and call.args[OPENS[call.nr]] & os.O_DIRECTORY
    try:
        if not (_TOKEN and folder) and all(waiting.read(one, len(_SYS)) != _SYS for one in at):
            return []
        names = [waiting.string(one, _LONGEST).rstrip(b"\0") for one in at]
    except OSError:
        return []
    if any(name.startswith(_SHOWN) for name in names) or _TOKEN and folder and names == [_TOKEN]:
        return names
    return []


def descriptor(call: Call, waiting: Waiting) -> int:
    """Of whose fdinfo the call opens, if it is the caller's; else -1."""
    if call.nr not in OPENS:
        return -1
    at = call.args[OPENS[call.nr] - 1]
    try:
        if waiting.read(at, len(_PROC)) != _PROC:
            return -1
        found = _FDINFO.fullmatch(waiting.string(at, _LONGEST).rstrip(b"\0"))
    except OSError:
        return -1
    if not found or found[1] not in (b"self", b"%d" % waiting.pid):
        return -1
    return int(found[2])


def carry_out(call: Call, waiting: Waiting, names: Sequence[bytes]) -> int:
    """As the surface does it; what it tells is written. The result, a descriptor of ours where the
    call opens something, or a negative errno. EFAULT."""
    name, kinds = CALLS[call.nr]
    left, arguments, told = list(names), list[object](), list[tuple[int, bytearray]]()
    for place, kind in enumerate(kinds):
        if kind == "p":
            arguments.append(ctypes.c_char_p(left.pop(0)))
        elif kind == "o":
            told.append((call.args[place], bytearray(_TOLD.get(name, _STAT))))
            room = told[-1][1]
            arguments.append((ctypes.c_char * len(room)).from_buffer(room))
        else:
            number = {"d": _AT_FDCWD, "0": 0}.get(kind)
            if number is None:
                number = call.s32(place)
                if OPENS.get(call.nr) == place:
                    number |= os.O_CLOEXEC
            arguments.append(ctypes.c_int(number))
    ret = surface.call(name, *arguments)
    if ret >= 0:
        for there, here in told:
            waiting.write(there, bytes(here))
    return ret
