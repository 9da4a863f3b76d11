"""What BPF_OBJ_GET_INFO_BY_FD leaves of the structure that it is given, as the kernel does: fields
that tell nothing of this object (types that a map has not, a device) stay the caller's."""

from __future__ import annotations

import pytest

from compat_tests.clients.tool import KERNEL, SHIM, Way, run
from compat_tests.guard import launch

CODE = """
import ctypes, struct
libc, kept = ctypes.CDLL(None), []

def at(data):
    kept.append(ctypes.create_string_buffer(data, len(data)))
    return ctypes.addressof(kept[-1])

def bpf(cmd, *attr):
    attr = b"".join(attr).ljust(128, bytes(1))
    return libc.syscall(321, cmd, ctypes.c_void_p(at(attr)), len(attr))

def map_of(kind, key, value, entries, btf=0):
    types = struct.pack("<III", btf, 1, 1) if btf else b""
    return bpf(0, struct.pack("<IIIII", kind, key, value, entries, 0).ljust(48, bytes(1)), types)

types = struct.pack("<HBBIIIIIIIII", 0xeb9f, 1, 0, 24, 0, 16, 16, 5, 1, 1 << 24, 4, 32 | 1 << 24)
types += b"\\0int\\0"
btf = bpf(18, struct.pack("<QQI", at(types), 0, len(types)))
insns = struct.pack("<BBhiBBhi", 0xb7, 0, 0, 0, 0x95, 0, 0, 0)
prog = bpf(5, struct.pack("<IIQQ", 17, 2, at(insns), at(b"GPL\\0")))
link = bpf(17, struct.pack("<QI", at(b"sys_enter\\0"), prog))
# object, size, fields not filled before, what differs from time to time or from user to user
for name, fd, size, empty, own in (
        ("ring buffer", map_of(27, 0, 0, 4096), 104, [(88, 104)], [(4, 8)]),
        ("hash", map_of(1, 4, 4, 4), 104, [(88, 104)], [(4, 8)]),
        ("hash of types", map_of(1, 4, 4, 4, btf), 104, [(88, 104)], [(4, 8), (64, 68)]),
        ("program", prog, 232, [(16, 80), (104, 232)], [(4, 8), (16, 24), (40, 52), (184, 232)]),
        ("link", link, 64, [(16, 28)], [(4, 12)]),
        ("types", btf, 32, [(0, 12), (16, 28)], [(12, 16)])):
    for length in (size, size - 8, 40):
        given = bytearray(b"\\xaa" * size)
        for begin, end in empty:
            given[begin:end] = bytes(end - begin)
        where = at(bytes(given.ljust(size + 8, bytes(1))))
        said = bpf(15, struct.pack("<IIQ", fd, length, where))
        told = bytearray(kept[-2].raw)
        for begin, end in own:
            told[begin:end] = b"\\xee" * (end - begin)
        print(name, length, said, told.hex())
"""


def told(way: Way) -> list[str]:
    python = str(launch.product() / ".venv" / "bin" / "python")
    done = run(way.tool([python, "-I", "-c", CODE]))
    assert done.status == 0, done
    return done.out.splitlines()


@pytest.mark.kernel
def test_what_tells_nothing_of_an_object_stays_the_callers() -> None:
    ours = told(SHIM)
    assert len(ours) == 18 and all(" 0 " in line and "aaaa" in line for line in ours[:15])
    assert ours == told(KERNEL)
