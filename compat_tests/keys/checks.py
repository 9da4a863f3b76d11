"""What `isolation: mpk` holds, in a guest: checks.py OBJECT APP LIBRARY, under its policy. A line
`ok CASE` for each; the first that is wrong ends it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from libbpf_shim import Object

OBJECT, APP, LIBRARY = sys.argv[1:4]
PKUERR, ACCERR = 4, 2  # si_code of SIGSEGV


class App:
    """The application: `say` a line, its answer (rows of it)."""

    def __init__(self, preload: bool) -> None:
        self.child = subprocess.Popen(
            [APP], env={"LD_PRELOAD": LIBRARY} if preload else {}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.row() == "ready"

    def row(self) -> str:
        assert self.child.stdout
        return self.child.stdout.readline().strip()

    def say(self, line: str) -> str:
        assert self.child.stdin
        self.child.stdin.write(line + "\n")
        self.child.stdin.flush()
        return self.row()

    def end(self) -> None:
        assert self.child.stdin
        self.child.stdin.close()
        assert self.child.wait(20) == 0, self.child.returncode


@contextmanager
def app(preload: bool = True) -> Iterator[App]:
    made = App(preload)
    yield made
    made.end()


def shut(row: str) -> None:
    """Reading and writing led to SEGV_PKUERR, for every kind of mapping there is."""
    kinds = {word.split(":")[0]: word.split(":")[1:] for word in row.split()}
    assert {"ctl", "perf", "map"} <= {kind.split("-")[0] for kind in kinds}, row
    assert all(codes == [str(PKUERR)] * 2 for codes in kinds.values()), row


def counts(loaded: Object, name: str, run: Callable[[], object], expected: int) -> None:
    before = loaded.vars[name]
    run()
    assert loaded.vars[name] - before == expected, (name, loaded.vars[name] - before, expected)


def closed(a: App) -> int:
    """The bits of PKRU that are set and that the kernel's own value has too: all but key 0's."""
    value = int(a.say("pkru"), 16)
    assert value & 3 == 0
    return value


def works(loaded: Object, a: App) -> None:
    counts(loaded, "hits", lambda: a.say("run 64"), 64)
    assert sorted(dict(loaded.maps["table"].items()).values()) == [2] * 32
    assert sum(loaded.maps["cpus"].lookup(0)) == 64


def faults(loaded: Object, a: App) -> None:
    shut(a.say("touch"))
    row = a.say("table")
    assert row == f"sites:0:{ACCERR} links:0:{ACCERR}", row


def switched(loaded: Object, a: App) -> None:
    """In the trampoline: the application's PKRU is the same before and behind a hit."""
    before = closed(a)
    counts(loaded, "hits", lambda: a.say("run 10"), 10)
    assert closed(a) == before


def handlers(loaded: Object, a: App) -> None:
    before = loaded.vars["hits"]
    row = a.say("handler 50").split()
    seen = loaded.vars["hits"] - before
    handled, called = int(row[1]), int(row[3])
    # a handler's hit is missed where the run that it is in holds a lock: as everywhere
    assert handled >= 50 and called - handled <= seen <= called, (row, seen)
    shut(a.say("touch"))


def forks(loaded: Object, a: App) -> None:
    counts(loaded, "hits", lambda: a.say("fork run 5"), 5)
    shut(a.say("fork touch"))
    counts(loaded, "hits", lambda: a.say("fork fork run 5"), 5)
    shut(a.say("touch"))


def threads(loaded: Object, a: App) -> None:
    counts(loaded, "hits", lambda: a.say("threads 20"), 40)
    counts(loaded, "hits", lambda: shut(a.say("clone")), 1)


def opened(loaded: Object, a: App) -> None:
    """A thread that has the rights to all keys loses that to ours with its first hit."""
    before, after = (int(word, 16) for word in a.say("open 3").split()[1:])
    assert before == 0 and bin(after).count("1") == 1, (before, after)
    shut(a.row())


CASES = (works, faults, switched, handlers, forks, threads, opened)


def case(name: str, run: Callable[[], None]) -> None:
    start = time.monotonic()
    run()
    print(f"ok {name} ({time.monotonic() - start:.1f} s)", flush=True)


def begun_before(loaded: Object) -> None:
    """Attached to while it runs, by the keeper; threads were there."""
    with app() as a, loaded.programs["on_one"].attach_uprobe(APP, "one"):
        for one in CASES:
            case(f"running: {one.__name__}", lambda one=one: one(loaded, a))  # type: ignore[misc]


def beginning(loaded: Object) -> None:
    """From its start, by the preloaded library; its returns by a class that says auto."""
    programs = loaded.programs
    with (programs["on_one"].attach_uprobe(APP, "one"),
          programs["tell_one"].attach_uprobe(APP, "one"),
          programs["on_return"].attach_uretprobe(APP, "one"), app() as a):
        ring = loaded.ring("ring")
        counts(loaded, "returns", lambda: counts(loaded, "hits", lambda: a.say("run 40"), 40), 40)
        told = [int.from_bytes(record, "little") for record in ring.consume()]
        assert told == list(range(40)), told
        a.say("handler 20")  # a ring that is written to is locked: the handler's hit is missed
        counts(loaded, "returns", lambda: a.say("two 6"), 6)
        shut(a.say("touch"))
        shut(a.say("fork touch"))


def joined(loaded: Object) -> None:
    """A program without a key was there first: its session goes under the key with the other."""
    with app() as a, loaded.programs["beside"].attach_uprobe(APP, "one"):
        counts(loaded, "plain", lambda: a.say("run 9"), 9)
        assert "ctl:0:" in a.say("read"), "not under a key yet"
        with loaded.programs["on_one"].attach_uprobe(APP, "one"):
            counts(loaded, "plain",
                   lambda: counts(loaded, "hits", lambda: a.say("threads 9"), 18), 18)
            shut(a.say("touch"))
        counts(loaded, "plain", lambda: a.say("run 9"), 9)
        shut(a.say("touch"))


def injected(loaded: Object) -> None:
    """Without the library: the keeper brings the agent, and takes it out again."""
    with app(preload=False) as a:
        before = closed(a)
        with loaded.programs["on_one"].attach_uprobe(APP, "one"):
            counts(loaded, "hits", lambda: a.say("threads 9"), 18)
            shut(a.say("touch"))
        a.say("run 3")
        assert closed(a) == before
        with loaded.programs["on_one"].attach_uprobe(APP, "one"):
            counts(loaded, "hits", lambda: a.say("run 7"), 7)
            shut(a.say("touch"))


def calls() -> None:
    """A function of the application, called by a program, finds the key closed; by libbpf."""
    folder = Path(APP).parent
    done = subprocess.run(
        [f"{folder}/loader", f"{folder}/calls.bpf.o", APP, "calls_rights", "one", "run 5"],
        env={"LD_PRELOAD": LIBRARY, **{name: text for name, text in os.environ.items()
                                                  if name.startswith("LIBBPF_SHIM_")}},
        text=True, capture_output=True, timeout=100, check=False)
    row = done.stdout.splitlines()[-1].split() if done.stdout else []
    assert (row[:2], row[-1:]) == (["out", "5"], ["5"]), done
    assert bin(int(row[2]) & 0x55555555).count("1") == 15, done


def main() -> None:
    start = time.monotonic()
    with Object.open(OBJECT) as loaded:
        loaded.load()
        print(f"loaded ({time.monotonic() - start:.1f} s)", flush=True)
        begun_before(loaded)
        for one in (beginning, joined, injected):
            case(one.__name__, lambda one=one: one(loaded))  # type: ignore[misc]
    case("calls", calls)
    print("fine")


if __name__ == "__main__":
    main()
