"""A loader that asks for a BPF token as libbpf 1.5 does, under the surface: what each call
answers, as JSON. Source: libbpf 1.5 src/libbpf.c, bpf_object_prepare_token(); src/features.c."""

import ctypes
import errno
import json
import os
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
SYS_BPF, O_DIRECTORY = 321, 0o200000
TOKEN_CREATE, MAP_CREATE, PROG_LOAD, BTF_LOAD, INFO = 36, 0, 5, 18, 15
TOKEN_FD = 1 << 16
# int
BTF = bytes.fromhex("9feb01001800000000000000100000001000000005000000"
                    "01000000000000010400000020000001") + b"\0int\0"
INSNS = bytes.fromhex("b7000000000000009500000000000000")


def said(ret: int) -> int:
    return ret if ret >= 0 else -ctypes.get_errno()


def bpf(command: int, size: int, fields: "dict[int, tuple[int, int]]") -> int:
    attr = ctypes.create_string_buffer(size)
    for at, (width, value) in fields.items():
        data = (value & (1 << 8 * width) - 1).to_bytes(width, "little")
        ctypes.memmove(ctypes.addressof(attr) + at, data, width)
    return said(LIBC.syscall(SYS_BPF, command, attr, size))


def main() -> None:
    path = os.environ.get("LIBBPF_BPF_TOKEN_PATH", "/sys/fs/bpf").encode()
    file = said(LIBC.open(path, os.O_RDONLY))
    folder = said(LIBC.open(path, O_DIRECTORY))
    token = bpf(TOKEN_CREATE, 8, {4: (4, folder)}) if folder >= 0 else -errno.EBADF
    insns, btf = (ctypes.create_string_buffer(data, len(data)) for data in (INSNS, BTF))
    license_ = ctypes.create_string_buffer(b"GPL")
    a_map = bpf(MAP_CREATE, 80, {0: (4, 2), 4: (4, 4), 8: (4, 8), 12: (4, 1),
                                 16: (4, TOKEN_FD), 76: (4, token)})
    program = bpf(PROG_LOAD, 152, {0: (4, 2), 4: (4, 2), 8: (8, ctypes.addressof(insns)),
                                   16: (8, ctypes.addressof(license_)), 44: (4, TOKEN_FD),
                                   144: (4, token)})
    types = bpf(BTF_LOAD, 40, {0: (8, ctypes.addressof(btf)), 16: (4, len(BTF)),
                               32: (4, TOKEN_FD), 36: (4, token)})
    info = ctypes.create_string_buffer(32)
    told = bpf(INFO, 16, {0: (4, token), 4: (4, 32), 8: (8, ctypes.addressof(info))})
    commands = int.from_bytes(info.raw[:8], "little") if not told else 0
    with open(f"/proc/self/fdinfo/{max(token, 0)}") as text:
        lines = [line.strip() for line in text if line.startswith("allowed_")]
    link = os.readlink(f"/proc/self/fd/{token}") if token >= 0 else ""
    plain = bpf(MAP_CREATE, 72, {0: (4, 2), 4: (4, 4), 8: (4, 8), 12: (4, 1)})
    child = os.fork()
    if not child:
        os._exit(bpf(MAP_CREATE, 72, {0: (4, 2), 4: (4, 4), 8: (4, 8), 12: (4, 1)}) < 0)
    forked = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    json.dump({"file": file, "folder": folder, "token": token, "map": a_map, "program": program,
               "btf": types, "info": told, "commands": commands, "fdinfo": lines, "link": link,
               "plain": plain, "forked": forked}, sys.stdout)


if __name__ == "__main__":
    main()
