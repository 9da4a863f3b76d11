"""close, dup, fork: the table follows; our own descriptors survive whatever is closed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Client = Callable[..., Any]


def test_duplicates_are_the_same_map_until_the_last_is_closed(client: Client) -> None:
    got = client("""
        fd = array_map(); k, kp = buf(bytes(4)); v, vp = buf(struct.pack("<I", 5))
        two = os.dup(fd); os.dup2(fd, 200); three = os.dup(200)
        elem(2, two, kp, vp)
        os.close(fd); os.close(two); os.close(200)
        o, op = buf(b"", 4); a = elem(1, three, kp, op); b = elem(1, fd, kp, op)
        mapped = any("bpf-map" in l for l in open("/proc/self/maps"))
        os.close(three)
        after = any("bpf-map" in l for l in open("/proc/self/maps"))
        print(json.dumps([a, struct.unpack("<I", o.raw)[0], b, mapped, after,
                          len(requests("fd_info"))]))
    """)
    assert got == [0, 5, -9, True, False, 0]


def test_a_descriptor_replaced_behind_our_back_is_not_taken_for_the_old_one(
    client: Client,
) -> None:
    got = client("""
        fd = array_map(); k, kp = buf(bytes(4)); v, vp = buf(bytes(4))
        syscall(3, fd)                                   # close past libc
        n = os.open("/dev/null", 0)
        if n != fd: os.dup2(n, fd)
        print(json.dumps(elem(1, fd, kp, vp)))
    """)
    assert got == -22


def test_a_descriptor_that_came_by_another_way_is_asked_about_once(client: Client) -> None:
    got = client("""
        fd = array_map(); k, kp = buf(bytes(4)); v, vp = buf(bytes(4))
        a, b = socket.socketpair()
        socket.send_fds(a, [b"x"], [fd]); other = socket.recv_fds(b, 1, 1)[1][0]
        r = [elem(1, other, kp, vp) for _ in range(3)]
        print(json.dumps([r, len(requests("fd_info"))]))
    """)
    assert got == [[0, 0, 0], 1]


def test_closing_a_link_waits_for_its_end(client: Client) -> None:
    got = client("""
        link = bpf(28, bytes(48)); twin = os.dup(link)
        name = os.readlink(f"/proc/self/fd/{link}")
        os.close(link); a = status()["closed"]; os.close(twin); b = requests("flush")[-1]["closed"]
        print(json.dumps([a, b, name]))
    """)
    assert got == [0, 1, "anon_inode:bpf-link"]


def test_closing_everything_leaves_the_connection(client: Client) -> None:
    got = client("""
        array_map()
        os.closerange(3, 70000); libc.closefrom(3)
        libc.close_range(ctypes.c_uint(3), ctypes.c_uint(2**32 - 1), 0)
        high = [int(n) for n in os.listdir("/proc/self/fd") if int(n) > 9]
        ok = array_map()
        for n in high:
            try: os.close(n)
            except OSError as e: assert e.errno == 9
            os.dup2(0, n)
        print(json.dumps([ok >= 3, array_map() >= 3, len(requests("hello"))]))
    """)
    assert got == [True, True, 1]


def test_a_connection_closed_by_a_raw_call_is_made_again(client: Client) -> None:
    got = client("""
        keep = array_map()
        syscall(436, 900, 2000, 0)
        print(json.dumps([array_map() >= 3, len(requests("hello"))]))
    """)
    assert got == [True, 2]


def test_a_vfork_child_that_closes_everything_does_not_disturb_its_parent(client: Client) -> None:
    got = client("""
        import subprocess
        link = bpf(28, bytes(48)); fd = array_map(); k, kp = buf(bytes(4)); v, vp = buf(bytes(4))
        out = subprocess.run(["/bin/ls", "/proc/self/fd"], capture_output=True, close_fds=True)
        n = len(out.stdout.split())
        print(json.dumps([n <= 4, elem(1, fd, kp, vp), status()["closed"],
        len(requests("hello"))]))
    """)
    assert got == [True, 0, 0, 1]
