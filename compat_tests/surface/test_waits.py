"""epoll, poll and select on rings: readiness as the kernel has it, without polling loops."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Client = Callable[..., Any]


def test_epoll_reports_a_perf_ring_once_for_each_news(client: Client) -> None:
    got = client("""
        fd = perf_open(); at = ring(fd); ep = select.epoll(); ep.register(fd, select.EPOLLIN)
        a = ep.poll(0); move_head(at, 8); b = ep.poll(0); c = ep.poll(0)
        move_head(at, 16); d = ep.poll(0.5); e = ep.poll(0.01)
        print(json.dumps([a, b == [(fd, 1)], c, d == [(fd, 1)], e]))
    """)
    assert got == [[], True, [], True, []]


def test_a_sleeping_epoll_is_woken_by_a_producer(client: Client) -> None:
    got = client("""
        fd = perf_open(); at = ring(fd); ep = select.epoll(); ep.register(fd, select.EPOLLIN)
        pid = os.fork()
        if not pid:
            ctl = ctl_address()
            while not ctypes.c_uint32.from_address(ctl + OFF_WAITERS).value: os.sched_yield()
            produce(at, 64); os._exit(0)
        t = time.monotonic(); got = ep.poll(20); t = time.monotonic() - t
        os.waitpid(pid, 0)
        print(json.dumps([got == [(fd, 1)], t < 5]))
    """)
    assert got == [True, True]


def test_poll_and_select_consume_what_they_report(client: Client) -> None:
    got = client("""
        fd = perf_open(); at = ring(fd); p = select.poll(); p.register(fd, select.POLLIN)
        r, w = os.pipe(); p.register(r, select.POLLIN)
        out = [p.poll(0)]
        move_head(at, 8); out.append(p.poll(1000)); out.append(p.poll(0))
        move_head(at, 16); os.write(w, b"x"); out.append(sorted(p.poll(-1))); out.append(p.poll(0))
        move_head(at, 24); out.append(select.select([fd, r], [], [], 1)[0])
        out.append(select.select([fd], [], [], 0.01)[0])
        want = [[], [(fd, 1)], [], sorted([(fd, 1), (r, 1)]), [(r, 1)], [fd, r], []]
        print(json.dumps([out == want, repr((out, want))]))
    """)
    assert got[0], got[1]


def test_a_sleeping_poll_is_woken_by_a_producer(client: Client) -> None:
    got = client("""
        fd = perf_open(); at = ring(fd); p = select.poll(); p.register(fd, select.POLLIN)
        pid = os.fork()
        if not pid:
            ctl = ctl_address()
            while not ctypes.c_uint32.from_address(ctl + OFF_WAITERS).value: os.sched_yield()
            produce(at, 64); os._exit(0)
        got = p.poll(20000); os.waitpid(pid, 0)
        print(json.dumps(got == [(fd, 1)]))
    """)
    assert got is True


def test_a_bpf_ring_buffer_is_ready_while_it_has_data(client: Client) -> None:
    got = client("""
        fd = array_map(entries=4096, value=0, type=27, key=0)
        at = mmap.mmap(fd, 4096)
        ep = select.epoll(); ep.register(fd, select.EPOLLIN)
        a = ep.poll(0)
        os.pwrite(fd, struct.pack("<I", 8), 8192); os.pwrite(fd, struct.pack("<Q", 16), 4096)
        b, c = ep.poll(1), ep.poll(1)
        p = select.poll(); p.register(fd, select.POLLIN); d = p.poll(1000), p.poll(1000)
        at[0:8] = struct.pack("<Q", 16)
        e, f = ep.poll(0), p.poll(0)
        print(json.dumps([a, b == c == [(fd, 1)], d[0] == d[1] == [(fd, 1)], f]))
    """)
    assert got == [[], True, True, []]


def test_a_ring_closed_leaves_the_set_and_the_rest_goes_on(client: Client) -> None:
    got = client("""
        one, two = perf_open(cpu=0), perf_open(cpu=1)
        a, b = ring(one), ring(two)
        ep = select.epoll(); ep.register(one, select.EPOLLIN); ep.register(two, select.EPOLLIN)
        os.close(one); move_head(a, 8); move_head(b, 8)
        x = ep.poll(0)
        ep.unregister(two); move_head(b, 16)
        print(json.dumps([x == [(two, 1)], ep.poll(0)]))
    """)
    assert got == [True, []]


def test_other_descriptors_wait_as_before(client: Client) -> None:
    got = client("""
        fd = perf_open(); ring(fd); ep = select.epoll(); ep.register(fd, select.EPOLLIN)
        r, w = os.pipe(); ep.register(r, select.EPOLLIN)
        t = time.monotonic(); a = ep.poll(0.05); t = time.monotonic() - t
        os.write(w, b"x"); b = ep.poll(1); c = ep.poll(1)
        signal.signal(signal.SIGALRM, lambda *_: 1 / 0); signal.setitimer(signal.ITIMER_REAL, 0.05)
        try: ep.poll(10); d = False
        except ZeroDivisionError: d = True
        os.read(r, 1)
        try: ep.poll(10) if False else None
        finally: pass
        print(json.dumps([a, 0.04 < t < 5, b == c == [(r, 1)]]))
    """)
    assert got == [[], True, True]


def test_of_two_rings_the_one_with_the_older_news_is_told_first(client: Client) -> None:
    """The kernel wakes in the order of the records. `since`: csrc/runtime/perf_ring.c."""
    got = client("""
        fds = [perf_open(cpu=0), perf_open(cpu=1)]; at = [ring(fd) for fd in fds]
        ep = select.epoll()
        for fd in fds: ep.register(fd, select.EPOLLIN)
        def news(which, head, since):
            ctypes.c_uint32.from_address(at[which] + 536).value = since
            move_head(at[which], head)
        out = []
        for head, first in enumerate([0, 1, 1, 0], 1):
            news(first, head * 8, 0x100000000 - 9 & 0xffffffff)
            news(1 - first, head * 8, 0x100000000 - 8 & 0xffffffff)
            out.append([fd for fd, _ in ep.poll(1)] == [fds[first], fds[1 - first]])
        print(json.dumps(out))
    """)
    assert got == [True] * 4


def test_a_set_in_a_set_is_quiet_once_its_ring_has_been_emptied(client: Client) -> None:
    """As an event loop has ring_buffer__epoll_fd() and answers by ring_buffer__consume(), which
    waits for nothing: the inner set is asked by none but the outer one."""
    got = client("""
        buffer = array_map(entries=4096, value=0, type=27, key=0); at = mmap.mmap(buffer, 4096)
        perf = perf_open(); page = ring(perf)
        def bring(n):
            os.pwrite(buffer, struct.pack("<I", 8), 8192)
            os.pwrite(buffer, struct.pack("<Q", 16 * n), 4096); move_head(page, 16 * n)
        def take(n):
            at[0:8] = struct.pack("<Q", 16 * n)
            ctypes.c_uint64.from_address(page + 1032).value = 16 * n
        sets = []
        for fd in buffer, perf:
            sets.append(select.epoll()); sets[-1].register(fd, select.EPOLLIN)
        outer = select.epoll(); p = select.poll()
        for inner in sets: outer.register(inner, select.EPOLLIN); p.register(inner, select.POLLIN)
        ways = [lambda: len(outer.poll(0)), lambda: len(p.poll(0)),
                lambda: len(select.select(sets, [], [], 0)[0])]
        out = []
        for n in 1, 2:
            bring(n); out.append([way() for way in ways])
            take(n); out.append([way() for way in ways])
        print(json.dumps(out))
    """)
    assert got == [[2, 2, 2], [0, 0, 0]] * 2


def test_a_sleep_on_a_set_of_rings_is_ended_by_a_producer(client: Client) -> None:
    got = client("""
        fd = perf_open(); at = ring(fd); ep = select.epoll(); ep.register(fd, select.EPOLLIN)
        outer = select.epoll(); outer.register(ep, select.EPOLLIN)
        p = select.poll(); p.register(ep, select.POLLIN)
        ways = [lambda: outer.poll(20) == [(ep.fileno(), select.EPOLLIN)],
                lambda: p.poll(20000) == [(ep.fileno(), select.POLLIN)],
                lambda: select.select([ep], [], [], 20)[0] == [ep]]
        ctl, out = ctl_address(), []
        for n, way in enumerate(ways, 1):
            pid = os.fork()
            if not pid:
                while not ctypes.c_uint32.from_address(ctl + OFF_WAITERS).value: os.sched_yield()
                produce(at, 64 * n); os._exit(0)
            t = time.monotonic(); out += [way(), time.monotonic() - t < 5]
            os.waitpid(pid, 0); ep.poll(0)
        print(json.dumps(out))
    """)
    assert got == [True] * 6


def test_select_tells_what_is_left_of_its_time(client: Client) -> None:
    got = client("""
        fd = perf_open(); at = ring(fd); ep = select.epoll(); ep.register(fd, select.EPOLLIN)
        move_head(at, 8); number = ep.fileno()
        sets, _ = buf((1 << number).to_bytes(128, "little")); t = (ctypes.c_long * 2)(9, 5)
        n = libc.select(number + 1, sets, None, None, t); first = t[0] * 1000000 + t[1]
        ep.poll(0); t[0], t[1] = 0, 20000
        m = libc.select(number + 1, sets, None, None, t)
        t[0] = -1; bad = libc.select(number + 1, sets, None, None, t), ctypes.get_errno()
        print(json.dumps([n, 4000000 < first <= 9000005, m, t[1], bad]))
    """)
    assert got == [1, True, 0, 0, [-1, 22]]
