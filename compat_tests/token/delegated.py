"""On the kernel, as root: a bpffs that delegates everything to a namespace of users, and loader.py
in there. Source: kernel/bpf/inode.c (bpf_parse_param),
tools/testing/selftests/bpf/prog_tests/token.c."""

import array
import ctypes
import os
import socket
import sys
import threading

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import loader  # type: ignore[import-not-found]  # noqa: E402

FSOPEN, FSCONFIG, FSMOUNT = 430, 431, 432
SET_STRING, CMD_CREATE = 1, 6
NEWUSER, NEWNS = 0x10000000, 0x20000
LIBC = ctypes.CDLL(None, use_errno=True)


def must(ret: int, what: str) -> int:
    if ret < 0:
        raise OSError(ctypes.get_errno(), what)
    return ret


def give(sock: socket.socket, fd: int) -> None:
    sock.sendmsg([b"f"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])


def take(sock: socket.socket) -> int:
    _, rights, _, _ = sock.recvmsg(1, socket.CMSG_SPACE(4))
    return array.array("i", rights[0][2])[0]


def inside(sock: socket.socket) -> None:
    must(LIBC.unshare(NEWUSER | NEWNS), "unshare")
    sock.send(b"u")
    sock.recv(1)  # the numbers of users are there
    give(sock, must(LIBC.syscall(FSOPEN, b"bpf", 1), "fsopen"))
    folder = take(sock)
    os.environ["LIBBPF_BPF_TOKEN_PATH"] = f"/proc/self/fd/{folder}"
    loader.main()


def outside(sock: socket.socket, child: int) -> None:
    sock.recv(1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write("0 0 1")
    sock.send(b"m")
    fs = take(sock)
    for what in (b"delegate_cmds", b"delegate_maps", b"delegate_progs", b"delegate_attachs"):
        must(LIBC.syscall(FSCONFIG, fs, SET_STRING, what, b"any", 0), "fsconfig")
    must(LIBC.syscall(FSCONFIG, fs, CMD_CREATE, None, None, 0), "fsconfig")
    give(sock, must(LIBC.syscall(FSMOUNT, fs, 0, 0), "fsmount"))


def main() -> None:
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        inside(theirs)
        sys.stdout.flush()
        os._exit(0)
    theirs.close()
    end = threading.Timer(30, os.kill, (child, 9))
    end.start()
    try:
        outside(ours, child)
    finally:
        ours.close()
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        end.cancel()
    sys.exit(status)


if __name__ == "__main__":
    main()
