"""How csrc/runtime/vcpu.c keeps a virtual CPU, in all orders: threads on two CPUs that take the
first one's virtual CPU again and again, and from each other. Between any two steps a thread may be
moved, and a store may be in its CPU's buffer still (x86-TSO), which a switch and a locked
instruction empty.

Steps are named as in vcpu.c and shim_vcpu.h. Where one is left out, two have it at a time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import pytest

CPUS = (0, 1)  # whose virtual CPU is wanted is the first


class Word(NamedTuple):
    """Of the virtual CPU: who keeps it, since which of his takings, and whether it is marked."""

    owner: int
    taken: int
    wanted: bool


class Thread(NamedTuple):
    step: str
    turns: int  # left
    keeps: Word | None = None  # as the thread remembers it
    seen: Word | None = None  # what it looks at
    taken: int = 0


class Cpu(NamedTuple):
    thread: int | None
    stores: tuple[tuple[int, bool], ...]  # that only this CPU sees: a thread's entry, what it says


class State(NamedTuple):
    threads: tuple[Thread, ...]
    cpus: tuple[Cpu, Cpu]
    word: Word | None
    runs: tuple[bool, ...]  # entries: their threads are in a run


def store(state: State, stores: tuple[tuple[int, bool], ...]) -> State:
    """These are everybody's now."""
    runs = list(state.runs)
    for entry, says in stores:
        runs[entry] = says
    return state._replace(runs=tuple(runs))


def on(state: State, at: int, cpu: Cpu) -> State:
    return state._replace(cpus=(cpu, state.cpus[1]) if at == 0 else (state.cpus[0], cpu))


class Orders:
    """turns: of each thread. far: who takes it from any CPU. without: a step that is left out."""

    def __init__(self, turns: tuple[int, ...], far: frozenset[int], without: str) -> None:
        self.far, self.without = far, without
        self.first = State(tuple(Thread("say", each) for each in turns),
                           (Cpu(None, ()), Cpu(None, ())), None, (False,) * len(turns))

    def broken(self) -> bool:
        """Whether two threads are in a run at once in any order."""
        seen, left = {self.first}, [self.first]
        while left:
            state = left.pop()
            if sum(thread.step == "run" for thread in state.threads) > 1:
                return True
            fresh = set(self.next(state)) - seen
            seen |= fresh
            left += fresh
        return False

    def next(self, state: State) -> Iterator[State]:
        running = [cpu.thread for cpu in state.cpus]
        for at, cpu in enumerate(state.cpus):
            if cpu.stores:
                yield on(store(state, cpu.stores[:1]), at, cpu._replace(stores=cpu.stores[1:]))
            if cpu.thread is not None:
                yield on(store(state, cpu.stores), at, Cpu(None, ()))
                if state.threads[cpu.thread].turns:
                    yield self.step(state, at, cpu.thread)
                continue
            for number, thread in enumerate(state.threads):
                if number not in running and thread.turns:
                    yield on(state, at, cpu._replace(thread=number))

    def step(self, state: State, at: int, number: int) -> State:
        """What the thread does next on this CPU."""
        cpu, thread = state.cpus[at], state.threads[number]

        def go(step: str, into: State = state, **change: object) -> State:
            changed = thread._replace(step=step, **change)  # type: ignore[arg-type]
            return into._replace(threads=(*into.threads[:number], changed,
                                          *into.threads[number + 1:]))

        def say(runs: bool) -> State:
            return on(state, at, cpu._replace(stores=(*cpu.stores, (number, runs))))

        def over() -> State:
            return go("say", say(False), turns=thread.turns - 1, seen=None)

        def in_run(of: Word) -> bool:
            mine = [says for entry, says in cpu.stores if entry == of.owner]
            return mine[-1] if mine else state.runs[of.owner]

        def exchange(old: Word | None, new: Word, then: str, **change: object) -> State:
            """lock cmpxchg."""
            into = on(store(state, cpu.stores), at, cpu._replace(stores=()))
            if into.word != old:
                return go("give up", into)
            return go(then, into._replace(word=new), **change)

        def take(old: Word | None) -> State:
            mine = Word(number, thread.taken + 1, False)
            return exchange(old, mine, "run", keeps=mine, taken=thread.taken + 1, seen=None)

        here = at == CPUS[0]
        match thread.step:
            case "say":  # shim_vcpu_again()
                return go("rdpid", say(True))
            case "rdpid":
                return go("word" if here or self.without == "rdpid" else "keep")
            case "word":
                kept = thread.keeps is not None and thread.keeps == state.word
                return go("run" if kept else "keep")
            case "keep":  # shim_vcpu_keep(), and claim() for who is far
                if not (here or number in self.far):
                    return go("give up")
                word = state.word
                if word is None or word.owner == number:
                    return go("take", seen=word)
                return go("give up") if in_run(word) else go("mark", seen=word)
            case "take":
                return take(thread.seen)
        seen = thread.seen
        match thread.step:
            case "mark":  # steal()
                assert seen
                if seen.wanted or self.without == "mark":
                    return go("where")
                marked = seen._replace(wanted=True)
                return exchange(seen, marked, "where", seen=marked)
            case "where":
                if here or self.without == "where":
                    return go("look")
                if number not in self.far:
                    return go("give up")
                if self.without != "barrier":
                    for other in CPUS:
                        stores = state.cpus[other].stores
                        state = on(store(state, stores), other,
                                   state.cpus[other]._replace(stores=()))
                return go("look", state)
            case "look":
                assert seen
                return go("give up" if in_run(seen) and self.without != "look" else "change")
            case "change":
                return take(seen)
            case _:  # "run", and "give up"
                return over()


@pytest.mark.parametrize("far", [False, True])
def test_no_order_has_two_runs(far: bool) -> None:
    assert not Orders((2, 2), frozenset({1} if far else ()), "").broken()


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("far", [False, True])
def test_no_order_of_three_has_two_runs(far: bool) -> None:
    assert not Orders((2, 2, 2), frozenset({2} if far else ()), "").broken()


@pytest.mark.parametrize("without", ["rdpid", "mark", "where", "look"])
def test_no_step_is_there_for_nothing(without: str) -> None:
    assert Orders((2, 2), frozenset(), without).broken()


def test_who_is_on_another_cpu_needs_the_barrier() -> None:
    assert Orders((2, 2), frozenset({1}), "barrier").broken()
