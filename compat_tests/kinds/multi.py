"""Scenes of links of many uprobes, and of sessions (see scenes.py)."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable
from typing import Any

import btfids  # type: ignore[import-not-found]  # these are beside this one
import drive  # type: ignore[import-not-found]
import stage  # type: ignore[import-not-found]
from stage import Notes, Target, close, event, ins, link, multi, opened, said, sems

MISSING = "/nonexistent"


def multi_runs() -> list[Any]:
    """Places, cookies and counters of a multi link; whose hits its pid says."""
    notes, seen = Notes(expected=stage.MULTI), list[Any]()
    with Target() as target, Target() as other:
        at = target.places
        for pid in (0, target.pid, other.pid):
            before = [notes.count(i) for i in range(5)]
            held = opened(multi(
                notes.prog, [at["u_one"], at["u_two"], at["u_three"], at["one"]], pid=pid,
                refs=[at["sem_one"], at["sem_two"], at["sem_two"], 0], cookies=[1, 2, 3, 4]))
            seen.append(sems(target, other))
            for who, command in ((target, "usdt 2"), (target, "hit 3"), (other, "hit 5"),
                                 (target, "thread 2"), (target, "fork"), (target, "hit 7"),
                                 (target, "exit")):
                who.say(command)
            target.say("exec")
            target.say("places")
            target.say("hit 11")
            seen.append([notes.count(i) - before[i] for i in range(5)])
            seen.append([(notes.row(i)[1] - at[n]) % 4096 for i, n in ((1, "u_one"), (4, "one"))])
            seen.append(sems(target, other))
            close(held)
            target.say("hit 11")
            seen.append([sems(target, other), notes.count(4) - before[4]])
    return seen


def multi_returns() -> list[Any]:
    """BPF_F_UPROBE_MULTI_RETURN; a place named twice runs the program twice."""
    notes, seen = Notes(expected=stage.MULTI), list[Any]()
    with Target() as target:
        at = target.places
        held = opened(multi(notes.prog, [at["one"], at["two"]], cookies=[5, 6], flags=1))
        target.say("hit 3")
        target.say("two 2")
        for row, name in ((5, "one"), (6, "two")):
            count, func, _, _, ax, _ = notes.row(row)
            seen.append([count, (func - at[name]) % 4096, ax])
        close(held)
        for flags in (0, 1):
            held = opened(multi(notes.prog, [at["one"]] * 2, cookies=[7, 8], flags=flags))
            target.say("hit 3")
            seen.append([notes.count(7), notes.count(8)])
            close(held)
        target.say("hit 3")
        return [*seen, notes.count(7)]


def answers_to_multi() -> list[Any]:
    one, many = Notes(), Notes(expected=stage.MULTI)
    both = Notes(expected=stage.SESSION)
    with Target() as target:
        at = target.places
        target.say("thread 1")
        thread = next(t for t in map(int, os.listdir(f"/proc/{target.pid}/task"))
                      if t != target.pid)
        cases: list[dict[str, Any]] = [
            {}, {"flags": 2}, {"create": 1}, {"pid": 0xFFFFFFFF}, {"path": 0}, {"cnt": 0},
            {"cnt": (1 << 20) + 1}, {"cnt": 1 << 31}, {"path": MISSING}, {"path": "/tmp"},
            {"path": "/dev/null"}, {"path": "/proc/self/maps"}, {"path": 16}, {"path": ""},
            {"path": "/" + "a" * 5000}, {"pid": 4000000}, {"pid": thread}, {"at": {24: 16}},
            {"at": {32: 16}}, {"at": {40: 16}}, {"offsets": [-1]}, {"refs": [-2]}, {"refs": [7]},
            {"refs": [6]}, {"offsets": [1 << 40]}, {"kind": stage.SESSION}, {"kind": 42},
            {"at": {56: 1 << 33}}, {"offsets": [at["one"]] * 3},
            {"offsets": [at["u_one"]] * 2, "refs": [at["sem_one"], at["sem_two"]]},
            {"offsets": None, "cnt": 1},
        ]
        seen = [said(multi(many.prog, **{"offsets": [at["one"]], **case})) for case in cases]
        for prog in (one, many, both):
            for kind in (stage.MULTI, stage.SESSION, stage.PERF_EVENT):
                for flags in (0, 1):
                    seen.append(said(multi(prog.prog, [at["rec"]], kind=kind, flags=flags)))
        uprobe = opened(event(at["u_one"], ref=at["sem_one"]))
        seen += [said(multi(many.prog, [at["u_one"]])),
                 said(multi(many.prog, [at["one"], at["u_one"]], refs=[0, at["sem_two"]])),
                 said(multi(many.prog, [at["u_one"]], refs=[at["sem_one"]]))]
        close(uprobe)
        return [*seen, said(multi(many.prog, [at["u_one"]]))]


def told_of_links() -> list[Any]:
    """OBJ_GET_INFO_BY_FD, fdinfo, TASK_FD_QUERY, and what cannot be done to links."""
    one, many = Notes(), Notes(expected=stage.MULTI)
    seen: list[Any] = []
    with Target() as target:
        at = target.places
        named: dict[Any, str] = {place: name for name, place in at.items()}
        named |= {target.pid: "PID", stage.path_size(): "SIZE", stage.path_size() - 1: "SIZE-1"}
        uprobe = opened(event(at["u_one"], ref=at["sem_one"]))
        ret = opened(event(at["one"], ret=True))
        links = [opened(link(one.prog, uprobe, 77)), opened(link(one.prog, ret))]
        held = opened(multi(many.prog, [at["u_one"], at["u_two"]], cookies=[5, 6], pid=target.pid,
                            refs=[at["sem_one"], at["sem_two"]]))
        back = opened(multi(many.prog, [at["one"]], flags=1))
        puts: list[tuple[int, dict[int, Any]]] = [
            (links[0], {24: "buffer", 32: 100}), (links[1], {}), (held, {}), (back, {})]
        for fd, put in puts:
            seen.append(stage.info(fd, put, named))
        for put in ({16: "buffer"}, {48: 100}, {24: "buffer"}, {24: "buffer", 52: 1},
                    {24: "buffer", 52: 2}, {32: "buffer", 52: 9}, {40: "buffer", 52: 9},
                    {16: "buffer", 48: 5}, {16: "buffer", 48: stage.path_size() - 1},
                    {16: "buffer", 48: stage.path_size()}, {16: "buffer", 48: 4096},
                    {40: "buffer", 52: 1}):
            seen.append(stage.info(held, put, named))
        for fd in (*links, held, back):
            seen.append([line for line in stage.fdinfo(fd)
                         if not line.startswith(("pos", "flags", "mnt_id", "ino", "link_id",
                                                 "prog_id", "prog_tag"))])
            update = struct.pack("<IIII", fd, one.prog, 0, 0)
            seen += [drive.bpf(stage.LINK_UPDATE, update)[0],
                     drive.bpf(stage.LINK_DETACH, struct.pack("<I", fd))[0]]
        for fd in (uprobe, ret, links[0], held):
            ask = struct.pack("<IIII", os.getpid(), fd, 0, 0).ljust(48, b"\0")
            answer, attr = drive.bpf(stage.FD_QUERY, ask)
            said_of = struct.unpack_from("<IQIIQQ", attr, 12)
            seen.append([answer, said_of[0] - stage.path_size() if said_of[0] else 0,
                         *(named.get(n, n) for n in said_of[3:])] if not answer else [answer])
        text = json.dumps(seen).replace(stage.HERE, "$V").replace(f"pid:\\t{target.pid}", "PID")
        for place, name in named.items():
            text = text.replace(f"\\t{place:#x}", name).replace(f" {place:#x}", f" {name}")
        return list(json.loads(text))


# sessions


def counting_returns() -> bytes:
    """At entry: the session's cookie is ten times the first argument, and there is no return for
    odd ones. At return: the row's last word is the cookie, its third one more."""
    ids = btfids.ids(("bpf_session_is_return", "bpf_session_cookie"))

    def kfunc(name: str) -> bytes:
        return bytes(ins(0x85, 0, 2, 0, ids[name]))

    return b"".join((
        kfunc("bpf_session_cookie"), ins(0xBF, 8, 0),
        kfunc("bpf_session_is_return"), ins(0x57, 0, 0, 0, 0xFF), ins(0x55, 0, 0, 7),
        ins(0x79, 1, 6, 112), ins(0xBF, 2, 1), ins(0x27, 2, 0, 0, 10), ins(0x7B, 8, 2, 0),
        ins(0xBF, 0, 1), ins(0x57, 0, 0, 0, 1), ins(0x95),
        ins(0x79, 1, 8, 0), ins(0x7B, 7, 1, 40), ins(0xB7, 2, 0, 0, 1), ins(0xDB, 7, 2, 16),
        ins(0xB7, 0)))


def sessions() -> list[Any]:
    """One program at entry and return, with a cookie of each invocation's own."""
    notes, seen = Notes(expected=stage.SESSION, more=counting_returns()), []
    with Target() as target:
        at = target.places
        held = opened(multi(notes.prog, [at["one"]], kind=stage.SESSION, cookies=[2]))
        target.say("hit 6")
        count, func, _, _, ax, cookie = notes.row(2)
        seen.append([count, (func - at["one"]) % 4096, ax, cookie])
        close(held)
        target.say("hit 6")
        seen.append(notes.count(2))
        first = opened(multi(notes.prog, [at["rec"]], kind=stage.SESSION, cookies=[3],
                             pid=target.pid))
        seen += [target.say("rec 6"), notes.count(3), notes.row(3)[4:]]
        twice = opened(multi(notes.prog, [at["rec"]] * 2, kind=stage.SESSION, cookies=[4, 5]))
        seen += [target.say("rec 6"), [(notes.count(i), notes.row(i)[4:]) for i in (3, 4, 5)]]
        close(first, twice)
        more = [opened(multi(notes.prog, [at["one"]], kind=stage.SESSION, cookies=[10 + i]))
                for i in range(4)]
        plain = Notes()
        uprobe = opened(event(at["one"], ret=True))
        kept = opened(link(plain.prog, uprobe))
        for command in ("hit 5", "thread 5"):
            target.say(command)
            seen.append([plain.count(), [notes.count(10 + i) for i in range(4)]])
        close(*more)
        target.say("hit 5")
        seen.append([plain.count(), [notes.count(10 + i) for i in range(4)]])
        close(kept, uprobe)
    return seen


SCENES: tuple[Callable[[], list[Any]], ...] = (
    multi_runs, multi_returns, answers_to_multi, told_of_links, sessions)
