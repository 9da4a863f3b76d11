"""What uprobes of every kind do; each scene answers with what it saw.

`python3 scenes.py [NAME...]` as root on the kernel, or under guard and shim, with drive.py,
stage.py, multi.py, btfids.py, target and libkplug.so in one folder: prints the answers, of
those in multi.py too.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

import drive  # type: ignore[import-not-found]  # these are beside this one
import stage  # type: ignore[import-not-found]
from stage import (
    Hits,
    Notes,
    Target,
    close,
    event,
    ioctl,
    link,
    multi,
    opened,
    said,
    sems,
)

MISSING = "/nonexistent"


def everybody(target: Any, hits: Hits) -> list[int]:
    """5 hits each: of the target, its thread, a fork child (twice), a vfork child, another
    process, and after an exec."""
    seen = []
    for command in ("hit 5", "thread 5"):
        target.say(command)
        seen.append(hits.more())
    target.say("fork")
    for _ in range(2):
        target.say("hit 5")
        seen.append(hits.more())
    target.say("exit")
    target.say("vfork 5")
    seen.append(hits.more())
    with Target() as other:
        other.say("hit 5")
        seen.append(hits.more())
    target.say("exec")
    target.say("places")
    target.say("hit 5")
    return [*seen, hits.more()]


def whose_hits() -> list[Any]:
    """pid and cpu of perf_event_open say whose."""
    notes = Notes()
    hits, seen = Hits(notes), list[Any]()
    with Target() as target:
        for pid, cpu in ((-1, 0), (-1, 1), (target.pid, -1), (target.pid, 0), (0, -1)):
            uprobe = opened(event(target.places["one"], pid=pid, cpu=cpu))
            close(opened(link(notes.prog, uprobe)))
            kept = opened(link(notes.prog, uprobe))
            hits.more()
            seen.append(everybody(target, hits))
            close(kept, uprobe)
            target.say("hit 5")
            seen.append(hits.more())
        target.say("thread 1")
        thread = next(t for t in map(int, os.listdir(f"/proc/{target.pid}/task"))
                      if t != target.pid)
        uprobe = opened(event(target.places["one"], pid=thread, cpu=-1))
        kept = opened(link(notes.prog, uprobe))
        hits.more()
        for command in ("hit 5", "thread 5"):
            target.say(command)
            seen.append(hits.more())
        close(kept, uprobe)
    return seen


def several_events() -> list[Any]:
    """An event a CPU: each runs the program. Several programs on an event: refused."""
    one, other = Notes(), Notes()
    hits, seen = Hits(one), []
    with Target() as target:
        place = target.places["one"]
        events = [opened(event(place, cpu=cpu)) for cpu in (0, 1)]
        links = [opened(link(one.prog, e)) for e in events]
        target.say("hit 5")
        seen.append(hits.more())
        close(*links, *events)
        uprobe = opened(event(place))
        seen += [ioctl(uprobe, stage.SET_BPF, one.prog), ioctl(uprobe, stage.SET_BPF, one.prog),
                 ioctl(uprobe, stage.SET_BPF, other.prog), said(link(other.prog, uprobe))]
        target.say("hit 5")
        seen += [hits.more(), other.count()]
        again = os.dup(uprobe)
        close(uprobe)
        target.say("hit 5")
        seen.append(hits.more())
        close(again)
        target.say("hit 5")
        return [*seen, hits.more()]


def disabled() -> list[Any]:
    """A uprobe's program runs whether its event is enabled or not."""
    notes = Notes()
    hits, seen = Hits(notes), []
    with Target() as target:
        for flags in (0, 1):
            uprobe = opened(event(target.places["one"], flags=flags))
            kept = opened(link(notes.prog, uprobe))
            for request in (0, stage.DISABLE, stage.ENABLE):
                if request:
                    seen.append(ioctl(uprobe, request))
                target.say("hit 5")
                seen.append(hits.more())
            close(uprobe, kept)
        uprobe = opened(event(target.places["one"]))
        number = drive.buffer(bytes(8))
        for request in (0x2402, 0x2403, 0x40082404, 0x40082406, 0x80082407, 0x40042409, 0xC008240A,
                        0x4008240B, 0x24FF):
            seen.append(ioctl(uprobe, request, number))
        seen.append(ioctl(uprobe, 0x2405, -1))
        close(uprobe)
        return seen


def order_of_ends() -> list[Any]:
    """A link keeps its event; an event takes another program when its link has gone."""
    notes = Notes()
    hits, seen = Hits(notes), []
    with Target() as target:
        uprobe = opened(event(target.places["one"]))
        kept = opened(link(notes.prog, uprobe))
        seen.append(said(link(notes.prog, uprobe)))
        close(uprobe)
        target.say("hit 5")
        seen.append(hits.more())
        close(kept)
        target.say("hit 5")
        seen.append(hits.more())
        uprobe = opened(event(target.places["one"]))
        for _ in range(2):
            kept = opened(link(notes.prog, uprobe))
            target.say("hit 5")
            close(kept)
            seen.append(hits.more())
        close(uprobe)
        return seen


def order_of_programs() -> list[Any]:
    """Where a place has several: the newest runs first, at returns too, in processes that run,
    that start, that are forked. A new link is the newest."""
    when = stage.call(5) + stage.ins(0x7B, 7, 0, 32) + stage.ins(0xB7, 0)  # ktime, in place of ax
    one, many = Notes(more=when), Notes(expected=stage.MULTI, more=when)

    def order() -> list[int]:
        times = {row: notes.row(row)[4] for notes in (one, many) for row in range(1, 12)
                 if notes.count(row)}
        return sorted(times, key=times.__getitem__)

    seen, kept = [], {}
    with Target() as target:
        place = target.places["one"]
        events = {row: opened(event(place, ret=row > 3)) for row in range(1, 7)}
        for row, uprobe in events.items():
            kept[row] = opened(link(one.prog, uprobe, row))
        held = [opened(multi(many.prog, [place] * 2, cookies=[7, 8])),
                opened(multi(many.prog, [place] * 2, cookies=[9, 10], flags=1))]
        target.say("hit 1")
        seen.append(order())
        for row in (2, 4):
            close(kept[row], events[row])
            events[row] = opened(event(place, ret=row > 3))
            kept[row] = opened(link(one.prog, events[row], row))
        target.say("fork")
        target.say("hit 1")
        target.say("exit")
        seen.append(order())
        with Target() as late:
            late.say("hit 1")
            seen.append(order())
        close(*kept.values(), *events.values(), *held)
    return seen


def answers_to_open() -> list[Any]:
    seen = []
    with Target() as target:
        place, ref = target.places["one"], target.places["sem_one"]
        for pid, cpu in ((-1, -1), (-1, 4096), (4000000, -1), (-2, 0), (-1, -2), (-5, -1),
                         (target.pid, -5)):
            seen.append(said(event(place, pid=pid, cpu=cpu)))
        for path in (MISSING, "/tmp", "/dev/null", "", "/proc/self/maps", "/" + "a" * 5000):
            seen.append(said(event(place, path=path)))
        seen += [said(event(1 << 40)), said(event(place, ref=ref + 1)),
                 said(event(place, path=MISSING, pid=4000000, cpu=-1)),
                 said(event(place, path=MISSING, pid=-1, cpu=-1))]
    return seen


def addresses() -> list[Any]:
    """bpf_get_func_ip() is the probe's place at entry and return; cookies are the link's."""
    notes, seen = Notes(), []
    with Target() as target:
        for row, (name, command) in enumerate((("one", "hit 3"), ("two", "two 3"),
                                               ("u_one", "usdt 3"), ("u_three", "usdt 3"))):
            place = target.places[name]
            for ret in (False, True)[: 2 - (name == "u_three")]:  # which begins no function
                index = 2 * row + ret
                uprobe = opened(event(place, ret=ret))
                kept = opened(link(notes.prog, uprobe, index))
                target.say(command)
                count, func, ip, who, ax, di = notes.row(index)
                seen.append([count, (func - place) % 4096, (ip - place) % 4096 if not ret else 0,
                             who == target.pid << 32 | target.pid, ax, di])
                close(kept, uprobe)
    return seen


def sleepable() -> list[Any]:
    """Sleepable programs at a uprobe and a multi link."""
    one = Notes(flags=16)
    many = Notes(expected=stage.MULTI, flags=16)
    with Target() as target:
        uprobe = opened(event(target.places["two"]))
        kept = opened(link(one.prog, uprobe))
        held = opened(multi(many.prog, [target.places["two"]], cookies=[3]))
        target.say("two 3")
        close(held, kept, uprobe)
        target.say("two 3")
        return [one.count(), many.count(3)]


# reference counters


def counters() -> list[Any]:
    """One more in every process while a place has probes, however many; two places are two."""
    notes, seen = Notes(), []
    with Target() as target, Target() as other:
        at = target.places
        first = opened(event(at["u_one"], ref=at["sem_one"]))
        kept = [first, opened(link(notes.prog, first))]
        seen.append(sems(target, other))
        ioctl(first, stage.DISABLE)
        for ret in (False, True):
            more = opened(event(at["u_one"], ref=at["sem_one"], ret=ret))
            kept += [more, opened(link(notes.prog, more))]
            seen.append(sems(target, other))
        for ref in (0, at["sem_two"]):
            seen.append(said(event(at["u_one"], ref=ref)))
        pair = [opened(event(at[name], ref=at["sem_two"])) for name in ("u_two", "u_three")]
        pair += [opened(link(notes.prog, e)) for e in pair]
        seen.append(sems(target, other))
        with Target() as late:
            seen.append(sems(late))
        target.say("fork")
        seen.append(sems(target))
        target.say("usdt 1")
        seen.append(sems(target))
        for fd in kept:
            close(fd)
            seen.append(sems(other))
        seen.append(sems(target))
        target.say("exit")
        seen.append(sems(target, other))
        close(*pair)
        return [*seen, sems(target, other)]


def counters_of_one() -> list[Any]:
    """Of a probe for one process: only there, also after its exec."""
    notes, seen = Notes(), []
    with Target() as target, Target() as other:
        at = target.places
        for command in ("hit 1", "exec"):
            uprobe = opened(event(at["u_one"], ref=at["sem_one"], pid=target.pid, cpu=-1))
            kept = opened(link(notes.prog, uprobe))
            seen.append(sems(target, other))
            target.say(command)
            if command == "exec":
                target.say("places")
            seen.append(sems(target, other))
            close(kept, uprobe)
            seen.append(sems(target, other))
        many = Notes(expected=stage.MULTI)
        held = opened(multi(many.prog, [at["u_one"]], refs=[at["sem_one"]], pid=other.pid))
        seen.append(sems(target, other))
        close(held)
        return [*seen, sems(target, other)]


def counters_of_libraries() -> list[Any]:
    """One more at once when the library is loaded, again when it is loaded anew."""
    notes, seen = Notes(), []
    place, ref = stage.plug_places()
    with Target() as target, Target() as other:
        target.say("open " + stage.PLUG)
        uprobe = opened(event(place, ref=ref, path=stage.PLUG))
        kept = opened(link(notes.prog, uprobe))
        seen.append(sems(target, other))
        other.say("open " + stage.PLUG)
        seen.append(sems(target, other))
        other.say("plug 3")
        seen.append(notes.count())
        target.say("close")
        target.say("open " + stage.PLUG)
        seen.append(sems(target, other))
        target.say("fork")
        seen.append(sems(target))
        target.say("close")
        target.say("open " + stage.PLUG)
        seen.append(sems(target))
        close(kept, uprobe)
        seen.append(sems(target))
        target.say("exit")
        return [*seen, sems(target, other)]


def garbage() -> list[Any]:
    """A counter that no process has is none; libbcc passes 6."""
    notes, seen = Notes(), []
    hits = Hits(notes)
    with Target() as target:
        at = target.places
        size = os.path.getsize(stage.TARGET) & ~1
        for ref in (6, 7, 1, 2, 0x1000, at["one"] & ~1, 0x7FFFFFFE, 0xFFFFFFFE, size):
            fd = event(at["u_one"], ref=ref)
            if fd < 0:
                seen.append(fd)
                continue
            kept = opened(link(notes.prog, fd))
            target.say("usdt 2")
            seen.append([hits.more(), sems(target)])
            close(kept, fd)
        many = Notes(expected=stage.MULTI)
        held = opened(multi(many.prog, [at["one"]], refs=[6]))
        target.say("hit 2")
        seen.append([many.count(), sems(target)])
        close(held)
        return seen


def a_function_with_a_counter() -> list[Any]:
    notes = Notes()
    with Target() as target:
        at = target.places
        uprobe = opened(event(at["one"], ref=at["sem_one"]))
        kept = opened(link(notes.prog, uprobe))
        seen = [sems(target)]
        close(kept, uprobe)
        return [*seen, sems(target)]


def a_killed_loader() -> list[Any]:
    """What it had attached is gone, and the counters are as before."""
    notes = Notes()
    with Target() as target:
        at = target.places
        ready, told = os.pipe()
        child = os.fork()
        if not child:
            uprobe = event(at["u_one"], ref=at["sem_one"])
            link(notes.prog, uprobe)
            os.write(told, b".")
            signal.pause()
        close(told)
        os.read(ready, 1)
        seen = [sems(target)]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        stage.settled(lambda: target.say("sem") == "0 0 -1")
        target.say("usdt 3")
        return [*seen, sems(target), notes.count()]


SCENES: tuple[Callable[[], list[Any]], ...] = (
    whose_hits, several_events, disabled, order_of_ends, order_of_programs, answers_to_open,
    addresses, sleepable, counters, counters_of_one, counters_of_libraries, garbage,
    a_function_with_a_counter, a_killed_loader)


if __name__ == "__main__":
    found = {made.__name__: made for made in (*SCENES, *importlib.import_module("multi").SCENES)}
    print(json.dumps({name: found[name]() for name in sys.argv[1:] or found}))
