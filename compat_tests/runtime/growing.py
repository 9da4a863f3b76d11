"""Fills a map without preallocation in a file system that has too little room for it: prints how
many elements it took and the errno of the next. As root of a mount namespace of its own.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from libbpf_shim._native import ffi, lib  # noqa: E402

from compat_tests.runtime.test_maps import Control, layout  # noqa: E402

PAGE, ROOM, ENTRIES, NO_PREALLOC = 4096, 64, 100000, 1


def main(kind: int) -> None:
    control, header = Control(), layout(kind, 8, 64, ENTRIES, NO_PREALLOC)
    folder = tempfile.mkdtemp()
    libc = ctypes.CDLL(None, use_errno=True)
    front = int(header.elem_off)
    size = f"size={front // PAGE * PAGE + ROOM * PAGE}".encode()
    if libc.mount(b"none", folder.encode(), b"tmpfs", 0, size):
        raise OSError(ctypes.get_errno(), "tmpfs")
    fd = os.open(f"{folder}/map", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, header.file_size)
    os.posix_fallocate(fd, 0, front)
    os.posix_fallocate(fd, header.file_size - PAGE, PAGE)
    view = ffi.from_buffer(mmap.mmap(fd, header.file_size))
    desc = ffi.new("struct shim_map_desc *")
    assert lib.shim_map_format(view, header) == 0
    assert lib.shim_map_desc_init(desc, view, header.file_size) == 0
    run = control.run()
    desc.ctl, value, taken, err = run.ctl, ffi.new("char[]", 64 * 4), 0, 0
    while not err and taken < ENTRIES:
        key = struct.pack("<II", 32, taken * 2654435761 % 2**32)
        err = int(lib.shim_map_sys_update(desc, ffi.from_buffer(key), value, 0, run))
        taken += not err
    first = struct.pack("<II", 32, 0)  # can be changed and removed, and its room used again
    assert lib.shim_map_sys_update(desc, ffi.from_buffer(first), value, 0, run) in (0, err)
    assert lib.shim_map_sys_delete(desc, ffi.from_buffer(first), run) == 0
    assert lib.shim_map_sys_update(desc, ffi.from_buffer(first), value, 0, run) == 0
    print(taken, -err)


if __name__ == "__main__":
    main(int(sys.argv[1]))
