"""What the Python API does, checked from inside a process of an unprivileged user under the guard.

Run as a program with the object and a victim's path: prints a JSON object, a check's name to ""
or what went wrong. test_live.py has a test for each of them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from libbpf_shim import Map, Object, Program, Queue, Session, ShimError


class NotThereError(Exception):
    """Something that the backend does not do yet."""


CHECKS: dict[str, Callable[[Object, str], None]] = {}
LIMIT_MS = 20_000
NOT_THERE = "not there: "


def check(function: Callable[[Object, str], None]) -> Callable[[Object, str], None]:
    CHECKS[function.__name__] = function
    return function


def errno_of(call: Callable[[], object]) -> int:
    """Of the ShimError that a call raises; 0: none."""
    try:
        call()
    except ShimError as error:
        return error.errno
    return 0


def raises(kind: type[BaseException], call: Callable[[], object]) -> bool:
    try:
        call()
    except kind:
        return True
    return False


@check
def keys_and_values_are_typed_by_btf(loaded: Object, victim: str) -> None:
    counts = loaded.maps["counts"]
    counts[1, "abc"] = {"count": 7, "last": -3, "low": 5, "high": 17, "word": 0x41424344}
    value = counts[{"pid": 1, "comm": b"abc"}]
    assert (value.count, value.last, value["low"], value.high) == (7, -3, 5, 17), value
    assert value.bytes == b"DCBA" and value.word == 0x41424344
    value.last, value.high = 9, 31
    counts[1, "abc"] = value
    assert counts[1, b"abc"].last == 9 and counts[1, b"abc"].high == 31
    assert {k.pid: (k.comm, v.count) for k, v in counts.items()} == {1: (b"abc", 7)}
    assert raises(OverflowError, lambda: counts.put((1 << 32, "x"), value))
    assert raises(ValueError, lambda: counts.put((1, "x" * 17), value))
    assert raises(ValueError, lambda: counts.put((1, "x"), {"nosuch": 1}))
    counts.clear()


@check
def a_map_is_a_mapping(loaded: Object, victim: str) -> None:
    plain = loaded.maps["plain"]
    plain[1], plain[-2] = 10, -20
    assert plain[-2] == -20 and len(plain) == 2 and 1 in plain and 3 not in plain
    assert "no number" not in plain and dict(plain) == {1: 10, -2: -20}
    assert sorted(plain) == [-2, 1] and sorted(plain.values()) == [-20, 10]
    assert plain.get(5) is None and raises(KeyError, lambda: plain[5])
    assert raises(KeyError, lambda: plain.__delitem__(5))
    assert plain.pop(1) == 10 and plain.pop(1, "gone") == "gone"
    plain.clear()
    assert len(plain) == 0 and not list(plain.items())


@check
def errnos_are_the_kernels(loaded: Object, victim: str) -> None:
    plain, words = loaded.maps["plain"], loaded.maps["words"]
    plain.insert(1, 1)
    assert errno_of(lambda: plain.insert(1, 2)) == 17  # EEXIST
    assert raises(KeyError, lambda: plain.put(9, 1, 2))  # BPF_EXIST
    for key in range(2, 5):
        plain[key] = key
    assert errno_of(lambda: plain.put(5, 5)) == 7  # E2BIG
    assert errno_of(lambda: plain.put(1, 1, 99)) == 22
    assert errno_of(lambda: words.__delitem__(0)) == 22
    assert errno_of(lambda: words.put(4, 1)) == 7
    assert raises(KeyError, lambda: words[4])
    assert errno_of(lambda: words.pop(0)) == 524  # ENOTSUPP
    assert errno_of(lambda: plain.lookup(1, 4)) == 22  # F_LOCK: no lock in its values
    assert errno_of(lambda: plain.put(1, 1, 4)) == 22
    assert errno_of(lambda: plain.lookup(1, 1)) == 22
    assert raises(ValueError, lambda: plain.get_bytes(b"123"))
    assert errno_of(lambda: loaded.maps["outer"].pop(1)) == 524
    plain.clear()


@check
def many_elements_come_in_batches_each_once(loaded: Object, victim: str) -> None:
    many = loaded.maps["many"]
    for key in range(4000):
        many[key] = key * key
    assert dict(many) == {key: key * key for key in range(4000)}
    for key in many:
        del many[key]
    assert len(many) == 0


@check
def an_array_has_all_its_elements(loaded: Object, victim: str) -> None:
    words = loaded.maps["words"]
    words[2] = 1 << 63
    assert dict(words) == {0: 0, 1: 0, 2: 1 << 63, 3: 0}
    words[2] = 0


@check
def percpu_values_are_lists(loaded: Object, victim: str) -> None:
    percpu, cpus = loaded.maps["percpu"], loaded.maps["percpu"].session.nr_cpus
    percpu[3] = list(range(cpus))
    assert percpu[3] == list(range(cpus)) and percpu[0] == [0] * cpus
    assert raises(ValueError, lambda: percpu.put(3, [1]))


@check
def what_has_no_type_is_bytes(loaded: Object, victim: str) -> None:
    untyped = loaded.maps["untyped"]
    untyped[b"abc"] = b"12345"
    assert dict(untyped) == {b"abc": b"12345"}
    assert raises(ValueError, lambda: untyped.put(b"ab", b"12345"))
    untyped.clear()


@check
def queues_stacks_and_filters_have_no_keys(loaded: Object, victim: str) -> None:
    queue, stack, bloom = (loaded.maps[n] for n in ("queue", "stack", "bloom"))
    assert all(isinstance(m, Queue) for m in (queue, stack, bloom))
    for value in (4, 5, 6):
        queue.push(value)
        stack.push(value)
    assert errno_of(lambda: queue.push(7)) == 7
    queue.push(7, 2)  # BPF_EXIST: the oldest goes
    assert (queue.peek(), queue.pop(), queue.pop(), queue.pop()) == (5, 5, 6, 7)
    assert (stack.peek(), stack.pop(), stack.pop(), stack.pop()) == (6, 6, 5, 4)
    assert raises(IndexError, queue.pop) and raises(IndexError, stack.peek)
    bloom.push(17)
    assert 17 in bloom and sum(n in bloom for n in range(100, 150)) < 25


@check
def a_trie_finds_the_longest_prefix(loaded: Object, victim: str) -> None:
    trie = loaded.maps["trie"]
    trie[8, [10, 0, 0, 0]] = 1
    trie[16, [10, 7, 0, 0]] = 2
    assert trie[32, [10, 7, 1, 1]] == 2 and trie[32, [10, 8, 1, 1]] == 1
    assert raises(KeyError, lambda: trie[32, [11, 0, 0, 0]])
    assert len(trie) == 2


@check
def maps_of_maps_hold_maps(loaded: Object, victim: str) -> None:
    outer = loaded.maps["outer"]
    assert outer[1] == loaded.maps["one"].id and 0 not in outer
    outer[2] = loaded.maps["two"]
    assert outer[2] == loaded.maps["two"].id
    with Map.from_id(outer[2]) as found:
        found[3] = 5
    assert loaded.maps["two"][3] == 5
    del outer[2]
    assert 2 not in outer


@check
def variables_are_there_before_and_after_load(loaded: Object, victim: str) -> None:
    assert (loaded.vars["limit"], loaded.vars["label"]) == (5, b"mine")
    assert errno_of(lambda: loaded.vars.__setitem__("limit", 6)) == 1  # EPERM: a constant
    assert loaded.vars["last"] == [7, 8]
    loaded.vars["last"] = [1, -1]
    assert loaded.vars["last"] == [1, -1] and loaded.vars["hits"] == 0
    assert errno_of(lambda: Object(loaded.spec).maps["plain"]) == 9


@check
def a_uprobe_reaches_maps_and_both_kinds_of_rings(loaded: Object, victim: str) -> None:
    ring = loaded.ring("ring", "event")
    with loaded.perf("events", "event", pages=8) as perf:
        assert ring.poll(0) == [] and perf.poll(0) == []
        with loaded.programs["hit"].attach_uprobe(victim, "work") as link:
            assert link.id > 0
            pid = run(victim, 10)
        first = ring.poll(LIMIT_MS)
        assert [(e.pid, e.number, e.comm) for e in first] == [
            (pid, n, b"victim") for n in range(1, 6)], first
        events = perf.poll(LIMIT_MS)
        assert [e.data.number for e in sorted(events, key=lambda e: e.data.number)] == [
            1, 2, 3, 4, 5]
        assert perf.lost == 0 and ring.poll(0) == []
    (key, value), = loaded.maps["counts"].items()
    assert (key.pid, value.count, value.last) == (pid, 10, -1)
    assert loaded.vars["hits"] == 10 and loaded.vars["last"] == [9, 10]
    assert sum(loaded.maps["percpu"][1]) == 10
    run(victim, 3)
    assert loaded.vars["hits"] == 10, "detached"


@check
def a_reader_takes_no_other_map(loaded: Object, victim: str) -> None:
    """Its memory is no ring: positions would be written into it, or a descriptor."""
    before = dict(loaded.maps["plain"].items())
    for name in ("plain", "events"):
        assert errno_of(partial(loaded.ring, name)) == 22
    for name in ("plain", "ring"):
        assert errno_of(partial(loaded.perf, name)) == 22
    assert dict(loaded.maps["plain"].items()) == before


@check
def a_reader_sleeps_until_a_record_comes(loaded: Object, victim: str) -> None:
    loaded.vars["hits"] = 0
    ring = loaded.ring("ring")
    with loaded.programs["hit"].attach_uprobe(victim, "work"):
        later = threading.Timer(0.2, lambda: run(victim, 1))
        start, used = time.monotonic(), time.thread_time()
        later.start()
        found = ring.poll(LIMIT_MS)
        assert len(found) == 1 and len(found[0]) == 24, found
        assert time.thread_time() - used < 0.1 < time.monotonic() - start
        later.join()


@check
def a_uretprobe_sees_the_result(loaded: Object, victim: str) -> None:
    with loaded.programs["done"].attach_uretprobe(victim, "work"):
        run(victim, 5)
    assert loaded.vars["last"][0] == 4 * 5 + 1


@check
def a_program_calls_another_through_a_prog_array(loaded: Object, victim: str) -> None:
    other = Object.open(sys.argv[1])
    for program in other.programs.values():
        program.autoload = program.name in ("jump", "tail")
    try:
        other.load()
    except ShimError as error:
        if error.errno == 95:  # EOPNOTSUPP: tail calls are not compiled
            raise NotThereError(error.message) from error
        raise
    with other, other.programs["jump"].attach_uprobe(victim, "work"):
        run(victim, 4)
        assert other.vars["tails"] == 4
        del other.maps["jumps"][1]
        run(victim, 4)
        assert other.vars["tails"] == 4
        other.maps["jumps"][1] = other.programs["tail"]
        run(victim, 4)
        assert other.vars["tails"] == 8


@check
def a_usdt_probe_gives_its_arguments(loaded: Object, victim: str) -> None:
    with Object.open(str(Path(sys.argv[1]).with_name("usdt.bpf.o"))) as other:
        other.load()
        program = other.programs["on_told"]
        with program.attach_usdt(victim, "victim", "told", cookie=77):
            run(victim, 6)
        assert other.vars["args"] == [-5, 10, -3, -7, 4], other.vars["args"]
        assert (other.vars["hits"], other.vars["cookie"]) == (6, 77)
        run(victim, 2)
        assert other.vars["hits"] == 6
        assert errno_of(lambda: program.attach_usdt(victim, "victim", "nosuch")) == 2
        assert errno_of(program.attach) == 22, "its section names no probe"
    assert errno_of(lambda: loaded.programs["hit"].attach_usdt(victim, "victim", "told")) == 22


@check
def a_stack_is_a_list_of_addresses(loaded: Object, victim: str) -> None:
    with loaded.programs["trace"].attach_uprobe(victim, "work"):
        run(victim, 1)
    stack = loaded.maps["stacks"][loaded.vars["last"][1]]
    assert len(stack) >= 1 and all(address > 0x1000 for address in stack), stack


@check
def a_test_run_answers(loaded: Object, victim: str) -> None:
    program = loaded.programs["sum"]
    context = (5).to_bytes(8, "little") + (6).to_bytes(8, "little")
    assert program.test_run(ctx=context).retval == 17
    assert errno_of(lambda: program.test_run(ctx=b"12345678")) == 22
    info = program.info()
    assert info["name"] == b"sum" and info["type"] == 17 and program.id == info["id"]


@check
def a_timer_ticks(loaded: Object, victim: str) -> None:
    tick = loaded.programs["tick"]
    assert errno_of(tick.attach_timer) == 22
    with tick.attach_timer(period_ns=2_000_000):
        end = time.monotonic() + 20
        while loaded.vars["ticks"] < 5 and time.monotonic() < end:
            time.sleep(0.01)
    assert loaded.vars["ticks"] >= 5


@check
def pins_outlive_their_handles(loaded: Object, victim: str) -> None:
    path = "/sys/fs/bpf/folder/plain"
    loaded.maps["plain"][3] = 33
    loaded.maps["plain"].pin(path)
    assert errno_of(lambda: loaded.maps["plain"].pin(path)) == 17
    with Map.from_pin(path) as found:
        assert dict(found) == {3: 33} and found.id == loaded.maps["plain"].id
    loaded.programs["sum"].pin("/sys/fs/bpf/sum")
    with Program.from_pin("/sys/fs/bpf/sum") as program:
        assert program.name == "sum" and program.id == loaded.programs["sum"].id
    from libbpf_shim.client.handle import unpin

    for name in (path, "/sys/fs/bpf/sum"):
        unpin(name)
        assert errno_of(lambda name=name: Map.from_pin(name)) == 2  # type: ignore[misc]
    loaded.maps["plain"].clear()


@check
def a_map_that_is_pinned_by_name_is_used_again(loaded: Object, victim: str) -> None:
    from libbpf_shim.client.handle import unpin

    def alone() -> Object:
        other = Object.open(sys.argv[1])
        for program in other.programs.values():
            program.autoload = False
        other.specs["plain"].pinning = 1  # LIBBPF_PIN_BY_NAME
        return other

    with alone().load() as first:
        first.maps["plain"][7] = 70
    with alone().load() as second:
        assert dict(second.maps["plain"]) == {7: 70}
    third = alone()
    third.specs["plain"].max_entries = 5
    assert errno_of(third.load) == 22 and not third.loaded
    unpin("/sys/fs/bpf/plain")
    with alone().load() as fourth:
        assert not len(fourth.maps["plain"])
    unpin("/sys/fs/bpf/plain")


@check
def what_a_perf_event_link_lacks_is_refused_as_by_the_kernel(
    loaded: Object, victim: str
) -> None:
    with loaded.programs["hit"].attach_uprobe(victim, "work") as link:
        assert errno_of(link.detach) == 95  # EOPNOTSUPP
    assert link.closed and errno_of(link.info) == 9
    hit = loaded.programs["hit"]
    assert errno_of(hit.attach) == 22, "its section names no function"
    assert errno_of(lambda: hit.attach_uprobe(victim, "no_such_function")) == 2
    assert errno_of(lambda: hit.attach_uprobe("/no/such/file", "work")) == 2
    assert errno_of(lambda: hit.attach_tracepoint("no", "such_tracepoint")) == 2


@check
def a_frozen_map_is_not_written(loaded: Object, victim: str) -> None:
    with Object.open(sys.argv[1]) as other:
        for program in other.programs.values():
            program.autoload = False
        other.specs["many"].max_entries = 7
        other.load()
        many = other.maps["many"]
        assert many.max_entries == 7 and not many.frozen
        many[1] = 2
        many.freeze()
        assert many.frozen and many[1] == 2 and errno_of(lambda: many.put(1, 3)) == 1


@check
def a_map_that_is_not_made_may_not_be_reached(loaded: Object, victim: str) -> None:
    with Object.open(sys.argv[1]) as other:
        for program in other.programs.values():
            program.autoload = program.name == "sum"
        other.specs["ring"].autocreate = False
        other.load()
        assert "ring" not in other.maps and "plain" in other.maps
    other = Object.open(sys.argv[1])
    other.specs["ring"].autocreate = False
    assert errno_of(other.load) == 22, "a program reaches it"


@check
def a_private_session_is_nobody_elses(loaded: Object, victim: str) -> None:
    session = Session(private=True)
    assert session.id != Session.default().id
    with Object.open(sys.argv[1], session=session) as other:
        other.load()
        assert loaded.maps["plain"].session.id != other.maps["plain"].session.id
        assert errno_of(lambda: other.programs["sum"].test_run(ctx=bytes(16))) == 95
        other.maps["plain"][1] = 2
        os.kill(session.ctl.backend_pid, 9)
        assert errno_of(lambda: other.maps["plain"].id) == 5 and not session.alive  # EIO
        assert other.maps["plain"][1] == 2, "the memory is still there"


@check
def a_refused_program_says_why(loaded: Object, victim: str) -> None:
    other = Object.open(sys.argv[1])
    for program in other.programs.values():
        program.autoload = program.name == "refused"
    try:
        other.load()
    except ShimError as error:
        assert error.errno == 13, error
        assert "invalid mem access" in getattr(error, "log", ""), error
    else:
        raise AssertionError("it is loaded")
    assert not other.loaded and other.programs["refused"].closed


@check
def threads_count_exactly(loaded: Object, victim: str) -> None:
    many = loaded.maps["many"]

    def work(number: int) -> None:
        for key in range(300):
            many[number * 1000 + key] = key
            assert many[number * 1000 + key] == key

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(many) == 1200
    many.clear()


@check
def a_fork_child_shares_the_maps(loaded: Object, victim: str) -> None:
    plain = loaded.maps["plain"]
    child = os.fork()
    if not child:
        plain[1] = 5
        os._exit(0 if not loaded.programs["hit"].session.alive and Session.default().alive else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert plain[1] == 5 and plain.session.alive
    plain.clear()


@check
def the_kernels_bpf_is_never_called(loaded: Object, victim: str) -> None:
    """The guard answers EPERM to it, and everything above worked."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.syscall(321, 0, bytes(128), 128) == -1 and ctypes.get_errno() == 1


def run(victim: str, count: int) -> int:
    """The victim, with an agent in it; its pid."""
    import libbpf_shim

    library = Path(libbpf_shim.__path__[0]) / "_lib" / "libbpf_shim.so"
    child = subprocess.Popen([victim, str(count)], env={**os.environ, "LD_PRELOAD": str(library)},
                             stdout=subprocess.DEVNULL)
    assert child.wait(60) == 0
    return child.pid


def main() -> None:
    results: dict[str, Any] = {}
    with Object.open(sys.argv[1]) as loaded:
        loaded.vars["limit"], loaded.vars["label"] = 5, "mine"
        loaded.load()
        for name, function in CHECKS.items():
            try:
                function(loaded, sys.argv[2])
                results[name] = ""
            except NotThereError as error:
                results[name] = f"{NOT_THERE}{error}"
            except Exception:
                results[name] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main()
