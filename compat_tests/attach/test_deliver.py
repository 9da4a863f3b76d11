"""Delivery: exact counts in real processes, whichever way a conversation begins, and the original
bytes afterwards."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from libbpf_shim._native import lib

from compat_tests.attach.host import HEADER, LIBRARY, Counter, Host, Victim, eventually, serve
from compat_tests.attach.test_quiet import stop
from compat_tests.victims import build
from libbpf_shim.attach.attachment import Code
from libbpf_shim.attach.keeper import Keeper
from libbpf_shim.elf.process import read_maps
from libbpf_shim.errors import ShimError

Start = Callable[..., Victim]

ONE, SEVERAL = "one", "several"  # windows of one instruction, and of three


@contextlib.contextmanager
def session(runtime_dir: Path, number: int) -> Iterator[Host]:
    made = Host(runtime_dir, number)
    try:
        yield made
    finally:
        made.end()
        made.close()


def _more_than(number: int, counter: Counter) -> None:
    """Hits of threads that go on."""
    eventually(lambda: counter.word(0) > number)


def test_what_is_done_in_processes_is_there_before_one_waits_for_it(
    host: Host, program: Path
) -> None:
    delivery = host.delivery
    assert "visits" not in vars(delivery) and "_placing" not in vars(delivery)
    host.attach(program, ONE)
    delivery.tidy()
    assert "visits" not in vars(delivery)  # the loader may go on at once
    assert delivery.due is not None and delivery.due - time.monotonic() < 0.1

    def loaded() -> bool:
        delivery.tidy()
        return {"visits", "_placing"} <= vars(delivery).keys()

    eventually(loaded)


# how a conversation begins


def test_a_process_that_starts_is_attached_before_main(
    host: Host, start: Start, program: Path
) -> None:
    counters = [host.attach(program, symbol, cookie=7)[1] for symbol in (ONE, SEVERAL)]
    start(host).run(100)
    assert [(c.hits, c.cookie) for c in counters] == [(100, 7), (100, 7)]
    assert host.notices == []


@pytest.mark.parametrize("symbol", [ONE, SEVERAL])
def test_a_running_process_is_attached_and_detached(
    host: Host, start: Start, program: Path, symbol: str
) -> None:
    victim = start(host)
    before = victim.say(f"bytes {symbol}")
    victim.run(10)
    att, counter = host.attach(program, symbol)
    assert victim.say(f"bytes {symbol}") != before
    victim.run(1000)
    assert counter.hits == 1000
    host.detach(att)
    assert victim.say(f"bytes {symbol}") == before
    victim.run(10)
    assert (counter.hits, host.notices, host.delivery.attachments) == (1000, [], [])


def test_running_threads_are_attached_and_detached_again_and_again(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)
    before = victim.say("bytes several")
    victim.say("threads 4")
    for _ in range(5):
        att, counter = host.attach(program, SEVERAL)
        _more_than(1000, counter)
        host.detach(att)
    victim.say("stop")
    assert victim.say("bytes several") == before
    assert host.notices == []


def test_threads_at_start_are_left_to_the_keeper(
    host: Host, start: Start, program: Path, tmp_path: Path
) -> None:
    source = tmp_path / "early.c"
    source.write_text(
        "#include <pthread.h>\n#include <unistd.h>\n"
        "static void *wait(void *unused) { pause(); return unused; }\n"
        "__attribute__((constructor)) static void early(void)\n"
        "{ pthread_t t; pthread_create(&t, 0, wait, 0); }\n"
    )
    early = build.make("libearly.so", [source], [*build.VICTIM_FLAGS, "-shared", "-fPIC"])
    _, counter = host.attach(program, SEVERAL)
    victim = start(host, preload=f"{LIBRARY}:{early}")
    assert len(os.listdir(f"/proc/{victim.pid}/task")) == 2  # or the test shows nothing
    victim.run(50)
    assert (counter.hits, host.notices) == (50, [])


def test_a_library_that_is_opened_later_is_attached_each_time(
    host: Host, start: Start, program: Path
) -> None:
    library = program.parent / "libplug.so"
    victim = start(host)
    _, counter = host.attach(library, "plug_work", pid=victim.pid)
    for times in (1, 2, 3):
        victim.tell(f"open {library}")
        serve(host, reason=lib.SHIM_SYNC_DLOPEN)
        assert victim.answer() == "opened"
        victim.run(20)
        assert counter.hits == 20 * times
        victim.tell("close")
        serve(host, reason=lib.SHIM_SYNC_DLOPEN)
        assert victim.answer() == "closed"
    assert host.notices == []


def test_a_library_that_is_opened_beside_threads_is_attached(
    host: Host, start: Start, program: Path
) -> None:
    library = program.parent / "libplug.so"
    victim = start(host)
    _, counter = host.attach(library, "plug_work", pid=victim.pid)
    victim.say("threads 2")
    victim.tell(f"open {library}")
    serve(host, reason=lib.SHIM_SYNC_DLOPEN)
    assert victim.answer() == "opened"
    victim.run(20)
    victim.say("stop")
    assert (counter.hits, host.notices) == (20, [])


def test_a_fork_child_has_what_its_parent_had_and_can_be_attached_itself(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)
    before = {s: victim.say(f"bytes {s}") for s in (ONE, SEVERAL)}
    first, inherited = host.attach(program, ONE)
    victim.run(5)
    assert victim.say("fork").startswith("child ")
    victim.run(7, prefix="@ ")
    assert inherited.hits == 12
    # parent and child: each is told of the new one
    second, both = host.attach(program, SEVERAL)
    victim.run(3)
    victim.run(4, prefix="@ ")
    assert (inherited.hits, both.hits) == (19, 7)
    host.detach(first)
    host.detach(second)
    for prefix in ("", "@ "):
        assert {s: victim.say(f"{prefix}bytes {s}") for s in before} == before
    victim.run(1, prefix="@ ")
    assert (inherited.hits, both.hits, host.notices) == (19, 7, [])


# where ptrace is refused


def _refusing() -> Keeper:
    raise ShimError("TT0001", errno.EPERM, "keeper: ptrace is refused")


def test_without_ptrace_one_instruction_is_replaced_and_several_are_refused(
    host: Host, start: Start, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.delivery.talks, "keeper", _refusing)
    victim = start(host, no_ptrace=True)
    before = {s: victim.say(f"bytes {s}") for s in (ONE, SEVERAL)}
    victim.say("threads 2")
    att, counter = host.attach(program, ONE, pid=victim.pid)
    with pytest.raises(ShimError, match="several instructions.*ptrace is refused") as refused:
        host.attach(program, SEVERAL, pid=victim.pid)
    assert refused.value.errno == errno.EOPNOTSUPP
    _more_than(1000, counter)
    victim.say("stop")
    assert victim.say("bytes several") == before[SEVERAL]
    host.detach(att)
    assert {s: victim.say(f"bytes {s}") for s in before} == before


def test_without_ptrace_a_stopped_process_is_attached_to_when_it_goes_on(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host, no_ptrace=True)
    gone, before = host.attach(program, ONE)
    victim.run(1)
    stop(victim)
    with pytest.raises(ShimError, match="stopped, where ptrace is refused") as refused:
        host.attach(program, ONE, pid=victim.pid)
    assert refused.value.errno == errno.ETIMEDOUT
    att, counter = host.attach(program, ONE)
    host.detach(gone)
    assert "stopped, where ptrace is refused" in host.delivery.removal.inert[victim.pid]
    victim.process.send_signal(signal.SIGCONT)

    def come() -> bool:
        host.delivery.tidy()
        linked = {link for link, _ in host.delivery.talks.processes[victim.pid].linked}
        return victim.pid not in host.delivery.removal.inert and att.link_id in linked

    eventually(come)
    victim.run(3)
    assert (before.hits, counter.hits) == (1, 3)


def test_without_ptrace_and_without_mailbox_the_reason_is_said(
    host: Host, start: Start, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host.delivery.talks, "keeper", _refusing)
    victim = start(host)  # ptrace worked when it started, so it made no mailbox
    with pytest.raises(ShimError, match="ptrace is refused.*no mailbox") as refused:
        host.attach(program, ONE, pid=victim.pid)
    assert (refused.value.errno, host.delivery.attachments) == (errno.EOPNOTSUPP, [])


# several links, several sessions


def test_two_links_share_a_site_until_the_last_goes(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)
    before = victim.say("bytes several")
    first, a = host.attach(program, SEVERAL, cookie=1)
    patched = victim.say("bytes several")
    second, b = host.attach(program, SEVERAL, cookie=2)
    assert victim.say("bytes several") == patched != before
    victim.run(10)
    host.detach(first)
    assert victim.say("bytes several") == patched
    victim.run(10)
    host.detach(second)
    assert victim.say("bytes several") == before
    assert (a.hits, b.hits, a.cookie, b.cookie) == (10, 20, 1, 2)


def test_entry_and_return_are_both_counted(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    _, entered = host.attach(program, SEVERAL)
    _, returned = host.attach(program, SEVERAL, ret=True)
    victim.run(10)
    assert (entered.hits, returned.hits) == (10, 10)


def test_two_sessions_share_a_site_until_the_last_goes(
    host: Host, start: Start, program: Path, runtime_dir: Path
) -> None:
    with session(runtime_dir, 2) as other:
        victim = start(host, other)
        before = victim.say("bytes several")
        first, a = host.attach(program, SEVERAL)
        second, b = other.attach(program, SEVERAL)
        victim.run(10)
        host.detach(first)
        victim.run(10)
        assert (a.hits, b.hits) == (10, 20)
        other.detach(second)
        assert victim.say("bytes several") == before


def test_a_window_that_another_session_writes_in_between_is_not_written_twice(
    host: Host, start: Start, program: Path, runtime_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with session(runtime_dir, 2) as other:
        victim = start(host, other)
        counters = []
        keeper = host.keeper()
        finish = keeper.finish

        def busy_once(pid: int, windows: object) -> int:
            monkeypatch.setattr(keeper, "finish", finish)
            keeper.release(pid)
            counters.append(other.attach(program, SEVERAL)[1])
            raise ShimError("TT0002", errno.EAGAIN, "a thread will come back into the window")

        monkeypatch.setattr(keeper, "finish", busy_once)
        counters.append(host.attach(program, SEVERAL)[1])
        victim.run(10)
        assert [c.hits for c in counters] == [10, 10]
        assert host.notices == other.notices == []


@pytest.mark.parametrize("ended", [True, False], ids=["ended", "died"])
def test_more_sessions_than_an_agent_holds_at_a_time(
    start: Start, program: Path, runtime_dir: Path, host: Host, ended: bool
) -> None:
    victim = start(host)
    before = victim.say("bytes one")
    shared = host.keeper()  # one process instead of seventy
    for number in range(2, 72):
        one = Host(runtime_dir, number, shared)
        att, counter = one.attach(program, ONE)
        victim.run(2)
        assert (counter.hits, one.notices) == (2, [])
        if ended:
            one.end()
        else:  # its keeper restores the code
            one.control.say_dead()
            from libbpf_shim.attach.target import look

            target = look(victim.pid)
            assert target
            shared.detach(victim.pid, target.root, number, att.link_id)
        one.close()
    assert victim.say("bytes one") == before


def test_the_end_leaves_original_bytes_and_no_mapping(
    start: Start, program: Path, runtime_dir: Path
) -> None:
    with session(runtime_dir, 1) as host:
        victim = start(host)
        before = {s: victim.say(f"bytes {s}") for s in (ONE, SEVERAL)}
        for symbol in (ONE, SEVERAL):
            host.attach(program, symbol)
        victim.run(10)
        assert any("bpf-" in m.path for m in read_maps(victim.pid))
    assert {s: victim.say(f"bytes {s}") for s in before} == before
    assert not any("bpf-" in m.path for m in read_maps(victim.pid))
    victim.run(10)


# who is meant


def test_a_link_of_one_process_counts_only_there(host: Host, start: Start, program: Path) -> None:
    asked, other = start(host), start(host)
    _, counter = host.attach(program, ONE, pid=asked.pid)
    asked.run(10)
    other.run(100)
    asked.say("fork")
    asked.run(1000, prefix="@ ")
    assert counter.hits == 10


def test_a_process_that_cannot_be_had_is_refused_with_the_reason(
    host: Host, program: Path
) -> None:
    with pytest.raises(ShimError, match="no agent: ptrace is refused") as refused:
        host.attach(program, ONE, pid=2)  # a thread of the kernel's own
    assert (refused.value.errno, host.delivery.attachments) == (errno.EPERM, [])


def test_a_process_that_is_gone_is_esrch(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    victim.end()
    with pytest.raises(ShimError) as refused:
        host.attach(program, ONE, pid=victim.pid)
    assert refused.value.errno == errno.ESRCH


def test_a_process_that_dies_does_not_end_the_others(
    host: Host, start: Start, program: Path
) -> None:
    dying, staying = start(host), start(host)
    att, counter = host.attach(program, ONE)
    dying.run(1)
    dying.process.kill()
    dying.process.wait()
    staying.run(10)
    host.detach(att)
    _, again = host.attach(program, ONE)
    staying.run(5)
    assert (counter.hits, again.hits, host.notices) == (11, 5, [])


def test_what_is_no_place_for_a_program_is_refused(
    host: Host, program: Path, tmp_path: Path
) -> None:
    att, _ = host.attachment(program, ONE)
    assert isinstance(att.place, Code)
    there = att.place.offset
    text = tmp_path / "text"
    text.write_text("not a module")
    for path, offset, code in (
        (str(tmp_path / "none"), there, errno.ENOENT),
        (str(text), 0, errno.EINVAL),
        (str(program), 0, errno.EINVAL),  # the ELF header: not executable
        (str(program), there + 1, errno.EINVAL),  # inside an instruction
    ):
        att.place = Code(path, offset)
        with pytest.raises(ShimError) as refused:
            host.delivery.attach(att)
        assert refused.value.errno == code, path
    assert host.delivery.attachments == []


def test_a_file_that_was_replaced_is_another_one(host: Host, start: Start, program: Path) -> None:
    old = start(host)
    first, a = host.attach(program, ONE)
    copy = program.with_suffix(".new")
    shutil.copy(program, copy)
    copy.rename(program)
    new = start(host)  # still there to be served
    second, b = host.attach(program, ONE)
    old.run(10)
    new.run(20)
    assert (a.hits, b.hits) == (10, 20)
    for att in (first, second):
        host.detach(att)
    assert old.say("bytes one") == new.say("bytes one")


def test_a_file_that_was_removed_hurts_nobody(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    att, counter = host.attach(program, ONE)
    moved = program.with_suffix(".moved")
    shutil.copy(program, moved)
    program.unlink()
    moved.rename(program)
    start(host).run(3)
    victim.run(10)
    host.detach(att)
    victim.run(10)
    assert (counter.hits, host.notices) == (10, [])


# who else comes


def test_a_loader_that_comes_meanwhile_is_not_lost(
    host: Host, start: Start, program: Path
) -> None:
    victim = start(host)
    with socket.socket(socket.AF_UNIX) as loader:
        loader.connect(str(host.dir / "sock"))
        header = HEADER.pack(lib.SHIM_WIRE_MAGIC, lib.SHIM_OP_STATUS, 1, 3, 0, 0, 0)
        loader.sendall(header + b"abc")
        _, counter = host.attach(program, ONE)
        victim.run(10)
        assert counter.hits == 10
        # handed back, or not taken from the queue: that depends on who was faster
        if not host.parked:
            host.listener.settimeout(1)
            host.parked.append(host.listener.accept()[0])
        assert len(host.parked) == 1
        with host.parked.pop() as sock:
            assert sock.recv(64) == header + b"abc"


def test_the_status_names_processes_and_sites(host: Host, start: Start, program: Path) -> None:
    victim = start(host)
    att, _ = host.attach(program, SEVERAL)
    (row,) = host.delivery.processes()
    assert row["pid"] == victim.pid
    sites = row["sites"]
    assert isinstance(sites, list)
    assert [(s["where"], s["tactic"]) for s in sites] == [
        (str(att.place), "forward")
    ]
