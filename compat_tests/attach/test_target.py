"""Which processes there are to be attached to (libbpf_shim/attach/target.py)."""

from __future__ import annotations

import os
import subprocess

import pytest

from libbpf_shim.attach import target


def test_a_process_that_has_begun_is_found_at_once() -> None:
    """Though those before it were found a moment ago."""
    for _ in range(8):
        target.processes()
        with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as made:
            assert made.pid in target.processes()


def test_processes_are_not_looked_for_twice_where_none_was_made(
    monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[int] = []

    def look() -> list[int]:
        looked.append(1)
        return [7]

    monkeypatch.setattr(target, "_processes", look)
    monkeypatch.setattr(target, "_listed", target._Listed())
    monkeypatch.setattr(target, "_FRESH", 1000.0)
    monkeypatch.setattr(target, "_newest", lambda: b"9")
    assert target.processes() == target.processes() == [7] and len(looked) == 1
    monkeypatch.setattr(target, "_newest", lambda: b"10")
    assert target.processes() == [7] and len(looked) == 2
    monkeypatch.setattr(target, "_newest", lambda: b"")  # nobody knows
    assert target.processes() == target.processes() == [7] and len(looked) == 4


def test_the_newest_number_is_that_of_who_was_made_last() -> None:
    """Others make processes too, with higher numbers, until the numbers begin anew."""
    before = target._newest()
    with subprocess.Popen(["true"]) as made:
        pass
    after = target._newest()
    assert after != before and (int(after) >= made.pid or int(after) < int(before))


def test_a_list_of_processes_is_old_after_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_newest", lambda: b"9")
    monkeypatch.setattr(target, "_FRESH", 0.0)
    monkeypatch.setattr(target, "_listed", target._Listed())
    lists = [[os.getppid()], [1]]
    monkeypatch.setattr(target, "_processes", lambda: lists.pop(0))
    assert target.processes() == [os.getppid()] and target.processes() == [1]


def test_who_has_ended_has_not_to_be_waited_for() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as child:
        assert not target.ended(child.pid)
        assert child.stdin
        child.stdin.close()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert target.ended(child.pid)
    assert target.ended(child.pid)
    assert not target.ended(os.getpid())
