"""bpf(2) and perf_event_open(2): what is sent on, what is answered here, with which errno."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

Client = Callable[..., Any]


def test_the_backend_starts_detached_with_a_clean_environment(
    client: Client, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    got = client(
        """
        r, w = os.pipe(); os.set_inheritable(r, True)
        before = signal.signal(signal.SIGCHLD, lambda *_: sys.exit(3))
        fd = array_map()
        try: os.waitpid(-1, os.WNOHANG); child = True
        except ChildProcessError: child = False
        print(json.dumps([fd >= 3, child, os.get_inheritable(fd), os.getsid(0)]))
        """,
        LIBBPF_SHIM_SEEN=str(seen), SECRET="x", XDG_RUNTIME_DIR="/tmp",
    )  # fmt: skip
    assert got[:3] == [True, False, False]
    backend = json.loads(seen.read_text())
    assert set(backend["env"]) <= {
        "PATH", "LANG", "LC_CTYPE", "LIBBPF_SHIM_SEEN", "XDG_RUNTIME_DIR"}  # fmt: skip
    assert {"0", "1", "2", "3"} <= set(backend["fds"]) and len(backend["fds"]) <= 5
    assert backend["fds"]["0"] == backend["fds"]["2"] == "/dev/null"
    assert backend["fds"]["3"].startswith("socket:")
    assert backend["sid"] != got[3] and backend["cwd"] == "/"


def test_a_missing_backend_is_an_errno_and_one_line(client: Client, build: Any) -> None:
    conf = build.library.parent / "libbpf_shim.conf"
    text = conf.read_text()
    try:
        conf.write_text("/nonexistent/python\n/nowhere\n")
        done = client("print(json.dumps([array_map(), array_map()]))", check=False)
    finally:
        conf.write_text(text)
    assert json.loads(done.stdout) == [-38, -38]
    assert done.stderr.count("\n") == 1 and "/nonexistent/python" in done.stderr


def test_a_dead_backend_is_eio_and_local_map_operations_go_on(client: Client) -> None:
    done = client(
        """
        fd = array_map()
        k, kp = buf(struct.pack("<I", 3)); v, vp = buf(struct.pack("<I", 42))
        a = elem(2, fd, kp, vp)
        dead = bpf(99, bytes(16)), bpf(0, bytes(72))
        o, op = buf(b"", 4)
        print(json.dumps([a, dead, elem(1, fd, kp, op), struct.unpack("<I", o.raw)[0]]))
        """,
        check=False,
    )  # fmt: skip
    assert json.loads(done.stdout) == [0, [-5, -5], 0, 42]
    assert done.stderr.count("\n") == 1


def test_prog_load_travels_whole_and_comes_back_with_its_log(client: Client) -> None:
    got = client("""
        m = array_map()
        insns = struct.pack("<BBhiBBhi", 0x18, 0x11, 0, m, 0, 0, 0, 0)
        insns += struct.pack("<BBhi", 0x95, 0, 0, 0)
        i, ip = buf(insns); l, lp = buf(b"GPL\\0"); log, logp = buf(b"", 4096)
        attr = struct.pack("<IIQQIIQ", 2, 3, ip, lp, 1, 4096, logp).ljust(152, b"\\0")
        fd = bpf(5, attr)
        true_size = struct.unpack_from("<I", last.raw, 140)[0]
        e = requests("bpf")[-1]
        print(json.dumps([fd >= 3, log.value.decode(), true_size, e["refs"], e["rest"],
                          e["segs"][0]["hex"] == insns.hex(), e["segs"][1]["hex"], m,
                          os.readlink(f"/proc/self/fd/{fd}")]))
    """)
    m = got[7]
    assert got[:3] == [True, "processed 2 insns", 18]
    assert [m, True] in got[3] and got[4] == 0 and got[5]
    assert bytes.fromhex(got[6]) == b"GPL\0"
    assert got[8] == "anon_inode:bpf-prog"


def test_bad_pointers_are_efault_and_never_a_crash(client: Client) -> None:
    got = client("""
        fd = array_map(); k, kp = buf(bytes(4))
        bad = 0x7fff00000000
        print(json.dumps([
            syscall(321, 0, bad, 72), syscall(321, 0, 8, 72), syscall(298, bad, -1, 0, -1, 0),
            elem(1, fd, bad, kp), elem(1, fd, kp, bad), elem(2, fd, kp, bad),
            bpf(5, struct.pack("<IIQQ", 2, 3, bad, bad).ljust(120, b"\\0")),
        ]))
    """)
    assert got == [-14] * 7


def test_the_attr_size_rule_is_the_kernels(client: Client) -> None:
    got = client("""
        a = struct.pack("<5I", 2, 4, 4, 8, 0)
        print(json.dumps([bpf(0, a.ljust(4096, b"\\0")) >= 0, bpf(0, a.ljust(200, b"\\0") + b"x"),
                          bpf(0, a.ljust(5000, b"\\0")), perf_open(size=300) >= 0,
                          perf_open(size=5000), perf_open(size=32), perf_open(size=0) >= 0]))
    """)
    assert got == [True, -7, -7, True, -7, -7, True]


def test_element_commands_have_the_kernels_errnos(client: Client) -> None:
    got = client("""
        fd = array_map(entries=2); k, kp = buf(struct.pack("<I", 1)); v, vp = buf(bytes(4))
        far, farp = buf(struct.pack("<I", 9))
        def next_key(at):
            o, op = buf(b"", 4)
            ret = elem(4, fd, at, op, size=24)
            return ret if ret else struct.unpack("<I", o.raw)[0]
        print(json.dumps([
            elem(1, 9999, kp, vp), elem(1, 0, kp, vp), elem(1, fd, farp, vp), elem(2, fd, farp,
            vp),
            elem(2, fd, kp, vp, 1), elem(2, fd, kp, vp, 77), elem(3, fd, kp, size=16),
            elem(1, fd, kp, vp, 4), elem(1, fd, kp, vp, 1 << 40),
            bpf(3, struct.pack("<I4xQQQ", fd, kp, 1, 0)), next_key(0), next_key(farp),
            next_key(kp)]))
    """)
    assert got == [-9, -22, -2, -7, -17, -22, -22, -22, -22, -22, 0, 0, -2]


def test_a_forked_child_has_its_own_connection(client: Client) -> None:
    got = client("""
        fd = array_map()
        r, w = os.pipe()
        pid = os.fork()
        if not pid:
            k, kp = buf(bytes(4)); v, vp = buf(struct.pack("<I", 7))
            os.write(w, json.dumps([elem(2, fd, kp, vp), array_map() >= 0]).encode()); os._exit(0)
        os.waitpid(pid, 0)
        k, kp = buf(bytes(4)); v, vp = buf(b"", 4)
        elem(1, fd, kp, vp)
        pids = [e["pid"] for e in requests("hello")]
        print(json.dumps([json.loads(os.read(r, 99)), struct.unpack("<I", v.raw)[0],
                          pids == [os.getpid(), pid], array_map() >= 0]))
    """)
    assert got == [[0, True], 7, True, True]


def test_perf_event_open_ioctl_and_mmap_go_to_the_backend(client: Client) -> None:
    got = client("""
        kind = int(open("/sys/bus/event_source/devices/uprobe/type").read())
        p, pp = buf(b"/bin/true\\0")
        u = perf_open(kind, 0, pp, pid=-1); r = perf_open()
        libc.ioctl(u, ctypes.c_ulong(0x2400), 0)
        at = ring(r)
        e = requests("perf_open")[0]
        print(json.dumps([u >= 3 and r >= 3, e["strings"], e["pid"],
        requests("ioctl")[0]["request"],
                          at > 0, ring(u, 2) < 0 or True, os.readlink(f"/proc/self/fd/{r}")]))
    """)
    assert got == [True, ["/bin/true", ""], -1, 0x2400, True, True, "anon_inode:[perf_event]"]


def test_a_test_run_of_a_program_that_never_came_fails(client: Client) -> None:
    # the fake ends the agent's conversation at once, without a program
    got = client("""
        ret = bpf(10, bytes(80))
        print(json.dumps([ret, [e["cmd"] for e in requests("bpf")]]))
    """)
    assert got == [-2, [10]]


def test_notices_reach_descriptor_two(client: Client) -> None:
    done = client("print(json.dumps(array_map() >= 3))", check=False, LIBBPF_SHIM_NOTICE="1")
    assert json.loads(done.stdout) and done.stderr == "a notice\n"


def test_root_is_pretended_only_after_a_bpf_call(client: Client) -> None:
    if os.getuid():
        got = client("a = os.geteuid(); array_map(); print(json.dumps([a, os.geteuid()]))")
        assert got == [os.getuid(), 0]
        return
    # run as root: become nobody first; the run directory of the fake is world-usable
    got = client("""
        os.setresuid(65534, 65534, 65534)
        a = os.geteuid(); array_map(); b = os.geteuid()
        import resource
        lim = (1 << 40, 1 << 40)
        resource.setrlimit(resource.RLIMIT_MEMLOCK, lim)
        print(json.dumps([a, b, os.getuid(), list(resource.getrlimit(resource.RLIMIT_MEMLOCK)) ==
        list(lim)]))
    """)
    assert got == [65534, 0, 65534, True]
